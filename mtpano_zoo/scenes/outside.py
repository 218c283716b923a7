"""Show panoramas in windows: looked up by direction, as if the outside were far away."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtpano_zoo.scenes.scene import Float32, Outside

__all__ = ("Backdrop", "backdrop", "choose", "look_out")

_WIDTH = 1024  # most columns that are kept of a panorama
_MEAN = 0.5  # mean brightness, as in the drawn horizon
_LIGHT = 0.94  # brightness of the light through a window
_BRIGHTEST = 98.0  # percentile at which the mean clips brightness, so that the sun does not make all else black
_MOST = 200.0  # largest value that is kept, far beyond white
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclasses.dataclass(frozen=True)
class Backdrop:
    """A panorama of the outside at an even brightness, whatever the camera's exposure was."""

    pixels: NDArray[np.float16]  # (H, W, 3) linear RGB, equirectangular
    light: tuple[float, float, float]  # mean colour over the sphere, as bright as the light of a drawn sky


def backdrop(light: Float32) -> Backdrop:
    """Prepare a panorama (H, W, 3) of linear RGB; non-finite and negative values become black.

    Example:
        >>> grey = backdrop(np.full((8, 16, 3), 7.0, np.float32))
        >>> float(grey.pixels.mean()), tuple(round(c, 3) for c in grey.light)
        (0.5, (0.94, 0.94, 0.94))
    """
    light = np.clip(np.where(np.isfinite(light), light, np.float32(0)), 0, 1e30)
    if light.shape[1] > _WIDTH:
        light = np.asarray(cv2.resize(light, (_WIDTH, _WIDTH // 2), interpolation=cv2.INTER_AREA), np.float32)
    rows = np.cos((0.5 - (np.arange(len(light)) + 0.5) / len(light)) * np.pi)
    weights = (rows / rows.sum() / light.shape[1]).astype(np.float32)[:, None]
    brightness = light @ _LUMINANCE
    mean = float((np.minimum(brightness, np.percentile(brightness, _BRIGHTEST)) * weights).sum())
    color = (light * weights[..., None]).sum((0, 1), dtype=np.float64)
    color *= _LIGHT / max(float(color @ _LUMINANCE), 1e-30)
    pixels = np.minimum(light * np.float32(_MEAN / max(mean, 1e-30)), np.float32(_MOST)).astype(np.float16)
    return Backdrop(pixels, (float(color[0]), float(color[1]), float(color[2])))


def choose(backdrops: Sequence[Backdrop], key: int) -> tuple[Backdrop, Outside]:
    """Choose a backdrop and its yaw for a scene, with random numbers that the scene itself does not use."""
    which, turn = np.random.Generator(np.random.Philox(key=key).jumped(3)).random(2)
    chosen = backdrops[int(which * len(backdrops))]
    return chosen, Outside(chosen.pixels, 2 * np.pi * float(turn))


def look_out(pixels: Tensor, turn: float, east: Tensor, down: Tensor, north: Tensor) -> Tensor:
    """Return the colours (N, 3) of a panorama (H, W, 3) in directions of any length, room frame; bilinear."""
    height, width = pixels.shape[:2]
    longitude = torch.atan2(east, north) + turn
    latitude = torch.atan2(-down, (east * east + north * north).sqrt())
    u = (longitude / (2 * torch.pi) + 0.5) * width - 0.5
    v = ((0.5 - latitude / torch.pi) * height - 0.5).clamp(0, height - 1)
    left, top = u.floor(), v.floor().clamp(max=height - 2)
    flat = pixels.reshape(-1, 3)

    def texel(below: int, right: int) -> Tensor:
        row, column = top.long() + below, (left.long() + right) % width
        return flat.index_select(0, row * width + column).float()

    across, along = (u - left)[:, None], (v - top)[:, None]
    above = torch.lerp(texel(0, 0), texel(0, 1), across)
    return torch.lerp(above, torch.lerp(texel(1, 0), texel(1, 1), across), along)
