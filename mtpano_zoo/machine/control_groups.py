"""The Linux control groups of this process, which limit what a container may use."""

from collections.abc import Iterator
from pathlib import Path

__all__ = ("folders", "word")


def folders(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the interface version, 1 or 2, and the folder of every group that limits a controller.

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
        # The limits of the parents apply too. In a container the path may be the host's, and only `mount` exists.
        for folder in (path, *path.parents):
            yield (1 if controllers else 2), folder
            if folder == mount:
                break


def word(path: Path, number: int = 0) -> str:
    """Return the word at an index in a file; empty if there is none."""
    try:
        return path.read_text().split()[number]
    except (OSError, IndexError):
        return ""
