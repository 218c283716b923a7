"""How much may be unpacked from a file: one limit, in pixels, from which all others follow.

A few kilobytes can claim, and be unpacked to, gigabytes. What a file says of its own size is therefore compared with
the limit before anything is decoded. The limit is `DEFAULT_MAX_PIXELS`, which the environment variable
`MTPANO_MAX_PIXELS` replaces.
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
DEFAULT_MAX_PIXELS = 178_956_970  # beyond, Pillow expects an attack; 16384 x 8192 is three quarters of it

# Bytes for every pixel that is allowed: what a file unpacks to is an image of 8-bit RGBA at most, and what lies on the
# disk as it is may hold three floats, as normals in NPY do.
BYTES_IN_ARCHIVE, BYTES_ON_DISK = 4, 12


def max_pixels() -> int:
    """Return how many pixels an image or a map may have.

    Raises:
        InputError: If `MTPANO_MAX_PIXELS` is not a positive whole number.
    """
    given = os.environ.get(VARIABLE) or str(DEFAULT_MAX_PIXELS)
    if not (given.isascii() and given.isdigit() and 0 < len(given) < 19 and int(given)):
        raise InputError(f"{VARIABLE} is a number of pixels such as {DEFAULT_MAX_PIXELS}, not {given!r}")
    return int(given)


def max_bytes(per_pixel: float) -> int:
    """Return how many bytes a file may have that has so many for every pixel of the largest image.

    `MTPANO_MAX_PIXELS` raises them, but does not lower them: a file of few pixels has bytes for other things too.
    """
    return int(per_pixel * max(max_pixels(), DEFAULT_MAX_PIXELS))


def check_pixels(height: int, width: int, name: str, limit: int | None = None) -> None:
    """Refuse the size that a file claims if it is beyond the limit.

    Args:
        height: Rows.
        width: Columns.
        name: What opens the sentence of the error.
        limit: Pixels, by default `max_pixels()`.

    Raises:
        InputError: If it has more pixels than that.
    """
    limit = max_pixels() if limit is None else limit
    if height * width > limit:
        raise InputError(
            f"{name} is {width} x {height} pixels, more than {limit:,}: scale it down first, or set {VARIABLE} if you "
            "trust it"
        )


def check_bytes(size: int, limit: int, name: str) -> None:
    """Refuse a file, or a part of an archive, that says or turns out to be larger than anything that we read.

    Args:
        size: Bytes.
        limit: Bytes, from `max_bytes`.
        name: What opens the sentence of the error.

    Raises:
        InputError: If it has more bytes than that.
    """
    if size > limit:
        raise InputError(
            f"{name} has more than {limit:,} bytes: scale it down or split it first, or set {VARIABLE} if you trust it"
        )


def read_file(path: str | Path, limit: int | None = None) -> bytes:
    """Read a file, unless it is too large; a device without end is read no further than the limit.

    Args:
        path: The file.
        limit: Bytes, by default what a map on the disk may have.

    Raises:
        InputError: If it is larger.
        OSError: If it cannot be read.
    """
    limit = max_bytes(BYTES_ON_DISK) if limit is None else limit
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        check_bytes(status.st_size, limit, str(path))
        # To ask a file for so much would reserve as much memory.
        data = file.read(-1 if stat.S_ISREG(status.st_mode) else limit + 1)
    check_bytes(len(data), limit, str(path))
    return data


def check_stored(path: str | Path) -> None:
    """Refuse a checkpoint whose parts are compressed: PyTorch never compresses them, but unpacks them to any size.

    Raises:
        InputError: If a part is compressed, or the archive is damaged.
        OSError: If the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise InputError(
            f"{path} is truncated or damaged ({error}): copy it again from where it was written"
        ) from error
    if packed:
        raise InputError(f"{path} is compressed (its part {packed[0]}), as PyTorch writes no checkpoint: unpack it")
