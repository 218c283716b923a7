"""Refinement of one encoder level for one stream (MTPano, "feature grouping")."""

import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.layers.convolution import Convention, conv2d, zero_init
from mtpano_zoo.layers.geometry import GEOMETRY_CHANNELS, pole_weights

__all__ = ("ERPTokenMixer", "InvariantBlock", "VariantBlock")


class ERPTokenMixer(nn.Module):
    """Mix neighbouring tokens with a kernel that widens towards the poles.

    A dense 3 x 3 convolution serves the equator and a depthwise 3 x 9 one the poles, where an equirectangular image is
    stretched horizontally; |sin latitude| blends them (MTPano).

    Example:
        >>> import torch
        >>> ERPTokenMixer(8, "sphere")(torch.rand(1, 8, 4, 8)).shape
        torch.Size([1, 8, 4, 8])
    """

    def __init__(self, channels: int, convention: Convention) -> None:
        super().__init__()
        self.convention = convention
        self.equator = _convolution(channels, 3, convention)
        self.pole = _convolution(channels, (3, 9), convention, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix (B, C, H, W)."""
        weight = pole_weights(self.convention, like=x)
        equator: Tensor = self.equator(x)
        pole: Tensor = self.pole(x)
        return (1 - weight) * equator + weight * pole


def _convolution(channels: int, size: int | tuple[int, int], convention: Convention, groups: int = 1) -> nn.Conv2d:
    convolution = conv2d(channels, channels, size, convention=convention, groups=groups)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class InvariantBlock(nn.Module):
    """Residual bottleneck for tasks whose values do not turn with the camera; starts as the identity.

    Args:
        channels: width of input and output.
        convention: padding and geometry.
        token_mixer: mix with an `ERPTokenMixer` instead of a 3 x 3 convolution.
    """

    def __init__(self, channels: int, convention: Convention, token_mixer: bool = True) -> None:
        super().__init__()
        hidden = channels // 4
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.mixer: nn.Module = (
            ERPTokenMixer(hidden, convention) if token_mixer else _convolution(hidden, 3, convention)
        )
        self.expand = zero_init(nn.Conv2d(hidden, channels, 1))

    def content(self, x: Tensor) -> Tensor:
        """Return what the block adds to (B, C, H, W)."""
        expanded: Tensor = self.expand(F.gelu(self.mixer(F.gelu(self.reduce(x)))))
        return expanded

    def forward(self, x: Tensor, geometry: Tensor) -> Tensor:
        """Refine (B, C, H, W); `geometry` is ignored, so that both streams are called in the same way."""
        return x + self.content(x)


class VariantBlock(InvariantBlock):
    """Residual bottleneck scaled and shifted by ray direction and position; starts as the identity.

    Takes the arguments of `InvariantBlock`.
    """

    def __init__(self, channels: int, convention: Convention, token_mixer: bool = True) -> None:
        super().__init__(channels, convention, token_mixer)
        hidden = channels // 4
        self.modulation = nn.Sequential(
            nn.Conv2d(GEOMETRY_CHANNELS[convention], hidden, 1),
            nn.ReLU(),
            zero_init(nn.Conv2d(hidden, 2 * channels, 1)),
        )

    def forward(self, x: Tensor, geometry: Tensor) -> Tensor:
        """Refine (B, C, H, W) with the geometry (1, G, H, W) of `geometry_encoding`."""
        modulation: Tensor = self.modulation(geometry)
        scale, shift = modulation.chunk(2, dim=1)
        return x + self.content(x) * (1 + scale) + shift
