"""Find one scale for panoramas with known poses: a network may get distances right only up to a factor."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.export.poses import Pose
from mtpano_zoo.sphere import depth_to_points, points_to_normals, rays_to_pixels

__all__ = ("common_scales",)

ROWS = 48  # rows of the distances that are compared
NEIGHBOURS = 8
STEPS = 20
WIDEST, NARROWEST = 0.5, 0.02  # relative errors that count as agreement, in the first step and in the last
GUESSES = (0.5, 0.7, 1.0, 1.4, 2.0)
MIN_OVERLAP = 0.1  # share of a panorama's points that must agree with another panorama in the end

Float64 = NDArray[np.float64]


class _Surface(NamedTuple):
    """Points (H, W, 3) and normals (H, W, 3) of a panorama, in its own frame, and where both are known (H, W).

    They sample every `stride`-th row and column of a panorama of this `size`, starting at number `stride // 2`.
    """

    points: Float64
    normals: Float64
    known: NDArray[np.bool_]
    size: tuple[int, int]
    stride: int


class _Equations(NamedTuple):
    """Relative gaps between a panorama and its neighbours, and how they change with the logarithms of the scales."""

    gaps: Float64
    by_first: Float64
    by_second: Float64
    weights: Float64  # solid angles, which sum to 1


def common_scales(
    depths: Sequence[NDArray[np.float32]], poses: Sequence[Pose], names: Sequence[str] | None = None
) -> Float64:
    """Return the factors (N,) that bring the distances of panoramas to the unit of their poses.

    Points of every panorama are moved into the frames of its nearest neighbours, where they should lie on the surface
    that these see in the same direction. The gaps along the surface's normals, relative to the distance, are minimised
    over all factors (Gauss-Newton, with weights 1 / (1 + (gap / width)^2)^2 whose width shrinks, so that points hidden
    from a neighbour do not count). This needs cameras at different places and surfaces that both see.

    Args:
        depths: metres up to a factor (H, W), 0 = no value.
        poses: poses of these panoramas, world to camera.
        names: names of these panoramas, for messages. If omitted, their numbers.

    Raises:
        InputError: If there are fewer than two panoramas, two are at the same place, or the surfaces of one agree with
            those of no other.
    """
    if len(depths) != len(poses) or len(depths) < 2:
        raise InputError(f"one scale needs two panoramas or more, each with a pose, not {len(depths)}")
    surfaces = [_surface(depth) for depth in depths]
    names = names or [f"panorama {i + 1}" for i in range(len(depths))]
    pairs = list(_pairs(poses, names))
    guesses = [np.full(len(depths), np.log(guess)) for guess in GUESSES]
    logarithms = min(guesses, key=lambda guess: _cost(surfaces, poses, pairs, guess, WIDEST / 5))
    for width in np.geomspace(WIDEST, NARROWEST, STEPS):
        logarithms = logarithms + _step(surfaces, poses, pairs, logarithms, width)
    agreement = np.zeros(len(depths))
    for i, j in pairs:
        gaps = _equations(surfaces[i], surfaces[j], poses[i], poses[j], logarithms[i], logarithms[j]).gaps
        agreement[i] = max(agreement[i], (np.abs(gaps) < 2 * NARROWEST).sum() / max(surfaces[i].known.sum(), 1))
    if agreement.min() < MIN_OVERLAP:
        raise InputError(
            f"the surfaces of {names[int(agreement.argmin())]} agree with those of no other panorama at any scale: "
            "check its pose, or leave it out"
        )
    scales: Float64 = np.exp(logarithms)
    return scales


def _surface(depth: NDArray[np.float32]) -> _Surface:
    stride = max(1, round(len(depth) / ROWS))
    known = np.isfinite(depth) & (depth > 0)
    points = depth_to_points(torch.from_numpy(np.where(known, depth, 0)).double()[None, None])
    normals = points_to_normals(points)
    pick = (0, slice(None), slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    small_points, small_normals = (values[pick].permute(1, 2, 0).numpy() for values in (points, normals))
    size = (depth.shape[0], depth.shape[1])
    return _Surface(small_points, small_normals, (small_normals != 0).any(-1), size, stride)


def _pairs(poses: Sequence[Pose], names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield every panorama with each of its nearest neighbours."""
    places = np.concatenate([pose.to_world(np.zeros((1, 3))) for pose in poses])
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(distances, np.inf)
    if distances.min() < 1e-6:
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        raise InputError(f"{names[first]} and {names[second]} are at the same place, so there is no scale to find")
    for i, row in enumerate(distances):
        yield from ((i, int(j)) for j in np.argsort(row)[: min(NEIGHBOURS, len(poses) - 1)])


def _equations(first: _Surface, second: _Surface, pose: Pose, other: Pose, log_i: float, log_j: float) -> _Equations:
    """Compare the points of a panorama with the surface that another one sees in their directions."""
    scaled = first.points[first.known] * np.exp(log_i)
    weights = np.linalg.norm(scaled[:, ::2], axis=1) / np.linalg.norm(scaled, axis=1)  # cosines of latitudes
    turn = other.rotation @ pose.rotation.T
    arm = scaled @ turn.T
    moved = arm + (other.translation - turn @ pose.translation)
    places = rays_to_pixels(torch.from_numpy(moved), *second.size)
    column, row = ((places - second.stride // 2) / second.stride).round().long().T.numpy()
    row, column = row.clip(0, len(second.known) - 1), column % second.known.shape[1]
    normals, points = second.normals[row, column], second.points[row, column] * np.exp(log_j)
    level = -(normals * points).sum(1)  # distance of the plane from the camera
    # Surfaces that face away from one another are two sides of an object, and a grazing one measures nothing.
    seen = second.known[row, column] & (level > 0.1 * np.linalg.norm(points, axis=1))
    seen &= ((first.normals[first.known] @ turn.T) * normals).sum(1) > 0.5
    normals, points, level = normals[seen], points[seen], level[seen]
    gaps = (normals * (moved[seen] - points)).sum(1) / level
    by_first = (normals * arm[seen]).sum(1) / level
    return _Equations(gaps, by_first, np.ones_like(gaps), weights[seen] / max(weights[seen].sum(), 1e-9))


def _step(
    surfaces: Sequence[_Surface], poses: Sequence[Pose], pairs: Sequence[tuple[int, int]], logs: Float64, width: float
) -> Float64:
    """Return the change of all logarithms that minimises the weighted gaps to first order."""
    matrix, right = np.eye(len(poses)) * 1e-6, np.zeros(len(poses))
    for i, j in pairs:
        gaps, by_first, by_second, weights = _equations(surfaces[i], surfaces[j], poses[i], poses[j], logs[i], logs[j])
        weight = weights / (1 + (gaps / width) ** 2) ** 2
        matrix[i, i] += weight @ (by_first * by_first)
        matrix[j, j] += weight @ (by_second * by_second)
        matrix[i, j] += weight @ (by_first * by_second)
        matrix[j, i] += weight @ (by_first * by_second)
        right[i] -= weight @ (by_first * gaps)
        right[j] -= weight @ (by_second * gaps)
    change: Float64 = np.clip(np.linalg.solve(matrix, right), -0.3, 0.3)
    return change


def _cost(
    surfaces: Sequence[_Surface], poses: Sequence[Pose], pairs: Sequence[tuple[int, int]], logs: Float64, width: float
) -> float:
    """Return how much of the surfaces disagrees, from 0 to 1."""
    costs: list[float] = []
    for i, j in pairs:
        gaps, _, _, weights = _equations(surfaces[i], surfaces[j], poses[i], poses[j], logs[i], logs[j])
        costs.append(float(weights @ (gaps**2 / (gaps**2 + width**2))) if len(gaps) else 1.0)
    return float(np.mean(costs))
