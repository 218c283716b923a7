"""What the metrics share: the weight of a pixel, and averages over pixels or over images from summed states."""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from mtpano_zoo.sphere import solid_angles

Weighting = Literal["pixel", "solid_angle"]
Reduction = Literal["pixel", "image"]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse an argument that is not one of the choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_maps(prediction: Tensor, target: Tensor, valid: Tensor | None) -> None:
    """Refuse maps (..., H, W) that do not cover the same pixels of the same images.

    Raises:
        ValueError: If batch or size differ, or ``valid`` is not a boolean (B, H, W).
    """
    expected = (target.shape[0], *target.shape[-2:])
    found = (prediction.shape[0], *prediction.shape[-2:])
    if found != expected:
        raise ValueError(f"prediction has batch, height and width {found}, the label {expected}: resize one of them")
    if valid is not None and (valid.dtype != torch.bool or tuple(valid.shape) != expected):
        raise ValueError(f"valid must be a boolean mask {expected}, got {valid.dtype} {tuple(valid.shape)}")


def pixel_weights(valid: Tensor, weighting: Weighting) -> Tensor:
    """Weights (B, H, W), float64, of the pixels of a mask (B, H, W): one, or the solid angle relative to its mean."""
    weights = valid.double()
    if weighting == "pixel":
        return weights
    angles = solid_angles(valid.shape[-2], valid.shape[-1], device=valid.device, dtype=torch.float64)
    return weights * (angles / angles.mean())


class PooledMetric(Metric):
    """Scores from sums over pixels, pooled over the data set or averaged over its images.

    A subclass names its scores, turns sums (..., S) into scores (..., N) in `scores`, and gives the sums of every image
    (B, S), the sum of the weights first, to `accumulate`. The state is one vector in float64, whatever the data set;
    with ``reduction="image"`` it holds the number of images with any valid pixel and the sums of their scores.

    Args:
        names: Names of the scores.
        num_sums: Number S of sums.
        reduction: ``"pixel"`` or ``"image"``.
        weighting: ``"pixel"`` or ``"solid_angle"``.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, names: tuple[str, ...], num_sums: int, reduction: Reduction, weighting: Weighting) -> None:
        super().__init__()
        check_choice("reduction", reduction, ("pixel", "image"))
        check_choice("weighting", weighting, ("pixel", "solid_angle"))
        self.names = names
        self.reduction = reduction
        self.weighting: Weighting = weighting
        size = num_sums if reduction == "pixel" else 1 + len(names)
        self.add_state("sums", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def scores(self, sums: Tensor) -> Tensor:
        """Scores (..., N) from sums (..., S)."""
        raise NotImplementedError

    def accumulate(self, sums: Tensor) -> None:
        """Add the sums (B, S) of the images of a batch."""
        if self.reduction == "image":
            known = sums[:, :1] > 0
            sums = torch.where(known, torch.cat((torch.ones_like(known), self.scores(sums)), dim=1), 0)
        self.sums = self.sums + sums.sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        """Scores by name, float32; all NaN if no pixel was valid."""
        scores = self.scores(self.sums) if self.reduction == "pixel" else self.sums[1:] / self.sums[0]
        return dict(zip(self.names, scores.float().unbind(), strict=True))
