"""PatchDiscriminator: how good every patch of a depth label is, seen beside its panorama."""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalised

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import RecordedModule
from mtpano_zoo.layers.convolution import Upsample, conv2d
from mtpano_zoo.sphere import erp_angles

__all__ = ("PatchDiscriminator", "difference_by_patch", "known_logarithm")

SLOPE = 0.2  # of the activation below zero
WIDEST = 8  # times the first width, as in PatchGAN
ESTIMATED = 1  # the first level that estimates distances: those before it see too little of the image


def known_logarithm(depth: Tensor) -> Tensor:
    """Return log-distances, 0 where there is none, and where there is one, (B, 2, H, W), of distances (B, 1, H, W).

    Example:
        >>> known_logarithm(torch.tensor([1.0, 0.0, torch.inf]).view(1, 1, 1, 3)).tolist()
        [[[[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]]]
    """
    known = depth.isfinite() & (depth > 0)
    return torch.cat((torch.where(known, depth, 1).log(), known.to(depth.dtype)), dim=1)


def difference_by_patch(label: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much a label exceeds an estimate (B, 1, h, w), times the share of known pixels, and this share.

    Args:
        label: From `known_logarithm`, (B, 2, H, W).
        estimate: Log-distances (B, 1, h, w), one per patch.
    """
    mean, share = F.adaptive_avg_pool2d(label, (estimate.shape[-2], estimate.shape[-1])).chunk(2, dim=1)
    return mean - share * estimate, share


class PatchDiscriminator(RecordedModule):
    """PatchGAN (Isola et al., CVPR 2017) on log-distance and image, without a seam.

    It sees the image, the logarithm of the distance, where there is a distance, and the sine of the latitude. Image and
    distance have layers of their own, whose features are also multiplied: whether edges of one lie on edges of the
    other tells that a label is mirrored or belongs to another panorama, which joint layers hardly learn. Only the
    factors of these products are normalised; elsewhere that would hide the scale of the distances.

    From the second level on, the layers of the image also estimate the log-distance. Its difference from the label is a
    feature of the joint layers. `DepthQualityModule` compares the estimates with the truth if its targets are graded:
    scores alone are one number per patch, from which it takes long to learn what an image says about distances.

    Args:
        input_size: Height and width that it is trained and used at: a patch covers another angle at another size.
        width: Channels of the first layer; every level doubles them, up to eight times.
        levels: Layers that halve the size. A patch is one pixel of the result.
        spectral_norm: Divide every layer by its largest singular value (Miyato et al., ICLR 2018), which keeps the
            scores of unfamiliar labels moderate.

    Raises:
        InputError: If the size cannot be halved that often, or a number is not positive.
    """

    def __init__(
        self, input_size: tuple[int, int] = (512, 1024), width: int = 64, levels: int = 4, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        height, columns = int(input_size[0]), int(input_size[1])
        if width < 1 or levels < 1:
            raise InputError(f"width and levels must be positive, got {width} and {levels}")
        if columns != 2 * height or height < 1 or height % 2**levels:
            raise InputError(
                f"input_size is height and twice the height, which can be halved {levels} times: got {height} x "
                f"{columns}"
            )
        self.input_size = (height, columns)

        def layer(channels: int, new_channels: int, stride: int = 1) -> nn.Module:
            convolution = conv2d(channels, new_channels, 3, convention="sphere", stride=stride)
            # Nothing but the initialisation keeps the signal alive from layer to layer.
            nn.init.kaiming_normal_(convolution.weight, SLOPE)
            nn.init.zeros_(cast(Tensor, convolution.bias))
            return normalised(convolution) if spectral_norm else convolution

        widths = [width * min(2**level, WIDEST) for level in range(levels)]
        self.image_layers = nn.ModuleList(layer(a, b, 2) for a, b in pairwise([4, *widths]))
        self.distance_layers = nn.ModuleList(layer(a, b, 2) for a, b in pairwise([3, *widths]))
        self.product_norms = nn.ModuleList(nn.GroupNorm(1, channels) for channels in widths)
        self.estimates = nn.ModuleList(layer(channels, 1) for channels in widths[ESTIMATED:])
        self.layers = nn.ModuleList()
        channels = 3 * widths[0]
        for level in range(1, levels):
            self.layers.append(layer(channels, widths[level], 2))
            channels = 4 * widths[level] + 2  # the difference of the estimate and its absolute value
        self.last = nn.Sequential(layer(channels, widths[-1]), nn.LeakyReLU(SLOPE), layer(widths[-1], 1))
        self.enlarge = Upsample("sphere", align_corners=False)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        """Judge labels beside their panoramas.

        Args:
            image: (B, 3, H, W) in [0, 1].
            depth: Distances (B, K, H, W) in metres of K labels for every panorama; 0 = none.

        Returns:
            Logits (B, K, h, w) of every patch being right; h and w are H and W halved `levels` times.

        Raises:
            InputError: If the images have another size than it was made for.
        """
        return self.judge(image, depth)[0]

    def judge(self, image: Tensor, depth: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits of :meth:`forward`, and the log-distances (B, 1, h, w) estimated from the image alone.

        The estimates have different sizes, those of the levels from the second on.

        Raises:
            InputError: If the images have another size than it was made for.
        """
        if image.shape[-2:] != self.input_size:
            (height, width), (rows, columns) = image.shape[-2:], self.input_size
            raise InputError(f"the labels are {height} x {width}, but the discriminator judges {rows} x {columns}")
        count = depth.shape[1]
        label = known_logarithm(depth.flatten(0, 1)[:, None])
        _, latitude = erp_angles(*self.input_size, device=image.device, dtype=image.dtype)
        height_of_ray = latitude.sin()[:, None]
        pixels = torch.cat((2 * image - 1, height_of_ray.expand_as(image[:, :1])), dim=1)
        distances = torch.cat((label, height_of_ray.expand_as(label[:, :1])), dim=1)
        parts: tuple[Tensor, ...] = ()
        estimates: list[Tensor] = []
        for level, norm in enumerate(self.product_norms):
            if level:
                parts = (F.leaky_relu(self.layers[level - 1](torch.cat(parts, dim=1)), SLOPE),)
            pixels = F.leaky_relu(self.image_layers[level](pixels), SLOPE)
            distances = F.leaky_relu(self.distance_layers[level](distances), SLOPE)
            factor = norm(pixels).repeat_interleave(count, dim=0)
            parts = (*parts, pixels.repeat_interleave(count, dim=0), distances, factor * norm(distances))
            if level >= ESTIMATED:
                estimate = self.estimates[level - ESTIMATED](pixels)
                difference, _ = difference_by_patch(label, estimate.repeat_interleave(count, dim=0))
                parts = (*parts, difference, difference.abs())
                estimates.append(estimate)
        logits: Tensor = self.last(torch.cat(parts, dim=1))
        return logits.view(len(image), count, *logits.shape[-2:]), estimates

    def score_map(self, image: Tensor, depth: Tensor) -> Tensor:
        """Return how good the label is at every pixel (B, 1, H, W), 0 to 1, also where it has no distance."""
        patches: Tensor = self.enlarge(self(image, depth).sigmoid(), self.input_size)
        return patches
