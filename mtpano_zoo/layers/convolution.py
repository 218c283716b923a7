"""Convolution and resizing that wrap at the seam and continue over the poles."""

from math import gcd
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError

__all__ = ("Convention", "SphereConv2d", "Upsample", "check_convention", "conv2d")

Convention = Literal["sphere", "paper"]


def check_convention(convention: Convention) -> Convention:
    """Return a convention that is known.

    Raises:
        InputError: If it is not.

    Example:
        >>> check_convention("paper")
        'paper'
    """
    if convention not in get_args(Convention):
        raise InputError(f"convention must be {' or '.join(get_args(Convention))}, not {convention!r}.")
    return convention


class SphereConv2d(nn.Conv2d):
    """Convolution of an equirectangular map that pads with neighbours on the sphere instead of zeros.

    Input (B, C, H, W); the keys of its state dict are those of `torch.nn.Conv2d`.

    Example:
        >>> convolution, x = SphereConv2d(1, 1, 3, padding=1), torch.rand(1, 1, 8, 16)
        >>> torch.allclose(convolution(x.roll(5, -1)), convolution(x).roll(5, -1), atol=1e-5)  # no seam
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W) across the seam and the poles."""
        rows, columns = int(self.padding[0]), int(self.padding[1])
        padded = sphere.pad(input, (columns, columns, rows, rows))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    *,
    convention: Convention,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """Build a convolution with "same" padding: spherical for `convention="sphere"`, zero for `convention="paper"`.

    Example:
        >>> conv2d(3, 8, 3, convention="paper")(torch.zeros(1, 3, 16, 32)).shape
        torch.Size([1, 8, 16, 32])
    """
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    convolution = SphereConv2d if convention == "sphere" else nn.Conv2d
    padding = (height // 2, width // 2)
    return convolution(in_channels, out_channels, (height, width), stride, padding, groups=groups, bias=bias)


class Upsample(nn.Module):
    """Bilinear resizing of an equirectangular map (B, C, H, W) to a given size.

    `convention="sphere"` samples at pixel centres across the seam and the poles, so that resizing commutes with a
    horizontal roll. `convention="paper"` is plain bilinear resizing with the given `align_corners`.

    Example:
        >>> upsample, x = Upsample("sphere", align_corners=False), torch.rand(1, 1, 4, 8)
        >>> torch.allclose(upsample(x.roll(1, -1), (8, 16)), upsample(x, (8, 16)).roll(2, -1), atol=1e-6)
        True
    """

    def __init__(self, convention: Convention, align_corners: bool) -> None:
        super().__init__()
        self.convention = convention
        self.align_corners = align_corners

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize (B, C, h, w) to (B, C, H, W), where `size` is (H, W)."""
        height, width = x.shape[-2:]
        if (height, width) == size:
            return x
        if self.convention == "paper":
            return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)
        # The smallest border that maps to whole pixels of the output.
        rows, columns = gcd(height, size[0]), gcd(width, size[1])
        border_rows, border_columns = height // rows, width // columns
        crop_rows, crop_columns = size[0] // rows, size[1] // columns
        padded = sphere.pad(x, (border_columns, border_columns, border_rows, border_rows))
        padded_size = (size[0] + 2 * crop_rows, size[1] + 2 * crop_columns)
        resized = F.interpolate(padded, padded_size, mode="bilinear", align_corners=False)
        return resized[..., crop_rows : crop_rows + size[0], crop_columns : crop_columns + size[1]]

    def extra_repr(self) -> str:
        """Show the convention in the module's printout."""
        return f"convention={self.convention!r}, align_corners={self.align_corners}"


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias to zero, so that the branch ending in `layer` adds nothing at first.

    Example:
        >>> zero_init(nn.Conv2d(3, 8, 1)).weight.any().item()
        False
    """
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
