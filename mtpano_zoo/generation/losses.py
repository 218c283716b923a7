"""Losses for training a generator: flow matching, with the published terms by name.

The error of the velocities is measured on the panorama, on the faces of a cube and, as published, on the turned
panorama. With an exact turn, the last term equals the first, so by default the data are turned instead.
"""

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError

__all__ = ("YAWS", "FlowLoss", "dit360_cube", "published_yaw")

YAWS = (60.0, 180.0, 300.0)
"""Angles of the published yaw loss in degrees; every step uses one of them for its whole batch."""
Cube = Literal["pixel-centres", "published"]
Masking = Literal["per sample", "published"]


class FlowLoss:
    """Mean squared error of velocities, with optional terms on a cube and on a turned panorama.

    The published settings are `FlowLoss(cube=0.5, yaw=0.5, cube_sampling="published", first_epoch=2)` for panoramas,
    and `FlowLoss(cube=0.5, yaw=0.5, cube_sampling="published", epochs=3, masking="published")` for panoramas with
    photographs.

    Args:
        cube: Weight of the error on the faces of a cube, which gives the poles less and the horizon more weight.
        yaw: Weight of the published yaw term.
        cube_sampling: ``pixel-centres`` samples at pixel centres and wraps around. ``published`` puts the outermost
            pixels on the edges of faces and panorama.
        first_epoch: First epoch with these two terms, from 0.
        epochs: Number of epochs with these two terms. If omitted, all from `first_epoch` on.
        masking: ``per sample``: all supervised pixels of the batch count equally, and fully supervised samples of a
            mixed batch get the other terms too. ``published``: one sample that is not fully supervised removes those
            terms from the whole batch and halves its error.

    Raises:
        InputError: If a weight is negative or a name is unknown.
    """

    def __init__(
        self,
        cube: float = 0.0,
        yaw: float = 0.0,
        cube_sampling: Cube = "pixel-centres",
        first_epoch: int = 0,
        epochs: int | None = None,
        masking: Masking = "per sample",
    ) -> None:
        if min(cube, yaw) < 0:
            raise InputError(f"weights of terms must not be negative: cube {cube}, yaw {yaw}")
        for name, value, known in (("cube_sampling", cube_sampling, Cube), ("masking", masking, Masking)):
            if value not in get_args(known):
                raise InputError(f"{name} must be one of {', '.join(get_args(known))}, not {value!r}")
        self.cube = cube
        self.yaw = yaw
        self.cube_sampling = cube_sampling
        self.masking = masking
        self.first_epoch = first_epoch
        self.epochs = epochs

    def __call__(
        self,
        predicted: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        epoch: int = 0,
        angle: float = YAWS[0],
    ) -> dict[str, Tensor]:
        """Return the terms and their weighted sum `total`.

        Args:
            predicted: Velocities (B, C, h, w).
            target: noise - latents, of the same shape.
            weight: Weight of each sample (B,). If omitted, 1.
            mask: Which latents (B, h, w) are supervised. If omitted, all of them.
            epoch: Number of the epoch, from 0.
            angle: Angle of the yaw term in degrees.
        """
        predicted, target = predicted.float(), target.float()
        if weight is not None and not bool((weight == 1).all()):
            root = weight.sqrt().view(-1, 1, 1, 1)
            predicted, target = predicted * root, target * root
        whole = torch.ones(len(target), dtype=torch.bool) if mask is None else mask.flatten(1).all(1).cpu()
        terms = {"flow": self._flow(predicted, target, None if bool(whole.all()) else mask)}
        if self._has_terms(epoch) and bool(whole.all() if self.masking == "published" else whole.any()):
            keep = whole.to(predicted.device)
            terms |= self._terms(predicted[keep], target[keep], angle)
        weights = {"flow": 1.0, "cube": self.cube, "yaw": self.yaw}
        total = sum((weights[name] * term for name, term in terms.items()), torch.zeros_like(terms["flow"]))
        return {**terms, "total": total}

    def _has_terms(self, epoch: int) -> bool:
        past = epoch - self.first_epoch
        return past >= 0 and (self.epochs is None or past < self.epochs)

    def _flow(self, predicted: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return F.mse_loss(predicted, target)
        supervised = mask[:, None].expand_as(target).to(target)
        mean = ((predicted - target).square() * supervised).sum() / supervised.sum().clamp(min=1)
        return 0.5 * mean if self.masking == "published" else mean

    def _terms(self, predicted: Tensor, target: Tensor, angle: float) -> dict[str, Tensor]:
        terms = {}
        if self.cube:
            size = target.shape[2] // 2
            faces = dit360_cube if self.cube_sampling == "published" else sphere.to_cubemap
            terms["cube"] = faces(predicted - target, size).square().mean()
        if self.yaw:
            terms["yaw"] = published_yaw(predicted - target, angle).square().mean()
        return terms


def published_yaw(erp: Tensor, degrees: float) -> Tensor:
    """Turn a map (B, C, H, W) to the left as DiT360 does, by resampling between end-inclusive pixels.

    The first and last row are turned half a turn further: their latitude is exactly 90 degrees, whose cosine is
    negative in float32. There, rounding decides between the outermost columns at the wrap, so the operations and their
    order are the published ones.
    """
    height, width = erp.shape[2:]
    options: dict[str, Any] = {"device": erp.device, "dtype": torch.float32}
    latitude = torch.linspace(math.pi / 2, -math.pi / 2, height, **options)[:, None]
    longitude = torch.linspace(-math.pi, math.pi, width, **options)
    x, z = torch.cos(latitude) * torch.sin(longitude), torch.cos(latitude) * torch.cos(longitude)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = torch.atan2(cos * x + sin * z, cos * z - sin * x)
    rows = (-latitude / (math.pi / 2)).expand(height, width)
    return _between_ends(erp, torch.stack([turned / math.pi, rows], -1)[None])[0]


def dit360_cube(erp: Tensor, size: int) -> Tensor:
    """Cut a map (B, C, H, W) into faces (B, 6, C, S, S) as DiT360 does: +X -X +Y -Y +Z -Z, four of them mirrored.

    The outermost pixels of a face lie on its edges. Those of the map lie on its border, across which it does not wrap.
    """
    grid = torch.linspace(-1, 1, size, device=erp.device, dtype=torch.float32)
    v, u = torch.meshgrid(grid, grid, indexing="ij")
    one = torch.ones_like(u)
    faces = [(one, v, u), (-one, v, -u), (u, one, v), (u, -one, -v), (u, v, one), (-u, v, -one)]
    rays = torch.stack([torch.stack(face, -1) for face in faces])
    rays = rays / rays.norm(dim=-1, keepdim=True)
    x, y, z = rays.unbind(-1)
    points = torch.stack([torch.atan2(x, z) / math.pi, torch.asin(y) / (math.pi / 2)], -1)
    return _between_ends(erp, points).movedim(0, 1)


def _between_ends(erp: Tensor, points: Tensor) -> Tensor:
    """Sample (B, C, H, W) at F grids (F, h, w, 2), in which -1 and 1 are the centres of the outermost pixels."""
    count, batch = len(points), len(erp)
    maps = erp.expand(count, *erp.shape).flatten(0, 1)
    grids = points[:, None].expand(count, batch, *points.shape[1:]).flatten(0, 1).to(erp)
    sampled = F.grid_sample(maps, grids, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.reshape(count, batch, *sampled.shape[1:])
