"""Points and normals of the surfaces around a panorama, and the solid angle of its pixels."""

import math

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere.padding import pad
from mtpano_zoo.sphere.precision import check_floating, floating
from mtpano_zoo.sphere.rays import erp_angles, erp_rays, unit

__all__ = ("depth_to_points", "latitude_weights", "points_to_normals", "solid_angles")


def depth_to_points(depth: Tensor) -> Tensor:
    """Return points (B, 3, H, W) in metres for distances along the ray (B, 1, H, W); no depth (0) maps to the origin.

    Integer depth yields float32 points.

    Raises:
        InputError: If depth is not (B, 1, H, W).

    Example:
        >>> points = depth_to_points(torch.full((1, 1, 3, 3), 2.0))
        >>> (points[0, :, 1, 1] + 0.0).tolist()
        [0.0, 0.0, 2.0]
    """
    if depth.ndim != 4 or depth.shape[1] != 1:
        raise InputError(f"depth must be (B, 1, H, W), got {tuple(depth.shape)}")
    depth = floating(depth)
    rays = erp_rays(*depth.shape[-2:], device=depth.device, dtype=depth.dtype)
    return depth * rays.permute(2, 0, 1)


def points_to_normals(points: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return unit normals (B, 3, H, W), turned towards the camera, of the surface through points (B, 3, H, W).

    The normal is the cross product of central differences, which wrap at the seam and continue over the poles. Next to
    an invalid pixel the difference is one-sided. Invalid pixels, and pixels without a valid neighbour in one of the two
    directions, get the zero vector. Across a depth edge the result is a slanted mixture, as with any finite difference.

    Args:
        points: Positions in metres; the origin and non-finite values count as invalid.
        valid: Mask of pixels to use, bool (B, 1, H, W); all by default.

    Raises:
        InputError: If points are not (B, 3, H, W) or the mask does not fit them.

    Example:
        >>> sphere = depth_to_points(torch.full((1, 1, 32, 64), 2.0))  # a wall all around
        >>> normals = points_to_normals(sphere)
        >>> round((normals * sphere / 2).sum(1).mean().item(), 3)  # towards the camera
        -1.0
    """
    if points.ndim != 4 or points.shape[1] != 3:
        raise InputError(f"points must be (B, 3, H, W), got {tuple(points.shape)}")
    points = floating(points)
    known = points.isfinite().all(1, keepdim=True) & (points != 0).any(1, keepdim=True)
    if valid is not None:
        if valid.shape != known.shape or valid.dtype != torch.bool:
            raise InputError(f"valid must be bool {tuple(known.shape)}, got {valid.dtype} {tuple(valid.shape)}")
        known = known & valid
    points = torch.where(known, points, 0)
    # If the width is odd, the neighbour over a pole is the mean of two pixels, and both must be known.
    around, around_known = pad(points, (1, 1, 1, 1)), pad(known.to(points.dtype), (1, 1, 1, 1)) == 1

    def neighbour(row: int, column: int) -> Tensor:
        # The pixel itself stands in for an unknown neighbour: the difference is then one-sided, or zero.
        height, width = points.shape[-2:]
        window = (..., slice(row, row + height), slice(column, column + width))
        return torch.where(around_known[window], around[window], points)

    across = neighbour(1, 2) - neighbour(1, 0)
    down = neighbour(2, 1) - neighbour(0, 1)
    normals = unit(torch.linalg.cross(down, across, dim=1), dim=1)
    # A surface seen from the front already points at the camera; only noise and depth edges need turning.
    away = (normals * points).sum(1, keepdim=True) > 0
    return torch.where(known, torch.where(away, -normals, normals), 0)


def solid_angles(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the solid angle in steradians of a pixel in every row (H, 1); all H x W pixels sum to 4 pi.

    Exact: (2 pi / W) (sin of the upper edge - sin of the lower edge), with the difference written as a product.

    Raises:
        InputError: If a side is not positive, or ``dtype`` is not a floating-point type.

    Example:
        >>> round((solid_angles(32, 64).sum() * 64 / torch.pi).item(), 4)
        4.0
    """
    check_floating(dtype)
    _, latitude = erp_angles(height, width, dtype=torch.float64)
    angles = latitude.cos() * (4 * math.pi / width * math.sin(math.pi / (2 * height)))
    return angles[:, None].to(dtype).to(device)


def latitude_weights(
    height: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the weight of every row (H, 1): the cosine of its latitude, scaled to mean one.

    Raises:
        InputError: If the height is not positive, or ``dtype`` is not a floating-point type.

    Example:
        >>> latitude_weights(3).flatten().round(decimals=3).tolist()
        [0.75, 1.5, 0.75]
    """
    check_floating(dtype)
    _, latitude = erp_angles(height, 1, dtype=torch.float64)
    weights = latitude.cos()
    return (weights / weights.mean())[:, None].to(dtype).to(device)
