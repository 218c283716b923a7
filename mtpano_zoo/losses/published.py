"""What the published MTPano code computes where `dense`, `semseg` and `auxiliary` compute something sounder.

Same arguments and units as there. These are for comparison, and for repeating the published training: each docstring
names the flaw. They know no confidence, and every process of a distributed training takes means of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.losses import auxiliary
from mtpano_zoo.losses.auxiliary import distance_transform, sobel
from mtpano_zoo.losses.dense import any_around, high_frequencies
from mtpano_zoo.losses.means import mean, weighted_mean


@torch.no_grad()
def image_gradient(image: Tensor) -> Tensor:
    """Sobel gradient (B, 2, H, W) of the luma of an RGB image (B, 3, H, W) in [0, 1]; zero in the rows at the poles."""
    gradient = auxiliary.image_gradient(image)
    gradient[..., 0, :] = 0
    gradient[..., -1, :] = 0
    return gradient


@torch.no_grad()
def edge_distance(image: Tensor, threshold: float = 0.5) -> Tensor:
    """log(1 + distance in pixels) (B, 1, H, W) to the nearest edge of an RGB image (B, 3, H, W) in [0, 1].

    Distances do not wrap, the eight rows next to each pole hold no edges, and distances end only at the longer side of
    the image. They are exact; those of the published code are approximate, and infinite in an image without edges.
    """
    edges = image_gradient(image).square().sum(dim=1) > threshold**2
    edges[:, :8] = False
    edges[:, -8:] = False
    return torch.log1p(distance_transform(edges, max(edges.shape[-2:]), wrap=False))[:, None]


@torch.no_grad()
def point_map(depth: Tensor, valid: Tensor) -> Tensor:
    """Points (B, 3, H, W) in metres from depth (B, H, W), zero where it is not valid, on another grid than the image's.

    Its first and last columns coincide, and its first and last rows are the poles. The published points are right, down
    and back; these are in our frame, right, down and forward, as `PDBridgeNet` predicts them.
    """
    height, width = depth.shape[-2:]
    longitude = torch.linspace(-torch.pi, torch.pi, width, device=depth.device).expand(height, width)
    down = torch.linspace(-torch.pi / 2, torch.pi / 2, height, device=depth.device)[:, None].expand(height, width)
    rays = torch.stack((down.cos() * longitude.sin(), down.sin(), down.cos() * longitude.cos()))
    return torch.where(valid, depth.float(), 0)[:, None] * rays


def edge_weighted_l1(
    prediction: Tensor, target: Tensor, valid: Tensor, threshold: float = 0.55, radius: int = 3, share: float = 0.95
) -> Tensor:
    """Absolute error with ``share`` of its weight on the surroundings of the target's edges.

    The filter works on the mean of the channels, which misses changes that keep their sum, and so does the error.
    Invalid pixels hold 255 and the frame of the image 0, which makes a false edge around each.
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
    """Distance between the high frequencies of two maps: of their amplitudes, and of their phases.

    Invalid pixels hold zero, which imprints the holes; amplitudes and radius grow with the size; phases are compared by
    their plain difference, which jumps at a full turn and whose gradient is unbounded at small amplitudes.
    """
    mask = valid[:, None]
    p, t = (torch.fft.rfft2(torch.where(mask, x, 0)) for x in (prediction, target))
    height, width = target.shape[-2:]
    weight = high_frequencies(height, width, radius, valid.device)
    difference = amplitude_weight * (p.abs() - t.abs()).abs() + (p.angle() - t.angle()).abs()
    per_image = (difference * weight).mean(dim=(1, 2, 3))
    known = valid.flatten(1).any(1)
    return mean(torch.where(known, per_image, 0).sum(), known.sum())


def dice(logits: Tensor, labels: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """One minus the Dice overlap of probabilities and labels, mean over all images and classes.

    Every class that an image lacks adds a constant one as soon as it gets any probability, which says nothing about the
    prediction and drowns the rest.
    """
    mask = valid[:, None]
    probabilities = torch.where(mask, torch.where(mask, logits, 0).softmax(dim=1), 0)
    one_hot = (labels[:, None] == torch.arange(logits.shape[1], device=logits.device)[:, None, None]) & mask
    overlap = torch.where(one_hot, probabilities, 0).sum(dim=(2, 3))
    return (1 - (2 * overlap + eps) / (probabilities.sum(dim=(2, 3)) + one_hot.sum(dim=(2, 3)) + eps)).mean()
