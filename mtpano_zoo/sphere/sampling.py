"""Sampling a panorama, or any other image, between its pixels."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere.padding import pad
from mtpano_zoo.sphere.precision import at_least_float32
from mtpano_zoo.sphere.rays import longitude_and_down, unit

__all__ = ("Mode", "check_mode", "interpolate", "padded", "padded_points", "sample")

Mode = Literal["image", "label", "depth", "vectors"]

# No direction lies more than half a pixel outside the image, so one pixel of padding is enough for interpolation.
RING = (1, 1, 1, 1)

# On a CPU a single map is sampled in strips of this many columns, each an element of a batch: the kernel spreads the
# batch over its threads, and the pixels that a strip needs stay in the cache from one row to the next.
STRIP = 128


def sample(erp: Tensor, rays: Tensor, mode: Mode = "image") -> Tensor:
    """Sample an equirectangular map (B, C, H, W) in the directions of rays (B or 1, ..., N, 3): values (B, C, ..., N).

    The modes differ in what they blend:

    - ``image``: bilinear, across the seam and over the poles. Integer maps are rounded back to their type.
    - ``label`` and ``depth``: the nearest pixel, unchanged, in any type.
    - ``vectors``: bilinear, then scaled to length one. A zero vector is a hole: the result is zero where it is the
      nearest pixel, and it has no weight elsewhere. The vectors keep the frame of the map.

    Rays may have any length. Gradients reach the map and, in the bilinear modes, the rays.

    Raises:
        InputError: If a shape does not fit, the mode is unknown, or vectors do not have three components.

    Example:
        >>> erp = torch.tensor([10.0, 20.0, 30.0, 40.0]).expand(1, 1, 2, 4)
        >>> back = torch.tensor([[[0.0, 0.0, -1.0]]])  # the seam lies behind the camera
        >>> sample(erp, back).item(), sample(erp, torch.tensor([[[1.0, 0.0, 1.1]]]), "label").item()
        (25.0, 30.0)
    """
    if erp.ndim != 4 or rays.ndim < 3 or rays.shape[-1] != 3 or rays.shape[0] not in (1, erp.shape[0]):
        raise InputError(
            f"expected a map (B, C, H, W) and rays (B or 1, ..., N, 3), got {tuple(erp.shape)} and {tuple(rays.shape)}"
        )
    return interpolate(padded(erp, mode), padded_points(rays, *erp.shape[-2:]), mode)


def padded(erp: Tensor, mode: Mode) -> Tensor:
    """Pad a panorama by ``RING`` for :func:`interpolate`; ``label`` and ``depth`` are not blended.

    Example:
        >>> padded(torch.ones(1, 1, 4, 8), "image").shape
        torch.Size([1, 1, 6, 10])
    """
    return pad(erp, RING, nearest=mode in ("label", "depth"))


def padded_points(rays: Tensor, height: int, width: int) -> Tensor:
    """Return the points (..., 2) for :func:`interpolate` where rays (..., 3) meet a panorama padded by ``RING``."""
    longitude, down = longitude_and_down(rays.to(at_least_float32(rays.dtype)))
    x = longitude * (width / (math.pi * (width + 2)))
    y = down * (2 * height / (math.pi * (height + 2)))
    # Each coordinate is one plane in memory, as for rays.
    return torch.stack((x, y)).movedim(0, -1)


def interpolate(maps: Tensor, points: Tensor, mode: Mode, out: Tensor | None = None) -> Tensor:
    """Return the values (B, C, ...) of maps (B, C, H, W) at points (x, y), (B or 1, ..., 2), from -1 to 1.

    -1 and 1 are the outer borders of the image; beyond the centres of the outermost pixels, their values are repeated.
    The modes are those of :func:`sample`. The values are written to ``out`` if it is passed.

    Raises:
        InputError: If the mode is unknown, or vectors do not have three components.
    """
    check_mode(maps, mode, channel=1)
    if mode in ("label", "depth"):
        values = _nearest(maps, points)
        return values if out is None else out.copy_(values)
    values = _bilinear(maps, points)
    strips = values.shape[-2:]
    if mode == "vectors":
        known = (_nearest(maps, points) != 0).any(1, keepdim=True)
        values = torch.where(known.view(*known.shape[:-1], *strips), unit(values, dim=1), 0)
    if not maps.is_floating_point():
        values = values.round()
    if out is None:
        return values.flatten(-2).to(maps.dtype)
    out.view(*out.shape[:-1], *strips).copy_(values)
    return out


def check_mode(maps: Tensor, mode: Mode, channel: int) -> None:
    """Refuse an unknown mode, and vectors that are not three floating-point channels.

    Example:
        >>> check_mode(torch.zeros(1, 4, 2, 4), "nearest", channel=1)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    if mode not in get_args(Mode):
        raise InputError(f"unknown mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
    if mode == "vectors" and (maps.shape[channel] != 3 or not maps.is_floating_point()):
        raise InputError(f"vectors need 3 floating-point channels, got {maps.dtype} {tuple(maps.shape)}")


def _bilinear(maps: Tensor, points: Tensor) -> Tensor:
    """Return values (B, C, ..., strips, columns): the last dimension of the points is cut into strips."""
    (batch, channels), places = maps.shape[:2], points.shape[1:-1]
    maps = maps.to(at_least_float32(maps.dtype))
    points = points.to(maps.dtype)
    # With strips, the gradient of a map would be as large as all their copies of it.
    wanted = maps.requires_grad and torch.is_grad_enabled()
    if batch == 1 and maps.device.type == "cpu" and len(places) > 1 and places[-1] % STRIP == 0 and not wanted:
        grid = points.reshape(-1, places[-1] // STRIP, STRIP, 2).movedim(1, 0)
        return _grid_sample(maps, grid).permute(1, 2, 0, 3).view(1, channels, *places[:-1], -1, STRIP)
    values = _grid_sample(maps, points.flatten(1, -2)[:, None])
    return values.reshape(batch, channels, *places[:-1], 1, places[-1])


def _grid_sample(maps: Tensor, grid: Tensor) -> Tensor:
    count = len(grid) if len(maps) == 1 else len(maps)  # there may be none
    return F.grid_sample(
        maps.expand(count, -1, -1, -1), grid.expand(count, -1, -1, -1), padding_mode="border", align_corners=False
    )


def _nearest(maps: Tensor, points: Tensor) -> Tensor:
    (batch, channels, height, width), places = maps.shape, points.shape[1:-1]
    column = (((points[..., 0] + 1) * width - 1) / 2).round().clamp(0, width - 1).long()
    row = (((points[..., 1] + 1) * height - 1) / 2).round().clamp(0, height - 1).long()
    index = (row * width + column).flatten(1)[:, None].expand(batch, channels, -1)
    return maps.flatten(2).gather(2, index).reshape(batch, channels, *places)
