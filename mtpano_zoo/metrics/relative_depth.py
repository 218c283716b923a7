"""Errors in metres of inverse distances that are known up to scale, or up to scale and shift (Depth Anywhere)."""

import math

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses.means import middle_values
from mtpano_zoo.metrics.depth import DepthMetrics
from mtpano_zoo.metrics.disparity import align_affine
from mtpano_zoo.metrics.pooling import PooledMetric, check_maps, crop_fact, pixel_weights

__all__ = ("DepthAnywhereMetrics", "RelativeDepthMetrics", "affine_depth", "depth_terms")

SMALLEST = 1e-6  # smaller inverse distances count as the end of the range
NEAREST = 0.1  # metres, from the published code
NAMES = ("AbsRel", "MAE", "SqRel", "RMSE", "RMSElog", "log10", "delta1", "delta2", "delta3")


class RelativeDepthMetrics(DepthMetrics):
    """Scores of inverse distances by the paper's text: inverted, then aligned by the median, averaged over images.

    Names end in `/median_aligned`. A prediction of zero or less counts as the end of the range.

    Args:
        max_depth: largest label that counts, in metres.
        crop: fraction of the height to leave out, at the top and again at the bottom.

    Example:
        >>> metric, depth = RelativeDepthMetrics(), torch.tensor([[[1.0, 2.0], [4.0, 5.0]]])
        >>> metric.update(7 / depth[:, None], depth)  # right up to scale
        >>> round(metric.compute()["AbsRel/median_aligned"].item(), 4)
        0.0
    """

    compared_with = ("depth",)  # not with inverse distances

    def __init__(self, max_depth: float = 10.0, crop: float = 0.0) -> None:
        # `DepthMetrics` excludes its maximum, the paper includes it.
        limit = torch.nextafter(torch.tensor(float(max_depth)), torch.tensor(math.inf)).item()
        super().__init__(max_depth=limit, alignment="median", reduction="image", crop=crop)

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            prediction: inverse distances (B, 1, H, W) up to scale.
            target: distances (B, H, W) in metres, 0 = no measurement.
            valid: further restriction of the pixels that count, bool (B, H, W).
        """
        prediction = torch.where(prediction.isfinite(), prediction, torch.nan)  # 1 / inf would be a number
        super().update(1 / prediction.float().clamp(min=SMALLEST), target, valid)

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        return [*super().facts(), "predicted inverse distances inverted first"]


class DepthAnywhereMetrics(PooledMetric):
    """Scores of inverse distances as the published code computes them, which aligns twice.

    Scale and shift are fitted to the inverse distances; the result is inverted, clipped, and scaled by the ratio of the
    medians. Predictions and labels are clamped to the range from 0.1 m to `max_depth`. Names end in
    `/affine_and_median_aligned`; these errors are lower than those of `RelativeDepthMetrics` and cannot be compared
    with them.

    Args:
        max_depth: largest label that counts, in metres.
        crop: fraction of the height to leave out, at the top and again at the bottom; 68 / 512 on Stanford2D3D.

    Raises:
        InputError: If the range or the crop is out of range.
    """

    compared_with = ("depth",)  # not with inverse distances

    def __init__(self, max_depth: float = 10.0, crop: float = 0.0) -> None:
        if max_depth <= NEAREST:
            raise InputError(f"max_depth must be above {NEAREST}, got {max_depth}.")
        if not 0 <= crop < 0.5:
            raise InputError(f"crop must be a fraction of the height from 0 to below 0.5, got {crop}")
        super().__init__(tuple(f"{name}/affine_and_median_aligned" for name in NAMES), len(NAMES), "image", "pixel")
        self.max_depth = max_depth
        self.crop = crop

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            prediction: inverse distances (B, 1, H, W) up to scale and shift.
            target: distances (B, H, W) in metres, 0 = no measurement.
            valid: further restriction of the pixels that count, bool (B, H, W).

        Raises:
            InputError: If shapes do not fit.
        """
        check_maps(prediction, target, valid)
        cropped = round(self.crop * target.shape[1])
        rows = slice(cropped, target.shape[1] - cropped)
        disparity, target = prediction[:, 0, rows].float(), target[:, rows].float()
        known = (target > 0) & (target <= self.max_depth)
        known = known if valid is None else known & valid[:, rows]
        weights = pixel_weights(torch.ones_like(prediction[:, 0], dtype=torch.bool), self.weighting)[:, rows] * known
        finite = disparity.isfinite()
        depth = affine_depth(torch.where(finite, disparity, torch.nan), target, known, self.max_depth)
        terms = depth_terms(depth, target, weights, self.max_depth)
        self.accumulate(weights, finite, terms)

    def scores(self, total: Tensor, sums: Tensor) -> Tensor:
        """Return scores (..., 9) from sums (..., 9)."""
        means = sums / total
        return torch.cat((means[..., :3], means[..., 3:5].sqrt(), means[..., 5:]), dim=-1)

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        counted = (
            f"labels up to {self.max_depth:g} m; inverse distances after the best scale and shift of each image, "
            "inverted, then multiplied by the ratio of its medians"
        )
        return [counted, *crop_fact(self.crop)]


def affine_depth(disparity: Tensor, target: Tensor, known: Tensor, max_depth: float) -> Tensor:
    """Fit scale and shift of inverse distances (B, H, W) to those of the target per image, and return distances.

    They are clipped to the range from 0 to `max_depth`; where the fitted inverse distance is 0, so is the distance.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> affine_depth(3 / target - 1, target, target > 0, 10.0).round(decimals=6).tolist()
        [[[1.0, 2.0, 4.0]]]
    """
    inverse = torch.where(known, 1 / torch.where(known, target, 1), 0)
    fitted = align_affine(disparity, inverse, known.double())
    return torch.where(fitted == 0, 0, 1 / torch.where(fitted == 0, 1, fitted)).clamp(0, max_depth)


def depth_terms(depth: Tensor, target: Tensor, weights: Tensor, max_depth: float, median: bool = True) -> Tensor:
    """Return weighted sums (B, 9) over each image's pixels of the terms that the nine published scores average.

    Args:
        depth: distances (B, H, W).
        target: true distances (B, H, W) in metres.
        weights: weights (B, H, W) or a mask, zero for pixels that do not count.
        max_depth: end of the range that both are clamped to.
        median: whether to scale every image by the ratio of the lower medians first.
    """
    depth, target, known = depth.double(), target.double(), weights > 0
    if median:
        factor = middle_values(target, known)[0] / middle_values(depth, known)[0]
        depth = depth * factor[:, None, None]
    p, t = (torch.where(known, x.clamp(NEAREST, max_depth), 1) for x in (depth, target))
    error, ratio = p - t, torch.maximum(p / t, t / p)
    terms = [error.abs() / t, error.abs(), error.square() / t, error.square()]
    terms += [((p + 1).log10() - (t + 1).log10()).square(), (p / t).log10().abs()]
    terms += [torch.where(ratio.isnan(), ratio, (ratio < 1.25**power).double()) for power in (1, 2, 3)]
    return torch.stack([(term * weights).sum(dim=(1, 2)) for term in terms], dim=1)
