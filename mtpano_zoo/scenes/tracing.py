"""Trace rays one by one, in tiles: for cameras that are not level, and for light that comes from far away.

`casting` shares its work between the rays of a column and of a row, which only works for a level camera. Here every ray
has its own direction (and its own start, for the sun); tiles that a primitive cannot touch are still skipped.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from mtpano_zoo.scenes import solids
from mtpano_zoo.scenes.batching import Primitives
from mtpano_zoo.scenes.scene import CONE, CYLINDER

__all__ = (
    "FAR",
    "STEEP",
    "TILE",
    "Rays",
    "bounds",
    "corners",
    "details",
    "disjoint_groups",
    "from_tiles",
    "into_tiles",
    "keep_nearest",
    "nearest",
    "to_local",
    "touched_by_camera",
    "touched_by_cones",
    "trace",
)

TILE = 16
FAR = solids.NEVER
STEEP = 1e30  # factor that turns any positive float32 difference between distances into more than 1
_PAIRS = {"cpu": 2**9, "cuda": 2**15}  # pairs of a primitive and a tile that are solved at once


@dataclasses.dataclass
class Rays:
    """Rays of B images in tiles of TILE x TILE pixels, row by row; room frame, float64."""

    origin: Tensor  # (B, T, 3, TILE^2), or (B, T, 3, 1) if all rays of a tile start at one place
    direction: Tensor  # (B, T, 3, TILE^2), unit, or (B, T, 3, 1) if they are parallel

    def select(self, room: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
        """Return origins and directions (N, 3, ...) of some tiles."""
        return self.origin[room, tile], self.direction[room, tile]


def into_tiles(maps: Tensor) -> Tensor:
    """Cut maps (B, C, H, W) into (B, tiles, C, TILE^2), repeating the last row and column to fill whole tiles.

    Example:
        >>> into_tiles(torch.zeros(1, 3, TILE, 2 * TILE)).shape == (1, 2, 3, TILE * TILE)
        True
    """
    height, width = maps.shape[-2:]
    maps = torch.nn.functional.pad(maps, (0, -width % TILE, 0, -height % TILE), mode="replicate")
    images, channels, height, width = maps.shape
    cut = maps.view(images, channels, height // TILE, TILE, width // TILE, TILE).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(images, -1, channels, TILE * TILE)


def from_tiles(tiles: Tensor, height: int, width: int) -> Tensor:
    """Join tiles (B, T, TILE^2) into maps (B, H, W).

    Example:
        >>> maps = torch.arange(200.0).view(1, 1, 10, 20)
        >>> torch.equal(from_tiles(into_tiles(maps)[:, :, 0], 10, 20), maps[:, 0])
        True
    """
    rows, columns = math.ceil(height / TILE), math.ceil(width / TILE)
    maps = tiles.view(len(tiles), rows, columns, TILE, TILE).transpose(2, 3)
    return maps.reshape(len(tiles), rows * TILE, columns * TILE)[:, :height, :width].contiguous()


def trace(primitives: Primitives, rays: Rays, touched: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance, FAR for none, and the primitive (float32, exact up to 2^24) of the first hit (B, T, TILE^2).

    Args:
        primitives: P primitives.
        rays: B images of T tiles.
        touched: (P, T), the tiles that a primitive may be seen in.
    """
    images, tiles = rays.origin.shape[:2]
    best = torch.full((images * tiles, TILE * TILE), FAR, device=touched.device)
    winner = torch.zeros_like(best)
    prim, tile = touched.nonzero(as_tuple=True)
    if len(prim):
        place = primitives.room[prim] * tiles + tile
        order, sizes = disjoint_groups(place, len(best))
        prim, tile, place = prim[order], tile[order], place[order]
        room = primitives.room[prim]
        near = nearest(primitives, prim, lambda rows: rays.select(room[rows], tile[rows]))
        keep_nearest(best, winner, sizes, place, near, prim)
    return best.view(images, tiles, -1), winner.view(images, tiles, -1)


def nearest(primitives: Primitives, prim: Tensor, rays: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Return the distances (N, TILE^2) at which the rays of tiles meet the primitives `prim` (N,); FAR for a miss.

    `rays` returns origins and directions (n, 3, TILE^2) for some of the N, since all at once would not fit into memory.
    """
    near = torch.full((len(prim), TILE * TILE), FAR, device=prim.device)
    step = _PAIRS.get(prim.device.type, 2**12)
    kinds = primitives.kind[prim]
    for kind in solids.KINDS:
        rows = (kinds == kind).nonzero()[:, 0]
        for some in torch.split(rows, step):
            o, d = to_local(primitives, prim[some], *rays(some), torch.float32)
            lower, upper = bounds(primitives, prim[some], torch.float32)
            enter, leave = solids.interval(kind, o, d, lower, upper)
            # Misses and hits behind the camera are pushed away by arithmetic.
            missed = (enter - leave).clamp_(min=0) + (-enter).clamp_(min=0)
            near.index_copy_(0, some, enter.addcmul_(missed, missed.new_tensor(STEEP)).clamp_(max=FAR))
    return near


def details(
    primitives: Primitives, prim: Tensor, origin: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the surfaces where rays (N, 3) meet the primitives `prim` (N,); float64.

    These are distances (N,), normals (N, 3) in the room frame, and texture coordinates u and v (N,).
    """
    distance = torch.empty(len(prim), dtype=torch.float64, device=prim.device)
    normal, u, v = torch.empty_like(origin), torch.empty_like(distance), torch.empty_like(distance)
    kinds = primitives.kind[prim]
    for kind in solids.KINDS:
        at = (kinds == kind).nonzero()[:, 0]
        if len(at) == 0:
            continue
        rows = prim[at]
        o, d = to_local(primitives, rows, origin[at, :, None], direction[at, :, None], torch.float64)
        lower, upper = bounds(primitives, rows, torch.float64)
        t, (nx, ny, nz) = solids.hit(kind, o, d, lower, upper)
        x, y, z = (a + t * b for a, b in zip(o, d, strict=True))
        ax, ay, az = nx.abs(), ny.abs(), nz.abs()
        flat = (ay >= ax) & (ay >= az)
        along, up = torch.where(ax > az, z, x), y
        if kind in (CYLINDER, CONE):
            # Stands for the angle around the axis, as in `casting`.
            around = x / (x.abs() + z.abs()).clamp(min=1e-12)
            along = (around - 1) * z.sign() * upper[0] * 1.6
        distance[at], u[at], v[at] = t[:, 0], torch.where(flat, x, along)[:, 0], torch.where(flat, z, up)[:, 0]
        cos, sin = primitives.frame[rows, 2:].unbind(1)
        normal[at] = torch.stack((nx[:, 0] * cos + nz[:, 0] * sin, ny[:, 0], nz[:, 0] * cos - nx[:, 0] * sin), dim=1)
    return distance, normal, u, v


def to_local(
    primitives: Primitives, prim: Tensor, origin: Tensor, direction: Tensor, dtype: torch.dtype
) -> tuple[solids.Vector, solids.Vector]:
    """Transform origins and directions (N, 3, n) from the room frame to the frames of some primitives."""
    x, z, cos, sin = (column[:, None] for column in primitives.frame[prim].unbind(1))
    dx, dz = origin[:, 0] - x, origin[:, 2] - z
    start = (dx * cos - dz * sin, origin[:, 1], dx * sin + dz * cos)
    o = (start[0].to(dtype), start[1].to(dtype), start[2].to(dtype))
    cos, sin, (dx, dy, dz) = cos.to(dtype), sin.to(dtype), direction.to(dtype).unbind(1)
    return o, (dx * cos - dz * sin, dy, dx * sin + dz * cos)


def bounds(primitives: Primitives, prim: Tensor, dtype: torch.dtype) -> tuple[solids.Vector, solids.Vector]:
    """Return lower and upper bounds of some primitives, each three times (N, 1)."""
    (a, b, c), (d, e, f) = (t[prim].to(dtype)[:, :, None].unbind(1) for t in (primitives.lower, primitives.upper))
    return (a, b, c), (d, e, f)


def corners(primitives: Primitives) -> Tensor:
    """Return the eight corners (P, 8, 3) of the bounds, room frame."""
    lower, upper = primitives.lower, primitives.upper
    x = torch.stack((lower[:, 0], upper[:, 0]), 1)[:, [0, 0, 0, 0, 1, 1, 1, 1]]
    y = torch.stack((lower[:, 1], upper[:, 1]), 1)[:, [0, 0, 1, 1, 0, 0, 1, 1]]
    z = torch.stack((lower[:, 2], upper[:, 2]), 1)[:, [0, 1, 0, 1, 0, 1, 0, 1]]
    fx, fz, cos, sin = (column[:, None] for column in primitives.frame.unbind(1))
    return torch.stack((fx + x * cos + z * sin, y, fz - x * sin + z * cos), dim=2)


def touched_by_camera(primitives: Primitives, rays: Rays) -> Tensor:
    """Return the tiles that a primitive may be seen in (P, T); all rays of an image start at one place."""
    room, place = primitives.room, rays.origin[:, 0, :, 0]
    x, y, z = rays.direction.unbind(2)
    latitude = torch.asin(-y.clamp(-1, 1))
    middle = torch.atan2(x.sum(2), z.sum(2))
    spread = _wrapped(torch.atan2(x, z) - middle[..., None]).abs().amax(2)

    camera = place[room]
    points = corners(primitives) - camera[:, None]
    fx, fz, cos, sin = primitives.frame.unbind(1)
    dx, dz = camera[:, 0] - fx, camera[:, 2] - fz
    own = torch.stack((dx * cos - dz * sin, dx * sin + dz * cos), 1)
    # How far the camera is outside of the bounds, along the two axes of their own frame.
    out = torch.maximum(primitives.lower[:, ::2] - own, own - primitives.upper[:, ::2]).clamp(min=0)
    near = out.norm(dim=1)
    flat = points[:, :, ::2]
    far = flat.norm(dim=2).amax(1)
    centre = flat.mean(1)
    heading = torch.atan2(centre[:, 0], centre[:, 1])
    width = _wrapped(torch.atan2(flat[..., 0], flat[..., 1]) - heading[:, None]).abs().amax(1)
    width = torch.where(near > 0, width, math.pi)
    top, bottom = camera[:, 1] - primitives.lower[:, 1], camera[:, 1] - primitives.upper[:, 1]
    highest = torch.atan2(top, torch.where(top > 0, near, far))
    lowest = torch.atan2(bottom, torch.where(bottom > 0, far, near))

    slack = 1e-6
    over = _wrapped(middle[room] - heading[:, None]).abs() <= spread[room] + width[:, None] + slack
    over &= latitude.amin(2)[room] <= highest[:, None] + slack
    return over & (latitude.amax(2)[room] >= lowest[:, None] - slack)


def touched_by_cones(primitives: Primitives, rays: Rays) -> Tensor:
    """Return the tiles of one image that a primitive may be met in (P, T), wherever their rays start.

    The ball around a primitive is compared with the cone around the rays of a tile, from the middle of their starts.
    """
    points = corners(primitives)
    centre = points.mean(1)
    start = rays.origin[0].mean(2)
    axis = torch.nn.functional.normalize(rays.direction[0].mean(2), dim=1)
    opening = (rays.direction[0] * axis[..., None]).sum(1).amin(1).clamp(-1, 1).acos()
    # Rays that start beside the middle meet a ball that is larger by as much.
    ball = (points[:, 0] - centre).norm(dim=1)[:, None] + (rays.origin[0] - start[..., None]).norm(dim=1).amax(1)
    way = centre[:, None] - start
    distance = way.norm(dim=2).clamp(min=1e-12)
    angle = ((way * axis).sum(2) / distance).clamp(-1, 1).acos()
    slack = 1e-6
    touched: Tensor = (distance <= ball) | (angle <= opening + (ball / distance).clamp(max=1).asin() + slack)
    return touched


def _wrapped(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def disjoint_groups(tile: Tensor, tiles: int) -> tuple[Tensor, list[int]]:
    """Return an order of the pairs and the sizes of consecutive groups in which no tile occurs twice."""
    order = torch.argsort(tile, stable=True)
    counts = torch.bincount(tile, minlength=tiles)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(tile), device=tile.device) - first[tile[order]]
    return order[torch.argsort(rank, stable=True)], torch.bincount(rank).tolist()


def keep_nearest(best: Tensor, winner: Tensor, sizes: list[int], tile: Tensor, near: Tensor, prim: Tensor) -> None:
    """Keep distances below the best so far and their primitives, group by group; ties stay with the first.

    The pairs, N tiles `tile` (N,), distances `near` (N, ...) and primitives `prim` (N,), are in the order of
    `disjoint_groups`, which also returns the `sizes` of the groups.
    """
    for places, distances, numbers in zip(*(torch.split(values, sizes) for values in (tile, near, prim)), strict=True):
        old = best.index_select(0, places)
        nearer = (old - distances).mul_(STEEP).clamp_(0, 1)
        best.index_copy_(0, places, torch.minimum(old, distances))
        holder = winner.index_select(0, places)
        number = numbers.float().view(-1, *[1] * (near.ndim - 1))
        winner.index_copy_(0, places, holder.addcmul_(number - holder, nearer))
