"""Decode an image file of any common format to 8-bit RGB, a mask of transparent pixels, and its XMP metadata."""

import functools
import io
import warnings
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io.floating import decode_floating, tone_mapped
from mtpano_zoo.image_io.formats import (
    FORMATS,
    is_exr,
    is_float_tiff,
    is_hdr,
    is_heic,
    jpeg2000_bits,
    kind_of_other_file,
    tiff_xmp,
)
from mtpano_zoo.image_io.video import quiet
from mtpano_zoo.limits import DEFAULT_MAX_PIXELS, VARIABLE, check_pixels
from mtpano_zoo.limits import max_pixels as default_max_pixels

__all__ = ("Decoded", "decode_image", "decode_pil", "open_image")

OPAQUE = 128  # alpha from which a pixel counts as seen
XMP_KEYS = ("xmp", "XML:com.adobe.xmp")  # where Pillow keeps it; the second is for PNG
XMP_TAG, PHOTOMETRIC_TAG, EXTRA_SAMPLES_TAG = 700, 262, 338  # of TIFF
WHITE_IS_ZERO, ASSOCIATED_ALPHA = 0, 1  # values of the last two; colours are already multiplied by associated alpha
WHITE_16 = np.uint16(65535)


class Decoded(NamedTuple):
    """An image as a camera or a program wrote it.

    Attributes:
        pixels: RGB (H, W, 3) uint8, upright; transparent pixels are shown over black.
        seen: mask (H, W), false where the image is transparent; None if it is transparent nowhere.
        xmp: its XMP metadata; empty if it has none.
    """

    pixels: NDArray[np.uint8]
    seen: NDArray[np.bool_] | None
    xmp: str


def decode_image(data: bytes, name: str, max_pixels: int | None = None) -> Decoded:
    """Decode the content of an image file; `name` starts error messages.

    The EXIF orientation is applied, and colours of another profile, such as Display P3, become sRGB. Grey, palette and
    CMYK images become RGB. 16 bits per channel are scaled, not cut, to 8; floating-point light is tone-mapped, see
    `mtpano_zoo.image_io.floating`. Only the first of several frames or pages is read.

    Raises:
        InputError: If it is truncated, not an image, holds 32-bit integers, or is too large.
    """
    try:
        if is_exr(data) or is_hdr(data) or is_float_tiff(data):
            limit = default_max_pixels() if max_pixels is None else max_pixels
            return _decoded_light(decode_floating(data, limit), tiff_xmp(data) if is_float_tiff(data) else "")
        with open_image(data, name, max_pixels) as file:
            # The mode is not enough: Pillow calls 16-bit RGB just "RGB".
            layout = str(getattr(file, "tile", ""))
            wraps = file.format == "JPEG2000" and file.mode in ("RGB", "RGBA", "LA")
            bits = jpeg2000_bits(data) if wraps else ()  # if there are more than 8, Pillow turns white to black
            file.load()  # before OpenCV, which silently returns the readable part of a truncated file
            deep = (";16" in layout and file.mode != "CMYK") or max(bits, default=8) > 8  # OpenCV reads no CMYK
            sixteen_bit = _decode_16bit(data, bits) if deep else None
            if sixteen_bit is not None and "LA;16" in layout:  # OpenCV returns it as RGBA
                sixteen_bit = sixteen_bit[..., 2:]
            return decode_pil(file, sixteen_bit)
    except _NamedError:
        raise
    except InputError as error:
        sentence = str(error)
        raise InputError(f"{name} {sentence.removeprefix('it ')}") from error
    except Exception as error:  # broken data raises OSError, SyntaxError, struct.error, ...
        raise InputError(f"{name} is truncated or not an image: {_first_line(error)}") from error


class _NamedError(InputError):
    """The message names the file already."""


def open_image(data: bytes, name: str, max_pixels: int | None = None) -> Image.Image:
    """Open an image from its header and check its size. Its pixels are decoded on demand.

    Args:
        data: Content of the file.
        name: Start of error messages.
        max_pixels: The largest number of pixels to accept; `limits.max_pixels()` by default.

    Raises:
        InputError: If it is too large, or not an image of a known format.
    """
    limit = default_max_pixels() if max_pixels is None else max_pixels
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow refuses more than twice that
        if limit > DEFAULT_MAX_PIXELS:  # the caller allows more
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, -(-limit // 2))
        limit = min(limit, 2 * Image.MAX_IMAGE_PIXELS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about half of Pillow's limit, and about damage that becomes an error
            image = Image.open(io.BytesIO(data), formats=_formats(is_heic(data)))
    except Image.DecompressionBombError as error:
        raise _NamedError(f"{name} has more than {limit:,} pixels: scale it down first, or set {VARIABLE}") from error
    except Exception as error:
        if is_heic(data) and "HEIF" not in _formats(True):
            raise _NamedError(
                f"{name} is a HEIC image: install the package that reads them, mtpano_zoo[heic], or convert it to JPEG"
            ) from error
        if kind := kind_of_other_file(data):
            raise _NamedError(f"{name} is not an image but {kind}") from error
        raise _NamedError(f"{name} is truncated or not an image: {_first_line(error)}") from error
    try:
        check_pixels(image.height, image.width, name, limit)
    except InputError as error:
        raise _NamedError(str(error)) from error
    return image


@functools.cache
def _formats(heif: bool) -> list[str]:
    """Return the formats to try; the reader of HEIC is an extra, and is loaded only for files that may need it."""
    Image.init()
    if heif:
        for package in ("pi_heif", "pillow_heif"):
            try:
                module = __import__(package)
            except ImportError:
                continue
            module.register_heif_opener()
            break
    return [name for name in FORMATS if name in Image.OPEN]


def decode_pil(image: Image.Image, sixteen_bit: NDArray[np.uint16] | None = None) -> Decoded:
    """Decode an open image; `sixteen_bit` holds its pixels (H, W) or (H, W, C) if Pillow would drop bits.

    Raises:
        InputError: If it holds 32-bit integers, which have no defined white.

    Example:
        >>> decode_pil(Image.new("L", (64, 32), 255)).pixels.shape
        (32, 64, 3)
    """
    image.load()  # Pillow turns TIFF images by itself when it decodes them, and then drops their orientation
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    xmp, profile = _xmp(image), image.info.get("icc_profile")
    if image.mode == "F":
        return _decoded_light(np.repeat(np.asarray(image, np.float32)[..., None], 3, 2), xmp)
    if sixteen_bit is None and image.mode.startswith("I;16"):
        sixteen_bit = np.asarray(image).astype(np.uint16)
    if sixteen_bit is not None:
        image = Image.fromarray(_to_8bit(_as_tagged(sixteen_bit, image)))
    elif image.mode == "I":
        raise InputError("holds 32-bit values without a defined white: convert it to 8 or 16 bits first")
    if image.mode == "La":  # grey, multiplied by alpha, which Pillow converts to nothing else
        image = image.convert("LA")
    alpha = None
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        alpha = np.asarray(whole.getchannel("A"))
        image = image.convert("L") if image.mode in ("L", "LA") else whole.convert("RGB")  # what its profile is for
        del whole  # large panoramas fill the memory
    image = _as_srgb(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size), Image.fromarray(alpha))
    pixels = np.asarray(image)
    seen = None if alpha is None or (alpha >= OPAQUE).all() else alpha >= OPAQUE
    return Decoded(_upright(pixels, orientation), None if seen is None else _upright(seen, orientation), xmp)


def _decoded_light(light: NDArray[np.float32], xmp: str) -> Decoded:
    alpha = light[..., 3] if light.shape[2] > 3 else np.ones(light.shape[:2], np.float32)
    # EXR colours are already multiplied by alpha, which is the same as showing them over black.
    seen: NDArray[np.bool_] = np.isfinite(light).all(-1) & (alpha >= OPAQUE / 255)
    return Decoded(tone_mapped(light[..., :3]), None if seen.all() else seen, xmp)


def _xmp(image: Image.Image) -> str:
    found = next((image.info[key] for key in XMP_KEYS if image.info.get(key)), None)
    if found is None and image.format == "TIFF":
        found = getattr(image, "tag_v2", {}).get(XMP_TAG)
    if isinstance(found, tuple):
        found = bytes(found)
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found or "")


def _as_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to RGB, using the colour profile if it is for another space than sRGB and fits the image."""
    if image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB")
        except (ImageCms.PyCMSError, OSError):  # a profile that is damaged, or for another kind of image
            return image.convert("RGB")
        # Names do not tell: "DCI-P3 D65 Gamut with sRGB Transfer" is not sRGB.
        colours = _colours(image.mode)
        change = np.asarray(turned.apply(colours), np.int16) - np.asarray(colours.convert("RGB"), np.int16)
        if np.abs(change).max() > 1:  # a large panorama takes long to convert
            return turned.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _colours(mode: str) -> Image.Image:
    """Return one row with colours from all over the space of a mode."""
    channels = Image.getmodebands(mode)
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * channels), -1)
    return Image.frombytes(mode, (grid.size // channels, 1), grid.tobytes())


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return a copy of pixels, turned as the EXIF orientation says."""
    if orientation == 1:
        return np.array(values)
    upright = Image.fromarray(values)
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(upright), dtype=values.dtype)


def _decode_16bit(data: bytes, bits: tuple[int, ...] = ()) -> NDArray[np.uint16]:
    """Decode with OpenCV, which keeps all 16 bits of colour images.

    If channels have fewer, `bits` says how many, and they are scaled.
    """
    with quiet():
        values: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise InputError("has more than 8 bits per channel and cannot be decoded: convert it to 8 bits")
    if values.ndim == 3:
        values = cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    if bits:
        white = 2 ** np.array(bits, np.uint32) - 1
        values = (values * np.uint32(WHITE_16) + white // 2) // white
    return np.asarray(values, np.uint16)


def _as_tagged(values: NDArray[np.uint16], image: Image.Image) -> NDArray[np.uint16]:
    """Return 16-bit pixels, grey or RGB with or without alpha, as the tags say that they are meant."""
    tags = getattr(image, "tag_v2", {})
    if values.ndim == 2:
        transparent = image.info.get("transparency")
        if transparent is not None:
            return np.dstack((values, np.where(values == transparent, 0, WHITE_16).astype(np.uint16)))
        return WHITE_16 - values if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO else values
    if values.shape[2] == 4 and not image.has_transparency_data:
        return values[..., :3]  # the fourth channel is of an unknown kind
    if values.shape[2] == 4 and tags.get(EXTRA_SAMPLES_TAG) == (ASSOCIATED_ALPHA,):
        alpha = np.maximum(values[..., 3:], 1).astype(np.float32)
        colour = np.minimum(values[..., :3] / alpha, 1) * WHITE_16
        return np.dstack((np.rint(colour).astype(np.uint16), values[..., 3]))
    return values


def _to_8bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    # Pillow names its in-memory buffer, which means nothing to the user.
    return "no known image format" if not lines or "BytesIO" in lines[0] else lines[0]
