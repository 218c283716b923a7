"""Positions of tokens on the sphere: ray direction, absolute position and distance from the poles."""

import math

import torch
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.layers.convolution import Convention

__all__ = ("GEOMETRY_CHANNELS", "geometry_encoding", "pole_weights")

GEOMETRY_CHANNELS: dict[Convention, int] = {"sphere": 6, "paper": 5}


def geometry_encoding(convention: Convention, like: Tensor) -> Tensor:
    """Return ray direction and absolute position (1, C, H, W) of every token of the map `like` (B, any, H, W).

    `convention="sphere"`: ray at the pixel centre (x right, y down, z forward), sine and cosine of the longitude, and
    latitude in quarter turns; every channel is continuous across the seam (C = 6).
    `convention="paper"`: rays (sin p cos t, cos p, sin p sin t) and the angles (p, t) in radians, with colatitude p and
    longitude t sampled from the first to the last pixel inclusive (C = 5).

    Example:
        >>> geometry_encoding("sphere", like=torch.zeros(1, 8, 3, 5))[0, :, 1, 2].round().abs().tolist()  # the centre
        [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    """
    height, width = like.shape[-2:]
    if convention == "sphere":
        longitude, latitude = sphere.erp_angles(height, width, device=like.device, dtype=torch.float32)
        position = torch.stack(
            (
                longitude.sin().expand(height, width),
                longitude.cos().expand(height, width),
                (latitude[:, None] / (math.pi / 2)).expand(height, width),
            )
        )
        rays = sphere.erp_rays(height, width, device=like.device, dtype=torch.float32).permute(2, 0, 1)
        return torch.cat((rays, position))[None].to(like.dtype)
    colatitude = torch.linspace(0, 1, height, device=like.device)[:, None].expand(height, width) * math.pi
    longitude = torch.linspace(0, 1, width, device=like.device).expand(height, width) * (2 * math.pi)
    x, y, z = colatitude.sin() * longitude.cos(), colatitude.cos(), colatitude.sin() * longitude.sin()
    return torch.stack((x, y, z, colatitude, longitude))[None].to(like.dtype)


def pole_weights(convention: Convention, like: Tensor) -> Tensor:
    """Return the weight (H, 1) of the pole branch in every row of `like` (B, C, H, W): |sin latitude|, as in MTPano.

    Example:
        >>> [round(weight, 2) for weight in pole_weights("sphere", like=torch.zeros(1, 8, 3, 6)).flatten().tolist()]
        [0.87, 0.0, 0.87]
    """
    height = like.shape[-2]
    if convention == "sphere":
        latitude = sphere.erp_latitudes(height, device=like.device, dtype=torch.float32)
        return latitude.sin().abs()[:, None].to(like.dtype)
    colatitude = torch.linspace(0, 1, height, device=like.device) * math.pi
    return colatitude.cos().abs()[:, None].to(like.dtype)
