"""Decoders against encodings computed from formulas."""

import io
import math
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from fake_files import claiming, png
from PIL import Image, ImageFile

from mtpano_zoo.data.reading import (
    FORWARD_UP_LEFT,
    RIGHT_DOWN_FORWARD,
    UNREADABLE,
    decode_array,
    decode_depth,
    decode_labels,
    decode_rgb,
    decode_vectors,
    decode_wide_rgb,
    look_up,
    open_image,
    reason_of,
    unit_or_zero,
)
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import VARIABLE
from mtpano_zoo.tasks import NO_LABEL

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 12, 3), dtype=np.uint8)


def directions(rows=16, columns=32):
    """Unit vectors in all directions (rows, columns, 3), x right, y down, z forward."""
    latitude = (0.5 - (np.arange(rows) + 0.5) / rows)[:, None] * np.pi
    longitude = ((np.arange(columns) + 0.5) / columns - 0.5) * 2 * np.pi
    x, z = np.cos(latitude) * np.sin(longitude), np.cos(latitude) * np.cos(longitude)
    return np.stack((x, np.broadcast_to(-np.sin(latitude), x.shape), z), -1)


def wide_png(array):
    """RGB of 16 bits."""
    return cv2.imencode(".png", np.ascontiguousarray(array[..., ::-1]))[1].tobytes()


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_colours():
    alpha = RANDOM.integers(0, 256, (6, 12, 1), dtype=np.uint8)
    grey = COLOURS[..., 0]
    palette = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8)
    for data, expected in (
        (png(COLOURS), COLOURS),
        (png(np.dstack((COLOURS, alpha))), COLOURS),
        (png(grey), np.repeat(grey[..., None], 3, -1)),
        (png(grey, palette), palette[grey]),
    ):
        pixels = decode_rgb(data)
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)


@pytest.mark.parametrize("length", [0, 7, 60, -400])
def test_what_is_cut_short_is_refused(length):
    data = png(RANDOM.integers(0, 256, (64, 128, 3), dtype=np.uint8))
    sentence = "it is truncated or not an image: " if length else "it is not an image but an empty file: "
    with pytest.raises(ValueError, match=rf"^{sentence}[^<]*$"):
        decode_rgb(data[:length])
    jpeg = saved(Image.fromarray(np.repeat(np.repeat(COLOURS, 9, 0), 9, 1)), "JPEG")
    with pytest.raises(ValueError, match=f"^{sentence}"):
        open_image(jpeg[:length])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_8_and_16_bits(channels, dtype):
    stored = RANDOM.integers(0, np.iinfo(dtype).max, (6, 12, channels), dtype=dtype, endpoint=True)
    data = cv2.imencode(".png", np.ascontiguousarray(stored[..., [2, 1, 0, 3][:channels]]))[1].tobytes()
    pixels = decode_wide_rgb(data)
    assert pixels.dtype == dtype and np.array_equal(pixels, stored[..., :3])


@pytest.mark.parametrize("decode", [decode_rgb, decode_wide_rgb])
def test_no_damaged_byte_changes_a_pixel(decode):
    data = png(COLOURS)
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        try:
            assert np.array_equal(decode(bytes(damaged)), COLOURS)
        except ValueError as error:
            assert str(error).startswith("it is truncated or not an image: ")
            refused += 1
    assert refused >= len(data) - 8  # the length and the checksum of the last chunk, which is empty, say nothing


def test_labels_go_through_their_table():
    numbers = RANDOM.integers(0, 4, (6, 12), dtype=np.uint8)
    lookup = [NO_LABEL, 2, 0, 1]
    expected = np.array(lookup)[numbers]
    palette = RANDOM.integers(0, 256, (4, 3), dtype=np.uint8)
    for data in (png(numbers), png(numbers, palette), saved(Image.open(io.BytesIO(png(numbers, palette))), bits=2)):
        classes = decode_labels(data, lookup)
        assert classes.dtype == np.uint8 and np.array_equal(classes, expected)


def small_png(numbers, bits):
    """Grey PNG of 1, 2 or 4 bits, which Pillow does not write, put together by hand."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = ["".join(f"{number:0{bits}b}" for number in row) for row in numbers.tolist()]
    packed = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8) for row in rows)
    header = struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_are_the_numbers_that_are_stored(bits):
    numbers = np.arange(6 * 16, dtype=np.uint8).reshape(6, 16) % 2**bits
    data = small_png(numbers, bits)
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert np.array_equal(shown, numbers * (255 // (2**bits - 1)))
    assert np.array_equal(decode_labels(data, range(2**bits)), numbers)


def test_labels_that_were_compressed_with_loss_are_refused():
    data = saved(Image.fromarray(np.full((8, 16), 3, np.uint8)), "JPEG")
    with pytest.raises(ValueError, match=r"^it is a JPEG image, but labels are PNG"):
        decode_labels(data, range(256))


@pytest.mark.parametrize("lookup", [[0, 1, 2], [0, 1, 2, -1], [0, 1, 2, -1, 4]])
def test_labels_that_the_set_does_not_have(lookup):
    numbers = np.array([[0, 1, 2, 3, 9]], np.uint8)
    unknown = [9] if len(lookup) > 9 else [3, 9]
    with pytest.raises(ValueError, match=rf"^it holds the labels \[{', '.join(map(str, unknown))}\], which the set "):
        decode_labels(png(numbers), lookup)


def test_wide_numbers_are_looked_up_too():
    numbers = np.array([[0, 70_000], [3, 0]], np.int32)
    lookup = np.full(70_001, -1)
    lookup[[0, 3, 70_000]] = NO_LABEL, 4, 5
    assert look_up(numbers, lookup).tolist() == [[NO_LABEL, 5], [4, NO_LABEL]]
    with pytest.raises(ValueError, match=r"it holds the labels \[70000\]"):
        look_up(numbers, lookup[:-1])


def test_labels_must_be_8_bit_numbers():
    with pytest.raises(ValueError, match=r"^it holds colours or wide numbers \(mode RGB\)"):
        decode_labels(png(COLOURS), [0])
    with pytest.raises(ValueError, match="wide numbers"):
        decode_labels(png(np.full((4, 8), 300, np.uint16)), [0])


def test_depth():
    steps = np.array([[0, 1, 2, 1000, 65534, 65535]], np.uint16)
    for unit in (1 / 1000, 1 / 512, 1 / 4000):
        depth = decode_depth(png(steps), unit)
        expected = [np.float32(step * unit) for step in steps[0].tolist()]
        assert depth.dtype == np.float32 and depth[0].tolist() == [*expected[:-1], 0]  # 65535 is that far or farther
        assert decode_depth(png(steps), unit, missing=())[0].tolist() == expected
        assert decode_depth(png(steps), unit, missing=(65535, 2))[0].tolist() == [
            0 if step in (2, 65535) else value for step, value in zip(steps[0].tolist(), expected, strict=True)
        ]


def test_depth_of_8_bits_is_refused():
    for data in (png(np.full((4, 8), 9, np.uint8)), png(COLOURS)):
        with pytest.raises(ValueError, match=r"^its depth is 8-bit or colour"):
            decode_depth(data, 0.001)
    for wide in (np.full((4, 8), 70_000, np.int32), np.full((4, 8), 2.5, np.float32)):
        with pytest.raises(ValueError, match=r"^its depth has 32 bits"):
            decode_depth(saved(Image.fromarray(wide), "TIFF"), 0.001)


def test_grey_of_16_bits_is_no_panorama_of_8():
    with pytest.raises(ValueError, match=r"^it is grey of more than 8 bits \(mode I;16\)"):
        decode_rgb(png(np.full((4, 8), 300, np.uint16)))


# What R, G and B of a file say about a vector (x right, y down, z forward).
FRAMES = [
    (RIGHT_DOWN_FORWARD, lambda x, y, z: (x, y, z)),
    (((1, 0, 0), (0, 0, -1), (0, 1, 0)), lambda x, y, z: (x, z, -y)),
    (FORWARD_UP_LEFT, lambda x, y, z: (z, -y, -x)),
    ([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]], lambda x, y, z: (0.6 * x - 0.8 * z, y, 0.8 * x + 0.6 * z)),
]


@pytest.mark.parametrize("frame", range(len(FRAMES)))
@pytest.mark.parametrize(
    ("bits", "middle", "scale", "tolerance"),
    [(8, 128, 127, 0.008), (8, 127.5, 127.5, 0.008), (16, 32768, 32767, 3e-5), (16, 32767.5, 32767.5, 3e-5)],
)
def test_normals_in_every_frame(frame, bits, middle, scale, tolerance):
    to_camera, stored_of = FRAMES[frame]
    truth = directions()
    kind, top = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    stored = middle + scale * np.stack(stored_of(*np.moveaxis(truth, -1, 0)), -1)
    stored = np.clip(np.rint(stored), 0, top).astype(kind)
    stored[2, 3:6] = round(middle)  # not measured
    stored[4, 0] = 0  # longer than a unit vector can be
    vectors = decode_vectors(wide_png(stored) if bits == 16 else png(stored), middle, scale, to_camera)
    known = np.ones(truth.shape[:2], bool)
    known[2, 3:6] = known[4, 0] = False
    assert vectors.dtype == np.float32 and (vectors[~known] == 0).all()
    assert np.abs(vectors - truth)[known].max() <= tolerance
    assert np.abs(np.linalg.norm(vectors[known], axis=-1) - 1).max() <= 1e-6


def test_normals_need_three_channels():
    with pytest.raises(ValueError, match=r"^its normals are stored as mode L, but they need three channels"):
        decode_vectors(png(np.zeros((4, 8), np.uint8)), 128, 127)
    alpha = np.full((6, 12, 1), 9, np.uint8)
    stored = np.clip(COLOURS, 100, 250)
    plain, with_alpha = (decode_vectors(png(file), 128, 127) for file in (stored, np.dstack((stored, alpha))))
    assert np.array_equal(plain, with_alpha)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_unit_or_zero(kind):
    vectors = np.array([[[0, 0, 0.4], [0.6, 0, 0], [0, -1.4, 0], [0, 1.2, 1.2], [0.5, 0.5, -0.5]]], kind)
    broken = np.array([[[np.nan, 0, 1], [np.inf, 0, 0], [0, -np.inf, np.inf], [np.nan] * 3, [0, 0, 0]]], kind)
    root = math.sqrt(1 / 3)
    expected = [[0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 0, 0], [root, root, -root]]
    unit = unit_or_zero(np.concatenate((vectors, broken)))
    assert unit.dtype == np.float32
    assert np.allclose(unit[0], expected, atol=2e-3 if kind == np.float16 else 1e-6)
    assert (unit[1] == 0).all()


# --- Sizes that are too large, or are lies ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decode",
    [
        decode_rgb,
        decode_wide_rgb,
        lambda data: decode_labels(data, range(256)),
        lambda data: decode_depth(data, 0.001),
        lambda data: decode_vectors(data, 128, 127),
    ],
)
@pytest.mark.parametrize("kind", ["RGB", "RGB;16", "L", "I;16"])
def test_what_is_too_large_is_refused_before_it_is_decoded(decode, kind, monkeypatch):
    values = COLOURS if kind.startswith("RGB") else COLOURS[..., 0]
    data = wide_png(values.astype(np.uint16)) if ";16" in kind else png(values)
    monkeypatch.setenv(VARIABLE, str(6 * 12 - 1))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV decodes it"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("Pillow decodes it"))
    with pytest.raises(InputError, match=r"^it is 12 x 6 pixels, more than 71: scale it down"):
        decode(data)


def test_the_largest_common_panorama_passes(monkeypatch):
    """Only the header is that of 16384 x 8192 pixels; that of the second has four times as many."""
    seen = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: seen.append(1))
    with pytest.raises(InputError, match="its pixels cannot be decoded"):
        decode_rgb(claiming(16384, 8192))
    assert seen
    with pytest.raises(InputError, match="it is 32768 x 16384 pixels, more than 178,956,970"):
        decode_rgb(claiming(32768, 16384))
    assert len(seen) == 1


def test_a_second_header_is_refused():
    """Of two, the first would be compared with the limit and the second perhaps decoded."""
    small, large = claiming(12, 6), claiming(32768, 16384)
    with pytest.raises(InputError, match="it has two headers"):
        decode_rgb(small[:33] + large[8:])


def npy(array, **changes):
    """An NPY file whose header may say something else than what follows."""
    buffer = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | changes
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.uint16, bool])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (4, 8), (4, 8, 3)])
def test_arrays_are_read_as_numpy_does(dtype, order, shape):
    array = RANDOM.uniform(0, 9, shape).astype(dtype, order=order)
    buffer = io.BytesIO()
    np.save(buffer, array)
    read = decode_array(buffer.getvalue())
    assert read.dtype == array.dtype and read.shape == shape and np.array_equal(read, array)
    assert read.flags.writeable


LIES = [
    ({"shape": (1 << 13, 1 << 14)}, "its header says float32 .8192, 16384., but only 128 bytes follow"),
    ({"shape": (1 << 40, 1 << 40)}, "pixels, more than 178,956,970"),
    ({"shape": (4, 8, 1 << 60)}, "but only 128 bytes follow"),
    ({"shape": (-4, -8)}, "no NPY file of numbers"),
    ({"shape": (4, 9)}, "but only 128 bytes follow"),
    ({"descr": "|O"}, "no NPY file of numbers"),
    ({"descr": "<M8[s]"}, "no NPY file of numbers"),
    ({"descr": [("a", "<f4")]}, "no NPY file of numbers"),
]


@pytest.mark.parametrize(("changes", "reason"), LIES)
def test_arrays_whose_header_lies_take_no_memory(changes, reason):
    data = npy(np.zeros((4, 8), np.float32), **changes)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"^it .*{reason}"):
        decode_array(data)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x93NUMPY", npy(np.zeros(3))[:30], b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, npy(np.zeros(3))[1:]],
)
def test_damaged_arrays_are_a_sentence(data):
    with pytest.raises(InputError, match=r"^it is damaged or no NPY file of numbers: "):
        decode_array(data)


def test_every_error_has_words():
    for error in (*(kind for kind in UNREADABLE if kind is not cv2.error), MemoryError):
        assert reason_of(error()).strip()
    assert reason_of(MemoryError()) == "it needs more memory than there is"
    assert reason_of(KeyError("semseg")) == "it has no 'semseg'"
    assert reason_of(FileNotFoundError(2, "No such file or directory", "a.png")) == "No such file or directory"
