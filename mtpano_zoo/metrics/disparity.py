"""Errors of inverse distances that are known up to scale and shift."""

import torch
from torch import Tensor

from mtpano_zoo.losses.validity import valid_disparity
from mtpano_zoo.metrics.pooling import PooledMetric, Reduction, Weighting, check_maps, pixel_weights

__all__ = ("DisparityMetrics", "align_affine")

NAMES = ("AbsRel/affine_aligned", "RMSE/affine_aligned", "delta1/affine_aligned")


def align_affine(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Scale and shift predictions (B, H, W) to minimise the weighted squared error of each image.

    A constant prediction gets the scale 0 and becomes the mean of the target.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> align_affine(10 * target + 5, target, torch.ones_like(target)).tolist()
        [[[1.0, 2.0, 3.0]]]
    """
    known = weights > 0
    p, t = (torch.where(known, x, 0).double() for x in (prediction, target))
    total = weights.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    mean_p, mean_t = ((x * weights).sum(dim=(1, 2), keepdim=True) / total for x in (p, t))
    variance = ((p - mean_p).square() * weights).sum(dim=(1, 2), keepdim=True)
    covariance = ((p - mean_p) * (t - mean_t) * weights).sum(dim=(1, 2), keepdim=True)
    scale = torch.where(variance > 1e-12, covariance / variance.clamp(min=1e-12), 0)
    return scale * (prediction.double() - mean_p) + mean_t


class DisparityMetrics(PooledMetric):
    """AbsRel, RMSE and delta1 (fraction below 1.25) of inverse distances after the best scale and shift per image.

    Labels count where they are positive. ``nonfinite`` is the fraction of predictions that are NaN or infinite; a
    single one makes all other scores NaN. All scores are NaN if no pixel was valid.

    Args:
        reduction: pool every `pixel` of the data set, or average the scores of every `image`.
        weighting: weight every `pixel` equally, or by its `solid_angle`, so that poles do not dominate.

    Example:
        >>> metric, target = DisparityMetrics(), 1 + torch.rand(1, 2, 4)
        >>> metric.update(3 * target[:, None] + 5, target, target > 0)
        >>> metric.compute()["AbsRel/affine_aligned"].item() < 1e-5
        True
    """

    def __init__(self, reduction: Reduction = "pixel", weighting: Weighting = "pixel") -> None:
        super().__init__(NAMES, len(NAMES), reduction, weighting)

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: inverse distances (B, 1, H, W) up to scale and shift.
            target: inverse distances (B, H, W) up to scale and shift.
            valid: where the target has a value, bool (B, H, W).

        Raises:
            InputError: If shapes do not fit.
        """
        check_maps(prediction, target, valid)
        prediction = prediction[:, 0].float()
        known = valid_disparity(target, valid) & (target > 0)
        finite = prediction.isfinite()
        weights = pixel_weights(known, self.weighting)
        target = torch.where(known, target, 1).double()
        aligned = align_affine(prediction, target, torch.where(finite, weights, 0))
        error = aligned - target
        ratio = torch.maximum(aligned / target, target / aligned.clamp(min=1e-12))
        terms = [error.abs() / target, error.square(), (ratio < 1.25).double()]
        counts = known & finite
        sums = [torch.where(counts, term * weights, torch.where(known, torch.nan, 0)).sum(dim=(1, 2)) for term in terms]
        self.accumulate(weights, finite, torch.stack(sums, dim=1))

    def scores(self, total: Tensor, sums: Tensor) -> Tensor:
        """Return scores (..., 3) from sums (..., 3)."""
        means = sums / total
        return torch.stack((means[..., 0], means[..., 1].sqrt(), means[..., 2]), dim=-1)

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        return ["inverse distances after the best scale and shift of each image"]
