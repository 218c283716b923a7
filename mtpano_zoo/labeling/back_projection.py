"""From the panorama to its views, and from the views' labels back to the panorama.

Every pixel of the panorama is looked up in every view that sees it: the centre of the pixel has the ray r, and the
camera sees it at K R^T r. Nothing is splatted, so the label of a view has no gaps.

Depth and normals are interpolated where the four pixels around the point agree, and taken from the nearest one at
edges, which therefore do not move. Depth is interpolated as 1/z, which is linear along a plane: on walls and floors the
result is exact. The distance is z times the length of the ray with z = 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mtpano_zoo.labeling.views import Views
from mtpano_zoo.sphere import erp_angles, perspective_rays, to_perspective

__all__ = (
    "Footprint",
    "Points",
    "SparseLabels",
    "cut",
    "footprints",
    "inverse_depth",
    "sample_inverse",
    "sample_normals",
)

# The largest ratio of the depths of four neighbours on one surface.
SAME_SURFACE = 1.25
# The shortest mean of the normals of four neighbours on one surface; 0.95 is what two normals 36 degrees apart have.
SAME_NORMAL = 0.95
# Fraction of a half view over which the weight falls to zero at its border. It is flat inside: the more views count at
# a pixel, the more of their independent errors cancel.
MARGIN = 0.1


@dataclass(frozen=True)
class SparseLabels:
    """A view's labels of the pixels of a panorama that it sees; None if it has no labels of a task.

    Args:
        pixels: Index into the H * W pixels in rows, ascending, int64 (n,).
        semseg: Class, uint8 (n,); 255 = none.
        depth: Metres along the ray, (n,); 0 = none.
        normals: In the frame of the panorama, towards the camera, (n, 3); zero = none.
    """

    pixels: Tensor
    semseg: Tensor | None = None
    depth: Tensor | None = None
    normals: Tensor | None = None


@dataclass(frozen=True)
class Points:
    """Points in a map of h x w pixels, between its pixels; those beyond the outermost centres are moved onto them.

    Args:
        corner: Index of the upper left one of the four pixels around the point, int32 (n,).
        right: 0 to 1, from it to its right neighbour, (n,).
        down: 0 to 1, from it to the one below, (n,).
        width: Columns of the map.
        height: Rows of the map.
    """

    corner: Tensor
    right: Tensor
    down: Tensor
    height: int
    width: int

    @property
    def offsets(self) -> tuple[int, int, int, int]:
        """Offsets from the corner to the four pixels: the corner, its right neighbour, and the two below."""
        right, below = min(1, self.width - 1), self.width * min(1, self.height - 1)
        return 0, right, below, right + below

    def chosen(self, index: Tensor) -> "Points":
        """Return the points with these indices."""
        corner, right, down = (one.index_select(0, index) for one in (self.corner, self.right, self.down))
        return replace(self, corner=corner, right=right, down=down)

    def four(self, maps: Tensor) -> list[Tensor]:
        """Return the four pixels around the points in maps (..., h, w), four times (..., n)."""
        flat = maps.flatten(-2)
        return [flat[..., offset:].index_select(-1, self.corner) for offset in self.offsets]

    @cached_property
    def closest(self) -> Tensor:
        """Index of the pixel nearest to each point, int32 (n,)."""
        _, right, below, _ = self.offsets
        return self.corner + right * (self.right > 0.5).int() + below * (self.down > 0.5).int()

    def nearest(self, maps: Tensor) -> Tensor:
        """Return the pixels nearest to the points in maps (..., h, w), (..., n)."""
        return maps.flatten(-2).index_select(-1, self.closest)

    def mixed(self, four: Sequence[Tensor]) -> Tensor:
        """Return the bilinear mixture of the four pixels."""
        a, b, c, d = four
        return torch.lerp(torch.lerp(a, b, self.right), torch.lerp(c, d, self.right), self.down)

    def weights(self, total: Tensor | float = 1.0) -> Tensor:
        """Return the weights (n, 4) of the four pixels in the mixture, which add up to the total (n,)."""
        found = self.right.new_empty(len(self.right), 4)
        below = total * self.down
        above = total - below
        right, right_below = above * self.right, below * self.right
        for column, weight in enumerate((above - right, right, below - right_below, right_below)):
            found[:, column] = weight
        return found

    def rows(self, first: int = 0) -> Tensor:
        """Return the indices of the four pixels, int32 (n, 4); `first` is the index of the map's first pixel."""
        found = self.corner.new_empty(len(self.corner), 4)
        for column, offset in enumerate(self.offsets):
            found[:, column] = self.corner + (first + offset)
        return found


@dataclass(frozen=True)
class Footprint:
    """The pixels of a panorama that one view sees, and where it sees them.

    Args:
        pixels: Index into the H * W pixels in rows, ascending, int64 (n,).
        points: Where the view sees them.
        stretch: Length of the ray with z = 1 in the camera, (n,).
        weight: 1 in the middle of the view, falling smoothly to 0 at its border, (n,).
    """

    pixels: Tensor
    points: Points
    stretch: Tensor
    weight: Tensor

    def points_in(self, height: int, width: int) -> Points:
        """Return the same points in a map of another size that covers the view."""
        if (height, width) == (self.points.height, self.points.width):
            return self.points
        row = self.points.corner // self.points.width
        x = (self.points.corner - row * self.points.width) + self.points.right
        y = row + self.points.down
        across, along = width / self.points.width, height / self.points.height
        return _points((x + 0.5) * across - 0.5, (y + 0.5) * along - 0.5, height, width)


def cut(image: Tensor, views: Views) -> Tensor:
    """Return the views (V, 3, h, w) of a panorama (3, H, W)."""
    return to_perspective(image[None], views.rotations, views.height, views.width, intrinsics=views.intrinsics)[0]


def footprints(
    views: Views, height: int, width: int, *, invalid: Tensor | None = None, device: torch.device | str = "cpu"
) -> list[Footprint]:
    """Return where every view sees the pixels of a panorama (height, width), except invalid ones, bool (H, W)."""
    longitude, latitude = erp_angles(height, width, device=device)
    sin, cos, level, down = longitude.sin(), longitude.cos(), latitude.cos()[:, None], -latitude.sin()[:, None]
    rays = [plane.flatten() for plane in (level * sin, down.expand(height, width), level * cos)]
    valid = None if invalid is None else ~invalid.to(device)
    cameras = (views.intrinsics.double() @ views.rotations.double().mT).tolist()
    found = []
    for sides, camera, rows in zip(views.sides().tolist(), cameras, _rows(views, height), strict=True):
        inside = torch.full((), math.inf, device=device)
        for x, y, z in sides:
            # A product with a ray is cos(latitude) times a function of the longitude, plus one of the latitude.
            inside = torch.minimum(inside, torch.addcmul(y * down[rows], level[rows], x * sin + z * cos))
        seen = inside >= 0 if valid is None else (inside >= 0) & valid[rows]
        pixels = seen.flatten().nonzero().squeeze(1) + rows.start * width
        ray = [plane.index_select(0, pixels) for plane in rays]
        x, y, z = (row[0] * ray[0] + row[1] * ray[1] + row[2] * ray[2] for row in camera)
        stretch = 1 / z
        x, y = x * stretch, y * stretch
        weight = _ramp((x + 0.5) * (2 / views.width)) * _ramp((y + 0.5) * (2 / views.height))
        found.append(Footprint(pixels, _points(x, y, views.height, views.width), stretch, weight))
    return found


def _rows(views: Views, height: int) -> list[slice]:
    """Return the range of rows of a panorama that each view can see."""
    x, y = torch.tensor([-0.5, views.width - 0.5]), torch.tensor([-0.5, views.height - 0.5])
    corners = torch.stack((x.repeat(2), y.repeat_interleave(2), torch.ones(4))).double()
    corners = torch.linalg.solve(views.intrinsics.double().cpu(), corners)
    # Everything lies within a cone around the axis that goes through the farthest corner.
    half = torch.acos(corners[:, 2] / torch.linalg.vector_norm(corners, dim=1)).amax(1)
    middle = torch.asin(views.rotations[:, 1, 2].double().cpu().clamp(-1, 1))
    first = ((0.5 + (middle - half) / math.pi) * height).floor().long().clamp(min=0) - 1
    last = ((0.5 + (middle + half) / math.pi) * height).ceil().long().clamp(max=height) + 1
    return [slice(max(0, a), min(height, b)) for a, b in zip(first.tolist(), last.tolist(), strict=True)]


def _points(x: Tensor, y: Tensor, height: int, width: int) -> Points:
    """Return points at column x and row y (n,) of a map, in pixels from the centre of the first one."""
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor().clamp(max=max(width - 2, 0)), y.floor().clamp(max=max(height - 2, 0))
    return Points(torch.add(left, top, alpha=width).int(), x - left, y - top, height, width)


def _ramp(position: Tensor) -> Tensor:
    """Return a smooth step from the border, 0 or 2, to `MARGIN` inside; above zero, so that every pixel has a label."""
    inner = ((1 - (position - 1).abs()) / MARGIN).clamp(1e-3, 1)
    return inner * inner * (3 - 2 * inner)


def sample_inverse(inverse: Tensor, points: Points) -> Tensor:
    """Sample inverse z-depth or disparity (n,) of a view (h, w), 0 = none: interpolated, or nearest at edges."""
    four = points.four(inverse)
    a, b, c, d = four
    least = torch.minimum(torch.minimum(a, b), torch.minimum(c, d))
    most = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.where(most <= SAME_SURFACE * least, points.mixed(four), points.nearest(inverse))


def sample_normals(normals: Tensor, points: Points, rotation: Tensor) -> Tensor:
    """Sample unit normals (3, n) in the panorama's frame from a view (3, h, w): interpolated, or nearest at edges."""
    mixed, nearest = [points.mixed(points.four(axis)) for axis in normals], [points.nearest(axis) for axis in normals]
    x, y, z = mixed
    square = x * x + y * y + z * z
    known = (nearest[0] != 0) | (nearest[1] != 0) | (nearest[2] != 0)
    smooth, inverse = (square >= SAME_NORMAL**2) & known, square.rsqrt()
    x, y, z = (torch.where(smooth, one * inverse, near) for one, near in zip(mixed, nearest, strict=True))
    # Written out, because a matrix product may run in reduced precision on a GPU.
    return torch.stack([row[0] * x + row[1] * y + row[2] * z for row in rotation.tolist()])


def inverse_depth(depth: Tensor, views: Views, index: int, along_ray: bool) -> Tensor:
    """Return inverse z-depth (h, w) of one view from its z-depth or distance; 0 where there is none."""
    known = (depth > 0) & (depth < math.inf)
    inverse = torch.where(known, 1 / torch.where(known, depth, 1), 0).float()
    if along_ray:
        intrinsics = views.intrinsics[index].to(depth.device)
        rays = perspective_rays(*depth.shape, intrinsics=intrinsics, normalize=False)
        inverse = inverse * torch.linalg.vector_norm(rays, dim=-1)
    return inverse
