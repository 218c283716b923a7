"""Colours of every profile become those of sRGB, judged by formulas of the standards instead of the library's."""

import struct
import zlib

import numpy as np
import pytest
from fake_files import random_rgb, raw_png
from PIL import Image, ImageCms

from mtpano_zoo.image_io import load_panorama

# Columns of the matrices from linear RGB to XYZ under D50, as profiles store them.
SRGB = ((0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045), (0.1430804, 0.0606169, 0.7141733))
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def numbers(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc_profile(name, primaries, linear):
    """Write an ICC profile (version 4) byte by byte: of RGB, or grey if it has no primaries."""
    text = name.encode("utf-16-be")
    curve = b"curv" + bytes(8) if linear else b"para" + bytes(4) + struct.pack(">HH", 3, 0) + numbers(*SRGB_CURVE)
    tags = {
        b"desc": b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text,
        b"wtpt": b"XYZ " + bytes(4) + numbers(0.9642, 1, 0.8249),
    }
    if primaries:
        for letter, column in zip((b"r", b"g", b"b"), primaries, strict=True):
            tags |= {letter + b"XYZ": b"XYZ " + bytes(4) + numbers(*column), letter + b"TRC": curve}
    else:
        tags[b"kTRC"] = curve
    table, content = struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        table += struct.pack(">4sII", key, 132 + 12 * len(tags) + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    body = table + content
    space = b"RGB " if primaries else b"GRAY"
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), b"none", 0x04300000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + numbers(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + body


def in_srgb(rgb, primaries, linear):
    """Return what colours (..., 3) of such a profile are in sRGB."""
    values = rgb / 255
    light = values if linear else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = np.clip(light @ (np.linalg.inv(np.array(SRGB).T) @ np.array(primaries or SRGB).T).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("name", "primaries", "linear"), [
    ("Display P3", P3, False), ("DCI-P3 D65 Gamut with sRGB Transfer", P3, False),
    ("GIMP built-in Linear sRGB", SRGB, True), ("sRGB", SRGB, False),
])  # fmt: skip
def test_a_profile_is_judged_by_what_it_does_not_by_its_name(tmp_path, name, primaries, linear):
    rgb = random_rgb()
    Image.fromarray(rgb).save(tmp_path / "a.png", icc_profile=icc_profile(name, primaries, linear))
    read = load_panorama(tmp_path / "a.png", force=True).pixels
    assert np.abs(read - in_srgb(rgb, primaries, linear)).max() <= 2


@pytest.mark.parametrize("name", ["sRGB", "a camera's own"])
def test_pixels_that_are_srgb_stay_as_they_are(tmp_path, name):
    rgb = random_rgb()
    for profile in (
        icc_profile(name, SRGB, False),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ):
        Image.fromarray(rgb).save(tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(load_panorama(tmp_path / "a.png", force=True).pixels, rgb)


@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_are_converted_from_their_profile(tmp_path, transparent):
    indices = random_rgb()[..., 0] % 5
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 250, 1], [90, 180, 40], [255, 255, 255]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.ravel().tolist())
    options = {"transparency": 1} if transparent else {}
    image.save(tmp_path / "a.png", icc_profile=icc_profile("Display P3", P3, False), **options)
    expected = in_srgb(colours, P3, False)
    if transparent:
        expected[1] = 0
    read = load_panorama(tmp_path / "a.png", force=True)
    assert np.abs(read.pixels - expected[indices]).max() <= 2
    assert np.array_equal(read.seen, indices != 1) if transparent else read.seen is None


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_transparent_is_shown_over_black_after_the_conversion(tmp_path, mode, bits):
    rgb, alpha = random_rgb().clip(40, 200), random_rgb(seed=1)[..., 0]  # the library is less exact near black
    colour = rgb if mode == "RGBA" else rgb[..., :1]
    pixels = colour if mode == "L" else np.dstack((colour, alpha))
    primaries = P3 if mode == "RGBA" else None
    profile = icc_profile("It", primaries, True)
    if bits == 16:
        chunk = (b"iCCP", b"it\0\0" + zlib.compress(profile))
        colour_type = {"L": 0, "LA": 4, "RGBA": 6}[mode]
        (tmp_path / "a.png").write_bytes(raw_png(pixels.astype(np.uint16) * 257, colour_type, chunk))
    else:
        Image.fromarray(np.squeeze(pixels), mode).save(tmp_path / "a.png", icc_profile=profile)
    expected = in_srgb(np.broadcast_to(colour, rgb.shape), primaries, True)
    if mode != "L":
        expected = expected * alpha[..., None] / 255
    assert np.abs(load_panorama(tmp_path / "a.png", force=True).pixels - expected).max() <= 2
