"""Layers of convolutional networks that pad circularly along the width: they have no seam at 0/360 degrees."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from timm.layers.blur_pool import BlurPool2d
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from mtpano_zoo.errors import InputError

__all__ = ("WrappedConv2d", "wrap_layers")


def wrap_layers(network: nn.Module, architecture: str) -> None:
    """Make every layer that pads do so across the seam.

    Args:
        network: network to change in place.
        architecture: its name, for the message.

    Raises:
        InputError: If a layer pads in another way, or is a convolution that transforms its weights.
    """
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if (
                isinstance(layer, nn.Conv2d)
                and type(layer) in (nn.Conv2d, Conv2dSame)
                and layer.padding_mode == "zeros"
            ):
                if layer.kernel_size != (1, 1):
                    setattr(module, name, WrappedConv2d(layer))
            elif type(layer) is nn.MaxPool2d and not layer.ceil_mode:
                setattr(module, name, _WrappedMaxPool2d(layer.kernel_size, layer.stride, layer.padding, layer.dilation))
            elif isinstance(layer, nn.Conv2d | nn.MaxPool2d | BlurPool2d) or (
                isinstance(layer, nn.AvgPool2d) and any(_pair(layer.padding))
            ):
                raise InputError(
                    f"{architecture!r} has layers of the type {type(layer).__name__} that cannot be wrapped at 0/360 "
                    "degrees: choose another architecture."
                )


class WrappedConv2d(nn.Conv2d):
    """Replacement for a convolution that pads circularly along the width and shares its weights.

    Example:
        >>> layer = WrappedConv2d(nn.Conv2d(3, 8, 3, padding=1))
        >>> image = torch.rand(1, 3, 16, 32)
        >>> torch.allclose(layer(image.roll(5, -1)), layer(image).roll(5, -1), atol=1e-5)
        True
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            cast("tuple[int, int]", convolution.kernel_size),
            cast("tuple[int, int]", convolution.stride),
            cast("tuple[int, int]", convolution.padding),
            cast("tuple[int, int]", convolution.dilation),
            convolution.groups,
            convolution.bias is not None,
            device="meta",
        )
        self.weight = convolution.weight
        self.bias = convolution.bias
        self.same = isinstance(convolution, Conv2dSame)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        padded = _pad(input, self._padding(input.shape[-2], 0), self._padding(input.shape[-1], 1))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _padding(self, length: int, side: Literal[0, 1]) -> tuple[int, int]:
        if not self.same:
            padding = int(self.padding[side])
            return padding, padding
        # TensorFlow's "same": pad what the last window lacks, an odd pixel at the end.
        stride, reach = self.stride[side], self.dilation[side] * (self.kernel_size[side] - 1)
        total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
        return total // 2, total - total // 2


class _WrappedMaxPool2d(nn.MaxPool2d):
    """A max-pool that pads circularly along the width."""

    def forward(self, input: Tensor) -> Tensor:
        """Pool (B, C, H, W)."""
        rows, columns = _pair(self.padding)
        padded = _pad(input, (rows, rows), (columns, columns), -torch.inf)
        return F.max_pool2d(padded, self.kernel_size, self.stride, 0, self.dilation)


def _pad(x: Tensor, rows: tuple[int, int], columns: tuple[int, int], value: float = 0.0) -> Tensor:
    if any(columns):
        x = F.pad(x, (*columns, 0, 0), mode="circular")
    return F.pad(x, (0, 0, *rows), value=value) if any(rows) else x


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
