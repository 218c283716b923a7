"""Files in and out: panoramas of any common kind as 8-bit RGB, maps as PNG and NPY that never lie half-written.

Encodings of the maps that we write:

* depth, 16-bit grey PNG: distance along the ray in millimetres, 0 = no value, 65535 = 65.535 m or more;
* normals, 8- or 16-bit RGB PNG: `128 + 127 n` or `32768 + 32767 n` per component (x right, y down, z forward), so that
  the zero vector (no value) is exactly the middle grey;
* classes, palette PNG: the class index per pixel, 255 = no label.
"""

import functools
import io
import uuid
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import BYTES_ON_DISK, DEFAULT_MAX_PIXELS, VARIABLE, check_pixels, max_bytes, read_file
from mtpano_zoo.limits import max_pixels as default_max_pixels

RATIO_TOLERANCE = 0.01  # relative: 1183 x 591 is a panorama to any person, 16:9 video is not
SATURATED = 65535  # the largest number of 16 bits: this distance or any beyond it
MAX_DEPTH = 65.534  # metres, the largest distance that a 16-bit PNG in millimetres tells from all beyond it

# Pillow knows more: EPS, which starts Ghostscript, and scientific formats that unpack whatever is in them.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "DIB", "MPO")


def check_panorama_size(height: int, width: int, name: str) -> None:
    """Accept sizes that are 2:1 within 1 %.

    Raises:
        InputError: the size is not that of a full panorama; `name` opens the sentence.
    """
    if height < 1 or abs(width / (2 * height) - 1) > RATIO_TOLERANCE:
        raise InputError(
            f"{name} is {width} x {height} pixels, but a full 360 x 180 degree panorama is twice as wide as high: "
            "export it as equirectangular 2:1, or pad what is missing with black"
        )


def read_panorama(path: str | Path, *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Read an equirectangular image as RGB of shape (H, W, 3), whatever kind of image file it is.

    The EXIF orientation is applied; grey, palette and CMYK images become RGB; transparent pixels are composited over
    black, which is how panoramas mark what was not seen; 16 bits per channel are scaled (not cut) to 8; of several
    frames the first is taken. Sizes that are 2:1 within 1 % come back as they are.

    Args:
        path: The file.
        max_pixels: How many pixels it may have, by default `limits.max_pixels()`.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is truncated, not an image, of floating-point values, too large, or not 2:1.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    limit = max(max_bytes(BYTES_ON_DISK), BYTES_ON_DISK * (max_pixels or 0))
    return decode_panorama(read_file(path, limit), str(path), max_pixels=max_pixels)


def decode_panorama(data: bytes, name: str, *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Decode the content of an image file by the rules of `read_panorama`; `name` opens the sentence of an error.

    Raises:
        InputError: it is truncated, not an image, of floating-point values, too large, or not 2:1.
    """
    try:
        array = _decode(open_image(data, name, max_pixels), data)
    except InputError:
        raise
    except _ValueRangeError as error:
        raise InputError(f"{name} {error}") from error
    except Exception as error:  # decoders fail in many ways on broken data: OSError, SyntaxError, struct.error, ...
        raise InputError(f"{name} is truncated or not an image: {_first_line(error)}") from error
    check_panorama_size(array.shape[0], array.shape[1], name)
    return array


def open_image(data: bytes, name: str, max_pixels: int | None = None) -> Image.Image:
    """Open an image by its header, whose size is compared with the limit; its pixels are decoded when asked for.

    Args:
        data: The content of the file.
        name: What opens the sentence of an error.
        max_pixels: How many pixels it may have, by default `limits.max_pixels()`.

    Raises:
        InputError: It is too large, or not an image of a known format.
    """
    limit = default_max_pixels() if max_pixels is None else max_pixels
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow refuses what has more than twice that
        if limit > DEFAULT_MAX_PIXELS:  # we were asked to allow more
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, -(-limit // 2))
        limit = min(limit, 2 * Image.MAX_IMAGE_PIXELS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at half of its limit
            image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has more than {limit:,} pixels: scale it down first, or set {VARIABLE}") from error
    except Exception as error:
        raise InputError(f"{name} is truncated or not an image: {_first_line(error)}") from error
    check_pixels(image.height, image.width, name, limit)
    return image


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def panorama_from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """Turn an image that is already open into RGB (H, W, 3), by the same rules as `read_panorama`.

    Raises:
        InputError: it holds floating-point values, or is not 2:1.
    """
    array = _upright_rgb(image, image.getexif().get(ExifTags.Base.Orientation, 1))
    check_panorama_size(array.shape[0], array.shape[1], "the image")
    return array


class _ValueRangeError(InputError):
    """The image is sound, but what its values mean is not known."""


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    # Pillow names the in-memory buffer that it was given, which tells the user nothing.
    return "no known image format" if not lines or "BytesIO" in lines[0] else lines[0]


def _decode(file: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Decode an open image, turn it upright, and reduce it to RGB of 8 bits."""
    with file:
        # The mode alone does not tell: Pillow calls 16-bit RGB just "RGB".
        sixteen_bit = ";16" in str(getattr(file, "tile", ""))
        file.load()  # before OpenCV, which returns the readable part of a truncated file without a word
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
        image = Image.fromarray(_decode_16bit(data)) if sixteen_bit else file
        return _upright_rgb(image, orientation)


def _upright_rgb(image: Image.Image, orientation: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8bit(np.asarray(image).astype(np.uint16)))
    elif image.mode in ("I", "F"):
        raise _ValueRangeError("holds 32-bit values without a defined white: convert it to 8 or 16 bits first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    # RGB is made before turning, on a copy without metadata: the caller's image keeps its own.
    upright = Image.fromarray(np.asarray(image.convert("RGB")))
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(upright), dtype=np.uint8)


def _decode_16bit(data: bytes) -> NDArray[np.uint8]:
    """Decode with OpenCV, which keeps all 16 bits of colour images, and scale 0..65535 to 0..255."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise InputError("its 16-bit channels cannot be decoded")
    if values.ndim == 3:
        values = cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return _to_8bit(values)


def _to_8bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file so that it exists completely or not at all, also when the program is stopped in between."""
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # the same folder: a rename across disks is a copy
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(path: str | Path, array: NDArray[Any]) -> None:
    """Write (H, W) grey or (H, W, 3) RGB of type uint8 or uint16, atomically.

    Raises:
        InputError: another shape or type.
    """
    colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype not in (np.uint8, np.uint16) or not (colour or array.ndim == 2) or array.size == 0:
        raise InputError(
            f"a PNG takes (H, W) or (H, W, 3) of uint8 or uint16, but {path} was given {array.shape} of {array.dtype}"
        )
    pixels = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if colour else np.ascontiguousarray(array)
    written, data = cv2.imencode(".png", pixels)
    if not written:
        raise InputError(f"{path} could not be encoded as PNG")
    write_bytes(path, data.tobytes())


def write_palette_png(path: str | Path, indices: NDArray[Any], palette: ArrayLike) -> None:
    """Write class indices (H, W) as a PNG that shows them in the colours of `palette` (N, 3), atomically.

    Index 255 (no label) and every other index without a colour of its own are black.

    Raises:
        InputError: indices outside 0..255, or not (H, W), or a palette that is not (N <= 256, 3).
    """
    colours = np.asarray(palette, dtype=np.uint8)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) > 256:
        raise InputError(f"a palette has shape (N, 3) with at most 256 colours, not {colours.shape}")
    if indices.ndim != 2 or indices.size == 0 or indices.min() < 0 or indices.max() > 255:
        raise InputError(f"a palette PNG takes class indices 0 to 255 of shape (H, W): {path} was given something else")
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([*colours.ravel().tolist(), *[0] * (768 - colours.size)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def write_npy(path: str | Path, array: NDArray[Any]) -> None:
    """Write an array as NPY, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_ply(path: str | Path, points: NDArray[np.float32], colours: NDArray[np.uint8]) -> None:
    """Write a point cloud, positions (N, 3) in metres and RGB (N, 3), as binary PLY, atomically.

    Raises:
        InputError: the two shapes do not agree.
    """
    if points.shape != colours.shape or points.shape[1:] != (3,):
        raise InputError(f"points and colours are both (N, 3), not {points.shape} and {colours.shape}")
    fields = [(axis, "<f4", "float") for axis in "xyz"] + [(name, "u1", "uchar") for name in ("red", "green", "blue")]
    vertices = np.empty(len(points), [(name, code) for name, code, _ in fields])
    for column in range(3):
        vertices[fields[column][0]], vertices[fields[3 + column][0]] = points[:, column], colours[:, column]
    properties = [f"property {kind} {name}" for name, _, kind in fields]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header", ""]
    write_bytes(path, "\n".join(header).encode() + vertices.tobytes())


def encode_depth(depth: ArrayLike) -> NDArray[np.uint16]:
    """Encode depth in metres as whole millimetres in 16 bits.

    0, negative, NaN and infinite values become 0 (no value). Valid depth is at least 1 mm, and saturates at 65535,
    which is 65.535 m or more, instead of wrapping around.

    Example:
        >>> encode_depth([0.0, 1.5, 0.0001, 100.0, float("nan")]).tolist()
        [0, 1500, 1, 65535, 0]
    """
    metres = np.asarray(depth)
    valid = np.isfinite(metres) & (metres > 0)
    millimetres = np.array(metres, dtype=np.float64)
    millimetres[~valid] = 0
    np.minimum(millimetres, SATURATED / 1000, out=millimetres)
    millimetres *= 1000
    np.rint(millimetres, out=millimetres)
    np.maximum(millimetres, valid, out=millimetres)
    encoded: NDArray[np.uint16] = millimetres.astype(np.uint16)
    return encoded


def decode_depth(
    encoded: NDArray[np.uint16], unit: float = 0.001, missing: Collection[int] = (SATURATED,)
) -> NDArray[np.float32]:
    """Turn the numbers of a depth image into metres as float32, 0 = no value.

    Args:
        encoded: Numbers of steps.
        unit: A step in metres; a metre has a whole number of them.
        missing: Numbers that become 0, as 0 does: by default 65535, which is a distance of which only the least is
            known.

    Raises:
        InputError: the array is not uint16.

    Example:
        >>> decode_depth(np.array([0, 1500, 65535], np.uint16)).tolist()
        [0.0, 1.5, 0.0]
    """
    if encoded.dtype != np.uint16:
        raise InputError(
            f"depth in millimetres is uint16, not {encoded.dtype}: read the PNG without reducing it to 8 bits"
        )
    depth = np.asarray(np.divide(encoded, np.float32(1 / unit), dtype=np.float32))  # of a scalar too
    for number in missing:
        depth[encoded == number] = 0
    return depth


def encode_normals(normals: ArrayLike, bits: Literal[8, 16] = 8) -> NDArray[Any]:
    """Encode unit normals (H, W, 3) as RGB: `128 + 127 n` in uint8, or `32768 + 32767 n` in uint16.

    Vectors with a value that is not finite count as the zero vector (no value), which is exactly the middle grey.

    Raises:
        InputError: the last axis is not 3, or `bits` is neither 8 nor 16.

    Example:
        >>> encode_normals([[0, 0, -1], [0, 0, 0]]).tolist()
        [[128, 128, 1], [128, 128, 128]]
    """
    vectors = np.asarray(normals, dtype=np.float32)  # 24 bits tell any two of 16 apart
    if vectors.shape[-1:] != (3,) or bits not in (8, 16):
        raise InputError(f"normals are encoded from (..., 3) in 8 or 16 bits, not from {vectors.shape} in {bits}")
    middle = 1 << (bits - 1)
    vectors = np.where(np.isfinite(vectors).all(-1, keepdims=True), vectors, 0)
    return np.rint(middle + (middle - 1) * np.clip(vectors, -1, 1)).astype(np.uint8 if bits == 8 else np.uint16)


def decode_normals(encoded: NDArray[Any]) -> NDArray[np.float32]:
    """Turn what `encode_normals` gives, uint8 or uint16, back into unit vectors; the middle grey is the zero vector.

    Raises:
        InputError: another type, or the last axis is not 3.

    Example:
        >>> decode_normals(np.array([[128, 128, 1], [128, 128, 128]], np.uint8)).tolist()
        [[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]
    """
    if encoded.dtype not in (np.uint8, np.uint16) or encoded.shape[-1:] != (3,):
        raise InputError(f"encoded normals are (..., 3) of uint8 or uint16, not {encoded.shape} of {encoded.dtype}")
    middle = 128 if encoded.dtype == np.uint8 else 32768
    vectors = encoded.astype(np.float64) - middle
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(length, 1)).astype(np.float32)
    return unit
