"""Rotations and cube faces as in the published code of Depth Anywhere.

Pixel centres are where ours are, but maps are sampled as if the first and the last column were the same meridian and
the first and the last row the poles. Samples are up to half a pixel off, there is a seam, and even a rotation by zero
changes a map. Faces are in the order back, down, front, left, right, up.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.sphere import cube_rotations, erp_rays, perspective_rays, rays_to_angles, rotate_rays

__all__ = ("FACES", "depth_anywhere_cube", "published_face_disparity", "published_rotate", "published_sample")

FACES = (2, 5, 0, 3, 1, 4)
"""Back, down, front, left, right, up among the faces of `mtpano_zoo.sphere.to_cubemap`."""
AHEAD = ((2, -1), (1, 1), (2, 1), (0, -1), (0, 1), (1, -1))  # axis and sign of their z


def published_sample(maps: Tensor, rays: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample maps (B, C, H, W) in the directions of rays (B or 1, h, w, 3), `bilinear` or `nearest`."""
    longitude, latitude = rays_to_angles(rays)
    grid = torch.stack((longitude / math.pi, latitude / (-math.pi / 2)), dim=-1).to(maps.dtype)
    return F.grid_sample(maps, grid.expand(len(maps), -1, -1, -1), mode=mode, padding_mode="border", align_corners=True)


def published_rotate(maps: Tensor, rotation: Tensor, mode: str = "bilinear") -> Tensor:
    """Rotate maps (B, C, H, W) by camera-to-world rotations (3, 3) or (B, 3, 3)."""
    rays = erp_rays(*maps.shape[-2:], device=maps.device, dtype=torch.float64)
    return published_sample(maps, rotate_rays(rays, rotation.reshape(-1, 3, 3)), mode)


def depth_anywhere_cube(maps: Tensor, size: int, mode: str = "bilinear", fov: float = 90.0) -> Tensor:
    """Cut maps (B, C, H, W) into faces (B, 6, C, size, size), see `FACES`."""
    turns = cube_rotations(device=maps.device, dtype=torch.float64)[list(FACES)]
    rays = perspective_rays(size, size, fov=fov, rotation=turns, dtype=torch.float64)
    strip = published_sample(maps, rays.flatten(0, 1)[None], mode)
    return strip.view(*strip.shape[:2], 6, size, size).movedim(2, 1)


def published_face_disparity(disparity: Tensor, rotation: Tensor, size: int) -> Tensor:
    """Return the inverse z-depth (B, 6, size, size) of faces from inverse distances (B, 1, H, W) of a network.

    As published, it takes nearest pixels twice. If a value is below zero, all panoramas of the batch are shifted so
    that the smallest value is zero. The panorama is rotated by the transposed rotation (3, 3), and the z-depth of a
    face's pixel uses the ray of the panorama's pixel that it was taken from. Nothing is inverted on the way, so a value
    of zero has a gradient.
    """
    lowest = disparity.min()
    disparity = torch.where(lowest < 0, disparity - lowest, disparity)
    turned = published_rotate(disparity, rotation.mT, "nearest")
    faces = depth_anywhere_cube(turned, size, "nearest")[:, :, 0]
    rays = erp_rays(*turned.shape[-2:], device=turned.device, dtype=turned.dtype)
    seen = depth_anywhere_cube(rays.movedim(-1, 0)[None], size, "nearest")[0]
    ahead = torch.stack([sign * seen[face, axis] for face, (axis, sign) in enumerate(AHEAD)])
    return faces / ahead
