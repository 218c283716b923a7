"""The loss of each main task, by task in `TASK_LOSSES`."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.losses.base import BatchLabels, TaskLoss
from mtpano_zoo.losses.dense import (
    affine_invariant_l1,
    edge_surroundings,
    edge_weighted_l1,
    frequency_l1,
    masked_l1,
    target_spectrum,
)
from mtpano_zoo.losses.means import weighted_mean
from mtpano_zoo.losses.semseg import class_statistics, mean_dice
from mtpano_zoo.losses.validity import known_range, trusted, valid_depth, valid_disparity, valid_normals, valid_semseg

__all__ = (
    "TASK_LOSSES",
    "DepthLoss",
    "DisparityLoss",
    "LogDepthLoss",
    "NormalsLoss",
    "SemsegLoss",
    "ValidLoss",
    "unit",
)

NEAREST = 0.01  # metres


class SemsegLoss(TaskLoss):
    """Cross-entropy + Dice.

    Args:
        dice_weight: weight of Dice beside the cross-entropy.
    """

    takes_any_precision = True

    def __init__(self, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.dice_weight = dice_weight

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare logits (B, C, H, W) with classes (B, H, W)."""
        classes = labels["semseg"]
        valid = trusted(valid_semseg(classes, prediction.shape[1]), weight)
        entropy, overlap, mass, count = class_statistics(prediction, classes, valid, weight)
        by_class = mean_dice(overlap, mass, count, across_ranks=across_ranks)
        return weighted_mean(entropy, valid, weight, across_ranks) + self.dice_weight * by_class


class DepthLoss(TaskLoss):
    """L1 in metres + edge and frequency terms, these two relative to the largest valid depth of the image.

    Args:
        edge_weight: weight of the edge term.
        frequency_weight: weight of the frequency term.
        max_depth: labels of this many metres or more do not count; by default all finite ones count.

    Example:
        >>> labels = {"depth": torch.full((1, 16, 32), 2.0)}
        >>> DepthLoss()(torch.full((1, 1, 16, 32), 2.0), labels, None, False).item()
        0.0
    """

    def __init__(
        self, edge_weight: float = 0.5, frequency_weight: float = 5e-3, max_depth: float | None = None
    ) -> None:
        super().__init__()
        self.edge_weight = edge_weight
        self.frequency_weight = frequency_weight
        self.max_depth = max_depth

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare metres (B, 1, H, W) with metres (B, H, W)."""
        target, valid, largest, shape = _once(labels, "depth", lambda: self._known(labels["depth"].float(), weight))
        relative = (prediction / largest, target / largest, valid)
        error = masked_l1(prediction, target, valid, weight, across_ranks)
        return error + _shape_terms(self, relative, shape, weight, across_ranks)

    def _known(self, target: Tensor, weight: Tensor | None) -> tuple[Any, ...]:
        valid = trusted(valid_depth(target, max_depth=self.max_depth), weight)
        target = torch.where(valid, target, 0)[:, None]
        largest = target.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        return target, valid, largest, _shape_of(target / largest, valid)


class LogDepthLoss(TaskLoss):
    """`|ln d - ln d*|` + its differences between neighbours: a relative error counts the same at 1 and 100 m.

    The second term is the gradient matching of MegaDepth (arXiv 1804.00607, section 4.1) at four scales, mean over
    the pairs of valid pixels `s` = 1, 2, 4, 8 apart; along the width they wrap at the seam. A pair has the smaller
    weight of its two pixels.

    Args:
        gradient_weight: weight of the second term.
        max_depth: labels of this many metres or more do not count; by default all finite ones count.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]).expand(1, 2, 4)
        >>> round(LogDepthLoss()(3 * target[:, None], {"depth": target}, None, False).exp().item(), 4)
        3.0
    """

    def __init__(self, gradient_weight: float = 0.5, max_depth: float | None = None) -> None:
        super().__init__()
        self.gradient_weight = gradient_weight
        self.max_depth = max_depth

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare metres (B, 1, H, W) with metres (B, H, W)."""
        target = labels["depth"].float()
        valid = trusted(valid_depth(target, max_depth=self.max_depth), weight)
        # Below a centimetre, where the logarithm's gradient is too large for training, follow its tangent.
        metres = torch.where(valid, prediction[:, 0], 1)
        tangent = math.log(NEAREST) + metres / NEAREST - 1
        logarithm = torch.where(metres > NEAREST, metres.clamp(min=NEAREST).log(), tangent)
        error = torch.where(valid, logarithm - torch.where(valid, target, 1).log(), 0)
        loss = weighted_mean(error.abs(), valid, weight, across_ranks)
        for step in (1, 2, 4, 8):
            right, both = error.roll(-step, -1) - error, valid & valid.roll(-step, -1)
            smaller = None if weight is None else torch.minimum(weight, weight.roll(-step, -1))
            loss = loss + self.gradient_weight / 8 * weighted_mean(right.abs(), both, smaller, across_ranks)
            down, both = error[:, step:] - error[:, :-step], valid[:, step:] & valid[:, :-step]
            smaller = None if weight is None else torch.minimum(weight[:, step:], weight[:, :-step])
            loss = loss + self.gradient_weight / 8 * weighted_mean(down.abs(), both, smaller, across_ranks)
        return loss


class NormalsLoss(TaskLoss):
    """L1 + edge and frequency terms of unit vectors.

    Args:
        edge_weight: weight of the edge term.
        frequency_weight: weight of the frequency term.
    """

    def __init__(self, edge_weight: float = 0.1, frequency_weight: float = 1e-4) -> None:
        super().__init__()
        self.edge_weight = edge_weight
        self.frequency_weight = frequency_weight

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare vectors (B, 3, H, W) of any length with normals (B, 3, H, W)."""
        target, valid, shape = _once(labels, "normals", lambda: self._known(labels["normals"].float(), weight))
        maps = (unit(torch.where(valid[:, None], prediction, 0)), target, valid)
        return masked_l1(*maps, weight, across_ranks) + _shape_terms(self, maps, shape, weight, across_ranks)

    def _known(self, target: Tensor, weight: Tensor | None) -> tuple[Any, ...]:
        valid = trusted(valid_normals(target), weight)
        target = unit(torch.where(valid[:, None], target, 0))
        return target, valid, _shape_of(target, valid)


@torch.no_grad()
def _shape_of(target: Tensor, valid: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return edges and spectrum of a target, computed once for the main and the intermediate prediction."""
    return edge_surroundings(target, valid), target_spectrum(target, valid)


def _shape_terms(
    loss: "DepthLoss | NormalsLoss",
    maps: tuple[Tensor, Tensor, Tensor],
    shape: tuple[Tensor, tuple[Tensor, ...]],
    weight: Tensor | None,
    across_ranks: bool,
) -> Tensor:
    """Return the weighted edge and frequency terms of prediction, target and valid pixels."""
    near, spectrum = shape
    edges = edge_weighted_l1(*maps, weight=weight, across_ranks=across_ranks, near=near)
    return loss.edge_weight * edges + loss.frequency_weight * frequency_l1(
        *maps, across_ranks=across_ranks, spectrum=spectrum
    )


def _once(labels: Mapping[str, Any], task: str, make: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return what a loss derives from labels; `BatchLabels` keep it for the next prediction."""
    if not isinstance(labels, BatchLabels):
        return make()
    if task not in labels.derived:
        labels.derived[task] = make()
    derived: tuple[Any, ...] = labels.derived[task]
    return derived


class ValidLoss(TaskLoss):
    """Binary cross-entropy: yes where a distance was measured, no where something is known to be farther.

    Args:
        max_depth: distances of this many metres or more are out of range too; by default none is.
    """

    def __init__(self, max_depth: float | None = None) -> None:
        super().__init__()
        self.max_depth = max_depth

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare logits (B, 1, H, W) with distances and the mask of what is far (B, H, W)."""
        inside, known = known_range(labels["depth"], labels["far"], self.max_depth)
        valid = trusted(known, weight)
        logits = torch.where(valid, prediction[:, 0], 0)
        per_pixel = F.binary_cross_entropy_with_logits(logits, inside.to(logits.dtype), reduction="none")
        return weighted_mean(per_pixel, valid, weight, across_ranks)


class DisparityLoss(TaskLoss):
    """L1 of inverse distances after normalising each image to median 0 and mean absolute deviation 1.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
        >>> labels = {"disparity": target, "disparity_valid": target > 0}
        >>> DisparityLoss()(3 * target[:, None] + 5, labels, None, False).item() < 1e-6
        True
    """

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare inverse distances (B, 1, H, W) with inverse distances (B, H, W), each up to scale and shift."""
        target = labels["disparity"].float()
        valid = trusted(valid_disparity(target, labels["disparity_valid"]), weight)
        return affine_invariant_l1(prediction[:, 0], target, valid, weight, across_ranks)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (B, 3, H, W) to length one; short ones keep a bounded gradient.

    Example:
        >>> unit(torch.tensor([0.0, 0.0, 4.0]).view(1, 3, 1, 1)).flatten().tolist()
        [0.0, 0.0, 1.0]
    """
    # F.normalize is slow over channels, and gives the zero vector, which a new head predicts, a gradient of 1e12.
    return vectors * vectors.square().sum(dim=1, keepdim=True).clamp(min=1e-6).rsqrt()


TASK_LOSSES: dict[str, type[TaskLoss]] = {
    "semseg": SemsegLoss,
    "depth": DepthLoss,
    "normals": NormalsLoss,
    "valid": ValidLoss,
    "disparity": DisparityLoss,
}
