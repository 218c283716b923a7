"""Losses of the published MTPano code that differ from those in `dense`, `semseg` and `auxiliary`.

Arguments and units are the same. Use them to compare, or to reproduce the published training: each docstring names the
flaw. They ignore confidences, and in distributed training every process takes its own means.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.losses import auxiliary
from mtpano_zoo.losses.auxiliary import distance_transform, sobel
from mtpano_zoo.losses.dense import any_around, high_frequencies, masked_l1
from mtpano_zoo.losses.means import mean, weighted_mean
from mtpano_zoo.losses.multi_task import MultiTaskLoss
from mtpano_zoo.losses.semseg import class_statistics
from mtpano_zoo.losses.task_losses import DepthLoss, NormalsLoss, SemsegLoss, unit
from mtpano_zoo.losses.validity import valid_depth, valid_normals, valid_semseg

__all__ = (
    "PublishedDepthLoss",
    "PublishedLoss",
    "PublishedNormalsLoss",
    "PublishedSemsegLoss",
    "edge_distance",
    "edge_weighted_l1",
    "frequency_l1",
    "image_gradient",
    "point_map",
)


@torch.no_grad()
def image_gradient(image: Tensor) -> Tensor:
    """Return the Sobel gradient (B, 2, H, W) of an RGB image's luma (B, 3, H, W) in [0, 1]; zero in rows at the poles.

    Example:
        >>> image_gradient(torch.rand(1, 3, 4, 8))[:, :, 0].any().item()
        False
    """
    gradient = auxiliary.image_gradient(image)
    gradient[..., 0, :] = 0
    gradient[..., -1, :] = 0
    return gradient


@torch.no_grad()
def edge_distance(image: Tensor) -> Tensor:
    """Return log(1 + pixels) (B, 1, H, W) to the nearest edge of an RGB image (B, 3, H, W) in [0, 1].

    Distances do not wrap, the eight rows next to each pole hold no edges, and distances end only at the longer side of
    the image. They are exact; those of the published code are approximate, and infinite in an image without edges.

    Example:
        >>> image = torch.zeros(1, 3, 32, 64)
        >>> image[..., 32:] = 1
        >>> edge_distance(image)[0, 0, 16, 32:36].expm1().round().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    edges = image_gradient(image).square().sum(dim=1) > 0.5**2
    edges[:, :8] = False
    edges[:, -8:] = False
    return torch.log1p(distance_transform(edges, max(edges.shape[-2:]), wrap=False))[:, None]


@torch.no_grad()
def point_map(depth: Tensor, valid: Tensor) -> Tensor:
    """Return points (B, 3, H, W) in metres from depth (B, H, W), zero if not valid, on another grid than the image's.

    Its first and last columns coincide, and its first and last rows are the poles. The published points are right, down
    and back; these are in our frame, right, down and forward, as `PDBridgeNet` predicts them.

    Example:
        >>> depth = torch.full((1, 4, 8), 2.0)
        >>> points = point_map(depth, depth > 0)
        >>> torch.allclose(points[..., 0], points[..., -1], atol=1e-5)  # the seam occurs twice
        True
    """
    height, width = depth.shape[-2:]
    longitude = torch.linspace(-torch.pi, torch.pi, width, device=depth.device).expand(height, width)
    down = torch.linspace(-torch.pi / 2, torch.pi / 2, height, device=depth.device)[:, None].expand(height, width)
    rays = torch.stack((down.cos() * longitude.sin(), down.sin(), down.cos() * longitude.cos()))
    return torch.where(valid, depth.float(), 0)[:, None] * rays


def edge_weighted_l1(
    prediction: Tensor, target: Tensor, valid: Tensor, threshold: float = 0.55, radius: int = 3, share: float = 0.95
) -> Tensor:
    """Return the absolute error with ``share`` of its weight on the surroundings of the target's edges.

    The filter works on the mean of the channels, which misses changes that keep their sum, and so does the error.
    Invalid pixels are set to 255 and the image is padded with 0, which makes a false edge around each.
    """
    mask = valid[:, None]
    prediction, target = (torch.where(mask, x, 0).mean(1, keepdim=True) for x in (prediction, target))
    gx, gy = sobel(F.pad(torch.where(mask, target, 255), (1, 1, 1, 1)))
    edges = gx.square() + gy.square() >= threshold**2
    near = any_around(F.pad(edges.float(), (radius,) * 4), 2 * radius + 1)
    error = (prediction - target).abs()
    return share * weighted_mean(error, near & mask) + (1 - share) * weighted_mean(error, ~near & mask)


def frequency_l1(
    prediction: Tensor, target: Tensor, valid: Tensor, radius: float = 64, amplitude_weight: float = 0.2
) -> Tensor:
    """Return the distance between the high frequencies of two maps, in amplitude and in phase.

    Invalid pixels are set to zero, which imprints the holes; amplitudes and radius grow with the size; phases are
    compared by their plain difference, which jumps at a full turn and whose gradient is unbounded at small amplitudes.
    """
    mask = valid[:, None]
    p, t = (torch.fft.rfft2(torch.where(mask, x, 0)) for x in (prediction, target))
    height, width = target.shape[-2:]
    weight = high_frequencies(height, width, radius, valid.device)
    difference = amplitude_weight * (p.abs() - t.abs()).abs() + (p.angle() - t.angle()).abs()
    per_image = (difference * weight).mean(dim=(1, 2, 3))
    known = valid.flatten(1).any(1)
    return mean(torch.where(known, per_image, 0).sum(), known.sum())


class PublishedSemsegLoss(SemsegLoss):
    """Cross-entropy + the published Dice, a mean over all images and classes.

    Every class that an image lacks adds a constant one as soon as it gets any probability, which says nothing about the
    prediction and drowns the rest.
    """

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare logits (B, C, H, W) with classes (B, H, W)."""
        classes = labels["semseg"]
        valid = valid_semseg(classes, prediction.shape[1])
        entropy, overlap, mass, count = class_statistics(prediction, classes, valid)
        dice = (1 - (2 * overlap + 1e-6) / (mass + count + 1e-6)).mean()
        return weighted_mean(entropy, valid) + self.dice_weight * dice


class PublishedDepthLoss(DepthLoss):
    """L1 + the published edge and frequency terms."""

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare metres (B, 1, H, W) with metres (B, H, W)."""
        target = labels["depth"].float()
        valid = valid_depth(target, max_depth=self.max_depth)
        target = torch.where(valid, target, 0)[:, None]
        largest = target.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        relative = (prediction / largest, target / largest, valid)
        return (
            masked_l1(prediction, target, valid)
            + self.edge_weight * edge_weighted_l1(*relative)
            + self.frequency_weight * frequency_l1(*relative)
        )


class PublishedNormalsLoss(NormalsLoss):
    """L1 + the published edge and frequency terms of unit vectors."""

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Compare vectors (B, 3, H, W) of any length with normals (B, 3, H, W)."""
        target = labels["normals"].float()
        valid = valid_normals(target)
        maps = (unit(torch.where(valid[:, None], prediction, 0)), unit(torch.where(valid[:, None], target, 0)), valid)
        return (
            masked_l1(*maps) + self.edge_weight * edge_weighted_l1(*maps) + self.frequency_weight * frequency_l1(*maps)
        )


class PublishedLoss(MultiTaskLoss):
    """The loss of the published MTPano code.

    Every process takes its own means, confidences are ignored, and the losses of depth and point map are clamped,
    which stops their gradient where they err most.

    Args:
        weights: weights by task; 1 for tasks that are not listed.
        max_depth: depth labels of this many metres or more do not count; by default all finite ones count.
        clamp: limit of the losses of depth and point map: 10, and 20 on Deep360.
    """

    joins_processes = False
    derived: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "gradient": image_gradient,
        "edge_distance": edge_distance,
        "point_map": point_map,
    }

    def __init__(
        self, weights: dict[str, float] | None = None, max_depth: float | None = None, clamp: float = 10.0
    ) -> None:
        losses = {
            "semseg": PublishedSemsegLoss(),
            "depth": PublishedDepthLoss(max_depth=max_depth),
            "normals": PublishedNormalsLoss(),
        }
        super().__init__(weights, losses, confidence_tasks=())
        self.limit = clamp
        self.clamps = True
        """Whether losses are clamped; `AuxiliaryWarmup` turns it off and on again, as the published code does."""

    def limited(self, task: str, loss: Tensor) -> Tensor:
        """Clamp the losses of depth and point map."""
        return loss.clamp(max=self.limit) if self.clamps and task in ("depth", "point_map") else loss

    def confidence(self, task: str, batch: Mapping[str, Any]) -> None:
        """Return None: all labels are trusted."""
