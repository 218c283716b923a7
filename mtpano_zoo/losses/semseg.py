"""Losses for class maps: logits (B, C, H, W), labels (B, H, W), mask of the pixels that count (B, H, W).

A weight (B, H, W) in [0, 1] makes a pixel count as that part of one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.losses.validity import weighted_mean


def cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy, (weighted) mean over the valid pixels of the batch; zero if there are none."""
    logits = torch.where(valid[:, None], logits, 0)
    per_pixel = F.cross_entropy(logits, torch.where(valid, labels, 0), reduction="none")
    return weighted_mean(per_pixel, valid, weight)


def dice(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    published: bool = False,
    eps: float = 1e-6,
    weight: Tensor | None = None,
) -> Tensor:
    """One minus the Dice overlap of probabilities and labels, per image and class; zero if no pixel is valid.

    Mean over the classes that an image's labels hold. Published: over all classes, so that every absent class adds a
    constant one as soon as it gets any probability, which says nothing about the prediction and drowns the rest.
    """
    probabilities = torch.where(valid[:, None], logits, 0).softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    one_hot = (labels[:, None] == classes) & valid[:, None]
    if weight is not None:
        probabilities = probabilities * weight[:, None]
    overlap = torch.where(one_hot, probabilities, 0).sum(dim=(2, 3))
    count = (one_hot if weight is None else one_hot * weight[:, None]).sum(dim=(2, 3))
    mass = torch.where(valid[:, None], probabilities, 0).sum(dim=(2, 3))
    losses = 1 - (2 * overlap + eps) / (mass + count + eps)
    present = torch.ones_like(losses, dtype=torch.bool) if published else count > 0
    return torch.where(present, losses, 0).sum() / present.sum().clamp(min=1)
