"""Limits on what a file may unpack to, all derived from one number of pixels.

A few kilobytes can claim to be gigabytes, and unpack to them. The claimed size is therefore checked before anything
is decoded. The limit is `DEFAULT_MAX_PIXELS`, unless the environment variable `MTPANO_MAX_PIXELS` sets another.
"""

import os
import stat
import zipfile
from pathlib import Path

from mtpano_zoo.errors import InputError

__all__ = (
    "BYTES_IN_ARCHIVE",
    "BYTES_ON_DISK",
    "DEFAULT_MAX_PIXELS",
    "VARIABLE",
    "check_bytes",
    "check_pixels",
    "check_stored",
    "max_bytes",
    "max_pixels",
    "read_file",
)

VARIABLE = "MTPANO_MAX_PIXELS"
DEFAULT_MAX_PIXELS = 178_956_970  # Pillow suspects an attack beyond this; 16384 x 8192 is three quarters of it

# Bytes per allowed pixel: a file unpacks to at most 8-bit RGBA, and an uncompressed file on disk may hold three floats,
# as normals in NPY do.
BYTES_IN_ARCHIVE, BYTES_ON_DISK = 4, 12


def max_pixels() -> int:
    """Return how many pixels an image or a map may have.

    Raises:
        InputError: If `MTPANO_MAX_PIXELS` is not a positive whole number.

    Example:
        >>> max_pixels()
        178956970
    """
    given = os.environ.get(VARIABLE) or str(DEFAULT_MAX_PIXELS)
    if not (given.isascii() and given.isdigit() and 0 < len(given) < 19 and int(given)):
        raise InputError(f"{VARIABLE} is a number of pixels such as {DEFAULT_MAX_PIXELS}, not {given!r}")
    return int(given)


def max_bytes(per_pixel: float) -> int:
    """Return how many bytes a file may have, given the bytes allowed per pixel of the largest image.

    `MTPANO_MAX_PIXELS` raises this limit but does not lower it: a file with few pixels also holds other things.

    Example:
        >>> max_bytes(3) == 3 * max_pixels()
        True
    """
    return int(per_pixel * max(max_pixels(), DEFAULT_MAX_PIXELS))


def check_pixels(height: int, width: int, name: str, limit: int | None = None) -> None:
    """Refuse an image whose claimed size is beyond the limit.

    Args:
        height: Rows.
        width: Columns.
        name: Opens the error message.
        limit: Pixels; `max_pixels()` by default.

    Raises:
        InputError: If it has more pixels.

    Example:
        >>> check_pixels(512, 1024, "room.jpg")
        >>> check_pixels(512, 1024, "room.jpg", limit=1000)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mtpano_zoo.errors.InputError: room.jpg is 1024 x 512 pixels, more than 1,000: scale it down first, or set ...
    """
    limit = max_pixels() if limit is None else limit
    if height * width > limit:
        raise InputError(
            f"{name} is {width} x {height} pixels, more than {limit:,}: scale it down first, or set {VARIABLE} if you "
            "trust it"
        )


def check_bytes(size: int, limit: int, name: str) -> None:
    """Refuse a file, or a part of an archive, that claims or turns out to be larger than anything we read.

    Args:
        size: Bytes.
        limit: Bytes, from `max_bytes`.
        name: Opens the error message.

    Raises:
        InputError: If it has more bytes.

    Example:
        >>> check_bytes(300, 200, "a.png")
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    if size > limit:
        raise InputError(
            f"{name} has more than {limit:,} bytes: scale it down or split it first, or set {VARIABLE} if you trust it"
        )


def read_file(path: str | Path, limit: int | None = None) -> bytes:
    """Read a file unless it is too large. An endless device is read only up to the limit.

    Args:
        path: The file.
        limit: Bytes; by default the most that a map on disk may have.

    Raises:
        InputError: If it is larger.
        OSError: If it cannot be read.

    Example:
        >>> read_file("/dev/null")
        b''
    """
    limit = max_bytes(BYTES_ON_DISK) if limit is None else limit
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        check_bytes(status.st_size, limit, str(path))
        # Asking a regular file for `limit` bytes would reserve that much memory.
        data = file.read(-1 if stat.S_ISREG(status.st_mode) else limit + 1)
    check_bytes(len(data), limit, str(path))
    return data


def check_stored(path: str | Path) -> None:
    """Refuse a checkpoint with compressed parts: PyTorch never compresses them, but would unpack them to any size.

    Raises:
        InputError: If a part is compressed, or the archive is damaged.
        OSError: If the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error
    if packed:
        raise InputError(f"{path} has a compressed part {packed[0]}, which PyTorch never writes: unpack the file")
