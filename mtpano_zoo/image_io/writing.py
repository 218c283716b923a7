"""Write maps as PNG, NPY and PLY without leaving partial files, and decode what is written.

Encodings of the written maps:

* depth, 16-bit grey PNG: distance along the ray in millimetres, 0 = no value, 65535 = 65.535 m or more;
* normals, 8- or 16-bit RGB PNG: `128 + 127 n` or `32768 + 32767 n` per component (x right, y down, z forward), so that
  the zero vector (no value) is exactly the middle grey;
* classes, palette PNG: the class index per pixel, 255 = no label.
"""

import io
import struct
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal, cast

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mtpano_zoo.errors import InputError

__all__ = (
    "MAX_DEPTH",
    "SATURATED",
    "decode_normals",
    "depth_from_steps",
    "encode_depth",
    "encode_jpeg",
    "encode_normals",
    "write_bytes",
    "write_npy",
    "write_palette_png",
    "write_ply",
    "write_png",
)

SATURATED = 65535  # the largest 16-bit number: this distance or any beyond
BAND = 1 << 18  # numbers that are encoded at once
MAX_DEPTH = 65.534  # metres, the largest distance below saturation in a 16-bit PNG of millimetres


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file completely or not at all, even if the program is stopped midway."""
    _write(Path(path), lambda file: file.write(data))


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # in the same folder: a rename across disks is a copy
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _with_xmp(png: bytes, xmp: str) -> bytes:
    """Return a PNG file, or its beginning, with XMP metadata, as a text chunk after its header."""
    if not xmp:
        return png
    end = 33  # of the signature and the header, which is always the first chunk
    return png[:end] + _png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp.encode()) + png[end:]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def write_png(
    path: str | Path, array: NDArray[Any], xmp: str = "", encode: Callable[[NDArray[Any]], NDArray[Any]] | None = None
) -> None:
    """Write (H, W) grey or (H, W, 3) RGB of type uint8 or uint16, with optional XMP metadata, atomically.

    `encode` turns the rows of any other array into such pixels, band by band, so that large maps are not held twice.

    Raises:
        InputError: If the pixels have another shape or type.
    """
    bands = (array[rows] if encode is None else encode(array[rows]) for rows in _bands(array))
    first = next(bands, array)
    colour = first.ndim == 3 and first.shape[2] == 3
    if first.dtype not in (np.uint8, np.uint16) or not (colour or first.ndim == 2) or first.size == 0:
        raise InputError(
            f"a PNG takes (H, W) or (H, W, 3) of uint8 or uint16, but {path} got {array.shape} of {array.dtype}"
        )
    header = struct.pack(">IIBBBBB", array.shape[1], len(array), 8 * first.itemsize, 2 if colour else 0, 0, 0, 0)

    def write(file: BinaryIO) -> None:
        file.write(_with_xmp(b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header), xmp))
        packer = zlib.compressobj(1)  # higher levels take twice as long to save a tenth
        for band in chain((first,), bands):
            file.write(_png_chunk(b"IDAT", packer.compress(_differences(band).data)))
        file.write(_png_chunk(b"IDAT", packer.flush()) + _png_chunk(b"IEND", b""))

    _write(Path(path), write)


def _differences(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return rows as PNG compresses them best: the filter number, 1, then the differences to the previous pixel."""
    values = pixels.astype(pixels.dtype.newbyteorder(">"), order="C", copy=False).view(np.uint8)
    values = values.reshape(len(pixels), -1)
    step = values.shape[1] // pixels.shape[1]
    rows = np.empty((len(values), 1 + values.shape[1]), np.uint8)
    rows[:, 0] = 1
    rows[:, 1 : 1 + step] = values[:, :step]
    np.subtract(values[:, step:], values[:, :-step], out=rows[:, 1 + step :])
    return rows


def write_palette_png(path: str | Path, indices: NDArray[Any], palette: ArrayLike, xmp: str = "") -> None:
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
    write_bytes(path, _with_xmp(buffer.getvalue(), xmp))


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
    # Not the file itself: NumPy would write to it in C, and report a full disk as "8192 requested and 3040 written".
    _write(Path(path), lambda file: np.save(cast(Any, SimpleNamespace(write=file.write)), array, allow_pickle=False))


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


def encode_jpeg(image: NDArray[np.uint8], columns: int, quality: int) -> bytes:
    """Return an RGB image (H, W, 3) as a JPEG file of at most so many columns; `quality` is from 0 to 100.

    Raises:
        InputError: If it cannot be encoded.
    """
    height, width = image.shape[:2]
    if width > columns:
        size = (columns, max(1, round(height * columns / width)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise InputError(f"an image of {width} x {height} pixels could not be encoded as JPEG")
    return data.tobytes()


def encode_depth(depth: ArrayLike) -> NDArray[np.uint16]:
    """Encode depth in metres as whole millimetres in 16 bits.

    Zero, negative, NaN and infinite values become 0 (no value). Valid depth is at least 1 mm and saturates at 65535,
    which means 65.535 m or more, instead of wrapping around.

    Example:
        >>> encode_depth([0.0, 1.5, 0.0001, 100.0, float("nan")]).tolist()
        [0, 1500, 1, 65535, 0]
    """
    metres = np.asarray(depth)
    encoded = np.empty(metres.shape, np.uint16)
    for rows in _bands(metres):
        valid = np.isfinite(metres[rows]) & (metres[rows] > 0)
        millimetres = np.array(metres[rows], dtype=np.float64)
        millimetres[~valid] = 0
        np.minimum(millimetres, SATURATED / 1000, out=millimetres)
        millimetres *= 1000
        np.rint(millimetres, out=millimetres)
        encoded[rows] = np.maximum(millimetres, valid)
    return encoded


def depth_from_steps(
    encoded: NDArray[np.uint16], unit: float = 0.001, missing: Collection[int] = (SATURATED,)
) -> NDArray[np.float32]:
    """Decode a depth image to float32 metres, 0 = no value.

    Args:
        encoded: Depth in whole steps of `unit`.
        unit: A step in metres; a metre must be a whole number of steps.
        missing: Numbers that, like 0, mean no value and become 0; by default 65535, only a lower bound on the distance.

    Raises:
        InputError: If the array is not uint16.

    Example:
        >>> depth_from_steps(np.array([0, 1500, 65535], np.uint16)).tolist()
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
    encoded = np.empty(vectors.shape, np.uint8 if bits == 8 else np.uint16)
    for rows in _bands(vectors):
        finite = np.isfinite(vectors[rows])
        scaled = vectors[rows] if finite.all() else np.where(finite.all(-1, keepdims=True), vectors[rows], 0)
        scaled = np.clip(scaled, -1, 1)
        scaled *= middle - 1
        scaled += middle
        encoded[rows] = np.rint(scaled, out=scaled)
    return encoded


def _bands(array: NDArray[Any]) -> Iterator[Any]:
    """Yield the indices of one band of rows after the other: small bands stay in the cache and take little memory."""
    if array.ndim < 2:
        yield ...
        return
    step = max(1, BAND * len(array) // max(array.size, 1))
    for top in range(0, len(array), step):
        yield slice(top, top + step)


def decode_normals(encoded: NDArray[Any]) -> NDArray[np.float32]:
    """Decode the uint8 or uint16 result of `encode_normals` to unit vectors; the middle grey is the zero vector.

    Raises:
        InputError: If it has another type, or the last axis is not 3.

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
