"""Looking up a panorama, or any other image, between its pixels."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.sphere.padding import pad
from mtpano_zoo.sphere.rays import longitude_and_down, unit

Mode = Literal["image", "label", "depth", "vectors"]

# No direction lies further than half a pixel outside the image: one pixel of padding feeds every interpolation.
RING = (1, 1, 1, 1)


def sample(erp: Tensor, rays: Tensor, mode: Mode = "image") -> Tensor:
    """Values (B, C, ...) of an equirectangular map (B, C, H, W) in the directions of rays (B or 1, ..., 3).

    The modes differ in what may be mixed:

    - ``image``: bilinear, across the seam and over the poles. Integer maps are rounded back to their type.
    - ``label`` and ``depth``: the nearest pixel, untouched, in any type.
    - ``vectors``: bilinear over the vectors, then scaled to length one. A zero vector is a hole: it remains one where
      it is the nearest pixel, and has no weight elsewhere. The vectors keep the frame of the map.

    Rays may have any length. Gradients reach the map and, in the bilinear modes, the rays.

    Raises:
        ValueError: If a shape does not fit, the mode is unknown, or vectors do not have three components.
    """
    if erp.ndim != 4 or rays.ndim < 2 or rays.shape[-1] != 3 or rays.shape[0] not in (1, erp.shape[0]):
        raise ValueError(
            f"expected a map (B, C, H, W) and rays (B or 1, ..., 3), got {tuple(erp.shape)} and {tuple(rays.shape)}"
        )
    return interpolate(pad(erp, RING), padded_points(rays, *erp.shape[-2:]), mode)


def padded_points(rays: Tensor, height: int, width: int) -> Tensor:
    """Where rays (..., 3) meet a panorama padded by ``RING``: points (..., 2) as :func:`interpolate` takes them."""
    angles = torch.stack(longitude_and_down(rays.to(torch.promote_types(rays.dtype, torch.float32))))
    scale = angles.new_tensor([width / (math.pi * (width + 2)), 2 * height / (math.pi * (height + 2))])
    return (angles * scale.reshape(2, *[1] * (angles.ndim - 1))).movedim(0, -1)


def interpolate(maps: Tensor, points: Tensor, mode: Mode) -> Tensor:
    """Values (B, C, ...) of maps (B, C, H, W) at points (B or 1, ..., 2), as (x, y) from -1 to 1.

    -1 and 1 are the outer borders of the image. Beyond the centres of the outermost pixels their values go on. The
    modes are those of :func:`sample`.

    Raises:
        ValueError: If the mode is unknown, or vectors do not have three components.
    """
    check_mode(maps, mode, channel=1)
    if mode in ("label", "depth"):
        return _nearest(maps, points)
    values = _bilinear(maps, points)
    if mode == "vectors":
        known = (_nearest(maps, points) != 0).any(1, keepdim=True)
        values = torch.where(known, unit(values, dim=1), 0)
    return (values if maps.is_floating_point() else values.round()).to(maps.dtype)


def check_mode(maps: Tensor, mode: Mode, channel: int) -> None:
    """Refuse an unknown mode, and vectors whose channel dimension is not 3."""
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
    if mode == "vectors" and (maps.shape[channel] != 3 or not maps.is_floating_point()):
        raise ValueError(f"vectors need 3 floating-point channels, got {maps.dtype} {tuple(maps.shape)}")


def _bilinear(maps: Tensor, points: Tensor) -> Tensor:
    (batch, channels), places = maps.shape[:2], points.shape[1:-1]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32) if maps.is_floating_point() else torch.float32)
    # The CPU kernel shares out the batch among its threads, so a single map is presented once per view or row. Its
    # gradient would then be as large as all these copies: where one is wanted, we stay with one thread.
    spread = batch == 1 and len(places) > 1 and not (maps.requires_grad and torch.is_grad_enabled())
    count = places[0] if spread else batch
    grid = points.to(maps.dtype).reshape(places[0] if spread else points.shape[0], 1, -1, 2)
    values = F.grid_sample(
        maps.expand(count, -1, -1, -1), grid.expand(count, -1, -1, -1), padding_mode="border", align_corners=False
    )
    if spread:
        return values.reshape(count, channels, *places[1:]).movedim(0, 1)[None]
    return values.reshape(batch, channels, *places)


def _nearest(maps: Tensor, points: Tensor) -> Tensor:
    (batch, channels, height, width), places = maps.shape, points.shape[1:-1]
    column = (((points[..., 0] + 1) * width - 1) / 2).round().clamp(0, width - 1).long()
    row = (((points[..., 1] + 1) * height - 1) / 2).round().clamp(0, height - 1).long()
    index = (row * width + column).flatten(1)[:, None].expand(batch, channels, -1)
    return maps.flatten(2).gather(2, index).reshape(batch, channels, *places)
