"""Losses for class maps: logits (B, C, H, W), labels (B, H, W), mask of the pixels that count (B, H, W).

Values outside the mask, even NaN, change neither loss nor gradient. A weight (B, H, W) in [0, 1] turns means over
pixels into weighted means. With ``across_ranks``, means are over all processes (see
`mtpano_zoo.losses.means.mean`). Logits may be in half precision: they are read in float32, a band of rows at a time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtpano_zoo.losses.means import mean

__all__ = ("class_statistics", "mean_dice")

# Logits per band: few enough for the cache of a CPU, many enough to hide the time that a GPU takes to start a kernel.
BAND = {"cpu": 1 << 20}
LARGE_BAND = 1 << 26


def mean_dice(overlap: Tensor, mass: Tensor, count: Tensor, across_ranks: bool = False) -> Tensor:
    """Return one minus the Dice overlap of probabilities and labels, from the sums (B, C) of `class_statistics`.

    This is the mean over the classes that each image's labels hold; zero if no pixel is valid.

    Example:
        >>> count = torch.tensor([[2.0, 0.0]])
        >>> mean_dice(count, count, count).item(), round(mean_dice(0 * count, count, count).item(), 4)
        (0.0, 1.0)
    """
    losses = 1 - (2 * overlap + 1e-6) / (mass + count + 1e-6)
    present = count > 0
    return mean(torch.where(present, losses, 0).sum(), present.sum(), across_ranks=across_ranks)


def class_statistics(
    logits: Tensor, labels: Tensor, valid: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all that cross-entropy and Dice need from the logits, without a float32 copy of them.

    Returns:
        The cross-entropy of every pixel (B, H, W), zero where it is not valid; and three weighted sums by image and
        class (B, C): the class's probability where it is the label, its probability everywhere, and its labels.

    Example:
        >>> labels = torch.tensor([[[0, 1, 255]]])
        >>> entropy, overlap, mass, count = class_statistics(torch.zeros(1, 2, 1, 3), labels, labels < 2)
        >>> overlap.tolist(), mass.tolist(), count.tolist()
        ([[0.5, 0.5]], [[1.0, 1.0]], [[1.0, 1.0]])
    """
    labels = torch.where(valid, labels.long(), 0)
    weights = valid.float() if weight is None else torch.where(valid, weight.float(), 0)
    statistics: tuple[Tensor, Tensor, Tensor] = _ClassStatistics.apply(logits, labels, valid, weights)
    return *statistics, _by_class(weights, labels, logits.shape[1])


class _ClassStatistics(torch.autograd.Function):
    """The first three results of `class_statistics`; backward recomputes the probabilities, band by band."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Add up the bands."""
        entropy = weights.new_empty(labels.shape)
        normaliser = weights.new_empty(labels.shape)
        overlap = weights.new_zeros(logits.shape[:2])
        mass = torch.zeros_like(overlap)
        for band in _bands(logits):
            logarithms = _finite(logits, valid, band)
            of_label = labels[:, None, band]
            chosen = logarithms.gather(1, of_label)[:, 0]
            logarithms = torch.log_softmax(logarithms, dim=1)
            entropy[:, band] = -logarithms.gather(1, of_label)[:, 0]
            normaliser[:, band] = chosen + entropy[:, band]
            probabilities = logarithms.exp_().mul_(weights[:, None, band])
            mass += probabilities.sum(dim=(2, 3))
            overlap += _by_class(probabilities.gather(1, of_label)[:, 0], labels[:, band], logits.shape[1])
        ctx.save_for_backward(logits, labels, valid, weights, normaliser)
        return torch.where(valid, entropy, 0), overlap, mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits, in their precision."""
        logits, labels, valid, weights, normaliser = ctx.saved_tensors
        of_entropy = torch.where(valid, gradients[0], 0)
        of_overlap = gradients[1].gather(1, labels.flatten(1)).view(labels.shape) * weights
        of_mass = gradients[2][:, :, None, None]
        gradient = torch.empty_like(logits)
        for band in _bands(logits):
            of_label, weight = labels[:, None, band], weights[:, band]
            p = _finite(logits, valid, band).sub_(normaliser[:, None, band]).exp_()
            chosen = p.gather(1, of_label)[:, 0] * of_overlap[:, band]
            inner = chosen + weight * (p * of_mass).sum(1)
            p *= torch.addcmul((of_entropy[:, band] - inner)[:, None], weight[:, None], of_mass)
            p.scatter_add_(1, of_label, (chosen - of_entropy[:, band])[:, None])
            gradient[:, :, band] = p
        return gradient, None, None, None


def _bands(logits: Tensor) -> list[slice]:
    batch, channels, height, width = logits.shape
    step = max(1, BAND.get(logits.device.type, LARGE_BAND) // max(1, batch * channels * width))
    return [slice(top, top + step) for top in range(0, height, step)]


def _finite(logits: Tensor, valid: Tensor, band: slice) -> Tensor:
    """Return a new float32 band of the logits, zero where they are not valid."""
    # A one-dimensional tensor decides the dtype of the result; a number would not.
    return torch.where(valid[:, None, band], logits[:, :, band], logits.new_zeros(1, dtype=torch.float32))


def _by_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the sums (B, C) of values (B, H, W) by their labels."""
    # By column first: on a GPU, adding all pixels to a few numbers would run one after another.
    sums = values.new_zeros(len(values), classes, values.shape[-1])
    return sums.scatter_add_(1, labels, values).sum(-1)
