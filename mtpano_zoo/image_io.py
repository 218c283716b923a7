"""Read panoramas as 8-bit RGB, and write maps as PNG and NPY without leaving partial files.

Encodings of the written maps:

* depth, 16-bit grey PNG: distance along the ray in millimetres, 0 = no value, 65535 = 65.535 m or more;
* normals, 8- or 16-bit RGB PNG: `128 + 127 n` or `32768 + 32767 n` per component (x right, y down, z forward), so that
  the zero vector (no value) is exactly the middle grey;
* classes, palette PNG: the class index per pixel, 255 = no label.
"""

import functools
import io
import uuid
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import BYTES_ON_DISK, DEFAULT_MAX_PIXELS, VARIABLE, check_pixels, max_bytes, read_file
from mtpano_zoo.limits import max_pixels as default_max_pixels

RATIO_TOLERANCE = 0.01  # relative: accepts 1183 x 591, refuses 16:9 video
SATURATED = 65535  # the largest 16-bit number: this distance or any beyond
MAX_DEPTH = 65.534  # metres, the largest distance below saturation in a 16-bit PNG of millimetres

# Pillow reads more, but EPS starts Ghostscript and some scientific formats unpack anything.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "DIB", "MPO")


def check_panorama_size(height: int, width: int, name: str) -> None:
    """Accept sizes that are 2:1 within 1 %.

    Raises:
        InputError: If the size is not that of a full panorama; `name` opens the message.

    Example:
        >>> check_panorama_size(512, 1024, "room.jpg")
        >>> check_panorama_size(1080, 1920, "video.png")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mtpano_zoo.errors.InputError: video.png is 1920 x 1080 pixels, but a full 360 x 180 degree panorama is ...
    """
    if height < 1 or abs(width / (2 * height) - 1) > RATIO_TOLERANCE:
        raise InputError(
            f"{name} is {width} x {height} pixels, but a full 360 x 180 degree panorama is twice as wide as high: "
            "export it as equirectangular 2:1, or pad what is missing with black"
        )


def read_panorama(path: str | Path, *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Read an equirectangular image file of any common format as RGB (H, W, 3).

    The EXIF orientation is applied. Grey, palette and CMYK images become RGB. Transparent pixels are composited over
    black, which marks unseen parts of a panorama. 16 bits per channel are scaled, not cut, to 8. Of several frames the
    first is read. Sizes that are 2:1 within 1 % are kept.

    Args:
        path: The file.
        max_pixels: The largest number of pixels to accept; `limits.max_pixels()` by default.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is truncated, not an image, floating-point, too large, or not 2:1.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    limit = max(max_bytes(BYTES_ON_DISK), BYTES_ON_DISK * (max_pixels or 0))
    return decode_panorama(read_file(path, limit), str(path), max_pixels=max_pixels)


def decode_panorama(data: bytes, name: str, *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Decode the content of an image file as `read_panorama` does; `name` opens error messages.

    Raises:
        InputError: If it is truncated, not an image, floating-point, too large, or not 2:1.
    """
    try:
        array = _decode(open_image(data, name, max_pixels), data)
    except InputError:
        raise
    except _ValueRangeError as error:
        raise InputError(f"{name} {error}") from error
    except Exception as error:  # broken data raises OSError, SyntaxError, struct.error, ...
        raise InputError(f"{name} is truncated or not an image: {_first_line(error)}") from error
    check_panorama_size(array.shape[0], array.shape[1], name)
    return array


def open_image(data: bytes, name: str, max_pixels: int | None = None) -> Image.Image:
    """Open an image from its header and check its size. Its pixels are decoded on demand.

    Args:
        data: Content of the file.
        name: Opens error messages.
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
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # raised at half of Pillow's limit
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
    """Convert an open image to RGB (H, W, 3) by the rules of `read_panorama`.

    Raises:
        InputError: If it holds floating-point values, or is not 2:1.

    Example:
        >>> panorama_from_pil(Image.new("L", (64, 32), 255)).shape
        (32, 64, 3)
    """
    array = _upright_rgb(image, image.getexif().get(ExifTags.Base.Orientation, 1))
    check_panorama_size(array.shape[0], array.shape[1], "the image")
    return array


class _ValueRangeError(InputError):
    """The image is sound, but the range of its values is unknown."""


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    # Pillow names its in-memory buffer, which means nothing to the user.
    return "no known image format" if not lines or "BytesIO" in lines[0] else lines[0]


def _decode(file: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Decode an open image, apply its orientation, and reduce it to 8-bit RGB."""
    with file:
        # The mode is not enough: Pillow calls 16-bit RGB just "RGB".
        sixteen_bit = ";16" in str(getattr(file, "tile", ""))
        file.load()  # before OpenCV, which silently returns the readable part of a truncated file
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
    # Convert to RGB before turning, on a copy without metadata: the caller's image keeps its own.
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
    """Write a file completely or not at all, even if the program is stopped on the way."""
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # in the same folder: a rename across disks is a copy
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(path: str | Path, array: NDArray[Any]) -> None:
    """Write (H, W) grey or (H, W, 3) RGB of type uint8 or uint16, atomically.

    Raises:
        InputError: If the shape or type is another one.
    """
    colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype not in (np.uint8, np.uint16) or not (colour or array.ndim == 2) or array.size == 0:
        raise InputError(
            f"a PNG takes (H, W) or (H, W, 3) of uint8 or uint16, but {path} got {array.shape} of {array.dtype}"
        )
    pixels = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if colour else np.ascontiguousarray(array)
    written, data = cv2.imencode(".png", pixels)
    if not written:
        raise InputError(f"{path} could not be encoded as PNG")
    write_bytes(path, data.tobytes())


def write_palette_png(path: str | Path, indices: NDArray[Any], palette: ArrayLike) -> None:
    """Write class indices (H, W) as a PNG that shows them in the colours of `palette` (N, 3), atomically.

    Index 255 (no label) and every other index without a colour is black.

    Raises:
        InputError: If the indices are not (H, W) in 0..255, or the palette is not (N <= 256, 3).
    """
    colours = np.asarray(palette, dtype=np.uint8)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) > 256:
        raise InputError(f"a palette has shape (N, 3) with at most 256 colours, not {colours.shape}")
    if indices.ndim != 2 or indices.size == 0 or indices.min() < 0 or indices.max() > 255:
        raise InputError(f"a palette PNG takes class indices 0 to 255 of shape (H, W), but {path} got something else")
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([*colours.ravel().tolist(), *[0] * (768 - colours.size)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def write_npy(path: str | Path, array: NDArray[Any]) -> None:
    """Write an array as NPY, atomically.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_npy(Path(folder, "depth.npy"), np.ones((2, 4), np.float32))
        ...     np.load(Path(folder, "depth.npy")).shape
        (2, 4)
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_ply(
    path: str | Path,
    points: NDArray[np.float32],
    colours: NDArray[np.uint8],
    normals: NDArray[np.float32] | None = None,
) -> None:
    """Write a point cloud, positions (N, 3) in metres, RGB (N, 3) and normals (N, 3), as binary PLY, atomically.

    Raises:
        InputError: If the shapes differ.
    """
    if points.shape != colours.shape or points.shape[1:] != (3,):
        raise InputError(f"points and colours are both (N, 3), not {points.shape} and {colours.shape}")
    if normals is not None and normals.shape != points.shape:
        raise InputError(f"points and normals are both (N, 3), not {points.shape} and {normals.shape}")
    parts: list[tuple[Sequence[str], NDArray[Any]]] = [("xyz", points), (("red", "green", "blue"), colours)]
    parts += [] if normals is None else [(("nx", "ny", "nz"), normals)]
    kinds = [("u1", "uchar") if values is colours else ("<f4", "float") for _, values in parts]
    fields = [(name, *kind) for (names, _), kind in zip(parts, kinds, strict=True) for name in names]
    vertices = np.empty(len(points), [(name, code) for name, code, _ in fields])
    for names, values in parts:
        for column, name in enumerate(names):
            vertices[name] = values[:, column]
    properties = [f"property {kind} {name}" for name, _, kind in fields]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header", ""]
    write_bytes(path, "\n".join(header).encode() + vertices.tobytes())


def encode_depth(depth: ArrayLike) -> NDArray[np.uint16]:
    """Encode depth in metres as whole millimetres in 16 bits.

    Zero, negative, NaN and infinite values become 0 (no value). Valid depth is at least 1 mm and saturates at 65535,
    which means 65.535 m or more, instead of wrapping around.

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
    """Decode a depth image to float32 metres, 0 = no value.

    Args:
        encoded: Depth in whole steps of `unit`.
        unit: A step in metres; a metre has a whole number of them.
        missing: Numbers that become 0, as 0 does; by default 65535, which only gives a lower bound on the distance.

    Raises:
        InputError: If the array is not uint16.

    Example:
        >>> decode_depth(np.array([0, 1500, 65535], np.uint16)).tolist()
        [0.0, 1.5, 0.0]
    """
    if encoded.dtype != np.uint16:
        raise InputError(
            f"depth in millimetres is uint16, not {encoded.dtype}: read the PNG without reducing it to 8 bits"
        )
    depth = np.asarray(np.divide(encoded, np.float32(1 / unit), dtype=np.float32))  # scalars become arrays too
    for number in missing:
        depth[encoded == number] = 0
    return depth


def encode_normals(normals: ArrayLike, bits: Literal[8, 16] = 8) -> NDArray[Any]:
    """Encode unit normals (H, W, 3) as RGB: `128 + 127 n` in uint8, or `32768 + 32767 n` in uint16.

    Vectors that are not finite count as the zero vector (no value), which is exactly the middle grey.

    Raises:
        InputError: If the last axis is not 3, or `bits` is neither 8 nor 16.

    Example:
        >>> encode_normals([[0, 0, -1], [0, 0, 0]]).tolist()
        [[128, 128, 1], [128, 128, 128]]
    """
    vectors = np.asarray(normals, dtype=np.float32)  # 24 bits of mantissa separate all 16-bit values
    if vectors.shape[-1:] != (3,) or bits not in (8, 16):
        raise InputError(f"normals are (..., 3), encoded in 8 or 16 bits, not {vectors.shape} in {bits}")
    middle = 1 << (bits - 1)
    vectors = np.where(np.isfinite(vectors).all(-1, keepdims=True), vectors, 0)
    return np.rint(middle + (middle - 1) * np.clip(vectors, -1, 1)).astype(np.uint8 if bits == 8 else np.uint16)


def decode_normals(encoded: NDArray[Any]) -> NDArray[np.float32]:
    """Decode the uint8 or uint16 result of `encode_normals` to unit vectors; the middle grey is the zero vector.

    Raises:
        InputError: If the type is another one, or the last axis is not 3.

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
