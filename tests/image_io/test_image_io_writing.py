"""What is written is what can be read again: images, palettes, points, videos; encoded depth and normals."""

import resource
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_files import random_rgb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mtpano_zoo import image_io
from mtpano_zoo.image_io import writing
from mtpano_zoo.image_io.video import constant_rate, write_video


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
def test_png_round_trip(tmp_path, dtype, grey, monkeypatch):
    monkeypatch.setattr(writing, "BAND", 300)  # numbers: several bands
    array = random_rgb(dtype)[..., 0] if grey else random_rgb(dtype)
    image_io.write_png(tmp_path / "a.png", array)
    image_io.write_png(tmp_path / "encoded.png", array.astype(np.float64), "", lambda rows: rows.astype(dtype))
    for name in ("a.png", "encoded.png"):
        read = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert read.dtype == dtype
        assert np.array_equal(read if grey else read[..., ::-1], array)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "encoded.png"]


def test_png_of_views_and_read_only_arrays(tmp_path):
    array = random_rgb()[::2, ::-1]
    array.setflags(write=False)
    image_io.write_png(tmp_path / "a.png", array)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize("array", [
    np.zeros((4, 8), np.float32), np.zeros((4, 8, 4), np.uint8), np.zeros((4, 8), np.int64), np.zeros((0, 8), np.uint8),
])  # fmt: skip
def test_png_refuses_what_it_cannot_hold(tmp_path, array):
    with pytest.raises(ValueError, match="a PNG takes"):
        image_io.write_png(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    image_io.write_npy(path, np.arange(3))

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(Path, "replace", fail)
        image_io.write_npy(path, np.arange(5))
    assert np.array_equal(np.load(path), np.arange(3))
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
    image_io.write_npy(path, np.arange(5))
    assert np.array_equal(np.load(path), np.arange(5))


def test_the_system_says_why_a_file_cannot_grow(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))  # like a disk that fills up midway
    try:
        with pytest.raises(OSError, match="File too large"):
            image_io.write_npy(tmp_path / "a.npy", np.zeros((64, 128), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_palette_png_keeps_indices_and_shows_colours(tmp_path):
    indices = random_rgb()[..., 0].astype(np.int64) % 5
    indices[3:5, 7:20] = 255
    palette = np.array([[1, 2, 3], [200, 10, 0], [0, 99, 0], [5, 5, 250], [77, 77, 0]])
    image_io.write_palette_png(tmp_path / "a.png", indices, palette)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), indices)
        expected = np.where((indices == 255)[..., None], 0, palette[indices % 5])
        assert np.array_equal(np.asarray(image.convert("RGB")), expected)


@pytest.mark.parametrize(("indices", "palette"), [
    (np.full((2, 4), -1), np.zeros((3, 3))), (np.full((2, 4), 256), np.zeros((3, 3))),
    (np.zeros((2, 4, 1), int), np.zeros((3, 3))), (np.zeros((2, 4), int), np.zeros((257, 3))),
    (np.zeros((2, 4), int), np.zeros(9)),
])  # fmt: skip
def test_palette_png_refuses_what_it_cannot_hold(tmp_path, indices, palette):
    with pytest.raises(ValueError, match="palette"):
        image_io.write_palette_png(tmp_path / "a.png", indices, palette)


def test_ply_holds_points_and_colours(tmp_path):
    points = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    colours = np.random.default_rng(1).integers(0, 256, (7, 3), np.uint8)
    image_io.write_ply(tmp_path / "a.ply", points, colours)
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 7\nproperty float x\n")
    assert body == b"".join(struct.pack("<3f3B", *p, *c) for p, c in zip(points, colours, strict=True))
    with pytest.raises(ValueError, match="both"):
        image_io.write_ply(tmp_path / "a.ply", points, colours[:3])


# Encodings


@given(st.floats(0.0005, 65.534))
def test_depth_survives_within_half_a_millimetre(depth):
    assert abs(float(image_io.depth_from_steps(image_io.encode_depth(depth))) - depth) <= 0.0005 + 1e-5


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_depth_never_wraps(depth):
    encoded = int(image_io.encode_depth(depth))
    if not np.isfinite(depth) or depth <= 0:
        assert encoded == 0
    elif depth >= 65.535:
        assert encoded == 65535
    else:
        assert encoded == max(1, round(depth * 1000))


def test_depth_of_maps():
    depth = np.array([[0, np.nan, np.inf, -np.inf], [-3, 0.0001, 1.2344, 1e9]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = image_io.encode_depth(depth)
    assert encoded.dtype == np.uint16
    assert encoded.tolist() == [[0, 0, 0, 0], [0, 1, 1234, 65535]]
    decoded = image_io.depth_from_steps(encoded)
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [[0] * 4, [0, *np.float32((0.001, 1.234)).tolist(), 0]]
    assert image_io.depth_from_steps(encoded, missing=())[1, 3] == np.float32(65.535)
    with pytest.raises(ValueError, match="uint16"):
        image_io.depth_from_steps(np.zeros((2, 4), np.uint8))


@settings(max_examples=200)
@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.01), st.sampled_from([8, 16]))
def test_normals_survive_within_the_step(vector, bits):
    normal = np.array(vector) / np.linalg.norm(vector)
    decoded = image_io.decode_normals(image_io.encode_normals(normal[None, None], bits))[0, 0].astype(float)
    assert abs(np.linalg.norm(decoded) - 1) < 1e-6
    step = 1 / 127 if bits == 8 else 1 / 32767
    assert np.linalg.norm(np.cross(normal, decoded)) <= np.sqrt(3) / 2 * step * 1.01 + 1e-6


@pytest.mark.parametrize(("bits", "middle"), [(8, 128), (16, 32768)])
def test_no_normal_is_middle_grey(bits, middle):
    normals = np.zeros((2, 2, 3), np.float32)
    normals[1, 0] = np.nan
    normals[1, 1] = (0, 0, -1)
    encoded = image_io.encode_normals(normals, bits)
    assert encoded[0, 0].tolist() == encoded[1, 0].tolist() == [middle] * 3
    assert encoded[1, 1].tolist() == [middle, middle, 1]
    assert image_io.decode_normals(encoded).tolist() == [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, -1]]]


@pytest.mark.parametrize("band", [1, 40, 1 << 18])
def test_maps_are_encoded_alike_in_bands_of_any_height(monkeypatch, band):
    monkeypatch.setattr("mtpano_zoo.image_io.writing.BAND", band)
    generator = np.random.default_rng(0)
    normals = generator.normal(size=(7, 14, 3)).astype(np.float32)
    normals[3, 4, 1] = np.inf
    expected = [[128 + 127 * max(-1.0, min(1.0, v)) for v in n] if np.isfinite(n).all() else [128] * 3
                for n in normals.reshape(-1, 3)]  # fmt: skip
    encoded = image_io.encode_normals(normals)
    assert encoded.dtype == np.uint8
    np.testing.assert_allclose(encoded.reshape(-1, 3), expected, atol=0.5001)
    depth = generator.uniform(-1, 80, (7, 14)).astype(np.float32)
    millimetres = [round(min(float(d), 65.535) * 1000) if d > 0 else 0 for d in depth.ravel()]
    assert image_io.encode_depth(depth).ravel().tolist() == millimetres


def test_normals_refuse_other_forms():
    with pytest.raises(ValueError, match="8 or 16 bits"):
        image_io.encode_normals(np.zeros((4, 8, 3)), 12)
    with pytest.raises(ValueError, match="8 or 16 bits"):
        image_io.encode_normals(np.zeros((3, 4, 8)))
    with pytest.raises(ValueError, match="uint8 or uint16"):
        image_io.decode_normals(np.zeros((4, 8, 3), np.float32))


def test_constant_rate_shows_every_frame_when_it_was():
    for times in ([0.0], [0, 1 / 30, 2 / 30, 3 / 30], [0.0, 0.04, 0.08, 0.28, 0.32, 0.36, 0.40, 0.44]):
        rate, shown = constant_rate(times)
        assert set(shown) == set(range(len(times))) and shown == sorted(shown)
        for k, number in enumerate(shown):
            assert abs(k / rate - times[number]) < 1 / rate or shown[k - 1] == number
    assert constant_rate([0, 1 / 30, 2 / 30])[0] == 30.0


def test_a_video_is_written_completely_or_not_at_all(tmp_path):
    def fails():
        yield np.full((32, 64, 3), 10, np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", fails(), 10)
    with pytest.raises(OSError, match="could not be written"):
        write_video(tmp_path / "a.mp4", iter(()), 10)
    assert not list(tmp_path.iterdir())
