"""ResNets from timm, stage by stage, for networks that fuse between the stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.cnn_encoder import load_pretrained
from mtpano_zoo.layers.convolution import SphereConv2d
from mtpano_zoo.layers.encoder import create_timm
from mtpano_zoo.layers.wrapped import WrappedConv2d

__all__ = ("ResNetStages", "halved")

Padding = Literal["sphere", "columns", "zeros"]


class ResNetStages(nn.Module):
    """Stem and four stages of a ResNet: feature maps (B, C, H, W) of strides 2, 4, 8, 16 and 32.

    Args:
        name: timm name, e.g. `resnet18`.
        padding: `sphere` pads with neighbours on the sphere; `columns` pads convolutions across the seam and everything
            else with zeros; `zeros` pads everything with zeros, which suits a cube face too.
        pretrained: start from ImageNet: true downloads timm's weights; the path of a `.safetensors` or `.pth` file
            loads them.

    Raises:
        FileNotFoundError: If the file of pretrained weights does not exist.
        InputError: If timm has no such network, it is not a ResNet, or the file of weights does not fit it.

    Example:
        >>> import torch
        >>> stages = ResNetStages("test_resnet", "sphere")  # timm's miniature
        >>> [tuple(x.shape[1:]) for x in stages(torch.rand(1, 3, 32, 64))]
        [(32, 16, 32), (32, 8, 16), (48, 4, 8), (192, 2, 4), (96, 1, 2)]
    """

    folds = (("conv1", "bn1"),)

    def __init__(self, name: str, padding: Padding, pretrained: bool | str | Path = False) -> None:
        super().__init__()
        network = create_timm(name, pretrained is True, num_classes=0)
        if not isinstance(network, ResNet):
            raise InputError(f"{name!r} is not a ResNet: use resnet18, resnet34, resnet50 or another of that family.")
        self.channels: list[int] = [int(stage["num_chs"]) for stage in cast("Any", network).feature_info]
        self.conv1: nn.Module = network.conv1
        self.bn1: nn.Module = network.bn1
        self.act1: nn.Module = network.act1
        self.maxpool: nn.Module = network.maxpool
        self.layer1 = cast("nn.Module", network.layer1)
        self.layer2 = cast("nn.Module", network.layer2)
        self.layer3 = cast("nn.Module", network.layer3)
        self.layer4 = cast("nn.Module", network.layer4)
        if not isinstance(pretrained, bool):
            load_pretrained(self, name, Path(pretrained))
        for block in self.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                last = 3 if isinstance(block, Bottleneck) else 2
                cast("Any", block).folds = tuple((f"conv{i}", f"bn{i}") for i in range(1, last + 1))
        if padding != "zeros":
            _wrap(self, padding)

    def stem(self, image: Tensor) -> Tensor:
        """Return the map of stride 2 of a normalised image (B, 3, H, W)."""
        features: Tensor = self.act1(self.bn1(self.conv1(image)))
        return features

    def stage(self, number: int, features: Tensor) -> Tensor:
        """Apply a stage, numbered from 1 to 4; the first one begins with the max-pool."""
        if number == 1:
            features = self.maxpool(features)
        result: Tensor = self.get_submodule(f"layer{number}")(features)
        return result

    def forward(self, image: Tensor) -> list[Tensor]:
        """Encode a normalised image (B, 3, H, W) as five maps, finest first."""
        maps = [self.stem(image)]
        for number in range(1, 5):
            maps.append(self.stage(number, maps[-1]))
        return maps


class _SphereMaxPool2d(nn.MaxPool2d):
    """A max-pool that pads with neighbours on the sphere."""

    def forward(self, input: Tensor) -> Tensor:
        border = int(cast("int", self.padding))
        return F.max_pool2d(sphere.pad(input, (border,) * 4), self.kernel_size, self.stride)


def _wrap(network: nn.Module, padding: Padding) -> None:
    """Make convolutions and max-pool pad across the seam; the names of the weights stay."""
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                setattr(module, name, _spherical(layer) if padding == "sphere" else WrappedConv2d(layer))
            elif isinstance(layer, nn.MaxPool2d) and padding == "sphere":
                setattr(module, name, _SphereMaxPool2d(layer.kernel_size, layer.stride, layer.padding))


def _spherical(layer: nn.Conv2d) -> SphereConv2d:
    """Build a spherical convolution that shares the weights of a plain one."""
    size, stride, padding = (cast("tuple[int, int]", x) for x in (layer.kernel_size, layer.stride, layer.padding))
    spherical = SphereConv2d(layer.in_channels, layer.out_channels, size, stride, padding, bias=False, device="meta")
    spherical.weight, spherical.bias = layer.weight, layer.bias
    return spherical


def halved(size: Sequence[int], times: int) -> list[tuple[int, ...]]:
    """Return the sizes of the maps of a ResNet for an image of the given size, finest first.

    Example:
        >>> halved((48, 96), 5)
        [(24, 48), (12, 24), (6, 12), (3, 6), (2, 3)]
    """
    sizes = [tuple(size)]
    for _ in range(times):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    return sizes[1:]
