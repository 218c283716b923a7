"""The number of cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

from mtpano_zoo.machine.control_groups import folders, word

__all__ = ("available_cores",)


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores, at least 1, that the CPU affinity and the control-group quotas of this process allow.

    A container with a quota of two cores on a 64-core machine sees all 64, and that many threads would mostly wait for
    one another. A quota of 1.5 cores counts as one.

    Args:
        root: folder that holds `proc` and `sys`.

    Example:
        >>> 1 <= available_cores() <= os.cpu_count()
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in cores, of every control group of this process, in either version of the interface."""
    for version, folder in folders(root, "cpu"):
        if version == 1:
            yield from _ratio(word(folder / "cpu.cfs_quota_us"), word(folder / "cpu.cfs_period_us"))
        else:
            yield from _ratio(word(folder / "cpu.max"), word(folder / "cpu.max", 1))


def _ratio(quota: str, period: str) -> Iterator[float]:
    """Yield the quotient unless there is no quota, which is `max` in version 2 and -1 in version 1."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)
