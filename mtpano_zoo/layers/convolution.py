"""Convolution and resizing that wrap at the seam and continue over the poles."""

from math import gcd
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError

__all__ = ("Convention", "SphereConv2d", "Upsample", "check_convention", "conv2d", "without_autocast", "zero_init")

Convention = Literal["sphere", "paper"]


def check_convention(convention: Convention) -> Convention:
    """Return a convention if it is known.

    Raises:
        InputError: If it is not known.

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


def without_autocast(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a layer in the precision of its weights to what another layer made under autocast.

    The last layer of a network needs it: bfloat16 has eight bits, so distances beyond two metres would have steps of
    1.6 cm, more than between neighbouring pixels. Name such layers in `full_precision` of the module that has them, and
    preparing for inference leaves their weights as they are.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     without_autocast(nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 2, 4, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    if x.dtype == layer.weight.dtype:
        return cast(Tensor, layer(x))
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, layer(x.to(layer.weight.dtype)))


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
            return bilinear(x, size, self.align_corners)
        # The smallest border that maps to whole pixels of the output.
        rows, columns = gcd(height, size[0]), gcd(width, size[1])
        border_rows, border_columns = height // rows, width // columns
        crop_rows, crop_columns = size[0] // rows, size[1] // columns
        padded = sphere.pad(x, (border_columns, border_columns, border_rows, border_rows))
        padded_size = (size[0] + 2 * crop_rows, size[1] + 2 * crop_columns)
        resized = bilinear(padded, padded_size, align_corners=False)
        return resized[..., crop_rows : crop_rows + size[0], crop_columns : crop_columns + size[1]]

    def extra_repr(self) -> str:
        """Show the convention in the module's printout."""
        return f"convention={self.convention!r}, align_corners={self.align_corners}"


def bilinear(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Resize (B, C, h, w) to (B, C, *size), in the precision of `x`.

    Where a GPU would sum the gradient with atomic operations in half precision, which is slow, it is computed with two
    matrix products.

    Example:
        >>> bilinear(torch.rand(1, 1, 2, 4), (4, 8), align_corners=False).shape
        torch.Size([1, 1, 4, 8])
    """
    if x.is_cuda and x.requires_grad and x.dtype in (torch.float16, torch.bfloat16):
        resized: Tensor = BilinearByProducts.apply(x, size, align_corners)
        return resized
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


class BilinearByProducts(torch.autograd.Function):
    """Bilinear resizing whose gradient is computed with two matrix products, one per axis.

    Example:
        >>> x = torch.ones(1, 1, 2, 4, requires_grad=True)
        >>> BilinearByProducts.apply(x, (4, 8), False).sum().backward()
        >>> x.grad.unique().tolist()
        [4.0]
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        """Resize (B, C, h, w) to (B, C, *size)."""
        ctx.sizes, ctx.align_corners = (x.shape[-2:], size), align_corners
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Resize the gradient (B, C, *size) back to (B, C, h, w)."""
        rows, columns = (
            _bilinear_matrix(old, new, ctx.align_corners, gradient) for old, new in zip(*ctx.sizes, strict=True)
        )
        return rows.T @ (gradient @ columns), None, None


def _bilinear_matrix(size: int, new_size: int, align_corners: bool, like: Tensor) -> Tensor:
    """Return the weights (new_size, size) of bilinear resizing along one axis."""
    steps = torch.arange(new_size, device=like.device, dtype=torch.float32)
    if align_corners:
        place = steps * ((size - 1) / max(1, new_size - 1))
    else:
        place = ((steps + 0.5) * (size / new_size) - 0.5).clamp(min=0)
    distance = place.clamp(max=size - 1)[:, None] - torch.arange(size, device=like.device)
    return (1 - distance.abs()).clamp(min=0).to(like.dtype)


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
