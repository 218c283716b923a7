"""From the panorama to its views, and from the views' labels back to the panorama.

Every pixel of the panorama is looked up in every view that sees it: the centre of the pixel has the ray r, the camera
sees it at K R^T r. Nothing is splatted, so a view leaves no gaps in its label.

A depth or a normal is interpolated where the four pixels around the point agree, and taken from the nearest one across
edges, which therefore stay where they are. Depth is interpolated as 1/z, which is linear along a plane: on walls and
floors the result is exact, and the distance is z times the length of the ray with z = 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtpano_zoo.labeling.views import Views
from mtpano_zoo.sphere import erp_angles, perspective_rays, to_perspective

# The largest ratio of the depths of four neighbours on one surface.
SAME_SURFACE = 1.25
# The shortest mean of the normals of four neighbours on one surface; 0.95 is what two normals 36 degrees apart have.
SAME_NORMAL = 0.95
# Part of a half view over which the weight falls to zero at the border.
MARGIN = 0.5


@dataclass(frozen=True)
class SparseLabels:
    """What a view says of the pixels of a panorama that it sees; None is what it does not know.

    Args:
        pixels: index into the H * W pixels in rows, ascending, int64 (n,).
        semseg: class, uint8 (n,); 255 = none.
        depth: metres along the ray, (n,); 0 = none.
        normals: in the frame of the panorama, towards the camera, (n, 3); zero = none.
    """

    pixels: Tensor
    semseg: Tensor | None = None
    depth: Tensor | None = None
    normals: Tensor | None = None


@dataclass(frozen=True)
class Footprint:
    """The pixels of a panorama that one view sees, and where it sees them.

    Args:
        pixels: index into the H * W pixels in rows, ascending, int64 (n,).
        x: column in the view, (n,); integers are pixel centres.
        y: row in the view, (n,).
        stretch: length of the ray with z = 1 in the camera, (n,).
        weight: 1 in the middle of the view, falling smoothly to 0 at its border, (n,).
    """

    pixels: Tensor
    x: Tensor
    y: Tensor
    stretch: Tensor
    weight: Tensor


def cut(image: Tensor, views: Views) -> Tensor:
    """The views (V, 3, h, w) of a panorama (3, H, W)."""
    return to_perspective(image[None], views.rotations, views.height, views.width, intrinsics=views.intrinsics)[0]


def footprints(
    views: Views, height: int, width: int, *, invalid: Tensor | None = None, device: torch.device | str = "cpu"
) -> list[Footprint]:
    """Where every view sees the pixels of a panorama of height x width, without those invalid in bool (H, W)."""
    longitude, latitude = erp_angles(height, width, device=device)
    sin, cos, level, down = longitude.sin(), longitude.cos(), latitude.cos()[:, None], -latitude.sin()[:, None]
    cameras = (views.intrinsics.double() @ views.rotations.double().mT).float()
    valid = None if invalid is None else ~invalid.to(device).flatten()
    found = []
    for camera in cameras.tolist():
        # A row of the camera times the ray is a product of functions of longitude and latitude: one pass per row.
        x, y, z = (torch.addcmul(row[1] * down, level, row[0] * sin + row[2] * cos).flatten() for row in camera)
        right, low = x + 0.5 * z, y + 0.5 * z
        inside = (z > 0) & (right >= 0) & (right <= views.width * z) & (low >= 0) & (low <= views.height * z)
        pixels = (inside if valid is None else inside & valid).nonzero().squeeze(1)
        stretch = 1 / z[pixels]
        x, y = x[pixels] * stretch, y[pixels] * stretch
        weight = _ramp((x + 0.5) * (2 / views.width)) * _ramp((y + 0.5) * (2 / views.height))
        found.append(Footprint(pixels, x, y, stretch, weight))
    return found


def _ramp(position: Tensor) -> Tensor:
    """Smooth step from the border, 0 or 2, to `MARGIN` inside it; not quite zero, so that every pixel has a label."""
    inner = ((1 - (position - 1).abs()) / MARGIN).clamp(1e-3, 1)
    return inner * inner * (3 - 2 * inner)


@dataclass(frozen=True)
class Taps:
    """The four pixels of a map (h, w) around points, as indices into its h * w pixels, and their weights.

    Args:
        corners: upper left, upper right, lower left and lower right, four times int64 (n,).
        weights: theirs, four times (n,).
        nearest: the one of them next to the point, int64 (n,).
    """

    corners: Sequence[Tensor]
    weights: Sequence[Tensor]
    nearest: Tensor


def taps(footprint: Footprint, views: Views, height: int, width: int) -> Taps:
    """Where to look up a map of height x width pixels that covers a view; its outermost values go on to the border."""
    x = ((footprint.x + 0.5) * (width / views.width) - 0.5).clamp(0, width - 1)
    y = ((footprint.y + 0.5) * (height / views.height) - 0.5).clamp(0, height - 1)
    left, top = x.floor().clamp(max=max(width - 2, 0)), y.floor().clamp(max=max(height - 2, 0))
    fx, fy = x - left, y - top
    corner = (top * width + left).long()
    right, below = min(1, width - 1), width * min(1, height - 1)
    across, down = (fx > 0.5).long() * right, (fy > 0.5).long() * below
    both = fx * fy
    return Taps(
        (corner, corner + right, corner + below, corner + (right + below)),
        (1 - fx - fy + both, fx - both, fy - both, both),
        corner + across + down,
    )


def sample_inverse(inverse: Tensor, where: Taps) -> Tensor:
    """Inverse z-depth or disparity (n,) of a view (h, w), 0 = none: interpolated on a surface, nearest at its edges."""
    flat = inverse.flatten()
    a, b, c, d = (flat[corner] for corner in where.corners)
    least, most = torch.minimum(torch.minimum(a, b), torch.minimum(c, d)), torch.maximum(a, b)
    most = torch.maximum(most, torch.maximum(c, d))
    mixed = sum(value * weight for value, weight in zip((a, b, c, d), where.weights, strict=True))
    return torch.where((least > 0) & (most <= SAME_SURFACE * least), mixed, flat[where.nearest])


def sample_normals(normals: Tensor, where: Taps, rotation: Tensor) -> Tensor:
    """Unit normals (3, n) in the frame of the panorama, of a view (3, h, w): interpolated, or nearest at edges."""
    flat = normals.flatten(1)
    mixed = torch.zeros((), device=flat.device)
    for corner, weight in zip(where.corners, where.weights, strict=True):
        mixed = mixed + flat[:, corner] * weight
    nearest = flat[:, where.nearest]
    square = (mixed * mixed).sum(0)
    smooth = (square >= SAME_NORMAL**2) & (nearest != 0).any(0)
    chosen = torch.where(smooth, mixed * square.clamp(min=1e-12).rsqrt(), nearest)
    # Written out, because a matrix product may run in reduced precision on a GPU.
    r, (x, y, z) = rotation.tolist(), chosen.unbind(0)
    return torch.stack([row[0] * x + row[1] * y + row[2] * z for row in r])


def inverse_depth(depth: Tensor, views: Views, index: int, along_ray: bool) -> Tensor:
    """Inverse z-depth (h, w) of one view from its z-depth or distance; 0 where there is none."""
    known = (depth > 0) & depth.isfinite()
    inverse = torch.where(known, 1 / torch.where(known, depth, 1), 0).float()
    if along_ray:
        intrinsics = views.intrinsics[index].to(depth.device)
        rays = perspective_rays(*depth.shape, intrinsics=intrinsics, normalize=False)
        inverse = inverse * torch.linalg.vector_norm(rays, dim=-1)
    return inverse
