"""Stairs in homes of version 2: they rise evenly, stand free, and no ray escapes through the ceiling."""

import numpy as np
import pytest
from ray_caster import rays, reference

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import homes, render, sample_home
from mtpano_zoo.scenes.stairs import HEADROOM, SLAB, place_stairs

FLOOR, WALL, FENCE = (SCENE_CLASSES.index(name) for name in ("floor", "wall", "fence"))


@pytest.fixture(scope="module")
def built():
    """Homes that all look for a place for stairs, and the stairs that they found."""
    found = []

    def place(rng, plan, height):
        found.append((place_stairs(rng, plan, height), height))
        return found[-1][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homes, "STAIRS", 1.0)
        patch.setattr(homes, "place_stairs", place)
        scenes = [sample_home(2, "val", index, version=2) for index in range(30)]
    return [(scene, *pair) for scene, pair in zip(scenes, found, strict=True) if pair[0] is not None]


def bounds(scene):
    """Of boxes that stand along the axes: lowest and highest x, height and z."""
    lower, upper = scene.lower.copy(), scene.upper.copy()
    return np.stack((lower[:, 0], -upper[:, 1], lower[:, 2])), np.stack((upper[:, 0], -lower[:, 1], upper[:, 2]))


def test_treads_rise_evenly_and_leave_room_for_a_head(built):
    assert {stairs.landing for _, stairs, _ in built} == {True, False} and len(built) > 20
    for scene, stairs, height in built:
        rect, (low, high) = stairs.rect(-0.03, stairs.length + 0.01), bounds(scene)
        within = (low[0] > rect.x0 - 0.01) & (high[0] < rect.x1 + 0.01)
        within &= (low[2] > rect.z0 - 0.01) & (high[2] < rect.z1 + 0.01)
        tread = within & (scene.labels == FLOOR) & (np.abs(high[1] - low[1] - 0.04) < 1e-9)
        tops = np.sort(high[1, tread])
        assert np.allclose(np.diff(tops, prepend=0.0), stairs.rise) and 0.15 < stairs.rise < 0.205
        well = stairs.well(height)
        if stairs.landing:
            assert well is None and tops[-1] < height - 1.95
        else:
            assert tops[-1] == pytest.approx(height + SLAB)
            # Under the ceiling, no tread is nearer to it than a head is high.
            covered = (high[0] <= well.x0 + 0.021) | (low[0] >= well.x1 - 0.021)
            covered |= (high[2] <= well.z0 + 0.021) | (low[2] >= well.z1 - 0.021)
            assert (high[1, tread & covered] <= height - HEADROOM + 1e-9).all()


def test_nothing_stands_in_them_and_no_camera(built):
    for scene, stairs, height in built:
        rect = stairs.rect(0.0, stairs.length)
        cos, sin = np.cos(scene.frames[:, 2]), np.sin(scene.frames[:, 2])
        middle = (scene.lower + scene.upper) / 2
        x = scene.frames[:, 0] + middle[:, 0] * cos + middle[:, 2] * sin
        z = scene.frames[:, 1] - middle[:, 0] * sin + middle[:, 2] * cos
        inside = (x > rect.x0) & (x < rect.x1) & (z > rect.z0) & (z < rect.z1) & (scene.upper[:, 1] > -height)
        allowed = {SCENE_CLASSES.index(name) for name in ("floor", "wall", "fence", "door", "rug", "beam")}
        assert set(scene.labels[inside].tolist()) <= allowed
        dx, dz = scene.camera[0] - scene.frames[:, 0], scene.camera[2] - scene.frames[:, 1]
        place = np.stack((dx * cos - dz * sin, np.full_like(dx, scene.camera[1]), dx * sin + dz * cos), axis=1)
        assert np.maximum(scene.lower - place, place - scene.upper).max(1).min() > 0.1


def test_every_ray_meets_what_brute_force_meets(built):
    scenes = [scene for scene, stairs, _ in built if not stairs.landing][:3]
    batch, (rows, columns) = render(scenes, 24, 48), np.mgrid[:24, :48].reshape(2, -1)
    for scene, semseg, depth in zip(scenes, batch["semseg"].flatten(1), batch["depth"].flatten(1), strict=True):
        primitive, distance, _ = reference(scene, rays(rows, columns, 24, 48))
        same = (semseg.numpy() == scene.labels[primitive]) & (np.abs(depth.numpy() - distance) < 1e-5 * distance)
        assert same.mean() > 0.998 and depth.max() < 30
    assert (batch["semseg"] == FENCE).any()
