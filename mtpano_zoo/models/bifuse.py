"""BiFuse++ (arXiv 2209.02952): panorama and cube faces are encoded side by side and exchange features."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from mtpano_zoo.layers import FromCube, ResNetStages, ToCube, Upsample, conv2d, halved
from mtpano_zoo.layers.convolution import Convention, without_autocast
from mtpano_zoo.models.base import IMAGENET_MEAN, IMAGENET_STD
from mtpano_zoo.models.distance_network import DistanceNetwork
from mtpano_zoo.sphere import CubeSampling

__all__ = ("BiFuse",)

LEVELS = 4


class BiFuse(DistanceNetwork):
    """Inverse distance up to scale and shift, or distance in metres, by BiFuse++.

    One ResNet reads the panorama, the other six cube faces of half its height. After each of the four stages the
    features of the faces are projected into the panorama and joined with its own. Both branches continue with features
    updated by this, and a third map goes to the decoder, which enlarges by pixel shuffle.

    Rotating the panorama rotates the output only approximately: the faces then see other parts of the scene.

    Args:
        encoder: timm name of the ResNet.
        pretrained: start both ResNets from ImageNet: true downloads timm's weights; the path of a `.safetensors` or
            `.pth` file loads them.
        tasks: `disparity`, or `depth` to train in metres.
        convention: `sphere` (wrapped padding, pixel-centre faces without edges, a positive output) or `paper` (what the
            published weights expect: zero padding, end-inclusive panoramas, an output of any sign).
        input_size: height and width that `predict` resizes to; the network itself takes any multiples of 32. The
            published code takes multiples of 64, at least 128.
        image_mean: mean that images are normalised with.
        image_std: standard deviation that images are normalised with.

    Raises:
        InputError: If an argument is unknown, or the size is not a multiple of 32.
    """

    encoder_part = "encoders"
    full_precision = ("predict_distance",)
    multiple = 32

    def __init__(
        self,
        encoder: str = "resnet34",
        pretrained: bool | str | Path = False,
        tasks: Sequence[str] = ("disparity",),
        convention: Convention = "sphere",
        input_size: tuple[int, int] = (512, 1024),
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(tasks, convention, input_size, image_mean, image_std)
        panorama = ResNetStages(encoder, "sphere" if convention == "sphere" else "zeros", pretrained)
        self.encoders = nn.ModuleDict({"erp": panorama, "cube": ResNetStages(encoder, "zeros", pretrained)})
        height, width = self.input_size
        sampling: CubeSampling = "sphere" if convention == "sphere" else "bifuse"
        self.to_cube = ToCube(sampling, height // 2, height, width)
        sizes, faces = halved(self.input_size, 5)[1:], halved((height // 2,), 5)[1:]
        # The last level returns nothing to the faces.
        self.from_cubes = nn.ModuleList(FromCube(sampling, faces[i][0], *sizes[i]) for i in range(LEVELS))
        self.to_cubes = nn.ModuleList(ToCube(sampling, faces[i][0], *sizes[i]) for i in range(LEVELS - 1))
        widths = panorama.channels[1:]
        self.fusions = nn.ModuleList(_Fusion(channels, last=i == LEVELS - 1) for i, channels in enumerate(widths))
        decoded = (widths[0] // 2, *widths[:3])  # channels after every step of the decoder, finest first
        self.decoders = nn.ModuleList(
            _Enlarge(widths[i] + (decoded[i + 1] if i < LEVELS - 1 else 0), decoded[i], convention)
            for i in range(LEVELS)
        )
        self.predict_distance = nn.Conv2d(decoded[0], 1, 1)
        self.upsample = Upsample(convention, align_corners=True)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict for images (B, 3, H, W) in [0, 1], H and W multiples of 32.

        Returns:
            `disparity` or `depth` (B, 1, H, W).

        Raises:
            InputError: If the size is not a multiple of 32.
        """
        size = (image.shape[-2], image.shape[-1])
        self.check_size(*size)
        image = self.normalize(image)
        encoders = {name: cast("ResNetStages", encoder) for name, encoder in self.encoders.items()}
        erp, cube = encoders["erp"].stem(image), encoders["cube"].stem(self.to_cube(image, size[0] // 2))
        joined: list[Tensor] = []
        for i in range(LEVELS):
            erp, cube = encoders["erp"].stage(i + 1, erp), encoders["cube"].stage(i + 1, cube)
            seen = self.from_cubes[i](cube, *erp.shape[-2:])
            fused, erp, seen = self.fusions[i](erp, seen)
            joined.append(fused)
            if i < LEVELS - 1:
                cube = self.to_cubes[i](seen, cube.shape[-1])
        decoded = self.decoders[-1](joined[-1])
        for i in reversed(range(LEVELS - 1)):
            decoded = self.decoders[i](torch.cat((decoded, joined[i]), dim=1))
        output = self.upsample(without_autocast(self.predict_distance, decoded), size)
        return {self.tasks[0]: self.distance(output)}


class _Fusion(nn.Module):
    """Join the maps of both branches, and add to each what it learns from both; the last one only joins."""

    def __init__(self, channels: int, last: bool) -> None:
        super().__init__()
        self.join = _pointwise(channels)
        self.for_erp = nn.Identity() if last else _pointwise(channels)
        self.for_cube = nn.Identity() if last else _pointwise(channels)
        self.last = last

    def forward(self, erp: Tensor, cube: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the joint map and both branches, (B, C, H, W) each."""
        both = torch.cat((erp, cube), dim=1)
        joined: Tensor = self.join(both)
        return (joined, erp, cube) if self.last else (joined, erp + self.for_erp(both), cube + self.for_cube(both))


class _Enlarge(nn.Sequential):
    """A convolution to four times the channels, which become twice the height and width."""

    def __init__(self, in_channels: int, out_channels: int, convention: Convention) -> None:
        super().__init__(
            conv2d(in_channels, 4 * out_channels, 3, convention=convention),
            nn.BatchNorm2d(4 * out_channels),
            nn.ReLU(),
            nn.PixelShuffle(2),
        )


def _pointwise(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())
