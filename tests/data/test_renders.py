import sys

import numpy as np
import OpenEXR
import pytest
from fake_exr import exr
from fake_files import png

from mtpano_zoo.data.renders import decode_exr, decode_exr_depth, decode_exr_normals, read_lists
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import VARIABLE


@pytest.fixture
def values():
    return np.sin(np.arange(16 * 32 * 3, dtype=np.float32) // 40).reshape(16, 32, 3)  # repeats itself: is compressed


def test_channels_are_red_green_blue_to_the_last_bit(values):
    assert np.array_equal(decode_exr(exr(B=values[..., 2], G=values[..., 1], R=values[..., 0])), values)


@pytest.mark.parametrize("name", ["R", "Y", "Z", "depth.V"])
def test_a_single_channel_may_have_any_name(name, values):
    assert np.array_equal(decode_exr(exr(**{name: values[..., 0]})), values[..., :1])


def test_half_floats(values):
    half = values.astype(np.float16)
    assert np.array_equal(decode_exr(exr(R=half[..., 0], G=half[..., 1], B=half[..., 2])), half.astype(np.float32))


def test_depth_is_exact_and_what_is_none_is_zero():
    depth = np.array([[1e-6, 0.1, 8, 999.9999, 1000, 1000.001, 1e10, np.inf, np.nan, 0, -1, -np.inf]], np.float32)
    kept = [1e-6, 0.1, 8, 999.9999, 1000, 0, 0, 0, 0, 0, 0, 0]
    assert np.array_equal(decode_exr_depth(exr(Y=depth))[0], np.array(kept, np.float32))
    assert np.array_equal(decode_exr_depth(exr(Y=depth), limit=8)[0], np.array([*kept[:3], *[0] * 9], np.float32))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((1, 0, 0), (1, 0, 0)),  # right
        ((0, 1, 0), (0, 0, 1)),  # forward
        ((0, 0, 1), (0, -1, 0)),  # up
        ((0, 0, 0), (0, 0, 0)),
        ((np.nan, np.nan, np.nan), (0, 0, 0)),
        ((np.inf, 0, 0), (0, 0, 0)),
    ],
)
def test_axes_of_normals(stored, expected):
    red, green, blue = np.full((4, 8, 3), stored, np.float32).transpose(2, 0, 1)
    assert np.array_equal(decode_exr_normals(exr(R=red, G=green, B=blue)), np.broadcast_to(expected, (4, 8, 3)))


@pytest.mark.parametrize("damaged", ["empty", "header", "half", "tail", "png", "flipped"])
def test_damage_is_a_sentence(damaged, values):
    data = exr(R=values[..., 0], G=values[..., 1], B=values[..., 2])
    flipped = bytearray(data)
    flipped[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    broken = {
        "empty": b"",
        "header": data[:60],
        "half": data[: len(data) // 2],
        "tail": data[:-4],
        "png": png(np.zeros((4, 8, 3), np.uint8)),
        "flipped": bytes(flipped),
    }[damaged]
    with pytest.raises(ValueError, match=r"^it is truncated, damaged or not an EXR image$"):
        decode_exr(broken)


def test_other_channels_are_refused(values):
    with pytest.raises(ValueError, match="channels"):
        decode_exr(exr(X=values[..., 0], Z=values[..., 1]))
    with pytest.raises(ValueError, match="1 channels, but normals need three"):
        decode_exr_normals(exr(Y=values[..., 0]))


def test_integers_are_no_metres(values):
    millimetres = (1000 * np.abs(values)).astype(np.uint32)
    for decode, data in (
        (decode_exr_depth, exr(Y=millimetres[..., 0])),
        (decode_exr_normals, exr(**{name: millimetres[..., i] for i, name in enumerate("RGB")})),
    ):
        with pytest.raises(
            ValueError, match=r"^it holds integers \(uint32\), whose unit is not known: convert it to fl"
        ):
            decode(data)


def test_depth_is_the_same_in_all_channels(values):
    depth = np.abs(values[..., 0])
    depth[2, 3] = np.nan
    same = decode_exr_depth(exr(R=depth, G=depth, B=depth))
    assert np.array_equal(same, np.nan_to_num(depth))
    with pytest.raises(ValueError, match="its channels differ from one another"):
        decode_exr_depth(exr(R=values[..., 0], G=values[..., 1], B=values[..., 2]))


def test_without_the_package_the_extra_is_named(values, monkeypatch):
    data = exr(Y=values[..., 0])
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ValueError, match=r"mtpano_zoo\[exr\]"):
        decode_exr(data)


def words(path):
    return path.read_text().split()


def test_lists(tmp_path):
    (tmp_path / "a.txt").write_text("x y")
    (tmp_path / "b.txt").write_text("z")
    (tmp_path / "both.txt").write_text("z x")
    (tmp_path / "empty.txt").write_text("")
    assert read_lists(tmp_path, None, words) is None
    lists = {"train": "a.txt", "test": str(tmp_path / "b.txt")}
    assert read_lists(tmp_path, lists, words) == {"x": "train", "y": "train", "z": "test"}
    for lists, message in (
        ({"predict": "a.txt"}, "not for 'predict'"),
        ({"train": "empty.txt"}, "it names nothing"),
        ({"train": "a.txt", "val": "both.txt"}, "another list too, such as x"),
    ):
        with pytest.raises(ValueError, match=message):
            read_lists(tmp_path, lists, words)
    with pytest.raises(FileNotFoundError, match=r"no list of samples at .*c\.txt"):
        read_lists(tmp_path, {"val": "c.txt"}, words)


def test_what_is_too_large_is_refused_before_it_is_decoded(values, monkeypatch):
    data = exr(R=values[..., 0], G=values[..., 1], B=values[..., 2])
    monkeypatch.setenv(VARIABLE, str(16 * 32))
    assert decode_exr(data).shape == (16, 32, 3)
    monkeypatch.setenv(VARIABLE, str(16 * 32 - 1))
    real = OpenEXR.File
    monkeypatch.setattr(
        OpenEXR,
        "File",
        lambda *given, header_only=False: real(*given, header_only=True) if header_only else pytest.fail("decoded"),
    )
    with pytest.raises(InputError, match=r"^it is 32 x 16 pixels, more than 511"):
        decode_exr(data)


def test_a_header_of_gigabytes_is_refused(values):
    """Its window, two corners of which the second is the last pixel, is made larger byte by byte."""
    data = exr(Y=values[..., 0])
    at = data.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    claimed = data[: at + 8] + (99_999).to_bytes(4, "little") * 2 + data[at + 16 :]
    with pytest.raises(InputError, match=r"^it is 100000 x 100000 pixels"):
        decode_exr(claimed)


def test_many_channels_are_refused_before_they_are_decoded(values):
    with pytest.raises(InputError, match="1 parts with 5 channels"):
        decode_exr(exr(**{f"c{i}": values[..., 0] for i in range(5)}))
