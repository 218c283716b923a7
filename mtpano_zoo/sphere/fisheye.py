"""Fisheye images: where a lens shows a direction, and how the images of several lenses become a panorama."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere.rays import erp_rays, rotate_rays

__all__ = ("Lens", "fisheye_points", "from_fisheyes")

RIM = 1.5  # pixels at the rim that are not sampled: interpolation would mix them with the black beside the circle


class Lens(NamedTuple):
    """An equidistant fisheye lens: the distance from the centre of its circle grows with the angle off its axis.

    Attributes:
        centre: column and row of the optical axis, in pixels; integers are pixel centres.
        radius: distance in pixels from there to the rim of the field of view.
        fov: field of view across the circle in degrees.
        rotation: camera-to-world (3, 3): from the frame of the lens, which looks along +z, to that of the panorama.
    """

    centre: tuple[float, float]
    radius: float
    fov: float
    rotation: Tensor


def fisheye_points(rays: Tensor, lens: Lens) -> tuple[Tensor, Tensor]:
    """Return where a lens shows rays (H, W, 3) of the panorama, (u, v) (H, W, 2), and their angles off its axis (H, W).

    The angles are in radians; beyond half the field of view, a lens shows nothing.

    Example:
        >>> lens = Lens((50.0, 40.0), 30.0, 180.0, torch.eye(3))
        >>> points, angle = fisheye_points(torch.tensor([[[1.0, 0.0, 0.0]]]), lens)  # to the right, at the rim
        >>> points.flatten().tolist(), round(angle.item(), 3)
        ([80.0, 40.0], 1.571)
    """
    x, y, z = rotate_rays(rays, lens.rotation.mT).unbind(-1)
    off = torch.hypot(x, y)
    angle = torch.atan2(off, z)
    scale = lens.radius / math.radians(lens.fov / 2) * angle / off.clamp_min(1e-12)
    return torch.stack((lens.centre[0] + scale * x, lens.centre[1] + scale * y), -1), angle


def from_fisheyes(image: Tensor, lenses: Sequence[Lens], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the panorama (C, H, W) that lenses show in one image (C, h, w), and a mask of what they see (H, W).

    The image is sampled bilinearly. Where lenses overlap, they are blended by how far a direction is from the rim of
    each, so that no rim is visible. Pixels that no lens sees are zero; a lens sees nothing beyond the image, which may
    cut off its circle.

    Raises:
        InputError: If the image is not (C, h, w) of a floating-point type, or there is no lens.
    """
    if image.ndim != 3 or not image.is_floating_point() or not lenses:
        raise InputError(f"expected an image (C, h, w) of numbers and at least one lens, got {tuple(image.shape)}")
    rays = erp_rays(height, width, device=image.device, dtype=image.dtype)
    rows, columns = image.shape[1:]
    sums, weights = image.new_zeros(image.shape[0], height, width), image.new_zeros(height, width)
    for lens in lenses:
        points, angle = fisheye_points(rays, lens)
        centre = points.new_tensor(lens.centre)
        inside = (max(lens.radius - RIM, 0) / (points - centre).norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(
            1
        )
        points = torch.lerp(centre, points, inside)
        grid = (2 * points + 1) / points.new_tensor((columns, rows)) - 1
        shown = (grid.abs() <= 1).all(-1)  # the sensor may be smaller than the circle
        weight = (math.radians(lens.fov / 2) - angle).clamp_min(0) * shown
        values = F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]
        sums += weight * values
        weights += weight
    return sums / weights.clamp_min(1e-12), weights > 0
