"""Base of the metrics: pixel weights, and averages over pixels or over images from summed states."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere import solid_angles

__all__ = (
    "NONFINITE",
    "PanoramaMetric",
    "PooledMetric",
    "Reduction",
    "Weighting",
    "check_choice",
    "check_maps",
    "crop_fact",
    "defined_scores",
    "pixel_weights",
)

NONFINITE = "nonfinite"
"""Name of the score for the share of predictions that are not finite."""
Weighting = Literal["pixel", "solid_angle"]
Reduction = Literal["pixel", "image"]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse an argument that is not one of the choices.

    Raises:
        InputError: If it is not.

    Example:
        >>> check_choice("reduction", "room", ("pixel", "image"))
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_maps(prediction: Tensor, target: Tensor, valid: Tensor | None) -> None:
    """Refuse maps (..., H, W) that do not cover the same pixels of the same images.

    Raises:
        InputError: If batch or size differ, or ``valid`` is not a boolean (B, H, W).

    Example:
        >>> check_maps(torch.zeros(1, 3, 8, 16), torch.zeros(1, 4, 8), None)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    expected = (target.shape[0], *target.shape[-2:])
    found = (prediction.shape[0], *prediction.shape[-2:])
    if found != expected:
        raise InputError(f"prediction has batch, height and width {found}, the label {expected}: resize one of them")
    if valid is not None and (valid.dtype != torch.bool or tuple(valid.shape) != expected):
        raise InputError(f"valid must be a boolean mask {expected}, got {valid.dtype} {tuple(valid.shape)}")


def crop_fact(crop: float) -> list[str]:
    """Return a phrase about the fraction of the height that a metric leaves out; none if it is 0.

    Example:
        >>> crop_fact(0.125)
        ['0.125 of the height left out at the top and at the bottom']
    """
    return [f"{crop:.4g} of the height left out at the top and at the bottom"] if crop else []


def pixel_weights(valid: Tensor, weighting: Weighting) -> Tensor:
    """Return float64 weights (B, H, W) for a mask (B, H, W): 1 or the solid angle relative to its mean; else 0.

    Example:
        >>> pixel_weights(torch.tensor([[[True, False], [True, True]]]), "pixel").tolist()
        [[[1.0, 0.0], [1.0, 1.0]]]
    """
    weights = valid.double()
    if weighting == "pixel":
        return weights
    angles = solid_angles(valid.shape[-2], valid.shape[-1], device=valid.device, dtype=torch.float64)
    return weights * (angles / angles.mean())


class PanoramaMetric(Metric):
    """Base of all metrics: sums in float64, and the share of predictions that are not finite."""

    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Follow the module that holds the metric to its device, but not to its precision, which would round counts."""

        def keep_precision(state: Tensor) -> Tensor:
            moved = fn(state)
            return moved if moved.dtype == state.dtype else state.to(moved.device)

        return super()._apply(keep_precision, exclude_state)

    def defined(self) -> dict[str, Tensor]:
        """Return the scores that have a value, by name; a NaN here means that a prediction was not finite."""
        raise NotImplementedError

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        return []


def defined_scores(metric: Metric) -> dict[str, Tensor]:
    """Return the scores to log: all of them, or only those that have a value if the metric is of this package."""
    scores: dict[str, Tensor] = metric.defined() if isinstance(metric, PanoramaMetric) else metric.compute()
    return scores


class PooledMetric(PanoramaMetric):
    """Scores from sums over pixels, pooled over the data set or averaged over its images.

    A subclass names its scores, turns sums (..., S) into scores (..., N) in `scores`, and passes sums of every image
    to `accumulate`. This class adds ``nonfinite`` to its scores. The state is one float64 vector of constant size;
    with ``reduction="image"`` it holds the number of images with any valid pixel and the sums of their scores.

    Args:
        names: Names of the N scores.
        num_sums: Number S of sums.
        reduction: ``"pixel"`` or ``"image"``.
        weighting: ``"pixel"`` or ``"solid_angle"``.
    """

    sums: Tensor

    def __init__(self, names: tuple[str, ...], num_sums: int, reduction: Reduction, weighting: Weighting) -> None:
        super().__init__()
        check_choice("reduction", reduction, ("pixel", "image"))
        check_choice("weighting", weighting, ("pixel", "solid_angle"))
        self.names = (*names, NONFINITE)
        self.reduction = reduction
        self.weighting: Weighting = weighting
        # Two sums precede the subclass's own: of all weights, and of the weights of predictions that are not finite.
        size = 2 + num_sums if reduction == "pixel" else 1 + len(self.names)
        self.add_state("sums", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def scores(self, total: Tensor, sums: Tensor) -> Tensor:
        """Return scores (..., N) from the sum of the weights (..., 1) and the sums (..., S)."""
        raise NotImplementedError

    def accumulate(self, weights: Tensor, finite: Tensor, sums: Tensor) -> None:
        """Add the images of a batch.

        Args:
            weights: Weights (B, H, W), zero for pixels that do not count.
            finite: Where the prediction is finite, bool (B, H, W).
            sums: Sums (B, S) over the pixels of every image.
        """
        own = torch.stack((weights.sum(dim=(1, 2)), torch.where(finite, 0, weights).sum(dim=(1, 2))), dim=1)
        sums = torch.cat((own, sums), dim=1)
        if self.reduction == "image":
            known = sums[:, :1] > 0
            sums = torch.where(known, torch.cat((torch.ones_like(known), self._all_scores(sums)), dim=1), 0)
        self.sums = self.sums + sums.sum(dim=0)

    def _all_scores(self, sums: Tensor) -> Tensor:
        total, nonfinite, own = sums[..., :1], sums[..., 1:2], sums[..., 2:]
        return torch.cat((self.scores(total, own), nonfinite / total), dim=-1)

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scores by name; all NaN if no pixel was valid."""
        scores = self._all_scores(self.sums) if self.reduction == "pixel" else self.sums[1:] / self.sums[0]
        return dict(zip(self.names, scores.float().unbind(), strict=True))

    def defined(self) -> dict[str, Tensor]:
        """Return all scores, or none if no pixel was valid."""
        scores = self.compute()
        return {} if scores[NONFINITE].isnan() else scores
