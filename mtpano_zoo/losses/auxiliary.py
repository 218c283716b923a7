"""Labels of the auxiliary tasks, derived from the image and the depth, without annotation.

After MTPano (arXiv 2602.05330): image gradient, distance to the nearest image edge, and point map. All follow the
sphere: filters wrap at the seam and continue over the poles, distances wrap.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.sphere import erp_rays, pad

__all__ = ("distance_transform", "edge_distance", "image_gradient", "point_map", "sobel")


def sobel(padded: Tensor) -> tuple[Tensor, Tensor]:
    """Return unnormalised horizontal and vertical Sobel responses (..., H, W) of maps already padded by one pixel.

    It sums slices instead of convolving, because autocast and TF32 would round a convolution to three digits.

    Example:
        >>> ramp = torch.arange(3.0).expand(3, 3)
        >>> x, y = sobel(ramp)
        >>> x.item(), y.item()
        (8.0, 0.0)
    """
    left, right = padded[..., :-2], padded[..., 2:]
    across = right - left
    top, bottom = padded[..., :-2, :], padded[..., 2:, :]
    down = bottom - top
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    gy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return gx, gy


@torch.no_grad()
def image_gradient(image: Tensor) -> Tensor:
    """Return the Sobel gradient (B, 2, H, W), right and down, of the luma of an RGB image (B, 3, H, W) in [0, 1].

    Example:
        >>> image_gradient(torch.rand(1, 3, 4, 8)).shape
        torch.Size([1, 2, 4, 8])
        >>> image_gradient(torch.ones(1, 3, 4, 8)).abs().max().item() < 1e-5
        True
    """
    red, green, blue = image.float().unbind(1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
    return torch.cat(sobel(pad(luma, (1, 1, 1, 1))), dim=1)


@torch.no_grad()
def edge_distance(image: Tensor, max_distance: int = 64) -> Tensor:
    """Return log(1 + pixels) (B, 1, H, W) to the nearest edge of an RGB image (B, 3, H, W) in [0, 1].

    An edge is a pixel whose luma gradient exceeds 0.5. The distance is exact up to ``max_distance`` and stays there
    beyond: an image without edges has a finite label, and no pixel looks further than that.

    Example:
        >>> edge_distance(torch.ones(1, 3, 4, 8), max_distance=5).exp().mean().round().item()
        6.0
    """
    edges = image_gradient(image).square().sum(dim=1) > 0.5**2
    return torch.log1p(distance_transform(edges, max_distance))[:, None]


def distance_transform(mask: Tensor, max_distance: int, wrap: bool = True) -> Tensor:
    """Return the distance (B, H, W) in pixels to a mask's nearest true pixel (B, H, W), at most ``max_distance``.

    Two exact passes: along the columns by running maxima, then the least sum of squares over the columns within
    ``max_distance``. It runs the same operations on every device and never synchronises with the host.

    Example:
        >>> mask = torch.tensor([[[True, False, False, False, False, False]]])
        >>> distance_transform(mask, 64)[0, 0].tolist()
        [0.0, 1.0, 2.0, 3.0, 2.0, 1.0]
        >>> distance_transform(mask, 64, wrap=False)[0, 0].tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    height, width = mask.shape[-2:]
    limit = max_distance
    rows = torch.arange(height, device=mask.device, dtype=torch.float32)[:, None]
    far = -float(height + limit)
    above = rows - torch.where(mask, rows, far).cummax(dim=1).values
    below = -rows - torch.where(mask, -rows, far - height).flip(1).cummax(dim=1).values.flip(1)
    squared = torch.minimum(above, below).clamp(max=limit).square()
    # Beyond half a turn, the other way round is shorter: further columns can be skipped.
    reach = min(limit, width // 2 if wrap else width - 1)
    padded = pad(squared, (reach, reach, 0, 0)) if wrap else F.pad(squared, (reach, reach), value=float(limit) ** 2)
    nearest = squared
    for shift in range(1, reach + 1):
        left = padded[..., reach - shift : reach - shift + width]
        right = padded[..., reach + shift : reach + shift + width]
        nearest = torch.minimum(nearest, torch.minimum(left, right) + shift * shift)
    return nearest.sqrt().clamp(max=limit)


@torch.no_grad()
def point_map(depth: Tensor, valid: Tensor) -> Tensor:
    """Return points (B, 3, H, W) in metres, x right, y down, z forward, from depth (B, H, W); zero if not valid.

    Example:
        >>> depth = torch.full((1, 4, 8), 2.0)
        >>> round(point_map(depth, depth > 0).norm(dim=1).mean().item(), 4)
        2.0
    """
    rays = erp_rays(*depth.shape[-2:], device=depth.device).permute(2, 0, 1)
    return torch.where(valid, depth.float(), 0)[:, None] * rays
