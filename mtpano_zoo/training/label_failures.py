"""Typical failures of depth labels, made on purpose to train or test a discriminator.

A failure takes distances (B, H, W) in metres, 0 = none, and random numbers (B,) in [0, 1); it returns distances.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mtpano_zoo.resize import resize

__all__ = ("FAILURES",)

STEP = math.log(2)  # of the log-distance across a broken seam
COARSE = 8  # rows and columns of the label per pixel of the blurred one


def scaled(depth: Tensor, chance: Tensor) -> Tensor:
    """Double or halve the distances.

    Example:
        >>> scaled(torch.ones(2, 1, 1), torch.tensor([0.2, 0.8])).flatten().tolist()
        [0.5, 2.0]
    """
    return depth * torch.where(chance < 0.5, 0.5, 2.0)[:, None, None]


def filled(depth: Tensor, chance: Tensor) -> Tensor:
    """Fill holes, such as the sky, with the median distance: a surface that does not exist.

    Labels without a hole stay as they are.

    Example:
        >>> depth = torch.full((1, 8, 16), 3.0)
        >>> depth[:, 0] = 0.0  # the sky
        >>> filled(depth, torch.zeros(1)).unique().tolist()
        [3.0]
    """
    known = torch.where(depth > 0, depth, torch.nan).flatten(1)
    middle = known.nanmedian(1).values.nan_to_num(1.0)[:, None, None]
    return torch.where(depth > 0, depth, middle)


def seam_broken(depth: Tensor, chance: Tensor) -> Tensor:
    """Let the scale drift by a factor of two around the panorama, so that its ends do not meet.

    Example:
        >>> seam_broken(torch.ones(1, 1, 64), torch.ones(1))[0, 0, [0, -1]].round(decimals=1).tolist()
        [0.699999988079071, 1.399999976158142]
    """
    width = depth.shape[-1]
    drift = STEP * ((torch.arange(width, device=depth.device) + 0.5) / width - 0.5)
    towards = torch.where(chance < 0.5, -1.0, 1.0)[:, None, None]
    return depth * (towards * drift).exp().to(depth.dtype)


def blurred(depth: Tensor, chance: Tensor) -> Tensor:
    """Resample the distances through a grid eight times coarser."""
    height, width = depth.shape[-2:]
    coarse = (max(1, height // COARSE), max(1, width // COARSE))
    return torch.where(depth > 0, resize(resize(depth, *coarse), height, width), 0)


def mirrored(depth: Tensor, chance: Tensor) -> Tensor:
    """Swap left and right.

    Example:
        >>> mirrored(torch.tensor([[[1.0, 2.0]]]), torch.zeros(1)).tolist()
        [[[2.0, 1.0]]]
    """
    return depth.flip(-1)


def copied(depth: Tensor, chance: Tensor) -> Tensor:
    """Return the distances of the previous panorama in the batch.

    Example:
        >>> copied(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), torch.zeros(3)).flatten().tolist()
        [3.0, 1.0, 2.0]
    """
    return depth.roll(1, 0)


FAILURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scaled": scaled,
    "filled": filled,
    "seam_broken": seam_broken,
    "blurred": blurred,
    "mirrored": mirrored,
    "copied": copied,
}
