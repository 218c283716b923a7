"""Homes and streets as distributions, and the rooms that must stay what they were."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import render, sample_home, sample_room, sample_street
from mtpano_zoo.scenes.materials import FIELDS
from mtpano_zoo.scenes.sampling import room_key

GOLDEN = Path(__file__).parent / "golden" / "rooms.npz"
SAMPLERS = {"homes": sample_home, "streets": sample_street}


def digest(scene):
    values = [
        repr(value) if not isinstance(value, np.ndarray) else value.tobytes().hex()
        for value in dataclasses.asdict(scene).values()
    ]
    return hashlib.sha256("".join(values).encode()).hexdigest()


@pytest.fixture(scope="module")
def streets():
    scenes = [sample_street(0, "val", index) for index in range(32)]
    return scenes, render(scenes, 24, 48)


@pytest.fixture(scope="module")
def homes():
    scenes = [sample_home(0, "val", index) for index in range(48)]
    return scenes, render(scenes, 24, 48)


def test_rooms_are_what_they_were_before_there_were_streets():
    """Numbers of an earlier version: other machines may differ by rounding, nothing more."""
    rooms = [sample_room(*a) for a in ((0, "train", 0), (3, "val", 7), (11, "test", 123))]
    with np.load(GOLDEN) as golden:
        assert np.allclose(np.concatenate([room.lower for room in rooms])[:40], golden["lower"], atol=1e-12)
        assert np.allclose(np.stack([room.camera for room in rooms]), golden["camera"], atol=1e-12)
        looks = np.concatenate([room.materials for room in rooms])[:40]
        assert np.allclose(looks[:, :21], golden["materials"]) and (looks[:, 21:] == 0).all()
        batch = render(rooms, 32, 64)
        assert "far" not in batch
        image = (batch["image"] * 255).round().to(torch.int32).numpy()
        assert (image == golden["image"]).mean() > 0.999
        assert (batch["semseg"].numpy() == golden["semseg"]).mean() > 0.9995
        assert (np.abs(batch["depth"].numpy() - golden["depth"]) < 1e-5).mean() > 0.9995
        assert (np.abs(batch["normals"].numpy() - golden["normals"] / 32767) < 1e-4).mean() > 0.9995


@pytest.mark.parametrize("kind", SAMPLERS)
def test_same_arguments_same_scene_and_no_two_alike(kind):
    sample = SAMPLERS[kind]
    assert digest(sample(1, "train", 5)) == digest(sample(1, "train", 5))
    scenes = [sample(seed, split, index) for seed in (0, 1) for split in ("train", "val", "test") for index in range(4)]
    assert len({digest(scene) for scene in scenes}) == len(scenes)
    assert len({scene.camera.tobytes() for scene in scenes}) == len(scenes)


def test_kinds_of_scenes_share_no_key():
    arguments = [
        (s, p, i, k) for s in (0, 2**63 - 1) for p in ("train", "val", "test") for i in (0, 2**56 - 1) for k in range(5)
    ]
    assert len({room_key(*a) for a in arguments}) == len(arguments)


@pytest.mark.parametrize("sample", [sample_room, sample_home, sample_street])
def test_a_tilt_changes_the_attitude_and_nothing_else(sample):
    level, leaning = sample(3, "val", 2), sample(3, "val", 2, 30.0)
    assert level.tilt == (0.0, 0.0) and leaning.tilt != (0.0, 0.0)
    assert digest(dataclasses.replace(leaning, tilt=(0.0, 0.0))) == digest(level)
    down = [
        np.cos(np.radians(p)) * np.cos(np.radians(r)) for p, r in (sample(3, "val", i, 30.0).tilt for i in range(20))
    ]
    angles = np.degrees(np.arccos(down))
    assert angles.max() <= 30.0 + 1e-6 and angles.std() > 4


def test_the_sky_is_far_and_has_no_distance(streets):
    _, batch = streets
    sky, far = batch["semseg"] == SCENE_CLASSES.index("sky"), batch["far"]
    assert torch.equal(sky, far)
    assert (batch["depth"][far] == 0).all() and (batch["depth"][~far] > 0.1).all()
    normals = batch["normals"].norm(dim=1)
    assert (normals[far] == 0).all() and ((normals[~far] - 1).abs() < 1e-4).all()
    assert (far.float().mean((1, 2)) > 0.02).all()
    # Nothing hangs in the sky and there is none below: the ground goes on to the horizon.
    assert not far[:, 13:].any()


def test_distances_go_far_and_cameras_stand_at_all_heights(streets):
    scenes, batch = streets
    farthest = batch["depth"].amax((1, 2))
    assert (farthest > 100).float().mean() > 0.5 and (farthest > 1000).any()
    eye = np.array([-scene.camera[1] for scene in scenes])
    assert eye.min() >= 1.2 and eye.max() <= 61 and ((eye > 1.9) & (eye < 3.0)).any() and (eye > 8).any()


def test_the_classes_of_streets_have_sane_shares(streets):
    _, batch = streets
    share = {
        name: ((batch["semseg"] == i).float().mean((1, 2)) > 3e-4).float().mean().item()
        for i, name in enumerate(SCENE_CLASSES)
    }
    assert share["sky"] == 1
    for name, least in {"building": 0.7, "road": 0.6, "vegetation": 0.6, "pavement": 0.5, "ground": 0.3}.items():
        assert share[name] > least, share
    for name in ("vehicle", "person", "pole", "fence", "sign"):
        assert share[name] > 0.1, share
    assert all(share[name] == 0 for name in ("floor", "wall", "bed", "sofa"))


def test_weather_varies(streets):
    scenes, batch = streets
    sunny = [any(scene.sky.sunlight) for scene in scenes]
    assert 0.3 < np.mean(sunny) < 0.95
    assert any(len(scene.lights) for scene in scenes)
    assert all(scene.sky.sun[1] < 0 and abs(np.linalg.norm(scene.sky.sun) - 1) < 1e-9 for scene in scenes)
    mean = batch["image"].mean((1, 2, 3))
    assert mean.min() > 0.08 and mean.max() < 0.9 and mean.std() > 0.05


def test_homes_show_what_people_live_with(homes):
    scenes, batch = homes
    assert "far" not in batch and (batch["depth"] > 0.1).all() and batch["depth"].max() < 30
    share = {
        name: ((batch["semseg"] == i).float().mean((1, 2)) > 3e-4).float().mean().item()
        for i, name in enumerate(SCENE_CLASSES)
    }
    for name in ("window", "door", "table", "chair", "bookcase", "clutter", "cabinet", "lamp", "plant", "picture"):
        assert share[name] > 0.25, share
    for name in ("bed", "sofa", "curtain", "screen", "rug", "appliance", "person"):
        assert share[name] > 0.08, share
    assert all(share[name] == 0 for name in ("sky", "building", "road", "vehicle", "vegetation"))
    eye = np.array([-scene.camera[1] for scene in scenes])
    assert 0.8 <= eye.min() < 1.1 and 1.9 < eye.max() <= 2.2
    mean = batch["image"].mean((1, 2, 3))
    assert mean.min() > 0.1 and mean.max() < 0.95


def test_homes_of_the_second_version_have_stairs_and_mirrors(homes):
    scenes = [sample_home(0, "val", index, version=2) for index in range(48)]
    stairs = np.mean([(scene.labels == SCENE_CLASSES.index("fence")).any() for scene in scenes])
    mirrors = np.mean([scene.materials[:, FIELDS.index("mirror")].any() for scene in scenes])
    assert 0.04 < stairs < 0.3 and 0.1 < mirrors < 0.45
    assert not any(scene.materials[:, FIELDS.index("mirror")].any() for scene in homes[0])
    assert not {scene.camera.tobytes() for scene in scenes} & {scene.camera.tobytes() for scene in homes[0]}


@pytest.mark.parametrize("sample", [sample_home, sample_street])
def test_nothing_contains_the_camera(sample):
    for index in range(40):
        scene = sample(5, "train", index)
        cos, sin = np.cos(scene.frames[:, 2]), np.sin(scene.frames[:, 2])
        dx, dz = scene.camera[0] - scene.frames[:, 0], scene.camera[2] - scene.frames[:, 1]
        place = np.stack((dx * cos - dz * sin, np.full_like(dx, scene.camera[1]), dx * sin + dz * cos), axis=1)
        margin = np.maximum(scene.lower - place, place - scene.upper).max(1)
        assert margin.min() > 0.1, (index, SCENE_CLASSES[scene.labels[margin.argmin()]])
        assert (scene.lower <= scene.upper).all()


@pytest.mark.parametrize("sample", [sample_home, sample_street])
def test_a_scene_does_not_depend_on_its_batch(sample):
    scenes = [sample(3, "val", 0), sample_room(3, "val", 1), sample(3, "val", 2, 20.0), sample_street(3, "val", 3)]
    batch = render(scenes, 24, 48)
    for i in (0, 2):
        again = render([scenes[i]], 24, 48)
        assert all(torch.equal(again[key][0], batch[key][i]) for key in ("image", "semseg", "depth", "normals"))
    assert batch["id"] == [scene.id for scene in scenes]


def test_the_sun_casts_shadows():
    """A pole on a plain, the sun at 45 degrees in the east: the ground west of it is dark, east of it light."""
    street = sample_street(0, "val", 0)
    sky = dataclasses.replace(
        street.sky, sun=(0.5**0.5, -(0.5**0.5), 0.0), sunlight=(1.5, 1.5, 1.5), cover=0.0, haze=1e9
    )
    frames = np.array([[0.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    scene = dataclasses.replace(
        street,
        kinds=np.array([0, 1], dtype=np.uint8),
        labels=np.array([28, 30], dtype=np.uint8),
        frames=frames,
        lower=np.array([[-500.0, -0.01, -500.0], [-0.4, -3.0, -0.4]]),
        upper=np.array([[500.0, 1.0, 500.0], [0.4, 0.0, 0.4]]),
        materials=np.tile(np.array([0.5] * 6 + [1e3, 1e3] + [0.0] * (len(FIELDS) - 8), dtype=np.float32), (2, 1)),
        camera=np.array([0.0, -1.6, 0.0]),
        yaw=0.0,
        lights=np.zeros((0, 6), dtype=np.float32),
        sky=sky,
        noise=0.0,
    )
    batch = render([scene], 128, 256)
    depth, image = batch["depth"][0], batch["image"][0].mean(0)

    def brightness(x, z):
        """Of the pixel that shows the ground at a place."""
        row = (0.5 + np.arctan2(1.6, np.hypot(x, z)) / np.pi) * 128
        column = (0.5 + np.arctan2(x, z) / (2 * np.pi)) * 256
        assert abs(depth[int(row), int(column)] - np.hypot(1.6, np.hypot(x, z))) < 0.3
        return float(image[int(row), int(column)])

    assert brightness(-1.5, 4.0) < 0.75 * brightness(1.5, 4.0)
    assert brightness(-2.6, 4.0) < 0.75 * brightness(2.6, 4.0)
    # Three metres of pole cast three metres of shadow.
    assert brightness(-4.0, 4.0) == pytest.approx(brightness(4.0, 4.0), abs=0.03)
