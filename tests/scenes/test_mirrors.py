"""Mirrors against brute force that reflects ray by ray, and against the view of a camera behind the glass."""

import dataclasses

import numpy as np
import pytest
import torch
from bare_room import bare_room
from ray_caster import rays, reference, turned

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import materials, render, rendering, sample_home
from mtpano_zoo.scenes.scene import Builder, Frame
from mtpano_zoo.sphere import rotation_matrix

CLUTTER, MIRROR = SCENE_CLASSES.index("clutter"), materials.CHANNEL["mirror"]
BLACK = materials.material((0.0, 0.0, 0.0), noise=0.0)
GRAY = materials.material((0.5, 0.5, 0.5), noise=0.0)


def glass(share):
    return materials.material((0.5, 0.5, 0.5), noise=0.0, mirror=share)


def room(walls, things, **changes):
    """Four by five metres; the wall at x = 0 is left out where `walls` has no look for it."""
    builder, x, z = Builder(SCENE_CLASSES), (-0.3, 4.3), (-0.3, 5.3)
    builder.box("floor", walls["floor"], x, (-0.3, 0.0), z)
    builder.box("ceiling", walls["rest"], x, (2.6, 2.9), z)
    for side in ((-0.3, 0.0), (5.0, 5.3)):
        builder.box("wall", walls["rest"], x, (0.0, 2.6), side)
    builder.box("wall", walls["rest"], (4.0, 4.3), (0.0, 2.6), z)
    if "mirrored" in walls:
        builder.box("wall", walls["mirrored"], (-0.3, 0.0), (0.0, 2.6), z)
    things(builder)
    return bare_room(builder, **changes)


def glowing(builder):
    """Boxes of six colours at all sides that are the only light, and mirrors that face each other."""
    for i in range(6):
        color = (0.9 * (i % 2), 0.9 * (i // 2 % 2), 0.2 + 0.12 * i)
        at = Frame(2 + 1.6 * np.sin(1.05 * i), 2.5 + 2.1 * np.cos(1.05 * i), 0.4 * i)
        builder.box("clutter", materials.glow(color, 1.5), (-0.3, 0.3), (0.3 + 0.2 * i, 1.4 + 0.2 * i), (-0.2, 0.2), at)
    builder.box("board", glass(0.7), (0.0, 0.02), (0.4, 2.2), (0.9, 4.6))
    builder.box("board", glass(1.0), (3.98, 4.0), (0.8, 2.0), (1.5, 3.0))
    builder.box("board", glass(0.9), (-0.6, 0.6), (1.0, 1.9), (-0.01, 0.01), Frame(1.2, 4.4, 2.6))


def seen_by_brute_force(scene, directions):
    """The light of glowing things that each unit ray finds, with one reflection; and where mirrors were seen."""
    look = scene.materials
    primitive, distance, normal = reference(scene, directions)
    light, share = look[primitive, :3] * look[primitive, materials.CHANNEL["emission"], None], look[primitive, MIRROR]
    for i in np.flatnonzero(share):
        away = directions[i] - 2 * (directions[i] @ normal[i]) * normal[i]
        start = scene.camera + turned(distance[i] * directions[i] + 1e-6 * normal[i], -scene.yaw)
        (second,), _, _ = reference(dataclasses.replace(scene, camera=start), away[None])
        light[i] = share[i] * look[second, :3] * look[second, materials.CHANNEL["emission"]]
    return light, share > 0


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (15.0, -40.0)])
def test_a_mirror_shows_what_a_reflected_ray_meets(tilt):
    walls = dict.fromkeys(("floor", "rest", "mirrored"), BLACK)
    scene, height = room(walls, glowing, yaw=0.7, tilt=tilt), 24
    image = render([scene], height, 2 * height)["image"][0].flatten(1).T.numpy()
    rows, columns = np.mgrid[:height, : 2 * height].reshape(2, -1)
    matrix = rotation_matrix(pitch=tilt[0], roll=tilt[1], dtype=torch.float64).numpy()
    light, mirrored = seen_by_brute_force(scene, rays(rows, columns, height, 2 * height) @ matrix.T)
    assert mirrored.mean() > 0.05 and len(np.unique(light[mirrored], axis=0)) > 6
    expected = np.sqrt(light * (1 + 0.3 * light) / (1 + light))
    same = np.abs(image - expected).max(1) < 0.5 / 255 + 1e-4
    # The rest are rays within rounding of an edge.
    assert same[mirrored].mean() > 0.99 and same[~mirrored].mean() > 0.99


def furnished(builder):
    """Things that are lit, with texture, gloss and a window to the outside."""
    tiles = materials.material((0.7, 0.2, 0.2), (0.2, 0.3, 0.7), checker=1.0, cell_u=0.2, cell_v=0.2, gloss=0.5)
    builder.box("table", tiles, (-0.5, 0.5), (0.0, 0.8), (-0.3, 0.3), Frame(2.8, 3.4, 0.5))
    builder.sphere("clutter", materials.material((0.2, 0.7, 0.3), gloss=0.8, noise=0.0), 0.3, 1.1, Frame(1.0, 3.9, 0.0))
    pane = materials.sky((0.9, 0.9, 1.0), (0.3, 0.5, 0.9), 1.0)
    builder.box("window", pane, (3.99, 4.0), (0.9, 2.1), (1.0, 2.4))


def test_it_is_the_view_of_a_camera_behind_the_glass():
    """Of a wall that is all mirror: take the wall away, and look from behind it with left and right exchanged."""
    floor = materials.material((0.8, 0.7, 0.5), (0.2, 0.2, 0.3), checker=1.0, cell_u=0.5, cell_v=0.5, noise=0.0)
    common = {
        "lights": np.array([[2.4, -2.4, 2.6, 2.0, 1.8, 1.5], [3.0, -1.0, 0.6, 1.0, 1.0, 1.0]], dtype=np.float32),
        "ambient": np.full(3, 0.2, dtype=np.float32),
    }
    scene = room({"floor": floor, "rest": GRAY, "mirrored": glass(1.0)}, furnished, **common)
    behind = room({"floor": floor, "rest": GRAY}, furnished, **common, camera=scene.camera * [-1, 1, 1])
    batch, other = render([scene], 64, 128), render([behind], 64, 128)["image"].flip(-1)
    mirrored = (batch["semseg"] == SCENE_CLASSES.index("wall")) & (batch["normals"][:, 0] > 0.99)
    difference = (batch["image"] - other).abs().amax(1)[mirrored]
    assert mirrored.float().mean() > 0.08
    assert difference.mean() < 2e-3 and (difference < 2.5 / 255).float().mean() > 0.99


@pytest.fixture(scope="module")
def homes():
    """Two homes with mirrors, and the first of them through a tilted camera."""
    found = (
        scene for scene in (sample_home(0, "val", i, version=2) for i in range(60)) if scene.materials[:, MIRROR].any()
    )
    first, second = next(found), next(found)
    return [first, second, first.tilted(25.0, 1.0)]


def test_only_the_image_shows_the_reflection(homes):
    for scene in homes:
        blind = dataclasses.replace(scene, materials=scene.materials.copy())
        blind.materials[:, MIRROR] = 0
        batch, plain = render([scene], 64, 128), render([blind], 64, 128)
        assert all(torch.equal(batch[key], plain[key]) for key in ("semseg", "depth", "normals"))
        changed = (batch["image"] != plain["image"]).any(1)
        assert changed.any() and (batch["semseg"][changed] == CLUTTER).all()


def test_neither_the_batch_nor_bands_nor_a_turn_change_it(homes, monkeypatch):
    batch = render([*homes, sample_home(0, "val", 0)], 32, 64)
    monkeypatch.setattr(rendering, "_BAND", 5 * 64)
    for i, scene in enumerate(homes):
        assert torch.equal(render([scene], 32, 64)["image"][0], batch["image"][i])
    monkeypatch.undo()
    quiet = dataclasses.replace(homes[0], noise=0.0)
    plain, turned_ = render([quiet], 64, 128), render([quiet.turned(-30 * 360 / 128)], 64, 128)
    difference = (turned_["image"] - plain["image"].roll(30, -1)).abs().amax(1)
    mirror = plain["semseg"].roll(30, -1) == CLUTTER
    assert difference[mirror].mean() < 0.01
