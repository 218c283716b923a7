"""The ray caster against one that knows no shortcut: every ray against every primitive in float64."""

import numpy as np
import pytest
import torch
from ray_caster import rays, reference, turned

from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.scenes.batching import stack_primitives, stack_views
from mtpano_zoo.scenes.casting import cast
from mtpano_zoo.scenes.scene import BOX, CYLINDER

HEIGHT, WIDTH = 80, 160


@pytest.mark.parametrize("index", range(6))
def test_agrees_with_brute_force(index):
    room = sample_room(11, "train", index)
    batch = render([room], HEIGHT, WIDTH)
    rows, columns = (grid.ravel() for grid in np.mgrid[:HEIGHT, :WIDTH])
    primitive, distance, normals = reference(room, rays(rows, columns, HEIGHT, WIDTH))
    assert (primitive >= 0).all()
    semseg = batch["semseg"][0].flatten().numpy()
    depth, got = batch["depth"][0].flatten().numpy(), batch["normals"][0].flatten(1).T.numpy()
    same = (
        (semseg == room.labels[primitive])
        & (np.abs(depth - distance) <= 2e-6 * distance)
        & (np.abs(got - normals).max(1) < 2e-5)
    )
    # What is left are rays within rounding of an edge: a slightly different ray must find what we found.
    assert same.mean() > 0.999
    for i in np.flatnonzero(~same):
        found = False
        for dr, dc in np.ndindex(5, 5):
            near = rays(rows[i : i + 1] + (dr - 2) * 1e-5, columns[i : i + 1] + (dc - 2) * 1e-5, HEIGHT, WIDTH)
            p, t, n = reference(room, near)
            found |= bool(
                semseg[i] == room.labels[p[0]]
                and abs(depth[i] - t[0]) < 1e-4 * t[0] + 1e-3 * (room.kinds[p[0]] != BOX)
                and (np.abs(got[i] - n[0]).max() < 1e-3 or room.kinds[p[0]] != BOX)
            )
        assert found, f"pixel {rows[i]}, {columns[i]} shows something that no ray nearby meets"


def test_points_lie_on_the_primitives_that_were_hit():
    rooms = [sample_room(12, "train", index) for index in range(4)]
    device = torch.device("cpu")
    primitives, views = stack_primitives(rooms, device), stack_views(rooms, device)
    hits = cast(primitives, views.camera, views.turn, HEIGHT, WIDTH)
    batch = render(rooms, HEIGHT, WIDTH)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    points = rays(rows, columns, HEIGHT, WIDTH)[None] * batch["depth"].double().numpy()[..., None]
    start = 0
    for room, hit, cloud, depth in zip(rooms, hits.primitive.numpy(), points, batch["depth"].numpy(), strict=True):
        for index in np.unique(hit):
            i, tolerance = index - start, 2e-6 * depth[hit == index]
            x, z, yaw = room.frames[i]
            place = turned(cloud[hit == index], -room.yaw) + room.camera - np.array([x, 0.0, z])
            place, lower, upper = turned(place, -yaw), room.lower[i], room.upper[i]
            if room.kinds[i] == BOX:
                error = np.minimum(np.abs(place - lower), np.abs(place - upper)).min(1)
            elif room.kinds[i] == CYLINDER:
                caps = np.minimum(np.abs(place[:, 1] - lower[1]), np.abs(place[:, 1] - upper[1]))
                error = np.minimum(np.abs(np.hypot(place[:, 0], place[:, 2]) - upper[0]), caps)
            else:
                error = np.abs(np.linalg.norm(place - (lower + upper) / 2, axis=1) - upper[0])
            outside = np.maximum(lower - place, place - upper).max(1)
            assert (error <= tolerance).all()
            assert (outside <= tolerance).all()
        start += len(room.kinds)


def test_no_ray_escapes_at_any_size():
    rooms = [sample_room(13, "test", index) for index in range(20)]
    for height in (8, 33, 50):
        depth = render(rooms, height, 2 * height)["depth"]
        assert depth.min() > 0.1 and depth.max() < 20
