"""Angular errors of surface normals."""

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses.validity import valid_normals
from mtpano_zoo.metrics.pooling import PooledMetric, Reduction, Weighting, check_maps, pixel_weights

__all__ = ("NormalsMetrics", "angular_error", "normals_sums")

NAMES = ("mean", "median", "RMSE", "11.25", "22.5", "30")
THRESHOLDS = (11.25, 22.5, 30.0)
# The median comes from a histogram, exact to half a bin.
_BIN = 0.01
_BINS = round(180 / _BIN)


def angular_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the angle (B, H, W) in degrees between vectors (B, 3, H, W) of any length.

    The angle to a vector of length zero is 90, and 180, the worst, where a vector is not finite. It is computed from
    the sum and the difference of the unit vectors: exact for small angles, where the arc cosine loses half its digits.

    Example:
        >>> x, y = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
        >>> round(angular_error(x, y).item(), 3), angular_error(x, 5 * x).item()
        (90.0, 0.0)
    """
    p, t = (_unit(x) for x in (prediction, target))
    difference, total = (x.square().sum(dim=1).sqrt() for x in (p - t, p + t))
    angle = torch.rad2deg(2 * torch.atan2(difference, total))
    return torch.where(angle.isnan(), 180, angle)


def _unit(vectors: Tensor) -> Tensor:
    # Divide by the largest component first: squares of very large or small ones are beyond the range of the type.
    largest = vectors.abs().amax(dim=1, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1)
    return vectors / vectors.square().sum(dim=1, keepdim=True).clamp(min=1).sqrt()


def normals_sums(angle: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums (B, S) over each image's pixels, from which the scores follow.

    They sum the angles, their squares, one indicator per threshold of an angle below it, and the bins of a histogram
    of the angles.

    Args:
        angle: Angles (B, H, W) in degrees.
        weights: Weights (B, H, W), zero for pixels that do not count.
    """
    images = len(angle)
    terms = [angle, angle.square(), *((angle < threshold).to(angle.dtype) for threshold in THRESHOLDS)]
    sums = [(term * weights).sum(dim=(1, 2)) for term in terms]
    bins = (angle / _BIN).long().clamp(max=_BINS - 1)
    cells = bins.flatten(1) + torch.arange(images, device=angle.device)[:, None] * _BINS
    histogram = weights.new_zeros(images * _BINS).scatter_add_(0, cells.flatten(), weights.flatten())
    return torch.cat((torch.stack(sums, dim=1), histogram.view(images, _BINS)), dim=1)


class NormalsMetrics(PooledMetric):
    """Mean, median and RMSE of the angular error in degrees, and the percentage of pixels below 11.25, 22.5 and 30.

    ``nonfinite`` is the fraction of predictions with a NaN or infinite component, which count as 180 degrees off. All
    scores are NaN if no pixel was valid. Predictions may have any length. The median is the smallest angle that at
    least half of the weight does not exceed, within 0.005 degrees: it comes from a histogram, so that memory does not
    grow with the data. Only pixels with a label count. Some publications count all others as errors of zero degrees;
    this is not offered, because it flatters every method in proportion to the holes in the data set.

    Args:
        reduction: Pool every ``"pixel"`` of the data set, as MTPano does, or average the scores of every ``"image"``.
        weighting: Weight every ``"pixel"`` equally, or by its ``"solid_angle"``, so that poles do not dominate.

    Example:
        >>> metric, target = NormalsMetrics(), torch.zeros(1, 3, 2, 4)
        >>> target[:, 2] = -1
        >>> metric.update(5 * target, target)
        >>> round(metric.compute()["mean"].item(), 3)
        0.0
    """

    def __init__(self, reduction: Reduction = "pixel", weighting: Weighting = "pixel") -> None:
        super().__init__(NAMES, len(NAMES) - 1 + _BINS, reduction, weighting)  # the median has bins instead of a sum

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            prediction: Normals (B, 3, H, W) of any length.
            target: Normals (B, 3, H, W), the zero vector where there is none.
            valid: Further restriction of the pixels that count, bool (B, H, W).

        Raises:
            InputError: If shapes do not fit.
        """
        for name, normals in (("prediction", prediction), ("target", target)):
            if normals.ndim != 4 or normals.shape[1] != 3:
                raise InputError(f"{name} must be (B, 3, H, W), got {tuple(normals.shape)}")
        check_maps(prediction, target, valid)
        known = valid_normals(target)
        known = known if valid is None else known & valid
        angle = torch.where(known, angular_error(prediction.float(), target.float()), 0)
        weights = pixel_weights(known, self.weighting)
        self.accumulate(weights, prediction.isfinite().all(dim=1), normals_sums(angle, weights))

    def scores(self, total: Tensor, sums: Tensor) -> Tensor:
        """Return scores (..., 6) from sums (..., S)."""
        means, histogram = sums[..., : len(NAMES) - 1] / total, sums[..., len(NAMES) - 1 :]
        below = (histogram.cumsum(dim=-1) < total / 2).sum(dim=-1, keepdim=True)
        median = torch.where(total > 0, (below + 0.5) * _BIN, torch.nan)
        return torch.cat((means[..., :1], median, means[..., 1:2].sqrt(), 100 * means[..., 2:]), dim=-1)

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        return ["angles in degrees where there is a label; a pixel without a value is 90 degrees off"]
