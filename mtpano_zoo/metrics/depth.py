"""Errors of depth in metres."""

from typing import Literal

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses.means import middle_values
from mtpano_zoo.losses.validity import valid_depth
from mtpano_zoo.metrics.pooling import (
    PooledMetric,
    Reduction,
    Weighting,
    check_choice,
    check_maps,
    crop_fact,
    pixel_weights,
)

__all__ = ("DepthMetrics", "align", "depth_sums")

NAMES = ("AbsRel", "SqRel", "RMSE", "RMSElog", "delta1", "delta2", "delta3")
Alignment = Literal["median", "scale"]


def depth_sums(prediction: Tensor, target: Tensor, weights: Tensor, log_base: Literal["e", "10"] = "e") -> Tensor:
    """Return weighted sums (B, 7) over each image's pixels of the terms that the seven scores average.

    Args:
        prediction: Depth (B, H, W), positive; a NaN at a pixel that counts makes all sums of its image NaN.
        target: Depth (B, H, W), positive wherever the weight is not zero.
        weights: Weights (B, H, W), zero for pixels that do not count.
        log_base: Base of the logarithm in RMSElog.

    Example:
        >>> prediction, target = torch.full((1, 1, 2), 3.0), torch.full((1, 1, 2), 2.0)
        >>> depth_sums(prediction, target, torch.ones(1, 1, 2))[0, :2].tolist()  # AbsRel 0.5, SqRel 0.5, two pixels
        [1.0, 1.0]
    """
    known = weights > 0
    p, t = torch.where(known, prediction, 1), torch.where(known, target, 1)
    error = p - t
    log_error = p.log() - t.log() if log_base == "e" else p.log10() - t.log10()
    ratio = torch.maximum(p / t, t / p)
    terms = [error.abs() / t, error.square() / t, error.square(), log_error.square()]
    terms += [torch.where(ratio.isnan(), ratio, (ratio < 1.25**k).to(ratio.dtype)) for k in (1, 2, 3)]
    return torch.stack([(term * weights).sum(dim=(1, 2)) for term in terms], dim=1)


def align(prediction: Tensor, target: Tensor, valid: Tensor, alignment: Alignment) -> Tensor:
    """Multiply predictions (B, H, W) by one factor per image.

    ``"median"``: the ratio of the medians of target and prediction; ``"scale"``: the least-squares factor. Images
    without a valid pixel stay as they are, or become 0.

    Example:
        >>> prediction, target = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[2.0, 4.0, 9.0]]])
        >>> align(prediction, target, target > 0, "median").tolist()
        [[[2.0, 4.0, 6.0]]]
    """
    if alignment == "median":
        medians = [(lower + upper) / 2 for lower, upper in (middle_values(x, valid) for x in (target, prediction))]
        factor = torch.where(medians[1].isfinite(), medians[0] / medians[1].clamp(min=1e-6), 1)
    else:
        p, t = (torch.where(valid, x, 0).double() for x in (prediction, target))
        factor = (p * t).sum(dim=(1, 2)) / p.square().sum(dim=(1, 2)).clamp(min=1e-12)
    return prediction * factor[:, None, None].to(prediction.dtype)


class DepthMetrics(PooledMetric):
    """AbsRel, SqRel, RMSE, RMSElog and delta1 to delta3 (fractions below 1.25, 1.25^2, 1.25^3).

    Their names end in ``/median_aligned`` or ``/scale_aligned`` if predictions are aligned. Predictions are clamped to
    the range of depths after the alignment. ``nonfinite`` is the fraction of predictions that are NaN or infinite; a
    single one makes all other scores NaN. All scores are NaN if no pixel was valid.

    Args:
        min_depth: Labels must be larger than this, in metres.
        max_depth: Labels must be smaller than this, in metres; no limit by default.
        alignment: Multiply each image's prediction by the ratio of the ``"median"``s, or by the least-squares
            ``"scale"``, both over its valid pixels, unweighted. If omitted, predictions are not aligned.
        reduction: Pool every ``"pixel"`` of the data set, as MTPano does, or average the scores of every ``"image"``.
        weighting: Weight every ``"pixel"`` equally, or by its ``"solid_angle"``, so that poles do not dominate.
        log_base: Base of the logarithm in RMSElog; MTPano uses 10 for Matterport3D.
        crop: Fraction of the height to leave out of scores and alignment, at the top and again at the bottom; on
            Stanford2D3D, Depth Anywhere leaves out 68 of 512 rows at each end.

    Example:
        >>> metric = DepthMetrics()
        >>> metric.update(torch.full((1, 1, 2, 4), 3.0), torch.full((1, 2, 4), 2.0))
        >>> round(metric.compute()["AbsRel"].item(), 3)
        0.5
    """

    def __init__(
        self,
        min_depth: float = 1e-3,
        max_depth: float | None = None,
        alignment: Alignment | None = None,
        reduction: Reduction = "pixel",
        weighting: Weighting = "pixel",
        log_base: Literal["e", "10"] = "e",
        crop: float = 0.0,
    ) -> None:
        if alignment is not None:
            check_choice("alignment", alignment, ("median", "scale"))
        check_choice("log_base", log_base, ("e", "10"))
        if min_depth <= 0 or (max_depth is not None and max_depth <= min_depth):
            raise InputError(
                f"depths must range from a positive number to a larger one, got {min_depth} to {max_depth}"
            )
        if not 0 <= crop < 0.5:
            raise InputError(f"crop must be a fraction of the height from 0 to below 0.5, got {crop}")
        suffix = f"/{alignment}_aligned" if alignment else ""
        super().__init__(tuple(name + suffix for name in NAMES), len(NAMES), reduction, weighting)
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.alignment = alignment
        self.log_base = log_base
        self.crop = crop

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            prediction: Depth (B, 1, H, W) or (B, H, W) in metres.
            target: Depth (B, 1, H, W) or (B, H, W) in metres.
            valid: Further restriction of the pixels that count, bool (B, H, W).

        Raises:
            InputError: If shapes do not fit.
        """
        prediction, target = (_drop_channel(x).float() for x in (prediction, target))
        check_maps(prediction, target, valid)
        known = valid_depth(target, self.min_depth, self.max_depth)
        known = known if valid is None else known & valid
        rows = round(self.crop * known.shape[1])
        known[:, :rows] = False
        known[:, known.shape[1] - rows :] = False
        finite = prediction.isfinite()
        prediction = torch.where(finite, prediction, torch.nan)  # infinity too: clamping would make it a number
        if self.alignment is not None:
            # Where nothing was predicted, which counts as wrong, there is nothing to align.
            prediction = align(prediction, target, known & ~(prediction <= 0), self.alignment)
        prediction = prediction.clamp(self.min_depth, self.max_depth)
        weights = pixel_weights(known, self.weighting)
        self.accumulate(weights, finite, depth_sums(prediction, target, weights, self.log_base))

    def scores(self, total: Tensor, sums: Tensor) -> Tensor:
        """Return scores (..., 7) from sums (..., 7)."""
        means = sums / total
        return torch.cat((means[..., :2], means[..., 2:4].sqrt(), means[..., 4:]), dim=-1)

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        upper = "without an upper bound" if self.max_depth is None else f"up to {self.max_depth:g} m"
        aligned = {
            None: "as predicted, not aligned",
            "median": "multiplied by the ratio of the medians of each image",
            "scale": "multiplied by the least-squares factor of each image",
        }
        return [
            f"labels above {self.min_depth:g} m {upper}, predictions clamped to that range",
            aligned[self.alignment],
            f"logarithm to the base {self.log_base}",
            *crop_fact(self.crop),
            "a pixel without a value counts as wrong",
        ]


def _drop_channel(depth: Tensor) -> Tensor:
    if depth.ndim == 4 and depth.shape[1] == 1:
        return depth[:, 0]
    if depth.ndim == 3:
        return depth
    raise InputError(f"depth must be (B, 1, H, W) or (B, H, W), got {tuple(depth.shape)}")
