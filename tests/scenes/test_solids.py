"""Slanted and round solids, level and tilted cameras, against brute force in numpy that shares no formula with them."""

import dataclasses

import numpy as np
import pytest
import torch
from bare_room import bare_room
from ray_caster import rays, reference

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import render, sample_home, sample_room, sample_street
from mtpano_zoo.scenes.materials import material
from mtpano_zoo.scenes.scene import CABIN, GABLE, HIP, Builder, Frame, Room, Sky
from mtpano_zoo.sphere import depth_to_points, points_to_normals, rotation_matrix, turn_vectors

GRAY = material((0.5, 0.5, 0.5), noise=0.0)
SKY = Sky((0.3, -0.8, 0.5), (1.0, 1.0, 1.0), (0.2, 0.4, 0.8), (0.8, 0.8, 0.9), (1.0, 1.0, 1.0), 0.3, 1.0, 2000.0)


def solids(seed: int, **changes: object) -> Room:
    """A few solids of every kind around the camera, at any angle, over the ground and under the sky."""
    rng, builder = np.random.default_rng(seed), Builder(SCENE_CLASSES)
    builder.box("floor", GRAY, (-500.0, 500.0), (-1.0, 0.0), (-500.0, 500.0))
    for i in range(18):
        angle, away = i * 0.9 + rng.uniform(0, 0.4), rng.uniform(3.0, 60.0)
        at = Frame(away * np.sin(angle), away * np.cos(angle), rng.uniform(-3, 3))
        a, b, c = rng.uniform(0.2, 0.3 * away, 3)
        low = rng.uniform(-0.5, 3.0)
        match i % 9:
            case 0:
                builder.box("wall", GRAY, (-a, a), (low, low + b), (-c, c), at)
            case 1:
                builder.cylinder("beam", GRAY, a / 2, (low, low + b), at)
            case 2:
                builder.sphere("column", GRAY, a / 2, low + b, at)
            case 3:
                builder.ellipsoid("window", GRAY, (a / 2, b, c / 2), low + b, at)
            case 4:
                builder.cone("door", GRAY, a / 2, (low, low + b), at)
            case 5:
                builder.wheel("table", GRAY, b / 2, (-a / 2, a / 2), low + b, at)
            case 6:
                builder.roof("chair", GRAY, (-a / 2, a / 2), (low, low + b), (-c / 2, c / 2), at, GABLE)
            case 7:
                builder.roof("sofa", GRAY, (-a / 2, a / 2), (low, low + b), (-c / 2, c / 2), at, HIP)
            case _:
                builder.roof("bookcase", GRAY, (-a / 2, a / 2), (low, low + b), (-c / 2, c / 2), at, CABIN)
    look = {"camera": np.array([0.1, -1.6, -0.2]), "yaw": 0.4, "ambient": np.full(3, 0.5, dtype=np.float32), "sky": SKY}
    return bare_room(builder, **look | changes)


def check(room: Room, height: int, tilt: tuple[float, float] = (0.0, 0.0)) -> None:
    """Compare a rendering with brute force, ray by ray."""
    room = dataclasses.replace(room, tilt=tilt)
    batch, width = render([room], height, 2 * height), 2 * height
    rows, columns = (grid.ravel() for grid in np.mgrid[:height, :width])
    matrix = rotation_matrix(pitch=tilt[0], roll=tilt[1], dtype=torch.float64).numpy()
    primitive, distance, normals = reference(room, rays(rows, columns, height, width) @ matrix.T)
    far = primitive < 0
    if room.sky is None:
        assert not far.any() and "far" not in batch
    else:
        assert (batch["far"][0].flatten().numpy() == far).mean() > 0.999
    semseg, depth = batch["semseg"][0].flatten().numpy(), batch["depth"][0].flatten().numpy()
    got = batch["normals"][0].flatten(1).T.numpy()
    same = (semseg == room.labels[primitive]) & (np.abs(depth - distance) <= 5e-6 * distance)
    same &= np.abs(got - normals @ matrix).max(1) < 1e-4
    # The rest are rays within rounding of an edge.
    assert same[~far].mean() > 0.998


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (20.0, -35.0), (-80.0, 170.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_kind_of_solid_agrees_with_brute_force(seed, tilt):
    room = solids(seed)
    check(room, 40, tilt)
    assert set(room.kinds) == set(range(9))


@pytest.mark.parametrize(
    ("room", "tilt"),
    [
        (sample_room(11, "train", 0), (9.0, 4.0)),
        (sample_room(11, "train", 1), (-60.0, 130.0)),
        (sample_home(11, "train", 0), (0.0, 0.0)),
        (sample_home(11, "train", 1), (5.0, -5.0)),
        (sample_street(11, "train", 0), (0.0, 0.0)),
        (sample_street(11, "train", 2), (-8.0, 30.0)),
    ],
)
def test_scenes_agree_with_brute_force(room, tilt):
    check(room, 24, tilt)


def test_a_tilt_of_nothing_shows_the_same_through_the_other_caster():
    for room in (sample_room(2, "val", 1), sample_street(2, "val", 1), solids(5)):
        level, leaning = render([room], 48, 96), render([dataclasses.replace(room, tilt=(1e-9, 0.0))], 48, 96)
        assert (level["semseg"] == leaning["semseg"]).float().mean() > 0.999
        close = (level["depth"] - leaning["depth"]).abs() <= 1e-5 * level["depth"]
        assert close.float().mean() > 0.999
        # Textures of balls start elsewhere.
        assert (level["image"] - leaning["image"]).abs().mean() < 0.02


@pytest.mark.parametrize(("degrees", "heading"), [(10.0, 0.0), (10.0, 2.0), (90.0, 1.0), (170.0, -2.5)])
def test_a_tilted_camera_leans_by_so_many_degrees(degrees, heading):
    room = solids(1).tilted(degrees, heading)
    pitch, roll = room.tilt
    down = rotation_matrix(pitch=pitch, roll=roll, dtype=torch.float64).T @ torch.tensor([0.0, 1.0, 0.0]).double()
    angle = np.radians(degrees)
    expected = [np.sin(angle) * np.sin(heading), np.cos(angle), np.sin(angle) * np.cos(heading)]
    assert np.allclose(down.numpy(), expected, atol=1e-9)
    # What is below shows its upper side: the normal of the ground is up, seen by the camera.
    batch = render([room], 32, 64)
    ground = batch["semseg"][0] == 1
    assert torch.allclose(batch["normals"][0][:, ground].mean(1), -down.float(), atol=0.05)


def test_normals_are_those_of_the_surface_that_the_distances_draw():
    for room in (solids(3), solids(3).tilted(25.0, 1.0)):
        batch = render([room], 128, 256)
        estimated = points_to_normals(depth_to_points(batch["depth"][:, None]))
        normals, known = batch["normals"], ~batch["far"]
        smooth = known.clone()
        for rows, columns in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            smooth &= torch.roll(batch["semseg"], (rows, columns), (-2, -1)) == batch["semseg"]
            smooth &= (torch.roll(normals, (rows, columns), (-2, -1)) - normals).abs().amax(1) < 0.08
        smooth[:, :3] = smooth[:, -3:] = False
        for label in range(11):
            at = smooth & (batch["semseg"] == label)
            if at.sum() < 50:
                continue
            angle = torch.rad2deg((estimated * normals).sum(1).clamp(-1, 1).arccos())[at]
            assert angle.median() < 3.0, (label, float(angle.median()))


def test_a_turned_camera_sees_the_rolled_street():
    street = dataclasses.replace(sample_street(4, "val", 3), noise=0.0)
    plain, turned = render([street], 48, 96), render([street.turned(-17 * 360 / 96)], 48, 96)
    rolled = {key: torch.roll(plain[key], 17, -1) for key in ("image", "semseg", "depth", "normals", "far")}
    rolled["normals"] = turn_vectors(rolled["normals"], rotation_matrix(17 * 360 / 96))
    assert (turned["semseg"] == rolled["semseg"]).float().mean() > 0.999
    assert (turned["far"] == rolled["far"]).float().mean() > 0.999
    close = (turned["depth"] - rolled["depth"]).abs() <= 1e-5 * rolled["depth"]
    assert close.float().mean() > 0.998
    assert (turned["normals"] - rolled["normals"]).abs().amax(1)[close].max() < 1e-3
    assert (turned["image"] - rolled["image"]).abs().mean() < 5e-3
