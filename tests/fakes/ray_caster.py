"""A ray caster for rooms that knows no shortcut: every ray against every primitive in float64."""

import math

import numpy as np

from mtpano_zoo.scenes.scene import BOX, CABIN, CONE, CYLINDER, ELLIPSOID, GABLE, HIP, SPHERE, WHEEL


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


def hit_ellipsoid(o, d, lower, upper):
    centre, half = (lower + upper) / 2, (upper - lower) / 2
    # A sphere in stretched space, where directions are no unit vectors.
    p, v = (o - centre) / half, d / half
    a, b, c = (v * v).sum(1), v @ p, p @ p - 1
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    normal = (p + t[:, None] * v) / half
    return np.where((root > 0) & (t > 0), t, np.inf), normal / np.linalg.norm(normal, axis=1, keepdims=True)


def hit_wheel(o, d, lower, upper):
    """An upright cylinder, lying down: x and y change places."""
    swap, middle = [1, 0, 2], np.array([0.0, (lower[1] + upper[1]) / 2, 0.0])
    radius = (upper[1] - lower[1]) / 2
    low, high = np.array([-radius, lower[0], -radius]), np.array([radius, upper[0], radius])
    best, normal = hit_cylinder((o - middle)[swap], d[:, swap], low, high)
    return best, normal[:, swap]


def hit_cone(o, d, lower, upper):
    """The side by its roots, each of which has to lie between tip and bottom; then the bottom."""
    slope = upper[0] / (upper[1] - lower[1])
    tip, k = np.array([0.0, lower[1], 0.0]), np.array([1.0, -(slope**2), 1.0])
    p = o - tip
    a, b, c = (d * d * k).sum(1), (d * p * k).sum(1), (p * p * k).sum()
    root, best, normal = b * b - a * c, np.full(len(d), np.inf), np.zeros_like(d)
    with np.errstate(invalid="ignore"):
        roots = [(-b - np.sqrt(root)) / a, (-b + np.sqrt(root)) / a]
    for t in roots:
        point = p + t[:, None] * d
        hit = (root > 0) & (t > 0) & (t < best) & (point[:, 1] >= 0) & (point[:, 1] <= upper[1] - lower[1])
        best[hit] = t[hit]
        normal[hit] = (point * k / np.linalg.norm(point * k, axis=1, keepdims=True))[hit]
    t = (upper[1] - o[1]) / d[:, 1]
    point = o + t[:, None] * d
    hit = (t > 0) & (t < best) & (np.hypot(point[:, 0], point[:, 2]) <= upper[0])
    best[hit], normal[hit] = t[hit], (0.0, 1.0, 0.0)
    return best, normal


def leaning(long, deep):
    """A solid whose top is `long` times its bottom along x and `deep` times along z, as the triangles of its faces."""

    def hit(o, d, lower, upper):
        middle, half = (lower + upper) / 2, (upper - lower) / 2
        square = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        base = [np.array([middle[0] + x * half[0], upper[1], middle[2] + z * half[2]]) for x, z in square]
        top = [np.array([middle[0] + x * half[0] * long, lower[1], middle[2] + z * half[2] * deep]) for x, z in square]
        faces = [base, top] + [[base[i], base[i - 1], top[i - 1], top[i]] for i in range(4)]
        best, normals = np.full(len(d), np.inf), np.zeros_like(d)
        for a, b, c, e in faces:
            for triangle in ((a, b, c), (a, c, e)):
                t, normal = hit_triangle(o, d, triangle)
                nearer = t < best
                best[nearer], normals[nearer] = t[nearer], normal[nearer]
        return best, normals

    return hit


def hit_triangle(o, d, corners):
    """Distance where the ray crosses the plane at a place with positive barycentric coordinates."""
    a, b, c = corners
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal)
    if area < 1e-12:
        return np.full(len(d), np.inf), np.zeros_like(d)
    normal = normal / area
    with np.errstate(divide="ignore", invalid="ignore"):
        t = normal @ (a - o) / (d @ normal)
        point = o + t[:, None] * d
    inside = t > 0
    for p, q in ((a, b), (b, c), (c, a)):
        inside &= np.cross(q - p, point - p) @ normal >= -1e-9 * area
    return np.where(inside, t, np.inf), -np.sign(d @ normal)[:, None] * normal


HIT = {
    BOX: hit_box,
    CYLINDER: hit_cylinder,
    SPHERE: hit_sphere,
    ELLIPSOID: hit_ellipsoid,
    WHEEL: hit_wheel,
    CONE: hit_cone,
    GABLE: leaning(1.0, 0.0),
    HIP: leaning(0.5, 0.0),
    CABIN: leaning(0.8, 0.6),
}
