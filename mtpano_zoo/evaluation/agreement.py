"""Measures of how far a network agrees with itself: on rolled panoramas, and on the faces of a cube.

They return what those of `mtpano_zoo.evaluation.measures` do, and maps are the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtpano_zoo.evaluation.measures import Alignment, Ratio, error_of, log_ratio, mean_over
from mtpano_zoo.evaluation.regions import core
from mtpano_zoo.metrics.pooling import Weighting, pixel_weights
from mtpano_zoo.sphere import from_cubemap, to_cubemap

__all__ = ("cross_on_faces", "cross_on_panorama", "roll_spread")


def roll_spread(task: str, upright: Tensor, others: Sequence[Tensor], columns: Sequence[int]) -> Ratio:
    """Return the difference between predictions for rolled panoramas, rolled back, and for the original.

    This is the mean `|log ratio|`, the mean angle in degrees, or the share of pixels of another class, in the core.

    Args:
        task: `depth`, `normals` or `semseg`.
        upright: map of the original.
        others: maps of the rolled ones, rolled back (and vectors turned back).
        columns: number of columns by which each was rolled.

    Example:
        >>> depth = torch.full((16, 32), 2.0)
        >>> roll_spread("depth", depth, [depth], [8])[0]
        0.0
    """
    total = [0.0, 0.0]
    inside = core(*upright.shape[-2:])
    for other, count in zip(others, columns, strict=True):
        _, size, known = error_of(task, other, upright, Alignment(0.0, torch.eye(3)))
        part = mean_over(size, known & inside & inside.roll(count, -1))
        total = [a + b for a, b in zip(total, part, strict=True)]
    return total[0], total[1]


def cross_on_faces(panorama: Tensor, faces: Tensor) -> Ratio:
    """Return the mean `|log ratio|`, up to a common scale, between cube faces (6, S, S) and a panorama's (H, W).

    Both are distances along the ray. The order of the faces is front, right, back, left, up, down.

    Example:
        >>> cross_on_faces(torch.full((16, 32), 2.0), torch.full((6, 8, 8), 3.0))[0] < 1e-6
        True
    """
    cut = to_cubemap(panorama[None, None], faces.shape[-1], "depth")[0, :, 0]
    return _disagreement(faces.flatten(0, 1), cut.flatten(0, 1), "pixel")


def cross_on_panorama(panorama: Tensor, faces: Tensor) -> Ratio:
    """Return the same as `cross_on_faces`, on a panorama joined from the faces and weighted by solid angle.

    Example:
        >>> cross_on_panorama(torch.full((16, 32), 2.0), torch.full((6, 8, 8), 3.0))[0] < 1e-6
        True
    """
    height, width = panorama.shape
    joined = from_cubemap(faces[None, :, None].to(panorama.dtype), height, width, "depth")[0, 0]
    return _disagreement(joined, panorama, "solid_angle")


def _disagreement(one: Tensor, other: Tensor, weighting: Weighting) -> Ratio:
    ratio, known = log_ratio(one, other)
    if not known.any():
        return 0.0, 0.0
    weights = pixel_weights(known[None], weighting)[0].double()
    distance = (ratio.double() - ratio[known].double().median()).abs()
    return float((torch.where(known, distance, 0) * weights).sum() / weights.sum()), 1.0
