"""Parts of the sphere that a measure uses, chosen so that one defect does not enter two measures."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from mtpano_zoo.sphere import erp_angles

__all__ = ("BANDS", "away_from_border", "band_names", "between_poles", "core", "in_band")

POLE = 60.0  # degrees of latitude where the polar caps begin
BORDER = 16  # a sixteenth of the columns at either edge belongs to the seam
BANDS = (-90, -60, -30, 0, 30, 60, 90)


def between_poles(height: int, width: int) -> Tensor:
    """Return the mask (H, W) of the latitudes up to 60 degrees.

    Example:
        >>> between_poles(6, 1).flatten().tolist()
        [False, True, True, True, True, False]
    """
    latitude = erp_angles(height, width)[1].rad2deg()
    return (latitude.abs() <= POLE)[:, None].expand(height, width)


def away_from_border(height: int, width: int) -> Tensor:
    """Return the mask (H, W) without a sixteenth of the columns, at least two, at either edge.

    Example:
        >>> away_from_border(1, 8).tolist()
        [[False, False, True, True, True, True, False, False]]
    """
    edge = max(2, math.ceil(width / BORDER))
    column = torch.arange(width)
    return ((column >= edge) & (column < width - edge)).expand(height, width)


def core(height: int, width: int) -> Tensor:
    """Return the mask (H, W) of pixels between the poles and away from the border."""
    return between_poles(height, width) & away_from_border(height, width)


def band_names() -> list[str]:
    """Return the names of the latitude bands, from the nadir up.

    Example:
        >>> band_names()[0]
        '-90 to -60'
    """
    return [f"{low} to {high}" for low, high in pairwise(BANDS)]


def in_band(height: int, width: int, number: int) -> Tensor:
    """Return the mask (H, W) of a band of `BANDS`."""
    latitude = erp_angles(height, width)[1].rad2deg()
    return ((latitude > BANDS[number]) & (latitude <= BANDS[number + 1]))[:, None].expand(height, width)
