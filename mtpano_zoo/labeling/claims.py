"""Claims of panoramas by processes, so that processes started independently share the work.

A claim is a lock on one byte of a file, at a place that follows from the name of the panorama. The system takes it away
with the process, whatever ends it, and on all machines that share the folder, so no claim is ever left behind. Claims
save time only; the labels are right without them. Where a file system has no locks, every process gets every claim.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from pathlib import Path
from typing import IO

__all__ = ("Claims",)

HELD = (errno.EACCES, errno.EAGAIN)
PLACES = 2**40  # far more than panoramas that are worked on at once: two that share a place only wait for each other


class Claims:
    """The claims of one process.

    The process must not open the file in any other way: the system would drop all its locks when that is closed.

    Args:
        path: The file, which need not exist.

    Raises:
        OSError: If it cannot be opened, or is a symbolic link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        self._file: IO[bytes] = os.fdopen(descriptor, "r+b")
        _lock(self._file, fcntl.LOCK_SH, 0)  # says that the file is in use

    def take(self, name: str) -> bool:
        """Claim a panorama; False if another process has it."""
        return _lock(self._file, fcntl.LOCK_EX, _place(name))

    def release(self, name: str) -> None:
        """Let others have a panorama."""
        with contextlib.suppress(OSError, ValueError):  # without locks, or after the end
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(name))

    def close(self) -> None:
        """Let others have everything; the last process removes the file. None may begin meanwhile."""
        if _lock(self._file, fcntl.LOCK_EX, 0):
            self.path.unlink(missing_ok=True)
        self._file.close()


def _place(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return 1 + int.from_bytes(digest) % PLACES


def _lock(file: IO[bytes], kind: int, place: int) -> bool:
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        return error.errno not in HELD
    return True
