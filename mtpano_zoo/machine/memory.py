"""The main memory that is still available to this process."""

from collections.abc import Iterator
from pathlib import Path

from mtpano_zoo.machine.control_groups import folders, word

__all__ = ("available_memory",)

FILES = {  # of a control group, by version: its limit, its usage, and which parts of the usage are cached files
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def available_memory(root: Path = Path("/")) -> int:
    """Return the free bytes of the machine, swap included, or fewer if the control groups of this process leave less.

    A container with a limit of 8 GB on a machine with 64 GB sees 64, and is killed when it uses more than 8.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    import psutil  # from the extra `generation`

    free: int = psutil.virtual_memory().available + psutil.swap_memory().free
    return max(0, min([free, *_left(root)]))


def _left(root: Path) -> Iterator[int]:
    """Yield the bytes that every control group has left; cached files give way when memory is needed."""
    for version, folder in folders(root, "memory"):
        limit, usage, cached = FILES[version]
        most, taken = word(folder / limit), word(folder / usage)
        if most.isdecimal() and taken.isdecimal():  # "no limit" is `max`, or in version 1 a number beyond any machine
            yield int(most) - int(taken) + sum(_sizes(folder / "memory.stat", cached))


def _sizes(path: Path, names: tuple[str, ...]) -> Iterator[int]:
    """Yield the bytes of these entries of a file of statistics."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for name, _, size in (line.partition(" ") for line in lines):
        if name in names and size.isdecimal():
            yield int(size)
