"""The number of cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ("available_cores",)


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that the affinity of this process and the quotas of its control groups leave, >= 1.

    A container with a quota of two cores on a machine of 64 sees 64: that many threads wait for one another most of
    the time. A quota of 1.5 cores counts as one.

    Args:
        root: folder that holds `proc` and `sys`.

    Example:
        >>> 1 <= available_cores() <= os.cpu_count()
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of every control group that this process is in, in cores; both versions of the interface."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        path = mount / group.lstrip("/")
        # A group shares what its parents have. In a container the path may be the host's, and only `mount` is there.
        for folder in (path, *path.parents):
            if controllers:
                yield from _ratio(_word(folder / "cpu.cfs_quota_us", 0), _word(folder / "cpu.cfs_period_us", 0))
            else:
                yield from _ratio(_word(folder / "cpu.max", 0), _word(folder / "cpu.max", 1))
            if folder == mount:
                break


def _word(path: Path, number: int) -> str:
    try:
        return path.read_text().split()[number]
    except (OSError, IndexError):
        return ""


def _ratio(quota: str, period: str) -> Iterator[float]:
    """Yield the quotient unless there is no quota, which is `max` in version 2 and -1 in version 1."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)
