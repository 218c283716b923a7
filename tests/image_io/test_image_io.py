"""Images of every kind become panoramas of 8-bit RGB, or are refused in a sentence."""

import warnings

import cv2
import numpy as np
import pytest
from fake_files import claiming, random_rgb, raw_png
from PIL import EpsImagePlugin, Image, ImageFile

from mtpano_zoo import image_io
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import VARIABLE


def over_black(rgb, alpha):
    return rgb.astype(float) * alpha[..., None] / 255


# Reading


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.PNG"])
def test_lossless_rgb_is_read_as_it_is(tmp_path, name):
    rgb = random_rgb()
    Image.fromarray(rgb).save(tmp_path / name)
    read = image_io.read_panorama(tmp_path / name)
    assert read.dtype == np.uint8 and np.array_equal(read, rgb)
    assert np.array_equal(image_io.read_panorama(str(tmp_path / name)), rgb)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_rgb_is_close(tmp_path, name):
    rgb = np.full((32, 64, 3), (200, 100, 50), np.uint8)
    Image.fromarray(rgb).save(tmp_path / name, quality=95)
    assert np.abs(image_io.read_panorama(tmp_path / name).astype(int) - rgb).max() <= 6


def test_grey_becomes_rgb(tmp_path):
    grey = random_rgb()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(image_io.read_panorama(tmp_path / "a.png"), np.repeat(grey[..., None], 3, 2))


def test_bilevel_becomes_black_and_white(tmp_path):
    black_white = random_rgb()[..., 0] > 127
    Image.fromarray(black_white).save(tmp_path / "a.png")
    assert np.array_equal(image_io.read_panorama(tmp_path / "a.png")[..., 1], black_white * np.uint8(255))


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_becomes_its_colours(tmp_path, transparent):
    indices = random_rgb()[..., 0] % 4
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 250, 1], [7, 8, 9]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "a.png", **({"transparency": 1} if transparent else {}))
    if transparent:
        colours[1] = 0
    assert np.array_equal(image_io.read_panorama(tmp_path / "a.png"), colours[indices])


def test_transparent_pixels_are_composited_over_black(tmp_path):
    rgb, alpha = random_rgb(), random_rgb(seed=1)[..., 0]
    Image.fromarray(np.dstack((rgb, alpha))).save(tmp_path / "a.png")
    Image.fromarray(np.dstack((rgb[..., 0], alpha)), "LA").save(tmp_path / "grey.png")
    expected = over_black(rgb, alpha)
    assert np.abs(image_io.read_panorama(tmp_path / "a.png") - expected).max() <= 1
    assert np.abs(image_io.read_panorama(tmp_path / "grey.png") - expected[..., :1]).max() <= 1


def test_opaque_alpha_changes_nothing(tmp_path):
    rgb = random_rgb()
    Image.fromarray(np.dstack((rgb, np.full(rgb.shape[:2], 255, np.uint8)))).save(tmp_path / "a.png")
    assert np.array_equal(image_io.read_panorama(tmp_path / "a.png"), rgb)


def test_cmyk_jpeg_has_the_colours_that_it_shows(tmp_path):
    rgb = np.full((32, 64, 3), (180, 90, 40), np.uint8)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(image_io.read_panorama(tmp_path / "a.jpg").astype(int) - rgb).max() <= 6


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6], ids=["grey", "rgb", "grey+alpha", "rgba"])
def test_16_bit_png_is_scaled_not_cut(tmp_path, colour_type):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    values = np.random.default_rng(0).integers(0, 65536, (16, 32, channels), np.uint16)
    values[0, 0] = 65535
    values[0, 1] = 0
    (tmp_path / "a.png").write_bytes(raw_png(values, colour_type))
    scaled = values / 257
    colour = scaled[..., :3] if channels >= 3 else scaled[..., :1]
    expected = over_black(colour, scaled[..., -1]) if colour_type in (4, 6) else colour
    read = image_io.read_panorama(tmp_path / "a.png")
    assert read.shape == (16, 32, 3)
    # Half a step from rounding; with alpha the rounded alpha and the division add one more.
    assert np.abs(read - expected).max() <= (1.6 if colour_type in (4, 6) else 0.5 + 1e-9)


def test_16_bit_tiff(tmp_path):
    rgb = random_rgb(np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.tif"), rgb[..., ::-1])
    assert np.abs(image_io.read_panorama(tmp_path / "a.tif") - rgb / 257).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("channels", [3, 4])
def test_white_and_opaque_of_deep_jpeg_2000_stay_so(tmp_path, bits, channels):
    values = np.linspace(0, 2**bits - 1, 32 * 64 * channels).astype(np.uint16).reshape(32, 64, channels)
    stored = values[..., [2, 1, 0, 3][:channels]] + (2**15 - 2 ** (bits - 1))
    data = bytearray(cv2.imencode(".jp2", stored)[1])
    # Samples are stored less half their range, so a file of 12 bits is made by stating fewer bits in SIZ.
    start = data.index(b"\xff\x4f\xff\x51") + 42
    assert data[start : start + 3 * channels : 3] == bytes([15] * channels)
    data[start : start + 3 * channels : 3] = bytes([bits - 1] * channels)
    data[data.index(b"ihdr") + 14] = bits - 1
    (tmp_path / "a.jp2").write_bytes(data)
    scaled = values * (255 / (2**bits - 1))
    panorama = image_io.load_panorama(tmp_path / "a.jp2")
    expected = over_black(scaled[..., :3], scaled[..., 3]) if channels == 4 else scaled
    assert np.abs(panorama.pixels - expected).max() <= (1.6 if channels == 4 else 0.5 + 1e-9)
    if channels == 4:
        assert np.array_equal(panorama.seen, scaled[..., 3] >= 127.5)


UPRIGHT = {  # from the EXIF standard: where row 0 and column 0 of the stored image belong
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def save_turned(path, orientation):
    """Write random pixels with an orientation, and return them as they should be seen."""
    stored = random_rgb() if orientation < 5 else random_rgb().transpose(1, 0, 2).copy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    return UPRIGHT[orientation](stored)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = save_turned(tmp_path / "a.png", orientation)
    assert np.array_equal(image_io.read_panorama(tmp_path / "a.png"), upright)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(image_io.panorama_from_pil(image).pixels, upright)
        assert image.getexif()[0x0112] == orientation  # the caller's image is as it was


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_tiff_that_is_decoded_on_demand_is_turned_once(tmp_path, orientation):
    upright = save_turned(tmp_path / "a.tif", orientation)
    assert np.array_equal(image_io.read_panorama(tmp_path / "a.tif"), upright)
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(image_io.panorama_from_pil(image).pixels, upright)


def test_pil_images_follow_the_same_rules():
    rgb, grey = random_rgb(), random_rgb(np.uint16)[..., 0]
    assert np.array_equal(image_io.panorama_from_pil(Image.fromarray(rgb)).pixels, rgb)
    assert np.abs(image_io.panorama_from_pil(Image.fromarray(grey)).pixels[..., 2] - grey / 257).max() <= 0.5 + 1e-9
    with pytest.raises(ValueError, match="the image is 40 x 30 pixels"):
        image_io.panorama_from_pil(Image.new("RGB", (40, 30)))


# Bad files


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_truncated_files_say_so(tmp_path, suffix, part):
    Image.fromarray(random_rgb(height=64)).save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"room.{suffix}"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=rf"room\.{suffix} is truncated or not an image: ") as caught:
        image_io.read_panorama(path)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)


def test_truncated_16_bit_file_says_so(tmp_path):
    data = raw_png(random_rgb(np.uint16, 64), 2)
    (tmp_path / "room.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        image_io.read_panorama(tmp_path / "room.png")


@pytest.mark.parametrize("data", [b"", b"hello", b"<html>404</html>", bytes(range(256)) * 9])
def test_what_is_no_image_says_so(tmp_path, data):
    (tmp_path / "room.jpg").write_bytes(data)
    with pytest.raises(ValueError, match="not an image"):
        image_io.read_panorama(tmp_path / "room.jpg")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jpg does not exist"):
        image_io.read_panorama(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="is a folder"):
        image_io.read_panorama(tmp_path)


def test_32_bit_integers_are_refused(tmp_path):
    Image.fromarray(np.ones((8, 16), np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="32-bit values"):
        image_io.read_panorama(tmp_path / "a.tif")


@pytest.mark.parametrize(("width", "height", "fits"), [
    (1183, 591, True), (1182, 591, True), (2048, 1024, True), (1000, 505, True), (1000, 506, False),
    (1024, 768, False), (1920, 1080, False), (591, 1183, False), (600, 600, False),
])  # fmt: skip
def test_two_to_one_within_one_percent(tmp_path, width, height, fits):
    Image.new("RGB", (width, height)).save(tmp_path / "a.png")
    if fits:
        assert image_io.read_panorama(tmp_path / "a.png").shape == (height, width, 3)
    else:
        with pytest.raises(ValueError, match=f"{width} x {height} pixels.*twice as wide as high"):
            image_io.read_panorama(tmp_path / "a.png")


def test_large_panoramas_give_no_warning_and_bombs_a_sentence(tmp_path, monkeypatch):
    Image.fromarray(random_rgb()).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 32 - 1)  # one pixel too many: Pillow warns
        assert image_io.read_panorama(tmp_path / "a.png").shape == (16, 32, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 32 // 2 - 1)  # twice too many: Pillow refuses
        with pytest.raises(ValueError, match=r"a\.png has more than 510 pixels: scale it down"):
            image_io.read_panorama(tmp_path / "a.png")
    assert 2 * 89_478_485 > 16384 * 8192  # Pillow's limit lets the largest common panorama through


# Sizes that are too large


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000"])
def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, kind):
    Image.fromarray(random_rgb()).save(tmp_path / "a.png", kind)
    monkeypatch.setenv(VARIABLE, str(16 * 32))
    assert image_io.read_panorama(tmp_path / "a.png").shape == (16, 32, 3)
    monkeypatch.setenv(VARIABLE, str(16 * 32 - 1))
    assert image_io.read_panorama(tmp_path / "a.png", max_pixels=16 * 32).shape == (16, 32, 3)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=r"a\.png is 32 x 16 pixels, more than 511: scale it down"):
        image_io.read_panorama(tmp_path / "a.png")


def test_the_largest_common_panorama_is_opened_and_four_times_as_much_is_not(monkeypatch):
    assert image_io.open_image(claiming(16384, 8192), "it").size == (16384, 8192)
    with pytest.raises(InputError, match="it has more than 178,956,970 pixels"):
        image_io.open_image(claiming(32768, 16384), "it")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # is put back after the test
    monkeypatch.setenv(VARIABLE, str(32768 * 16384))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_io.open_image(claiming(32768, 16384), "it").size == (32768, 16384)


def test_formats_that_run_or_unpack_something_are_no_images(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 32\n%%EndComments\nshowpage\n"
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    0",
        "END",
    ]
    for data in (eps, "".join(card.ljust(80) for card in cards).ljust(2880).encode()):
        with pytest.raises(InputError, match="it is truncated or not an image: no known image format"):
            image_io.decode_pixels(data, "it")
