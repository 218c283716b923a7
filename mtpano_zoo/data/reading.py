"""Decoders from the bytes of files to maps in the units and frame of a sample.

A decoder takes the contents of the files of one role and returns, in their own size: ``image`` uint8 (H, W, 3);
``semseg`` uint8 (H, W), 255 = no label; ``depth`` float32 (H, W), metres along the ray, 0 = no measurement; ``normals``
float32 (H, W, 3) in the frame x right, y down, z forward, zero = no measurement.
"""

import io
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection
from typing import Any

import cv2
import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mtpano_zoo import image_io
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import SATURATED
from mtpano_zoo.limits import check_pixels

__all__ = (
    "FORWARD_UP_LEFT",
    "UNREADABLE",
    "Decoder",
    "decode_array",
    "decode_confidence",
    "decode_depth",
    "decode_labels",
    "decode_mask",
    "decode_npy",
    "decode_rgb",
    "decode_vectors",
    "decode_wide_rgb",
    "look_up",
    "open_image",
    "reason_of",
    "stored_numbers",
    "stored_steps",
    "unit_or_zero",
)

Decoder = Callable[..., NDArray[Any]]


_BAND = 64  # rows at a time, so that intermediate results stay in the processor's cache

# Camera frames by the directions of their three axes, as matrices (3, 3) into x right, y down, z forward.
RIGHT_DOWN_FORWARD = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
FORWARD_UP_LEFT = ((0, 0, -1), (0, -1, 0), (1, 0, 0))


# Errors that mean an unreadable file or sample. All others are bugs.
UNREADABLE = (
    *(ValueError, OSError, LookupError, EOFError, ArithmeticError, SyntaxError, NotImplementedError),
    *(MemoryError, RecursionError),  # from sizes and depths that a damaged header claims
    *(cv2.error, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)


def reason_of(error: BaseException) -> str:
    """Return in a few words why something cannot be read, even if the error has no message.

    Example:
        >>> reason_of(ValueError("it is damaged"))
        'it is damaged'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split()) or type(error).__name__


def open_image(data: bytes) -> Image.Image:
    """Decode an image completely, in whatever mode it is stored.

    Raises:
        InputError: If it is truncated, damaged, too large or not an image.
    """
    image = image_io.open_image(data, "it")
    try:
        image.load()
    except Exception as error:  # decoders fail in many ways on broken data: OSError, SyntaxError, struct.error, ...
        raise InputError(f"it is truncated or not an image: {reason_of(error)}") from error
    return image


def decode_array(data: bytes) -> NDArray[Any]:
    """Decode an NPY file of numbers of any type and shape, after comparing its size with the length of the file.

    Raises:
        InputError: If it is damaged or too large, or does not hold numbers.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.save(file, np.arange(3))
        >>> decode_array(file.getvalue())
        array([0, 1, 2])
    """
    file = io.BytesIO(data)
    try:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
        shape, fortran_order, dtype = read_header(file)
        if dtype.kind not in "bfiu" or min(shape, default=1) < 0:
            raise InputError(f"it holds {dtype} {shape}")
    except UNREADABLE as error:
        raise InputError(f"it is damaged or no NPY file of numbers: {reason_of(error)}") from error
    rows, columns = (1, 1, *shape)[-2:] if len(shape) < 3 else shape[:2]
    check_pixels(rows, columns, "it")
    held = len(data) - file.tell()
    if math.prod(shape) * dtype.itemsize > held:
        raise InputError(f"it is truncated or damaged: its header says {dtype} {shape}, but only {held:,} bytes follow")
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if fortran_order else "C").copy()


def decode_npy(data: bytes) -> NDArray[np.float32]:
    """Decode an NPY file of one map (H, W) of 32-bit floats.

    Raises:
        InputError: If it is damaged, or holds another array.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.save(file, np.ones((2, 4), np.float32))
        >>> decode_npy(file.getvalue()).shape
        (2, 4)
    """
    values = decode_array(data)
    if values.dtype != np.float32 or values.ndim != 2:
        raise InputError(f"its array is {values.shape} of {values.dtype}, not (H, W) of float32")
    return values


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """Decode a colour image; an alpha channel is dropped, not applied.

    Raises:
        InputError: If it is truncated, damaged or not an image, or grey of more than 8 bits, where Pillow would turn
            everything above 255 to white.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2, 1), (255, 0, 0)).save(file, "PNG")
        >>> decode_rgb(file.getvalue()).tolist()
        [[[255, 0, 0], [255, 0, 0]]]
    """
    if _bits_of_rgb_png(data) == 8:
        return _decode_rgb_png(data)
    image = open_image(data)
    if image.mode.startswith(("I", "F")):
        raise InputError(f"it is grey of more than 8 bits (mode {image.mode}), but panoramas have 8 bits per channel")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def decode_labels(data: bytes, lookup: ArrayLike) -> NDArray[np.uint8]:
    """Decode a palette or grey image of label numbers through `lookup` (N,), number to class.

    In `lookup`, 255 stands for a number without class and -1 for a number that the data set does not have.

    Raises:
        InputError: If the image holds colours, more than 8 bits, or a number that the data set does not have.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.array([[0, 1]], np.uint8)).save(file, "PNG")
        >>> decode_labels(file.getvalue(), [255, 0]).tolist()
        [[255, 0]]
    """
    return look_up(stored_numbers(data, open_image(data)), lookup)


def stored_numbers(data: bytes, image: Image.Image) -> NDArray[np.uint8]:
    """Return the numbers (H, W) that a palette or grey PNG of 1 to 8 bits stores, whatever they are shown as.

    Args:
        data: The file.
        image: The same, decoded.

    Raises:
        InputError: If it holds colours or more than 8 bits, or is not a PNG.
    """
    if image.format != "PNG":
        raise InputError(f"it is a {image.format} image, but labels are PNG, which keeps numbers as they are")
    if image.mode not in ("P", "L", "1"):
        raise InputError(f"it holds colours or wide numbers (mode {image.mode}), but labels are 8-bit class numbers")
    numbers: NDArray[np.uint8] = np.asarray(image, np.uint8)
    bits = data[24]  # of IHDR, which comes first
    # Pillow stretches grey of 2 and 4 bits to 0..255; numbers of palettes and of 1 bit it leaves alone.
    return numbers // np.uint8(255 // (2**bits - 1)) if image.mode == "L" and bits < 8 else numbers


def look_up(numbers: NDArray[Any], lookup: ArrayLike) -> NDArray[np.uint8]:
    """Map label numbers (H, W) to classes by a table (N,), see `decode_labels`.

    Raises:
        InputError: If a number is -1 in the table or beyond its end.

    Example:
        >>> look_up(np.array([[0, 1, 1]], np.uint8), [255, 0]).tolist()
        [[255, 0, 0]]
    """
    table = np.full(256, -1, np.int16) if numbers.dtype == np.uint8 else np.full(int(numbers.max()) + 1, -1, np.int16)
    known = np.asarray(lookup, np.int16)[: len(table)]
    table[: len(known)] = known
    classes: NDArray[Any] = cv2.LUT(numbers, table) if numbers.dtype == np.uint8 else table[numbers]
    if classes.min() < 0:
        unknown = np.unique(numbers[classes < 0])[:5].tolist()
        raise InputError(f"it holds the labels {unknown}, which the set does not have")
    mapped: NDArray[np.uint8] = classes.astype(np.uint8)
    return mapped


def decode_depth(data: bytes, unit: float, missing: Collection[int] = (SATURATED,)) -> NDArray[np.float32]:
    """Decode a 16-bit grey image of distances along the ray.

    Args:
        data: The file.
        unit: Metres per step.
        missing: Numbers besides 0 that mean "no measurement"; see `image_io.depth_from_steps`.

    Raises:
        InputError: If it is not 16-bit grey.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.array([[0, 1500, 65535]], np.uint16)).save(file, "PNG")
        >>> decode_depth(file.getvalue(), unit=0.001).tolist()
        [[0.0, 1.5, 0.0]]
    """
    return image_io.depth_from_steps(stored_steps(data), unit, missing)


def stored_steps(data: bytes) -> NDArray[np.uint16]:
    """Return the numbers (H, W) that a 16-bit grey image of depth stores.

    Raises:
        InputError: If it is not 16-bit grey.
    """
    image = open_image(data)
    if not image.mode.startswith("I;16"):
        kind = "has 32 bits" if image.mode in ("I", "F") else "is 8-bit or colour"
        raise InputError(f"its depth {kind} (mode {image.mode}), but it is stored in 16-bit grey")
    return np.asarray(image).astype(np.uint16, copy=False)


def decode_vectors(
    data: bytes, middle: float, scale: float, to_camera: ArrayLike = RIGHT_DOWN_FORWARD
) -> NDArray[np.float32]:
    """Decode an RGB image of normals, ``(value - middle) / scale``, and rotate them to the camera frame.

    Vectors of a length outside 0.5 to 1.5, as every "no measurement" is, become the zero vector.

    Args:
        data: The file, 8 or 16 bits per channel.
        middle: Number that stands for 0.
        scale: Steps between 0 and 1.
        to_camera: Matrix (3, 3) from the frame of the file to x right, y down, z forward.

    Raises:
        InputError: If it is not RGB.
    """
    stored = decode_wide_rgb(data)
    turn = np.asarray(to_camera, np.float64) / scale
    affine = np.column_stack((turn, -middle * turn.sum(1)))
    planes = np.empty((3, *stored.shape[:2]), np.float32)  # in memory component by component, as in a sample
    for top in range(0, len(stored), _BAND):
        band, vectors = stored[top : top + _BAND].astype(np.float32), planes[:, top : top + _BAND]
        for row, component in zip(affine, vectors, strict=True):
            cv2.transform(band, row[None], component)
        vectors /= _lengths(*vectors)
    return planes.transpose(1, 2, 0)


def unit_or_zero(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Scale vectors (..., 3) to length one; those shorter than 0.5, longer than 1.5 or not finite become zero.

    Example:
        >>> unit_or_zero(np.array([[0.0, 0.0, 1.1], [0.0, 0.0, 0.1]], np.float32)).tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        length = _lengths(*np.moveaxis(vectors, -1, 0))
        unit: NDArray[np.float32] = (vectors / length[..., None]).astype(np.float32, copy=False)
    if not np.isfinite(unit).all():
        unit[~np.isfinite(length)] = 0
    return unit


def _lengths(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]) -> NDArray[Any]:
    """Return the divisors of vectors: their length, or infinity for those that are not directions."""
    length: NDArray[Any] = np.sqrt(x * x + y * y + z * z)
    none = ~((length > 0.5) & (length < 1.5))  # also where the length is NaN
    if none.any():
        length[none] = np.inf
    return length


def decode_confidence(data: bytes) -> NDArray[np.float32]:
    """Decode an 8-bit grey image of confidences (H, W), 255 = certain.

    Raises:
        InputError: If it is not 8-bit grey.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.array([[0, 255]], np.uint8)).save(file, "PNG")
        >>> decode_confidence(file.getvalue()).tolist()
        [[0.0, 1.0]]
    """
    image = open_image(data)
    if image.mode != "L":
        raise InputError(f"its confidence is stored as mode {image.mode}, but it is 8-bit grey")
    return np.asarray(image, np.float32) / np.float32(255)


def decode_mask(data: bytes) -> NDArray[np.bool_]:
    """Decode an 8-bit grey image as a mask: 255 is true, 0 is false.

    Raises:
        InputError: If it is not 8-bit grey.
    """
    return decode_confidence(data) > 0.5


def decode_wide_rgb(data: bytes) -> NDArray[Any]:
    """Decode an RGB image of 8 or 16 bits per channel; an alpha channel is dropped.

    Raises:
        InputError: If it is not RGB.
    """
    if _bits_of_rgb_png(data):
        return _decode_rgb_png(data)
    image = open_image(data)
    if image.mode not in ("RGB", "RGBA"):
        raise InputError(f"its normals are stored as mode {image.mode}, but they need three channels")
    return np.asarray(image)[..., :3]


def _bits_of_rgb_png(data: bytes) -> int:
    """Return the bits per channel of a PNG with RGB or RGBA, 0 for any other image."""
    header = data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR"
    return data[24] if header and data[25:26] in (b"\x02", b"\x06") else 0


def _decode_rgb_png(data: bytes) -> NDArray[Any]:
    """Decode a PNG with RGB or RGBA by OpenCV: it is faster than Pillow, which cuts 16 bits to 8.

    Checksums are verified first, as not every release of OpenCV rejects a damaged file. So is the limit on the size,
    because OpenCV's own is six times as large.
    """
    position, view = 8, memoryview(data)
    while (kind := bytes(view[position + 4 : position + 8])) != b"IEND":
        if kind == b"IHDR" and position > 8:
            raise InputError("it is truncated or not an image: it has two headers")
        end = position + 8 + int.from_bytes(view[position : position + 4])
        if end + 4 > len(data):
            raise InputError("it is truncated or not an image: the end of the file is missing")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise InputError("it is truncated or not an image: a checksum does not match")
        position = end + 4
    check_pixels(int.from_bytes(data[20:24]), int.from_bytes(data[16:20]), "it")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # too large
        pixels = None
    if pixels is None:
        raise InputError("it is truncated or not an image: its pixels cannot be decoded")
    return pixels
