"""Crops and tilted panoramas, by their GPano tags or a field of view."""

import numpy as np
import pytest
import torch
from fake_files import room_maps
from PIL import Image
from tagged_files import Height, tagged

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import PoseAngles, Window, load_panorama
from mtpano_zoo.image_io.gpano import read_gpano
from mtpano_zoo.prediction import predict
from mtpano_zoo.sphere import rotate


@pytest.fixture
def room():
    return room_maps(1, 128, 256)["image"]


def test_a_crop_lies_where_its_tags_say(tmp_path, room):
    window = Window(40, 60, 64, 128, 128, 256)
    path = tagged(tmp_path / "a.png", room[window.slices], window, PoseAngles(75.5, 0, 0))
    panorama = load_panorama(path)
    expected = np.zeros_like(room)
    expected[40:104, 60:188] = room[40:104, 60:188]
    assert np.array_equal(panorama.pixels, expected) and panorama.window == window
    network = Height()
    full, part = predict(network, path), predict(network, path, crop=True)
    assert (full.depth > 0).sum() == 64 * 128 and np.array_equal(full.depth[window.slices], part.depth)
    assert part.window == window and part.heading == 75.5 and part.image.shape == (64, 128, 3)
    # The cloud of the part is that of the whole: pixels keep their directions.
    assert np.array_equal(full.point_cloud(edge=1.5)[0], part.point_cloud(edge=1.5)[0])
    with Image.open(path) as image:
        assert np.array_equal(predict(network, image).depth, full.depth)
    assert load_panorama(path, ignore_tags=True, force=True).window is None
    # What is saved says where it lies.
    saved = part.save(tmp_path / "saved", panel=False)
    for kind in ("semseg", "depth", "normals"):
        with Image.open(saved[kind]) as image:
            tags = read_gpano(image.info["XML:com.adobe.xmp"], 64, 128, "a")
            assert tags == (window, PoseAngles(75.5, 0, 0))
    plain = predict(network, room).save(tmp_path / "plain", panel=False)
    assert "xmp" not in Image.open(plain["depth"]).info and b"GPano" not in plain["depth"].read_bytes()


def test_a_tagged_image_that_was_scaled_keeps_its_place(tmp_path, room):
    path = tagged(tmp_path / "a.png", room[40:104, 60:188], Window(80, 120, 128, 256, 256, 512))
    assert load_panorama(path).window == Window(40, 60, 64, 128, 128, 256)


@pytest.mark.parametrize(
    "changes",
    [
        {"CroppedAreaLeftPixels": -5},
        {"CroppedAreaTopPixels": 100},
        {"FullPanoWidthPixels": 100},
        {"FullPanoWidthPixels": 0},
        {"CroppedAreaImageWidthPixels": 90},
        {"FullPanoHeightPixels": "many"},
        {"FullPanoHeightPixels": "nan"},
    ],
)
def test_tags_that_contradict_each_other_say_so(tmp_path, room, changes):
    path = tagged(tmp_path / "a.png", room[40:104, 60:188], Window(40, 60, 64, 128, 128, 256), **changes)
    with pytest.raises(InputError, match=r"the GPano tags of .*a\.png cannot be right: .*--ignore-tags$") as caught:
        load_panorama(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("fov", "offset", "top"), [((360, 90), 0, 32), ((360, 90), 22.5, 16), ((360, 90), -45, 64)])
def test_without_tags_the_field_of_view_places_a_crop(tmp_path, room, fov, offset, top):
    Image.fromarray(room[top : top + 64]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"--fov 360x90$"):
        load_panorama(tmp_path / "a.png")
    numbers = {"fov": np.array(fov), "vertical_offset": np.float32(offset)}
    assert load_panorama(tmp_path / "a.png", **numbers) is not None
    assert load_panorama(tmp_path / "a.png", fov=fov, vertical_offset=offset).window == Window(
        top, 0, 64, 256, 128, 256
    )


@pytest.mark.parametrize(("height", "width"), [(45, 80), (64, 64), (80, 60), (9, 640), (63, 120)])
def test_the_field_of_view_that_is_named_fits_the_image(tmp_path, height, width):
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="--fov ") as caught:
        load_panorama(tmp_path / "a.png")
    across, down = map(float, str(caught.value).split("--fov ")[1].split("x"))
    window = load_panorama(tmp_path / "a.png", fov=(across, down)).window
    assert window is not None and window.full_width == 2 * window.full_height


@pytest.mark.parametrize(
    ("fov", "offset"),
    [((180, 90), 0), ((400, 90), 0), ((360, 90), 60), ((0, 0), 0), ((1,), 0), (5, 0), ("360x90", 0), ((360, 90), "up")],
)
def test_a_wrong_field_of_view_says_so(tmp_path, room, fov, offset):
    Image.fromarray(room[32:96]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="field of view"):
        load_panorama(tmp_path / "a.png", fov=fov, vertical_offset=offset)


@pytest.mark.parametrize(("pitch", "roll"), [(20, 10), (-30, 0), (0, 180), (40, -120)])
def test_the_pose_levels_the_image_and_the_maps_come_back(tmp_path, room, pitch, roll):
    # A camera that looks `pitch` up and is turned clockwise by `roll`, from sines and cosines alone.
    up, right = np.radians(pitch), np.radians(roll)
    pitched = np.array([[1, 0, 0], [0, np.cos(up), -np.sin(up)], [0, np.sin(up), np.cos(up)]])
    rolled = np.array([[np.cos(right), -np.sin(right), 0], [np.sin(right), np.cos(right), 0], [0, 0, 1]])
    turn = torch.tensor(pitched @ rolled, dtype=torch.float32)
    seen = (
        rotate(torch.from_numpy(room).permute(2, 0, 1)[None].float(), turn)[0].permute(1, 2, 0).round().byte().numpy()
    )
    path = tagged(tmp_path / "a.png", seen, pose=PoseAngles(90, pitch, roll))
    network = Height()
    result = predict(network, path)
    # World up in the frame of the camera; every floor faces it.
    assert np.allclose(result.up, turn.T.numpy() @ (0, -1, 0), atol=1e-5)
    assert np.abs(result.normals - np.array(result.up)).max() < 1e-3
    assert result.heading == 90
    # The network saw a level room: its ceiling and floor are even in every row at the poles.
    image = network.images[0][0]
    assert image[:, :6].std(2).mean() < 0.05 and image[:, -6:].std(2).mean() < 0.05


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
def test_tags_may_be_elements_of_any_prefix_in_any_format(tmp_path, room, suffix):
    full, area, corner = "FullPano{}Pixels", "CroppedAreaImage{}Pixels", "CroppedArea{}Pixels"
    tags = {full.format("Width"): 256, full.format("Height"): 128, area.format("Width"): 128, area.format("Height"): 64}
    tags |= {corner.format("Left"): 60, corner.format("Top"): 40}
    elements = "".join(f"<p:{tag}>{value}</p:{tag}>" for tag, value in tags.items())
    xmp = f"<x xmlns:p='http://ns.google.com/photos/1.0/panorama/'>{elements}</x>".encode()
    window = Window(40, 60, 64, 128, 128, 256)
    options = {"tiffinfo": {700: xmp}} if suffix == "tif" else {"xmp": xmp}
    Image.fromarray(room[window.slices]).save(tmp_path / f"a.{suffix}", **options)
    assert load_panorama(tmp_path / f"a.{suffix}").window == window
