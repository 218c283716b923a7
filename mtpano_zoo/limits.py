"""How much may be unpacked from a file: one limit, in pixels, from which all others follow.

A few kilobytes can claim, and be unpacked to, gigabytes. What a file says of its own size is therefore compared with
the limit before anything is decoded. The limit is `DEFAULT_MAX_PIXELS`, which the environment variable
`MTPANO_MAX_PIXELS` replaces.
"""

import os

from mtpano_zoo.errors import InputError

__all__ = ("DEFAULT_MAX_PIXELS", "VARIABLE", "check_pixels", "max_bytes", "max_pixels")

VARIABLE = "MTPANO_MAX_PIXELS"
DEFAULT_MAX_PIXELS = 178_956_970  # what Pillow takes for an attack beyond; 16384 x 8192 is three quarters of it


def max_pixels() -> int:
    """Return how many pixels an image or a map may have.

    Raises:
        InputError: If `MTPANO_MAX_PIXELS` is not a positive whole number.
    """
    given = os.environ.get(VARIABLE) or str(DEFAULT_MAX_PIXELS)
    if not (given.isascii() and given.isdigit() and 0 < len(given) < 19 and int(given)):
        raise InputError(f"{VARIABLE} is a number of pixels such as {DEFAULT_MAX_PIXELS}, not {given!r}")
    return int(given)


def max_bytes() -> int:
    """Return how many bytes a file in an archive may have: four for every pixel that an image may have."""
    return 4 * max_pixels()


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
            f"{name} is {width} x {height} pixels, more than {limit / 1e6:.0f} million pixels: scale it down first, or "
            f"set {VARIABLE} if you trust it"
        )
