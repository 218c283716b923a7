"""Scores of the mask of pixels whose distance is defined and within range."""

import torch
from torch import Tensor

from mtpano_zoo.losses.validity import known_range
from mtpano_zoo.metrics.pooling import PooledMetric, Reduction, Weighting, check_maps, pixel_weights

__all__ = ("ValidMetrics",)

NAMES = ("IoU", "IoU/far", "accuracy")


class ValidMetrics(PooledMetric):
    """IoU of the valid pixels, IoU of the others, and accuracy, as fractions; an empty union counts as 1.

    Args:
        max_depth: distances of this many metres or more are out of range; by default none is.
        reduction: pool every `pixel` of the data set, or average the scores of every `image`.
        weighting: weight every `pixel` equally, or by its `solid_angle`, so that poles do not dominate.

    Example:
        >>> metric, depth = ValidMetrics(), torch.tensor([[[2.0, 0.0]]])
        >>> metric.update(torch.tensor([[[[1.0, -1.0]]]]), depth, depth == 0)
        >>> metric.compute()["accuracy"].item()
        1.0
    """

    def __init__(
        self, max_depth: float | None = None, reduction: Reduction = "pixel", weighting: Weighting = "pixel"
    ) -> None:
        super().__init__(NAMES, 4, reduction, weighting)
        self.max_depth = max_depth

    def update(self, prediction: Tensor, depth: Tensor, far: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: logits (B, 1, H, W), above zero = valid; one that is not finite counts as wrong.
            depth: metres (B, H, W), 0 = no measurement.
            far: bool (B, H, W), true = known to be farther than anything that is measured.

        Raises:
            InputError: If shapes do not fit.
        """
        check_maps(prediction, depth, far)
        logits = prediction[:, 0]
        inside, known = known_range(depth, far, self.max_depth)
        finite = logits.isfinite()
        said = torch.where(finite, logits > 0, ~inside)
        weights = pixel_weights(known, self.weighting)
        cells = (said & inside, said & ~inside, ~said & inside, ~said & ~inside)
        sums = [torch.where(cell, weights, 0).sum(dim=(1, 2)) for cell in cells]
        self.accumulate(weights, finite, torch.stack(sums, dim=1))

    def scores(self, total: Tensor, sums: Tensor) -> Tensor:
        """Return scores (..., 3) from sums (..., 4)."""
        hit, wrong, missed, rest = sums.unbind(-1)
        errors = wrong + missed
        scores = [_share(hit, hit + errors), _share(rest, rest + errors), _share(hit + rest, total[..., 0])]
        return torch.where(total > 0, torch.stack(scores, dim=-1), torch.nan)

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        return ["whether a distance is defined and within range"]


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1e-12), 1.0)
