"""3 x 3 convolutions with a quarter of the multiplications: Winograd's algorithm (Lavin, Gray, arXiv 1509.09308).

A tile of 4 x 4 outputs is computed from 6 x 6 inputs with 36 products per pair of channels instead of 144. Most of the
time goes into these products, which are matrix products over the channels; the transforms only sum a few maps.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo import sphere
from mtpano_zoo.layers.convolution import SphereConv2d

__all__ = ("WinogradConv2d", "suits_winograd")

TILE = 4
PATCH = TILE + 2
TILES_AT_A_TIME = 256  # keeps the data between the transforms in the cache

# Evaluates the polynomial whose coefficients are a row of the kernel at the points 0, 1, -1, 2, -2 and infinity.
KERNEL_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def suits_winograd(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a layer is a dense 3 x 3 convolution of stride 1 with zero or spherical padding of one pixel.

    Example:
        >>> suits_winograd(nn.Conv2d(8, 8, 3, padding=1)), suits_winograd(nn.Conv2d(8, 8, 3, padding=1, stride=2))
        (True, False)
    """
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer) in (nn.Conv2d, SphereConv2d)  # subclasses may pad or transform weights differently
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )


class WinogradConv2d(nn.Module):
    """Replacement for a 3 x 3 convolution of stride 1, without gradients; float32 results agree to about 1e-5.

    The kernels are stored transformed, in four times the memory. Autocast has no effect: the sums need more than 16
    bits.

    Args:
        convolution: convolution to replace, one that `suits_winograd`.

    Example:
        >>> convolution, x = nn.Conv2d(8, 8, 3, padding=1), torch.rand(1, 8, 16, 32)
        >>> torch.allclose(WinogradConv2d(convolution)(x), convolution(x), atol=1e-4)
        True
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.spherical = isinstance(convolution, SphereConv2d)
        weight = convolution.weight.detach()
        transform = torch.tensor(KERNEL_TRANSFORM, dtype=torch.float64, device=weight.device).to(weight.dtype)
        transformed = torch.einsum("ai,ocij,bj->baco", transform, weight, transform)
        self.weight = nn.Parameter(transformed.reshape(PATCH * PATCH, *weight.shape[1::-1]), requires_grad=False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W); the result is stored channels last."""
        with torch.autocast(x.device.type, enabled=False):
            return self._convolve_all(x.to(self.weight.dtype))

    def _convolve_all(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = -(-height // TILE), -(-width // TILE)
        bottom, right = TILE * rows - height, TILE * columns - width
        if self.spherical:
            x = F.pad(sphere.pad(x, (1, 1, 1, 1)), (0, right, 0, bottom)).permute(0, 2, 3, 1)
        else:
            x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + right, 1, 1 + bottom))
        y = x.new_empty(len(x), rows, TILE, columns, TILE, self.weight.shape[-1])
        step = max(1, TILES_AT_A_TIME // (len(x) * columns))
        for i in range(0, rows, step):
            self._convolve(x[:, TILE * i : TILE * min(i + step, rows) + 2], y[:, i : i + step])
        return y.view(len(x), TILE * rows, TILE * columns, -1)[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor, into: Tensor) -> None:
        """Convolve padded rows (B, 4 r + 2, 4 c + 2, C) into tiles (B, r, 4, c, 4, O)."""
        batch, rows, _, columns, _, channels = into.shape
        sums = x.new_empty(PATCH, batch, rows, *x.shape[2:])
        _transform([x[:, i : i + TILE * rows - 3 : TILE] for i in range(PATCH)], sums)
        tiles = x.new_empty(PATCH, PATCH, batch, rows, columns, x.shape[-1])
        _transform([sums[:, :, :, i : i + TILE * columns - 3 : TILE] for i in range(PATCH)], tiles)
        products = torch.bmm(tiles.view(PATCH * PATCH, batch * rows * columns, -1), self.weight)
        if self.bias is not None:
            # Added at the point (1, 1), which enters every output of a tile with weight one.
            products[PATCH + 1] += self.bias
        products = products.view(PATCH, PATCH, batch, rows, columns, channels)
        outputs = x.new_empty(TILE, PATCH, batch, rows, columns, channels)
        _transform_back(products.unbind(1), outputs)
        _transform_back(outputs.unbind(1), into.permute(4, 2, 0, 1, 3, 5))


def _transform(x: Sequence[Tensor], into: Tensor) -> None:
    """Turn six maps, the inputs of a tile along one axis, into the six sums that enter the products."""
    even, odd = torch.add(x[4], x[2], alpha=-4), torch.add(x[3], x[1], alpha=-4)
    torch.add(even, odd, out=into[1])
    torch.sub(even, odd, out=into[2])
    torch.sub(x[4], x[2], out=even)
    torch.sub(x[3], x[1], out=odd)
    torch.add(even, odd, alpha=2, out=into[3])
    torch.sub(even, odd, alpha=2, out=into[4])
    torch.add(even, x[0] - x[2], alpha=4, out=into[0])
    torch.sub(x[5] - x[3], odd, alpha=4, out=into[5])


def _transform_back(x: Sequence[Tensor], into: Tensor) -> None:
    """Turn six maps of products into the four outputs of a tile along one axis."""
    even, odd, even_2, odd_2 = x[1] + x[2], x[1] - x[2], x[3] + x[4], x[3] - x[4]
    torch.add(odd, odd_2, alpha=2, out=into[1])
    torch.add(even, even_2, alpha=4, out=into[2])
    torch.add(even.add_(even_2), x[0], out=into[0])
    torch.add(odd.add_(odd_2, alpha=8), x[5], out=into[3])
