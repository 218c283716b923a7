"""The surface around a panorama as triangles, on the panorama's own grid."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.point_cloud import clean_points
from mtpano_zoo.sphere import erp_angles

__all__ = ("MAX_ANGLE", "Mesh", "sphere_mesh")

MAX_ANGLE = 85.0  # degrees


class Mesh(NamedTuple):
    """Triangles, with the place in the panorama of every corner.

    Attributes:
        positions: (N, 3) float32 in metres, x right, y down, z forward, camera at 0.
        coordinates: (N, 2) float32, place in the image from its upper left corner, where both sides have length 1.
            Beyond the seam it exceeds 1, because the image repeats.
        triangles: (M, 3) uint32, counter-clockwise as the camera sees them.
    """

    positions: NDArray[np.float32]
    coordinates: NDArray[np.float32]
    triangles: NDArray[np.uint32]


def sphere_mesh(
    depth: NDArray[np.float32],
    stride: int = 1,
    edge: float | None = None,
    nadir: float = 0.0,
    max_angle: float = MAX_ANGLE,
) -> Mesh:
    """Join the pixels of a panorama to a surface that closes at the seam and at the poles.

    Neighbouring pixels are joined by two triangles. The last column is joined to the first. The highest row is joined
    to a corner on the vertical axis, at the median height of the row's points, and so is the lowest row. Triangles at
    pixels without a distance are left out, and so are those that the camera sees at a grazing angle, because most of
    them join a surface to another one behind it.

    Args:
        depth: metres (H, W), 0 = no value.
        stride: use every `stride`-th row and column.
        edge: leave out pixels at edges, see `mtpano_zoo.point_cloud.clean_points`.
        nadir: leave out pixels less than this many degrees from straight down, see the same.
        max_angle: leave out triangles whose normal is more than this many degrees off the direction to the camera. The
            denser the grid, the smaller the steps that remain: at 512 rows, 85 degrees allow neighbours to differ by
            7 % of their distance, at 256 rows by 14 %.

    Raises:
        InputError: If an option is out of range, no pixel has a distance, or no triangle is left.

    Example:
        >>> mesh = sphere_mesh(np.full((4, 8), 2, np.float32))
        >>> mesh.positions.shape, mesh.triangles.shape  # 4 x 9 pixels and 2 x 8 poles; 3 x 8 x 2 triangles and 2 x 8
        ((52, 3), (64, 3))
    """
    if stride < 1:
        raise InputError(f"stride is a positive number of pixels, not {stride}")
    if not 0 < max_angle <= 90:
        raise InputError(f"max_angle is an angle between 0 and 90 degrees, not {max_angle}")
    valid = clean_points(depth, edge, nadir)
    if not valid.any():
        raise InputError("there is no surface to export, because no pixel has a distance: depth is 0 everywhere")
    height, width = depth.shape
    rows = np.arange((height - 1) % stride // 2, height, stride)
    columns = np.arange(0, width, stride)
    pick = np.ix_(rows, np.append(columns, 0))  # the first column once more, for the other end of the image
    known = valid[pick]
    points = np.where(known, depth[pick], 0)[..., None] * _rays(height, width, *pick)
    u, v = (np.append(columns, width) + 0.5) / width, (rows + 0.5) / height

    positions, given = [points.reshape(-1, 3)], [known.reshape(-1)]
    coordinates = [np.stack(np.broadcast_arrays(u, v[:, None]), -1).reshape(-1, 2)]
    for row, end, wanted in ((0, 0.0, True), (-1, 1.0, nadir == 0)):
        seen = known[row]
        level = float(np.median(points[row, seen, 1])) if seen.any() else 0.0
        positions.append(np.tile([0.0, level, 0.0], (len(columns), 1)))
        # Every triangle at a pole has a corner of its own there: its place in the image is between its two columns.
        coordinates.append(np.stack(((u[1:] + u[:-1]) / 2, np.full(len(columns), end)), -1))
        given.append(np.full(len(columns), wanted and bool(seen.any())))
    corners, triangles = np.concatenate(positions), _grid_triangles(len(rows), len(columns))
    triangles = triangles[np.concatenate(given)[triangles].all(1)]
    triangles = triangles[_faces_camera(corners, triangles, max_angle)]
    if len(triangles) == 0:
        raise InputError(
            "there is no surface to export, because too few neighbouring pixels have a distance or all are seen at a "
            "grazing angle: use a smaller stride or a larger max_angle"
        )
    used = np.zeros(len(corners), bool)
    used[triangles] = True
    return Mesh(
        corners[used].astype(np.float32),
        np.concatenate(coordinates)[used].astype(np.float32),
        (np.cumsum(used) - 1)[triangles].astype(np.uint32),
    )


def _rays(height: int, width: int, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the rays (R, C, 3) of some rows (R, 1) and columns (1, C): all rays of a large panorama take gigabytes."""
    longitude, latitude = (angles.numpy() for angles in erp_angles(height, width, dtype=torch.float64))
    lon, lat = longitude[columns], latitude[rows]
    down = np.broadcast_to(-np.sin(lat), (len(lat), lon.shape[1]))
    return np.stack((np.cos(lat) * np.sin(lon), down, np.cos(lat) * np.cos(lon)), -1)


def _grid_triangles(rows: int, columns: int) -> NDArray[np.intp]:
    """Return triangles (M, 3) of a grid of rows x (columns + 1) corners; two poles of a corner per column follow it."""
    grid = np.arange(rows * (columns + 1)).reshape(rows, columns + 1)
    upper, lower = rows * (columns + 1) + np.arange(2 * columns).reshape(2, columns)
    left, right = grid[:, :-1], grid[:, 1:]
    return np.concatenate(
        [
            np.stack((left[:-1], left[1:], right[:-1]), -1).reshape(-1, 3),
            np.stack((right[:-1], left[1:], right[1:]), -1).reshape(-1, 3),
            np.stack((upper, left[0], right[0]), -1),
            np.stack((left[-1], lower, right[-1]), -1),
        ]
    )


def _faces_camera(corners: NDArray[np.float64], triangles: NDArray[np.intp], max_angle: float) -> NDArray[np.bool_]:
    """Return which triangles have a normal at most `max_angle` degrees off the direction to the camera."""
    first, second, third = (corners[triangles[:, i]] for i in range(3))
    normal, middle = np.cross(second - first, third - first), first + second + third
    length = np.linalg.norm(normal, axis=1) * np.linalg.norm(middle, axis=1)
    towards = -(normal * middle).sum(1)
    kept: NDArray[np.bool_] = (length > 0) & (towards >= np.cos(np.deg2rad(max_angle)) * length)
    return kept
