"""What the headers of TIFF, PNG, EXR and HDR files say about their channels, colours and windows holds."""

import io
import struct

import cv2
import numpy as np
import pytest
from fake_exr import exr
from fake_files import random_rgb, raw_png
from PIL import Image

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import PoseAngles, Window, decode_exr, gpano_xmp, load_panorama, panorama_from_pil
from mtpano_zoo.image_io.floating import tone_mapped

LONG, SHORT, BYTE, ASCII, UNDEFINED = 4, 3, 1, 2, 7


def tiff(values, photometric, extra=None, xmp=None, xmp_type=BYTE):
    """Write an uncompressed TIFF image (H, W, C) byte by byte."""
    height, width, channels = values.shape
    kind = 3 if values.dtype.kind == "f" else 1
    tags = {256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [8 * values.itemsize] * channels)}
    tags |= {259: (SHORT, [1]), 262: (SHORT, [photometric]), 273: (LONG, [8]), 277: (SHORT, [channels])}
    tags |= {278: (LONG, [height]), 279: (LONG, [values.nbytes]), 339: (SHORT, [kind] * channels)}
    if extra is not None:
        tags[338] = (SHORT, [extra])
    if xmp is not None:
        tags[700] = (xmp_type, list(xmp.encode()))
    content = values.tobytes() + bytes(values.nbytes % 2)
    table = struct.pack("<H", len(tags))
    for tag, (size, numbers) in sorted(tags.items()):
        raw = struct.pack(f"<{len(numbers)}{' BBHI  B'[size]}", *numbers)
        if len(raw) > 4:
            raw, content = struct.pack("<I", 8 + len(content)), content + raw + bytes(len(raw) % 2)
        table += struct.pack("<HHI", tag, size, len(numbers)) + raw.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + table + bytes(4)


def read(tmp_path, data):
    (tmp_path / "a.tif").write_bytes(data)
    return load_panorama(tmp_path / "a.tif", force=True)


@pytest.fixture(params=[8, 16])
def encoded(request):
    """Bring 8-bit values to the number of bits under test."""
    return lambda values: values if request.param == 8 else values.astype(np.uint16) * 257


@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_is_inverted_where_zero_is_white(tmp_path, encoded, photometric):
    grey = random_rgb()[..., :1]
    pixels = read(tmp_path, tiff(encoded(grey), photometric)).pixels
    assert np.array_equal(pixels[..., :1], grey if photometric else 255 - grey)


def test_a_fourth_channel_is_alpha_only_if_it_says_so(tmp_path, encoded):
    rgb, fourth = random_rgb(), random_rgb(seed=1)[..., :1]
    over_black = rgb * (fourth / 255)
    ignored = read(tmp_path, tiff(encoded(np.dstack((rgb, fourth))), 2, extra=0))
    assert np.array_equal(ignored.pixels, rgb) and ignored.seen is None
    stored = {1: np.rint(over_black).astype(np.uint8), 2: rgb}  # colours are multiplied by alpha already, or not
    for extra, colours in stored.items():
        panorama = read(tmp_path, tiff(encoded(np.dstack((colours, fourth))), 2, extra))
        assert np.abs(panorama.pixels - over_black).max() <= 1.5
        assert np.array_equal(panorama.seen, fourth[..., 0] >= 128)


def test_the_alpha_of_grey_images_may_be_associated(tmp_path):
    grey, alpha = random_rgb()[..., :1], random_rgb(seed=1)[..., :1]
    over_black = grey * (alpha / 255)
    for extra, stored in {1: np.rint(over_black).astype(np.uint8), 2: grey}.items():
        panorama = read(tmp_path, tiff(np.dstack((stored, alpha)), 1, extra))
        assert np.abs(panorama.pixels - over_black).max() <= 1.5
        assert np.array_equal(panorama.seen, alpha[..., 0] >= 128)
    opened = panorama_from_pil(Image.fromarray(np.dstack((grey, alpha))).convert("La"))
    assert np.abs(opened.pixels - over_black).max() <= 1.5


def test_cmyk_becomes_rgb(tmp_path, encoded):
    cmyk = np.dstack((random_rgb(), random_rgb(seed=1)[..., :1] // 4))
    panorama = read(tmp_path, tiff(encoded(cmyk), 5))
    light = 1 - cmyk / 255
    assert panorama.seen is None and np.abs(panorama.pixels - 255 * light[..., :3] * light[..., 3:]).max() <= 2


def test_a_transparent_grey_of_16_bits_is_transparent(tmp_path):
    grey = random_rgb(np.uint16)[..., :1]
    grey[3:5, 6:9] = 700
    grey[0, 0] = 701
    panorama = read(tmp_path, raw_png(grey, 0, (b"tRNS", struct.pack(">H", 700))))
    assert np.array_equal(panorama.seen, grey[..., 0] != 700)
    assert np.abs(panorama.pixels - np.where(grey == 700, 0, grey / 257)).max() <= 0.51


def test_half_floats_are_called_so(tmp_path):
    for channels, photometric in ((1, 1), (3, 2)):
        data = tiff(np.ones((16, 32, channels), np.float16), photometric)
        with pytest.raises(InputError, match=r"a\.tif holds 16-bit floating-point numbers.*convert it to 32 bits"):
            read(tmp_path, data)


@pytest.mark.parametrize(("channels", "xmp_type"), [(1, BYTE), (3, BYTE), (3, ASCII), (3, UNDEFINED)])
def test_a_crop_of_light_is_placed_by_its_tags(tmp_path, channels, xmp_type):
    window, pose = Window(8, 16, 16, 32, 32, 64), PoseAngles(90, 10, 0)
    light = random_rgb()[..., :channels].astype(np.float32)
    data = tiff(light, 1 if channels == 1 else 2, xmp=gpano_xmp(16, 32, window, pose), xmp_type=xmp_type)
    panorama = read(tmp_path, data)
    assert panorama.window == window and panorama.pose == pose and panorama.pixels.shape == (32, 64, 3)
    if channels == 1:  # Pillow opens this one
        assert panorama_from_pil(Image.open(io.BytesIO(data))).window == window


DISPLAY = ((0, 0), (63, 31))


@pytest.mark.parametrize("window", [
    DISPLAY, ((0, 4), (63, 27)), ((16, 8), (47, 23)), ((-4, -2), (67, 33)), ((-4, 8), (31, 33)), ((70, 0), (80, 9)),
])  # fmt: skip
def test_an_exr_image_is_its_display_window(tmp_path, window):
    (left, top), (right, bottom) = window
    light = np.random.default_rng(0).lognormal(size=(bottom - top + 1, right - left + 1)).astype(np.float32)
    data = exr((window, DISPLAY), Y=light)
    expected = np.full((32, 64), np.nan, np.float32)
    for y in range(32):
        for x in range(64):
            if top <= y <= bottom and left <= x <= right:
                expected[y, x] = light[y - top, x - left]
    assert np.array_equal(decode_exr(data)[..., 0], expected, equal_nan=True)
    panorama = read(tmp_path, data)
    seen = np.isfinite(expected)
    assert panorama.seen is None if seen.all() else np.array_equal(panorama.seen, seen)


def test_a_huge_display_window_is_refused(tmp_path):
    (tmp_path / "a.exr").write_bytes(exr((DISPLAY, ((0, 0), (99_999, 49_999))), Y=np.ones((32, 64), np.float32)))
    with pytest.raises(InputError, match="100000 x 50000 pixels, more than"):
        load_panorama(tmp_path / "a.exr")


def radiance(light, head="#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", size="-Y {} +X {}\n"):
    """Write a Radiance image (H, W, 3) without compression, by the definition of its numbers."""
    mantissa, exponent = np.frexp(light.max(-1, keepdims=True))
    stored = np.concatenate((light * mantissa * 256 / light.max(-1, keepdims=True), exponent + 128), -1)
    return (head + size.format(*light.shape[:2])).encode() + stored.astype(np.uint8).tobytes()


@pytest.mark.parametrize(("head", "size"), [
    ("#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "+Y {} +X {}\n"),
    ("#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "-Y {} -X {}\n"),
    ("#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "+X {1} -Y {0}\n"),
    ("#?RADIANCE\r\nFORMAT=32-bit_rle_rgbe\r\n\r\n", "-Y {} +X {}\r\n"),
    ("#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n", "-Y {} +X {}\n"),
])  # fmt: skip
def test_variants_of_radiance_are_called_so(tmp_path, capfd, head, size):
    light = np.random.default_rng(0).lognormal(size=(32, 64, 3))
    with pytest.raises(InputError, match=r"is in a variant of Radiance HDR that is not supported: convert"):
        read(tmp_path, radiance(light, head, size))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("head", [
    "#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "#?RGBE\n# made\nEXPOSURE=2.0\nFORMAT=32-bit_rle_rgbe\n\n",
    "#?RADIANCE\nSOFTWARE=cut -Y 3 +X 4\nFORMAT=32-bit_rle_rgbe\nPRIMARIES=0 0 0 1\n\n",
])  # fmt: skip
def test_the_usual_radiance_is_read_whatever_else_its_header_says(tmp_path, head):
    light = np.random.default_rng(0).uniform(1, 2, (32, 64, 3))  # numbers that all have at least seven bits
    pixels = read(tmp_path, radiance(light, head)).pixels
    assert np.abs(pixels.astype(int) - tone_mapped(light.astype(np.float32))).max() <= 3
    with pytest.raises(InputError, match="more than 2,000"):
        load_panorama(tmp_path / "a.tif", max_pixels=2000)


def test_nothing_is_printed_about_damaged_files(tmp_path, capfd):
    light = radiance(np.random.default_rng(0).lognormal(size=(32, 64, 3)))
    broken = bytearray(cv2.imencode(".jp2", np.zeros((32, 64, 3), np.uint16))[1])
    broken[broken.index(b"\xff\x4f\xff\x51") + 42] |= 128  # numbers with a sign, which OpenCV does not read
    for data in (light[:90], tiff(np.ones((16, 32, 3), np.float32), 2)[:-150], broken):
        with pytest.raises(InputError):
            read(tmp_path, data)
    assert capfd.readouterr() == ("", "")
