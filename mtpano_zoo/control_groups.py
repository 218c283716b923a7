"""The control groups of Linux that this process is in, which is how containers are limited."""

from collections.abc import Iterator
from pathlib import Path

__all__ = ("folders", "word")


def folders(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version of the interface, 1 or 2, and the folder of every group that counts for a controller.

    Args:
        root: folder that holds `proc` and `sys`.
        controller: `cpu` or `memory`.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        path = mount / group.lstrip("/")
        # A group shares what its parents have. In a container the path may be the host's, and only `mount` is there.
        for folder in (path, *path.parents):
            yield (1 if controllers else 2), folder
            if folder == mount:
                break


def word(path: Path, number: int = 0) -> str:
    """Return a word of a file; empty if there is none."""
    try:
        return path.read_text().split()[number]
    except (OSError, IndexError):
        return ""
