"""Panoramas behind windows: each direction has a colour of its own, and that is what is seen there."""

import dataclasses
import pickle

import cv2
import numpy as np
import pytest
import torch
from bare_room import bare_room
from PIL import Image
from ray_caster import rays, turned

from mtpano_zoo.data import HomesDataset, write_rooms
from mtpano_zoo.data.backdrops import folder_digest, read_backdrops
from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import render, sample_home
from mtpano_zoo.scenes.materials import material, sky
from mtpano_zoo.scenes.outside import backdrop, choose
from mtpano_zoo.scenes.scene import Builder, Outside
from mtpano_zoo.sphere import rotation_matrix

HEIGHT, WIDTH = 128, 256


def painted(directions):
    """A colour for every direction."""
    return 0.55 + 0.45 * directions


def panorama():
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1)
    return painted(rays(rows, columns, HEIGHT, WIDTH)).reshape(HEIGHT, WIDTH, 3).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same panorama in linear light, with a sun, and as an ordinary image."""
    path = tmp_path_factory.mktemp("views")
    light = panorama()
    Image.fromarray((light ** (1 / 2.2) * 255).round().astype(np.uint8)).save(path / "b.png")
    cv2.imwrite(str(path / "a.hdr"), 30 * light[..., ::-1])
    (path / "notes.txt").write_text("CC0")
    return path


def glass_house(tilt, outside):
    """A room whose walls are windows on all sides."""
    builder, pane = Builder(SCENE_CLASSES), sky((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0)
    gray, wide = material((0.5, 0.5, 0.5)), (-0.3, 4.3)
    builder.box("floor", gray, wide, (-0.3, 0.0), wide)
    builder.box("ceiling", gray, wide, (2.6, 2.9), wide)
    for side in ((-0.3, 0.0), (4.0, 4.3)):
        builder.box("window", pane, side, (0.0, 2.6), wide)
        builder.box("window", pane, wide, (0.0, 2.6), side)
    return bare_room(builder, yaw=0.7, tilt=tilt, outside=outside)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (20.0, -35.0)])
def test_a_window_shows_the_panorama_by_direction(tilt, folder):
    rows, columns = np.mgrid[:48, :96].reshape(2, -1)
    own = rays(rows, columns, 48, 96) @ rotation_matrix(pitch=tilt[0], roll=tilt[1]).double().numpy().T
    for view in read_backdrops(folder):
        batch = render([glass_house(tilt, Outside(view.pixels, 2.1))], 48, 96)
        image = batch["image"][0].flatten(1).T.double().numpy()
        pane = batch["semseg"][0].flatten().numpy() == SCENE_CLASSES.index("window")
        # What lies ahead in the room is so far to the right in the panorama.
        expected = painted(turned(own, 2.1 - 0.7))
        # Undo gamma and tone curve: 0.3 e^2 + (1 - s) e - s = 0.
        s = image**2
        light = (s - 1 + np.sqrt((1 - s) ** 2 + 1.2 * s)) / 0.6
        ratio = light[pane] / expected[pane]
        assert pane.mean() > 0.3 and np.abs(ratio / np.median(ratio) - 1).mean() < 0.015
        assert np.abs(ratio / np.median(ratio) - 1).max() < 0.25


def test_brightness_is_even_whatever_the_exposure_and_the_sun():
    light = panorama()
    sunny = light.copy()
    sunny[40, 100] = (3e5, 2e5, 1e5)
    plain, bright, other = backdrop(light), backdrop(1e4 * light), backdrop(sunny)
    assert np.allclose(plain.pixels.astype(float), bright.pixels.astype(float), rtol=2e-3)
    assert np.median(other.pixels) == pytest.approx(np.median(plain.pixels), rel=0.1)
    # Mean of the painted colours over the sphere: 0.55 in all channels.
    assert np.allclose(plain.light, 0.94, atol=2e-3) and other.light[0] > 1.2 > other.light[1] > other.light[2]
    broken = backdrop(np.full((8, 16, 3), np.nan, np.float32))
    assert np.isfinite(broken.pixels).all() and np.isfinite(broken.light).all()
    assert backdrop(np.ones((1024, 2048, 3), np.float32)).pixels.shape == (512, 1024, 3)


def test_each_home_has_a_view_of_its_own_and_nothing_else_changes(folder):
    plain, seen = (HomesDataset("val", 3, 16, 32, views=views) for views in (None, folder))
    rooms = [seen.draw(i) for i in range(3)]
    assert len({room.outside.turn for room in rooms}) == 3
    for i, room in enumerate(rooms):
        before = plain.draw(i)
        assert np.array_equal(room.lower, before.lower) and np.array_equal(room.materials, before.materials)
        assert np.array_equal(room.lights[:, :3], before.lights[:, :3])
        batch, other = seen[i], plain[i]
        assert all((batch[key] == other[key]).all() for key in ("semseg", "depth", "normals"))
    warm = backdrop(np.full((8, 16, 3), (3.0, 2.0, 1.0), np.float32))
    daylight = [sample_home(0, "val", i, backdrops=(warm,)).lights[0, 3:] for i in range(8)]
    assert any(np.allclose(color / color[2], (3, 2, 1), rtol=1e-5) for color in daylight)
    assert {choose((warm, warm), key)[1].turn for key in range(3)} == {choose((warm,), key)[1].turn for key in range(3)}


def test_the_folder_is_part_of_what_a_sample_is(folder, tmp_path):
    seen = HomesDataset("val", 1, 24, 48, version=2, views=folder)
    assert torch.equal(pickle.loads(pickle.dumps(seen))[0]["image"], seen[0]["image"])  # noqa: S301
    assert seen.fingerprint(0).endswith(f", version 2, views {folder_digest(folder)}")
    write_rooms(tmp_path / "homes", "val", 1, 24, 48, kind="homes", views=folder)
    assert f"views: {folder_digest(folder)}" in (tmp_path / "homes/classes.yaml").read_text()
    Image.new("RGB", (64, 32)).save(tmp_path / "b.png")
    assert folder_digest(tmp_path) != folder_digest(folder)
    with pytest.raises(ValueError, match="streets have no views"):
        write_rooms(tmp_path / "streets", "val", 1, 24, 48, kind="streets", views=folder)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (None, b"", "holds no panorama"),
        ("a.png", b"not a picture", "a.png is truncated or not an image"),
        ("a.hdr", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 8\n", "a.hdr is"),
        ("a.bmp", cv2.imencode(".bmp", np.zeros((30, 40, 3), np.uint8))[1].tobytes(), "40 x 30 pixels, but a view"),
    ],
)
def test_refuses_what_is_no_panorama(tmp_path, name, content, sentence):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        HomesDataset("val", 1, 24, 48, views=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is not a folder"):
        HomesDataset("val", 1, 24, 48, views=tmp_path / "missing")


def test_a_mirror_shows_the_view_too(folder):
    """Of a window behind the camera, in the direction that the reflected ray has."""
    (view, *_) = read_backdrops(folder)
    scene = glass_house((0.0, 0.0), Outside(view.pixels, 0.0))
    looks = scene.materials.copy()
    east = np.flatnonzero((scene.lower[:, 0] == 4.0) & (scene.labels == SCENE_CLASSES.index("window")))
    looks[east] = material((0.5, 0.5, 0.5), mirror=1.0)
    batch, plain = (
        render([dataclasses.replace(scene, materials=m, yaw=0.0)], 48, 96) for m in (looks, scene.materials)
    )
    mirrored = (batch["normals"][:, 0] < -0.99) & (batch["semseg"] == SCENE_CLASSES.index("window"))
    # West of the camera is what east shows in the glass: columns are exchanged, and the far wall is a window.
    other = plain["image"].flip(-1)
    west = (plain["normals"].flip(-1)[:, 0] > 0.99) & (plain["semseg"].flip(-1) == SCENE_CLASSES.index("window"))
    # Rays that are nearly level meet a window, whichever way they go.
    both = (mirrored & west)[:, 21:27]
    assert both.sum() > 30
    assert (batch["image"] - other).abs().amax(1)[:, 21:27][both].max() < 2.5 / 255
