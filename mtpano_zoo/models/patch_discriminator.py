"""PatchDiscriminator: how good every patch of a depth label is, seen beside its panorama."""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalised

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import RecordedModule
from mtpano_zoo.layers.convolution import Upsample, conv2d
from mtpano_zoo.sphere import erp_angles

__all__ = ("PatchDiscriminator",)

SLOPE = 0.2  # of the activation below zero
WIDEST = 8  # times the first width, as in PatchGAN


class PatchDiscriminator(RecordedModule):
    """PatchGAN (Isola et al., CVPR 2017) on log-distance and image, without a seam.

    It sees six channels: the image, the logarithm of the distance, where there is a distance, and the sine of the
    latitude. There is no normalisation between the layers, which would hide the scale of the distances.

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
        widths = [6, *(width * min(2**level, WIDEST) for level in range(levels))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [conv2d(before, after, 3, convention="sphere", stride=2), nn.LeakyReLU(SLOPE)]
        layers += [conv2d(widths[-1], widths[-1], 3, convention="sphere"), nn.LeakyReLU(SLOPE)]
        layers += [conv2d(widths[-1], 1, 3, convention="sphere")]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):  # nothing else keeps the signal alive from layer to layer
                nn.init.kaiming_normal_(layer.weight, SLOPE)
                nn.init.zeros_(cast(Tensor, layer.bias))
        if spectral_norm:
            layers = [normalised(layer) if isinstance(layer, nn.Conv2d) else layer for layer in layers]
        self.layers = nn.Sequential(*layers)
        self.enlarge = Upsample("sphere", align_corners=False)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        """Judge labels beside their panoramas.

        Args:
            image: (B, 3, H, W) in [0, 1].
            depth: Distances (B, 1, H, W) in metres; 0 = none.

        Returns:
            Logits (B, 1, h, w) of every patch being right; h and w are H and W halved `levels` times.

        Raises:
            InputError: If the images have another size than it was made for.
        """
        if image.shape[-2:] != self.input_size:
            (height, width), (rows, columns) = image.shape[-2:], self.input_size
            raise InputError(f"the labels are {height} x {width}, but the discriminator judges {rows} x {columns}")
        known = depth > 0
        logarithm = torch.where(known, depth, 1).log()
        _, latitude = erp_angles(*self.input_size, device=image.device, dtype=image.dtype)
        height_of_ray = latitude.sin()[:, None].expand_as(depth)
        seen = torch.cat((2 * image - 1, logarithm, known.to(image.dtype), height_of_ray), dim=1)
        logits: Tensor = self.layers(seen)
        return logits

    def score_map(self, image: Tensor, depth: Tensor) -> Tensor:
        """Return how good the label is at every pixel (B, 1, H, W), 0 to 1, and 0 where it has no distance."""
        patches: Tensor = self.enlarge(self(image, depth).sigmoid(), self.input_size)
        return patches * (depth > 0)
