"""The point cloud of a panorama, and which pixels make a clean one."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere import depth_to_points, erp_rays, points_to_normals

__all__ = ("Cloud", "beyond_nadir", "clean_points", "cloud")


class Cloud(NamedTuple):
    """Points (N, 3) float32 in metres, x right, y down, z forward, camera at 0; RGB (N, 3) uint8; normals (N, 3)."""

    points: NDArray[np.float32]
    colours: NDArray[np.uint8]
    normals: NDArray[np.float32]


def cloud(
    image: NDArray[np.uint8],
    depth: NDArray[np.float32],
    normals: NDArray[np.float32] | None = None,
    stride: int = 1,
    edge: float | None = None,
    nadir: float = 0.0,
) -> Cloud:
    """Return the points of a panorama that have a distance.

    Args:
        image: RGB (H, W, 3).
        depth: metres (H, W), 0 = no value.
        normals: (H, W, 3). If omitted, they are those of the surface through the points, towards the camera.
        stride: use every `stride`-th row and column.
        edge: see `clean_points`.
        nadir: see `clean_points`.

    Raises:
        InputError: If the stride is not positive, or edge or nadir is out of range.

    Example:
        >>> found = cloud(np.zeros((4, 8, 3), np.uint8), np.full((4, 8), 2, np.float32), stride=2)
        >>> found.points.shape, found.normals.shape
        ((8, 3), (8, 3))
    """
    if stride < 1:
        raise InputError(f"stride is a positive number of pixels, not {stride}")
    pick = (slice(None, None, stride), slice(None, None, stride))
    valid = clean_points(depth, edge, nadir)
    if normals is None:
        surface = depth_to_points(torch.from_numpy(np.where(valid, depth, 0))[None, None])
        normals = points_to_normals(surface)[0].permute(1, 2, 0).numpy()
    kept = valid[pick]
    rays: NDArray[np.float32] = erp_rays(*depth.shape)[pick].numpy()
    return Cloud(rays[kept] * depth[pick][kept][:, None], image[pick][kept], normals[pick][kept])


def clean_points(depth: NDArray[np.float32], edge: float | None = None, nadir: float = 0.0) -> NDArray[np.bool_]:
    """Return which pixels (H, W) of a panorama have a distance, without edges and the area below the camera.

    Args:
        depth: metres (H, W), 0 = no value.
        edge: leave out pixels where the distance differs from a neighbour's by more than this factor, above and below
            or left and right, across the seam too: they mix two surfaces, and their points float between them.
        nadir: leave out pixels less than this many degrees from straight down, where a tripod stands.

    Raises:
        InputError: If the ratio is not above 1, or the angle not from 0 to 180.

    Example:
        >>> depth = np.full((4, 8), 2, np.float32)
        >>> depth[0, 0] = 9
        >>> clean_points(depth, edge=1.5, nadir=50).astype(int).tolist()  # the lowest row is 22.5 degrees off
        [[0, 0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]]
    """
    if edge is not None and not edge > 1:
        raise InputError(f"edge is a ratio of distances above 1, not {edge}")
    if not 0 <= nadir <= 180:
        raise InputError(f"nadir is an angle from straight down in degrees, from 0 to 180, not {nadir}")
    valid: NDArray[np.bool_] = np.isfinite(depth) & (depth > 0)
    kept = valid.copy()
    if edge is not None:
        logarithm = np.log(np.where(valid, depth, 1))
        for axis in (0, 1):
            steep = np.abs(np.roll(logarithm, -1, axis) - logarithm) > np.log(edge)
            steep &= valid & np.roll(valid, -1, axis)
            if axis == 0:
                steep[-1] = False  # the lowest row does not touch the highest
            kept &= ~(steep | np.roll(steep, 1, axis))
    return kept & beyond_nadir(len(depth), nadir)[:, None]


def beyond_nadir(height: int, degrees: float) -> NDArray[np.bool_]:
    """Return which rows (H,) of a panorama are at least `degrees` from straight down.

    Example:
        >>> beyond_nadir(4, 50).tolist()  # the lowest row is 22.5 degrees off
        [True, True, True, False]
    """
    rows: NDArray[np.bool_] = (height - np.arange(height) - 0.5) / height * 180 >= degrees
    return rows
