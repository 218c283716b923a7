"""The ray caster against one that knows no shortcut: every ray against every primitive in float64."""

import math

import numpy as np
import pytest
import torch

from mtpano_zoo.data.rooms import render, sample_room
from mtpano_zoo.data.rooms.batching import stack_primitives, stack_views
from mtpano_zoo.data.rooms.casting import cast
from mtpano_zoo.data.rooms.scene import BOX, CYLINDER, SPHERE

HEIGHT, WIDTH = 80, 160


def rays(rows, columns, height=HEIGHT, width=WIDTH):
    longitude = ((columns + 0.5) / width - 0.5) * 2 * np.pi
    latitude = (0.5 - (rows + 0.5) / height) * np.pi
    return np.stack(
        (np.cos(latitude) * np.sin(longitude), -np.sin(latitude), np.cos(latitude) * np.cos(longitude)), axis=-1
    )


def turned(vectors, angle):
    """Vectors whose heading grows by an angle to the right."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack((x * cos + z * sin, y, z * cos - x * sin), axis=-1)


def reference(room, directions):
    """Primitive, distance and normal (camera frame) of the nearest hit of each unit ray (N, 3)."""
    best = np.full(len(directions), np.inf)
    primitive, normals = np.full(len(directions), -1), np.zeros_like(directions)
    for index, kind in enumerate(room.kinds):
        x, z, yaw = room.frames[index]
        angle = room.yaw + yaw
        d = turned(directions, -angle)
        o = turned(room.camera - np.array([x, 0.0, z]), -yaw)
        distance, normal = HIT[kind](o, d, room.lower[index], room.upper[index])
        nearer = distance < best
        best[nearer], primitive[nearer] = distance[nearer], index
        normals[nearer] = turned(normal, angle)[nearer]
    return primitive, best, normals


def hit_box(o, d, lower, upper):
    with np.errstate(divide="ignore"):
        t = np.stack(((lower - o) / d, (upper - o) / d))
    enter, leave = t.min(0), t.max(0)
    axis, near = enter.argmax(1), enter.max(1)
    hit = (near <= leave.min(1)) & (near > 0)
    normal = -np.sign(d) * np.eye(3)[axis]
    return np.where(hit, near, np.inf), normal


def hit_cylinder(o, d, lower, upper):
    radius, best, normal = upper[0], np.full(len(d), np.inf), np.zeros_like(d)
    a, b = d[:, 0] ** 2 + d[:, 2] ** 2, o[0] * d[:, 0] + o[2] * d[:, 2]
    half = b * b - a * (o[0] ** 2 + o[2] ** 2 - radius**2)
    t = (-b - np.sqrt(np.maximum(half, 0))) / a
    point = o + t[:, None] * d
    hit = (half > 0) & (t > 0) & (point[:, 1] >= lower[1]) & (point[:, 1] <= upper[1])
    best[hit] = t[hit]
    normal[hit] = (point * [1, 0, 1] / radius)[hit]
    for y, sign in ((lower[1], -1.0), (upper[1], 1.0)):
        t = (y - o[1]) / d[:, 1]
        point = o + t[:, None] * d
        hit = (t > 0) & (point[:, 0] ** 2 + point[:, 2] ** 2 <= radius**2) & (t < best)
        best[hit], normal[hit] = t[hit], (0.0, sign, 0.0)
    return best, normal


def hit_sphere(o, d, lower, upper):
    centre, radius = (lower + upper) / 2, upper[0]
    b, c = d @ (o - centre), (o - centre) @ (o - centre) - radius**2
    t = -b - np.sqrt(np.maximum(b * b - c, 0))
    hit = (b * b > c) & (t > 0)
    return np.where(hit, t, np.inf), (o + t[:, None] * d - centre) / radius


HIT = {BOX: hit_box, CYLINDER: hit_cylinder, SPHERE: hit_sphere}


@pytest.mark.parametrize("index", range(6))
def test_agrees_with_brute_force(index):
    room = sample_room(11, "train", index)
    batch = render([room], HEIGHT, WIDTH)
    rows, columns = (grid.ravel() for grid in np.mgrid[:HEIGHT, :WIDTH])
    primitive, distance, normals = reference(room, rays(rows, columns))
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
            near = rays(rows[i : i + 1] + (dr - 2) * 1e-5, columns[i : i + 1] + (dc - 2) * 1e-5)
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
    points = rays(rows, columns)[None] * batch["depth"].double().numpy()[..., None]
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
