"""One scale (and for disparity one shift) per view, such that all views agree where they overlap.

View v sees pixel p at an angle from its axis with the cosine c, and observes x, the inverse z-depth or disparity. This
means the log-distance

    y(p, v) = -log(c(p, v) (a(v) x(p, v) + b(v))),    b = 0 unless x is a disparity.

With one unknown log-distance m per pixel, the sum of w(p, v) (y(p, v) - m(p))^2 is smallest at m = weighted mean of y.
Substituting it leaves one or two unknowns per view, whatever the number of pixels: linear in log a for depths,
Gauss-Newton for disparities. Outliers lose their weight: w is multiplied by the Cauchy weight 1 / (1 + (r / delta)^2)
of the last residual r = y - m, with delta falling from coarse to the spread of the residuals.

The log of a disparity near zero, such as a network sees in the sky, is mostly noise, but would weigh more than all the
ground. So with disparities, y goes on linearly in the inverse distance beyond a few times the median distance.

The data do not determine a common factor of connected views. It is chosen such that metric views are right on average
(their log a have a robust mean of 0) or, without any of them, such that the median distance of the views is about 1. It
enters as a faint pull on every view, so that groups of views without overlap are solved separately.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtpano_zoo.labeling.teachers.base import DepthKind

__all__ = ("Observations", "align_views")

# delta of the successive solutions, in log-distance, down to the smallest ever used.
DELTAS = (1.0, 0.5, 0.25, 0.12, 0.06, 0.06, 0.06, 0.06)
SMALLEST_DELTA = 0.01
# Inverse distance, relative to the median, below which log-distance goes on linearly if there are disparities.
FAR = 0.3
# The pull of the first guess towards the previous one: a faint one lets views of a single plane run away.
DAMPING = 0.1
# The pull on metric views and on others, relative to the weight of all pixels of a view.
PULL, FAINT_PULL = 1e-5, 1e-10
TINY = 1e-12


@dataclass(frozen=True)
class Observations:
    """Observations of K pixels in N views.

    Args:
        values: Inverse z-depth, or disparity, (K, N).
        cosines: Cosine of the angle between the pixel's ray and the view's axis, (K, N); 1 for values along the ray.
        weights: Weights (K, N); 0 where the view has no value.
        kinds: Kinds of depth of the N views.
    """

    values: Tensor
    cosines: Tensor
    weights: Tensor
    kinds: Sequence[DepthKind]


def align_views(seen: Observations) -> tuple[Tensor, Tensor]:
    """Return scales a and shifts b (N,), float64 on the CPU: the distance of a value x is 1 / (c (a x + b)).

    A view that overlaps no other keeps its scale 1 if it is metric; otherwise it gets a median distance of 1.
    """
    weights, x, c = (values.double().cpu() for values in (seen.weights, seen.values, seen.cosines))
    known = weights > 0
    x, c = torch.where(known, x, 1), torch.where(known, c, 1)
    disparity = torch.tensor([kind == "disparity" for kind in seen.kinds])
    metric = torch.tensor([kind == "metric" for kind in seen.kinds])
    weights = weights / weights.sum(0).mean().clamp(min=1e-30)
    middle = _medians(x * c, known)
    # All start at the scale of the metric views: far from it, the robust solution keeps disparities where they start.
    anchors = metric & known.any(0)
    scale = torch.where(metric, 1.0, (middle[anchors].median() if anchors.any() else 1.0) / middle)
    shift = torch.zeros_like(scale)
    if disparity.any():
        scale, shift = _linear(x, c, weights, scale, disparity)
    return _refine(x, c, weights, scale, shift, disparity, metric)


def _median(values: Tensor) -> Tensor:
    return values.median() if len(values) else values.new_ones(())


def _medians(values: Tensor, known: Tensor) -> Tensor:
    """Return the median of every view's known values."""
    return torch.stack([_median(one[there]) for one, there in zip(values.mT, known.mT, strict=True)])


def _linear(x: Tensor, c: Tensor, weights: Tensor, scale: Tensor, disparity: Tensor) -> tuple[Tensor, Tensor]:
    """Return a first guess if there are disparities: scales and shifts that agree best in relative inverse distance.

    This is linear up to a factor: with a pull towards the previous guess, it is damped inverse iteration.
    """
    count, shift, owner = len(scale), torch.zeros_like(scale), _owners(disparity)
    for delta in (4.0, 1.0, 0.5, 0.5):
        inverse = (scale * x + shift) * c
        mean = _mean(inverse, weights)
        mean = mean.clamp(min=_far(mean))
        relative = weights / (1 + ((inverse - mean) / (delta * mean)) ** 2) / mean**2
        matrix = _normal_matrix(torch.cat((x * c, c[:, disparity]), dim=1), relative, owner)
        unit = matrix.diagonal().clamp(min=1e-30).rsqrt()
        matrix = matrix * unit[:, None] * unit + DAMPING * torch.eye(len(unit), dtype=x.dtype)
        found = torch.linalg.solve(matrix, torch.cat((scale, shift[disparity])) / unit) * unit
        scale, shift[disparity] = found[:count], found[count:]
        size = _mean((scale * x + shift) * c, weights) / mean
        factor = size[size > 0].median() if (size > 0).any() else 1.0
        scale, shift = scale / factor, shift / factor
    return scale, shift


def _refine(
    x: Tensor,
    c: Tensor,
    weights: Tensor,
    scale: Tensor,
    shift: Tensor,
    disparity: Tensor,
    metric: Tensor,
) -> tuple[Tensor, Tensor]:
    """Refine a first guess by robust least squares in log-distance."""
    count, known, owner = len(scale), weights > 0, _owners(disparity)
    scale = scale.clamp(min=TINY)
    for delta in DELTAS:
        inverse = (scale * x + shift) * c
        far = _far(_mean(inverse, weights)) if disparity.any() else TINY
        middle = _medians(inverse, known & (inverse > far)).clamp(min=TINY)
        prior = torch.where(metric, 0.0, (scale / middle).log())
        y = torch.where(inverse > far, -inverse.clamp(min=far).log(), 1 - math.log(far) - inverse / far)
        residual = y - _mean(y, weights)
        if delta == DELTAS[-1]:
            delta = max(SMALLEST_DELTA, 2 * 1.4826 * float(_median(residual[known].abs())))
        robust = weights / (1 + (residual / delta) ** 2)
        mean = _mean(y, robust)
        # Take the slopes at the mean: at the noisy values themselves they would favour flat disparities.
        agreed = torch.where(mean < -math.log(far), (-mean).exp(), far * (1 - math.log(far) - mean))
        bounded = agreed.clamp(min=far)
        slopes = torch.cat(((agreed - shift * c) / bounded, (c * middle / bounded)[:, disparity]), dim=1)
        matrix = _normal_matrix(slopes, robust, owner)
        gradient = (slopes * (robust * (y - mean))[:, owner]).sum(0)
        # Metric views that are far off do not determine the common factor.
        off = (scale.log() - prior).abs()
        spread = max(1e-3, 2 * float(_median(off[metric])))
        pull = torch.where(metric, PULL / (off / spread).clamp(min=1), FAINT_PULL)
        gradient[:count] += pull * (prior - scale.log())
        matrix += torch.cat((pull, torch.full((len(owner) - count,), FAINT_PULL, dtype=x.dtype))).diag()
        step = torch.linalg.solve(matrix, gradient)
        scale = scale * step[:count].clamp(-20, 20).exp()
        shift[disparity] += step[count:] * middle[disparity]
    return scale, shift


def _far(inverse: Tensor) -> float:
    """Return the inverse distance below which log-distance goes on linearly."""
    return max(TINY, FAR * float(_median(inverse[inverse > 0])))


def _owners(disparity: Tensor) -> Tensor:
    """Return the view of every unknown: the scales of all views, then the shifts of those with disparity."""
    views = torch.arange(len(disparity))
    return torch.cat((views, views[disparity]))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of every pixel over its views, (K, 1)."""
    return (values * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1e-30)


def _normal_matrix(slopes: Tensor, weights: Tensor, owner: Tensor) -> Tensor:
    """Return the normal matrix (P, P) from slopes (K, P) and the views (P,) of its unknowns, without pixel means."""
    weighted = slopes * weights[:, owner]
    own = torch.where(owner[:, None] == owner, weighted.T @ slopes, 0)
    return own - weighted.T @ (weighted / weights.sum(1, keepdim=True).clamp(min=1e-30))
