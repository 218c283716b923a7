"""Claims of panoramas by processes, so that processes started independently share the work.

A claim is a lock on one byte of a file, at an offset derived from the panorama's name. The operating system releases it
when the process ends, for whatever reason and on every machine that shares the folder, so no claim is left behind.
Claims only save time; the labels are right without them. Without locks in the file system, every process gets every
claim.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeVar

__all__ = ("LOCAL_RANKS", "Claims", "in_turn", "process_number", "processes")

T = TypeVar("T")
RANKS = ("RANK", "SLURM_PROCID")
LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
WORLD_SIZES = ("WORLD_SIZE", "SLURM_NTASKS")

HELD = (errno.EACCES, errno.EAGAIN)
PLACES = 2**40  # far more than the panoramas in progress at once; two that share a place are merely done in turn


class Claims:
    """The claims of one process.

    The process must not open the file any other way: closing that handle would drop all its locks.

    Args:
        path: The lock file; created if missing.

    Raises:
        OSError: If it cannot be opened, or is a symbolic link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        self._file: IO[bytes] = os.fdopen(descriptor, "r+b")
        _lock(self._file, fcntl.LOCK_SH, 0)  # marks the file as in use

    def take(self, name: str) -> bool:
        """Claim a panorama; return False if another process has it."""
        return _lock(self._file, fcntl.LOCK_EX, _place(name))

    def release(self, name: str) -> None:
        """Release the claim of a panorama."""
        with contextlib.suppress(OSError, ValueError):  # no locks, or already closed
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(name))

    def close(self) -> None:
        """Release all claims; the last process removes the file. No other process may start meanwhile."""
        if _lock(self._file, fcntl.LOCK_EX, 0):
            self.path.unlink(missing_ok=True)
        self._file.close()


def in_turn(items: Sequence[T], claim: Callable[[T], bool], start: int = 0) -> Iterator[T]:
    """Yield the items that no other process works on, then those that others have claimed, in case they have died.

    Args:
        items: all items, in the same order in every process.
        claim: claims an item; returns False if another process has it.
        start: index to start at, different in every process.

    Example:
        >>> list(in_turn("abcd", lambda item: item != "d", start=2))
        ['c', 'a', 'b', 'd']
    """
    later = []
    for item in (*items[start:], *items[:start]):
        if claim(item):
            yield item
        else:
            later.append(item)
    # Most are finished by now. The others belong to a process that is working, slow or hung: do them here without
    # waiting for it. It works forward, so going backward from the end repeats the least.
    for item in reversed(later):
        claim(item)
        yield item


def process_number(names: Iterable[str] = RANKS) -> int:
    """Return the rank of this process under torchrun or SLURM; 0 if neither started it."""
    return _from_environment(names, 0)


def processes() -> int:
    """Return how many processes torchrun or SLURM started."""
    return max(_from_environment(WORLD_SIZES, 1), process_number() + 1)


def _from_environment(names: Iterable[str], alone: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), alone)


def _place(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return 1 + int.from_bytes(digest) % PLACES


def _lock(file: IO[bytes], kind: int, place: int) -> bool:
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        return error.errno not in HELD
    return True
