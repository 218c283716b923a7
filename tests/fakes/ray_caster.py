"""A ray caster for rooms that knows no shortcut: every ray against every primitive in float64."""

import math

import numpy as np

from mtpano_zoo.scenes.scene import BOX, CYLINDER, SPHERE


def rays(rows, columns, height, width):
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
