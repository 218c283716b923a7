"""Losses for class maps: logits (B, C, H, W), labels (B, H, W), mask of the pixels that count (B, H, W).

Values outside the mask, even NaN, change neither loss nor gradient. A weight (B, H, W) in [0, 1] turns means over
pixels into weighted means. With ``across_ranks``, means are over all processes (see
`mtpano_zoo.losses.means.mean`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.losses.means import mean, weighted_mean


def cross_entropy(
    logits: Tensor, labels: Tensor, valid: Tensor, weight: Tensor | None = None, across_ranks: bool = False
) -> Tensor:
    """Cross-entropy, (weighted) mean over the valid pixels of the batch; zero if there are none.

    Example:
        >>> logits, labels = torch.zeros(1, 4, 1, 2), torch.tensor([[[2, 255]]])
        >>> round(cross_entropy(logits, labels, labels != 255).exp().item(), 4)
        4.0
    """
    logits = torch.where(valid[:, None], logits, 0)
    per_pixel = F.cross_entropy(logits, torch.where(valid, labels.long(), 0), reduction="none")
    return weighted_mean(per_pixel, valid, weight, across_ranks)


def dice(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    across_ranks: bool = False,
) -> Tensor:
    """One minus the Dice overlap of probabilities and labels, per image and class; zero if no pixel is valid.

    Mean over the classes that an image's labels hold.

    Example:
        >>> labels = torch.tensor([[[0, 1]]])
        >>> logits = 100.0 * torch.nn.functional.one_hot(labels).permute(0, 3, 1, 2)
        >>> round(dice(logits, labels, labels >= 0).item(), 4)
        0.0
    """
    mask = valid[:, None]
    weights = mask.to(logits.dtype) if weight is None else torch.where(mask, weight[:, None], 0)
    probabilities = torch.where(mask, logits, 0).softmax(dim=1) * weights
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    one_hot = (labels[:, None] == classes) & mask
    overlap = torch.where(one_hot, probabilities, 0).sum(dim=(2, 3))
    count = torch.where(one_hot, weights, 0).sum(dim=(2, 3))
    losses = 1 - (2 * overlap + eps) / (probabilities.sum(dim=(2, 3)) + count + eps)
    present = count > 0
    return mean(torch.where(present, losses, 0).sum(), present.sum(), across_ranks=across_ranks)
