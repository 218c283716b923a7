import dataclasses
import hashlib
import math

import numpy as np
import pytest

from mtpano_zoo.data import S3DIS_CLASSES
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.scenes.sampling import SPLITS, room_key
from mtpano_zoo.scenes.scene import BOX


def digest(room):
    values = [np.asarray(value).tobytes() for name, value in dataclasses.asdict(room).items() if name != "id"]
    return hashlib.sha256(b"".join(values)).hexdigest()


def test_same_arguments_same_room():
    assert digest(sample_room(1, "train", 5)) == digest(sample_room(1, "train", 5))


def test_splits_seeds_and_indices_share_no_room():
    rooms = [sample_room(seed, split, index) for seed in (0, 1) for split in SPLITS for index in range(25)]
    assert len({digest(room) for room in rooms}) == len(rooms)
    # Not even the plan, the view or the furniture alone.
    for part in (lambda r: r.camera.tobytes(), lambda r: r.yaw, lambda r: r.lower.tobytes(), lambda r: r.salt):
        assert len({part(room) for room in rooms}) == len(rooms)


def test_keys_are_unique():
    arguments = [(s, p, i) for s in (0, 1, 2**62, 2**63 - 1) for p in SPLITS for i in (0, 1, 2**32, 2**56 - 1)]
    assert len({room_key(*a) for a in arguments}) == len(arguments)


@pytest.mark.parametrize(
    "arguments",
    [(0, "training", 0), (0, "", 0), (-1, "train", 0), (0, "train", -1), (0, "val", 2**56), (2**63, "val", 0)],
)
def test_refuses_bad_arguments(arguments):
    with pytest.raises(ValueError):
        sample_room(*arguments)


def test_every_class_appears_in_a_fair_share_of_rooms():
    batch = render([sample_room(0, "val", index) for index in range(100)], 48, 96)
    visible = np.array([[(labels == c).float().mean() > 5e-4 for c in range(13)] for labels in batch["semseg"]])
    share = dict(zip(S3DIS_CLASSES, visible.mean(0), strict=True))
    assert min(share.values()) >= 0.35, share
    assert all(share[name] == 1 for name in ("ceiling", "floor", "wall"))
    pixels = np.bincount(batch["semseg"].flatten().numpy(), minlength=13) / batch["semseg"].numel()
    assert pixels.min() > 0.003 and pixels.max() < 0.4


def test_rooms_and_views_vary():
    rooms = [sample_room(0, "train", index) for index in range(200)]
    eye = np.array([-room.camera[1] for room in rooms])
    assert eye.min() >= 1.0 and eye.max() <= 1.9 and eye.std() > 0.2
    quarter = np.array([room.yaw % (math.pi / 2) for room in rooms])
    assert np.histogram(quarter, bins=4, range=(0, math.pi / 2))[0].min() > 20
    assert {2, 3, 4, 5, 6} <= {len(room.lights) for room in rooms}


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_contains_the_camera_or_sinks_into_the_floor(split):
    for index in range(60):
        room = sample_room(5, split, index)
        cos, sin = np.cos(room.frames[:, 2]), np.sin(room.frames[:, 2])
        dx, dz = room.camera[0] - room.frames[:, 0], room.camera[2] - room.frames[:, 1]
        place = np.stack((dx * cos - dz * sin, np.full_like(dx, room.camera[1]), dx * sin + dz * cos), axis=1)
        margin = np.maximum(room.lower - place, place - room.upper).max(1)
        assert margin.min() > 0.15
        furniture = room.labels >= S3DIS_CLASSES.index("table")
        assert (room.upper[furniture, 1] <= 1e-9).all()
        assert (room.lower <= room.upper).all()


def test_furniture_on_the_floor_does_not_overlap():
    """Centres of things that stand on the floor lie in no other standing thing's box."""
    for index in range(40):
        room = sample_room(6, "train", index)
        standing = np.flatnonzero((room.kinds == BOX) & (room.upper[:, 1] > -0.2) & np.isin(room.labels, (7, 8, 9, 10)))
        x, z, yaw = room.frames[standing].T
        middle = (room.lower + room.upper)[standing] / 2
        px = x + middle[:, 0] * np.cos(yaw) + middle[:, 2] * np.sin(yaw)
        pz = z - middle[:, 0] * np.sin(yaw) + middle[:, 2] * np.cos(yaw)
        for i, box in enumerate(standing):
            dx, dz = px - x[i], pz - z[i]
            local = np.stack((dx * np.cos(yaw[i]) - dz * np.sin(yaw[i]), dx * np.sin(yaw[i]) + dz * np.cos(yaw[i])), 1)
            inside = (local > room.lower[box, ::2]).all(1) & (local < room.upper[box, ::2]).all(1)
            inside &= room.labels[standing] != room.labels[box]  # parts of one thing may lie in each other
            assert not inside.any()
