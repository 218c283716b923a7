"""Decode images of scene-linear light (Radiance HDR, EXR, floating-point TIFF), and tone-map them to 8 bits.

The tone curve is the photographic one (E. Reinhard et al., "Photographic Tone Reproduction for Digital Images",
SIGGRAPH 2002, equation 4) with the key 0.18, followed by the sRGB transfer curve. It has no parameter to set: the same
file always yields the same image.
"""

import io
import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io.formats import is_exr, is_hdr, tiff_tags
from mtpano_zoo.image_io.video import quiet
from mtpano_zoo.limits import check_pixels

__all__ = ("decode_exr", "decode_floating", "tone_mapped")

KEY = 0.18  # linear brightness to which the average is mapped
WHITE = 99.5  # per cent of the pixels that are below white
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def decode_floating(data: bytes, limit: int) -> NDArray[np.float32]:
    """Decode a Radiance HDR, EXR or floating-point TIFF image as (H, W, 3) or, with alpha, (H, W, 4).

    Args:
        data: Content of the file.
        limit: The largest number of pixels to accept.

    Raises:
        InputError: If it is damaged, too large, a TIFF of half floats, or an unusual variant of Radiance HDR; or if it
            is EXR and the package that reads it is not installed.
    """
    if is_exr(data):
        pixels = decode_exr(data, limit)
    else:
        check_pixels(*_size(data), "it", limit)
        if not is_hdr(data) and 16 in tiff_tags(data).get(258, ()):
            raise InputError("it holds 16-bit floating-point numbers, which are not supported: convert it to 32 bits")
        with quiet():
            decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise InputError("it is truncated or damaged")
        pixels = np.asarray(decoded, np.float32)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    if pixels.shape[2] == 2:
        raise InputError("it has two channels, not grey or RGB")
    return pixels if pixels.shape[2] > 2 else np.repeat(pixels, 3, 2)


def _size(data: bytes) -> tuple[int, int]:
    if not is_hdr(data):
        tags = tiff_tags(data)
        return tags[257][0], tags[256][0]
    header, _, rest = data[:65536].partition(b"\n\n")
    size = re.match(rb"-Y +(\d{1,9}) +\+X +(\d{1,9})\n", rest)
    if size is not None and b"FORMAT=32-bit_rle_rgbe" in header.split(b"\n"):
        return int(size[1]), int(size[2])
    if re.search(rb"\n\r?\n[-+][XY] +\d+ +[-+][XY] +\d+\r?\n", data[:65536]):
        raise InputError(
            "it is in a variant of Radiance HDR that is not supported: convert it to 32-bit_rle_rgbe with rows from "
            "the top (-Y ... +X ...)"
        )
    raise InputError("its header has no size")


def decode_exr(data: bytes, limit: int | None = None) -> NDArray[np.float32]:
    """Decode an EXR image as (H, W, C), in the order R, G, B if these are its channels.

    This is its display window: pixels outside are cut off, and those that the file does not store are NaN.

    Args:
        data: Content of the file.
        limit: The largest number of pixels to accept; `limits.max_pixels()` by default.

    Raises:
        InputError: If the package OpenEXR is not installed, the file is damaged or not an EXR image, it has other
            channels, or it holds integers, whose unit is not known.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise InputError("it is an EXR image: install the package that reads them, mtpano_zoo[exr]") from error
    try:
        parts = OpenEXR.File(io.BytesIO(data), header_only=True).parts
        headers = [part.header for part in parts]
        windows = [np.asarray((header["dataWindow"], header["displayWindow"]), np.int64) for header in headers]
    except Exception as error:  # RuntimeError, ValueError, UnicodeDecodeError, MemoryError, depending on the damage
        raise InputError("it is truncated, damaged or not an EXR image") from error
    for header, both in zip(headers, windows, strict=True):
        for (left, top), (right, bottom) in both:
            check_pixels(int(bottom - top) + 1, int(right - left) + 1, "it", limit)
        if len(headers) > 1 or len(header["channels"]) > 4:
            raise InputError(
                f"it has {len(headers)} parts with {len(header['channels'])} channels instead of one image"
            )
    try:
        channels = OpenEXR.File(io.BytesIO(data)).channels()
    except Exception as error:
        raise InputError("it is truncated, damaged or not an EXR image") from error
    if len(channels) != 1:
        raise InputError(f"it has the channels {', '.join(channels) or 'none'} instead of R, G, B or a single one")
    stored = next(iter(channels.values())).pixels
    if stored.dtype.kind != "f":
        raise InputError(f"it holds integers ({stored.dtype}), whose unit is not known: convert it to floating point")
    pixels: NDArray[np.float32] = np.asarray(stored, np.float32)
    return _displayed(pixels if pixels.ndim == 3 else pixels[..., None], *windows[0])


def _displayed(
    pixels: NDArray[np.float32], stored: NDArray[np.int64], display: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return what the display window shows of the pixels (H, W, C) in the stored one, with NaN where there are none.

    Windows are their first and last pixel (x, y).
    """
    if np.array_equal(stored, display):
        return pixels
    width, height = display[1] - display[0] + 1
    full = np.full((height, width, pixels.shape[2]), np.nan, np.float32)
    first = np.maximum(stored[0], display[0])
    last = np.maximum(np.minimum(stored[1], display[1]) + 1, first)
    (left, top), (right, bottom) = first - display[0], last - display[0]
    x, y = first - stored[0]
    full[top:bottom, left:right] = pixels[y : y + bottom - top, x : x + right - left]
    return full


def tone_mapped(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn scene-linear light (..., 3) into 8-bit sRGB; non-finite and negative values become black.

    Example:
        >>> tone_mapped(np.full((1, 1, 3), 5, np.float32)).tolist()  # an even wall is mid-grey at any exposure
        [[[118, 118, 118]]]
    """
    light = np.clip(np.where(np.isfinite(light), light, np.float32(0)), 0, 1e30)
    luminance = light @ LUMINANCE
    lit = luminance[luminance > 0]
    if not lit.size:
        return np.zeros(light.shape, np.uint8)
    exposure = KEY / float(np.exp(np.log(lit).mean()))
    scaled = luminance * exposure
    # A scene without highlights keeps its contrast: white is never below what the key needs.
    white = max(1.0, float(np.percentile(lit, WHITE)) * exposure)
    factor = exposure * (1 + scaled / white**2) / (1 + scaled)
    linear = np.clip(light * factor[..., None], 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    encoded: NDArray[np.uint8] = np.rint(255 * curved).astype(np.uint8)
    return encoded
