"""The ray caster: for every pixel of an equirectangular image, the nearest primitive.

Rays of one column share their heading and rays of one row their slope. With r the horizontal distance from the
camera, every upright side of a primitive is met at an r that depends on the column only, and every level face at an r
that depends on the row only. Entry and exit of all boxes and cylinders are therefore small tables over columns and
over rows, worked out in float64; a pixel needs only max(column entry, row entry) <= min(column exit, row exit).
Spheres lack this property and are solved per pixel. Tiles of pixels that a primitive cannot touch, or that lie wholly
behind another one, are never looked at.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtpano_zoo.data.rooms.scene import BOX, CYLINDER, SPHERE, Room
from mtpano_zoo.sphere import erp_angles

TILE = 16
FAR = 1e9  # metres; stands for "never": finite, because infinity minus infinity is not a number
STEEP = 1e30  # turns any positive float32 difference between distances into more than 1


@dataclasses.dataclass
class Primitives:
    """The primitives of several rooms in a row, on one device; float64."""

    room: Tensor  # (P,) index of the room
    kind: Tensor  # (P,)
    label: Tensor  # (P,) float32, for exact look-up together with the others
    frame: Tensor  # (P, 3)
    lower: Tensor  # (P, 3)
    upper: Tensor  # (P, 3)
    material: Tensor  # (fields, P) float32


@dataclasses.dataclass
class Hits:
    """What the rays of B images of H x W pixels meet."""

    primitive: Tensor  # (B, H, W) index into `Primitives`
    distance: Tensor  # (B, H, W) horizontal distance r in metres
    entry_column: Tensor  # (P, W) r at which a column enters the upright sides
    entry_row: Tensor  # (P, H) r at which a row enters the level faces
    side: Tensor  # (3, P, W) normal x and z (camera frame) and texture coordinate of the upright side met
    origin: Tensor  # (P, 2) camera position x and z in the primitive's frame
    heading: Tensor  # (P, 2) cosine and sine of the yaw of that frame in the camera frame


def stack_rooms(rooms: Sequence[Room], device: torch.device) -> Primitives:
    """Concatenate the primitives of some rooms."""

    def join(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(room, name) for room in rooms])).to(device)

    counts = [len(room.kinds) for room in rooms]
    return Primitives(
        room=torch.from_numpy(np.repeat(np.arange(len(rooms)), counts)).to(device),
        kind=join("kinds"),
        label=join("labels").float(),
        frame=join("frames"),
        lower=join("lower"),
        upper=join("upper"),
        material=join("materials").t().contiguous(),
    )


def cast(primitives: Primitives, camera: Tensor, yaw: Tensor, height: int, width: int) -> Hits:
    """Cast all rays of panoramas at `camera` (B, 3) in rooms that are turned by `yaw` (B,) radians; both float64."""
    device = primitives.frame.device
    longitude, latitude = erp_angles(height, width, device=device, dtype=torch.float64)
    turn = primitives.frame[:, 2] + yaw[primitives.room]
    heading = torch.stack((turn.cos(), turn.sin()), dim=1)
    offset = camera[primitives.room]
    dx, dz = offset[:, 0] - primitives.frame[:, 0], offset[:, 2] - primitives.frame[:, 1]
    cos, sin = primitives.frame[:, 2].cos(), primitives.frame[:, 2].sin()
    origin = torch.stack((dx * cos - dz * sin, dx * sin + dz * cos), dim=1)

    enter, leave, side = _columns(primitives, origin, heading, longitude)
    # Rows: y = camera height + r * slope. An odd height has a level row, where the slope must not be zero.
    slope = -latitude.tan()
    slope = torch.where(slope.abs() < 1e-12, 1e-12, slope)
    top = (primitives.lower[:, 1] - offset[:, 1])[:, None] / slope
    bottom = (primitives.upper[:, 1] - offset[:, 1])[:, None] / slope
    row_enter, row_leave = _ahead(torch.minimum(top, bottom), torch.maximum(top, bottom))

    tables = [_tiled(t.float(), fill) for t, fill in ((enter, FAR), (leave, -FAR), (row_enter, FAR), (row_leave, -FAR))]
    best, winner = _resolve(primitives, tables, camera, yaw, longitude, latitude)
    return Hits(
        primitive=winner[:, :height, :width].long(),
        distance=best[:, :height, :width].contiguous(),
        entry_column=enter.float(),
        entry_row=row_enter.float(),
        side=side.float(),
        origin=origin.float(),
        heading=heading.float(),
    )


def _ahead(enter: Tensor, leave: Tensor) -> tuple[Tensor, Tensor]:
    """Turn intervals that end behind the camera into misses, and keep numbers finite."""
    return torch.where(leave > 0, enter, FAR).clamp(-FAR, FAR), leave.clamp(-FAR, FAR)


def _columns(
    primitives: Primitives, origin: Tensor, heading: Tensor, longitude: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Entry and exit distance (P, W) of the upright sides, and (3, P, W) of what is met there; see `Hits.side`."""
    cos, sin = heading[:, :1], heading[:, 1:]
    # Heading of the rays in the primitive's frame; a zero would divide 0 by 0 on a box's edge.
    x = longitude.sin() * cos - longitude.cos() * sin
    z = longitude.sin() * sin + longitude.cos() * cos
    x = torch.where(x.abs() < 1e-12, 1e-12, x)
    z = torch.where(z.abs() < 1e-12, 1e-12, z)
    ox, oz = origin[:, :1], origin[:, 1:]
    x1, x2 = (primitives.lower[:, :1] - ox) / x, (primitives.upper[:, :1] - ox) / x
    z1, z2 = (primitives.lower[:, 2:] - oz) / z, (primitives.upper[:, 2:] - oz) / z
    enter_x, enter_z = torch.minimum(x1, x2), torch.minimum(z1, z2)
    enter, leave = torch.maximum(enter_x, enter_z), torch.minimum(torch.maximum(x1, x2), torch.maximum(z1, z2))
    on_x = enter_x > enter_z
    normal_x, normal_z = -x.sign() * on_x, -z.sign() * ~on_x
    along = torch.where(on_x, oz + enter * z, ox + enter * x)

    curved = (primitives.kind != BOX).nonzero()[:, 0]
    x, z, ox, oz = x[curved], z[curved], ox[curved], oz[curved]
    radius = primitives.upper[curved, :1]
    middle = -(ox * x + oz * z)
    half = radius * radius - (ox * z - oz * x) ** 2
    root = half.clamp(min=0).sqrt()
    near = middle - root
    enter[curved], leave[curved] = torch.where(half > 0, near, FAR), torch.where(half > 0, middle + root, -FAR)
    px, pz = (ox + near * x) / radius, (oz + near * z) / radius
    normal_x[curved], normal_z[curved], along[curved] = px, pz, torch.atan2(px, pz) * radius
    side = torch.stack((normal_x * cos + normal_z * sin, normal_z * cos - normal_x * sin, along))
    return (*_ahead(enter, leave), side)


def _tiled(table: Tensor, fill: float) -> Tensor:
    """Cut (P, N) into (P, tiles, TILE), filled up at the end."""
    table = torch.nn.functional.pad(table, (0, -table.shape[1] % TILE), value=fill)
    return table.reshape(len(table), -1, TILE)


def _resolve(
    primitives: Primitives, tables: list[Tensor], camera: Tensor, yaw: Tensor, longitude: Tensor, latitude: Tensor
) -> tuple[Tensor, Tensor]:
    """Nearest distance and its primitive (as float32, exact up to 2^24) for all pixels, in whole tiles."""
    enter, leave, row_enter, row_leave = tables
    rooms, columns, rows = len(camera), enter.shape[1], row_enter.shape[1]
    device = enter.device
    touched = _touched_tiles(primitives, tables, rooms)
    best = torch.full((rooms * rows * columns, TILE, TILE), FAR, device=device)
    winner = torch.zeros_like(best)
    solid = (primitives.kind != SPHERE)[:, None, None]
    for prim, row, column in _disjoint_groups(touched & solid, primitives.room, rooms):
        tile = (primitives.room[prim] * rows + row) * columns + column
        near = torch.maximum(
            enter.flatten(0, 1).index_select(0, prim * columns + column)[:, None, :],
            row_enter.flatten(0, 1).index_select(0, prim * rows + row)[:, :, None],
        )
        far = torch.minimum(
            leave.flatten(0, 1).index_select(0, prim * columns + column)[:, None, :],
            row_leave.flatten(0, 1).index_select(0, prim * rows + row)[:, :, None],
        )
        # A miss (near > far) is pushed away by arithmetic, which is many times faster than torch.where on a CPU.
        near += far.neg_().add_(near).clamp_(min=0).mul_(STEEP)
        _keep_nearest(best, winner, tile, near, prim)
    for prim, row, column in _disjoint_groups(touched & ~solid, primitives.room, rooms):
        tile = (primitives.room[prim] * rows + row) * columns + column
        near = _sphere_distance(primitives, camera, yaw, longitude, latitude, prim, row, column)
        _keep_nearest(best, winner, tile, near, prim)
    shape = (rooms, rows, columns, TILE, TILE)
    whole = (rooms, rows * TILE, columns * TILE)
    return (best.view(shape).transpose(2, 3).reshape(whole), winner.view(shape).transpose(2, 3).reshape(whole))


def _touched_tiles(primitives: Primitives, tables: list[Tensor], rooms: int) -> Tensor:
    """(P, rows, columns) of tiles that a primitive may be visible in."""
    enter, leave, row_enter, row_leave = tables
    near = torch.maximum(row_enter.amin(2)[:, :, None], enter.amin(2)[:, None, :])
    touched = near <= torch.minimum(row_leave.amax(2)[:, :, None], leave.amax(2)[:, None, :])
    far = torch.maximum(row_enter.amax(2)[:, :, None], enter.amax(2)[:, None, :])
    covered = far <= torch.minimum(row_leave.amin(2)[:, :, None], leave.amin(2)[:, None, :])
    covered &= (primitives.kind != SPHERE)[:, None, None]
    # The nearest primitive that fills a tile hides whatever begins behind its farthest point.
    far = torch.where(covered, far, FAR)
    curtain = torch.full((rooms, *far.shape[1:]), FAR, device=far.device)
    index = primitives.room[:, None, None].expand_as(far)
    curtain.scatter_reduce_(0, index, far, "amin")
    return touched & (near <= curtain.gather(0, index))


def _disjoint_groups(touched: Tensor, room: Tensor, rooms: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Split the (primitive, row, column) triples of a mask into groups in which no tile occurs twice."""
    prim, row, column = touched.nonzero(as_tuple=True)
    tile = (room[prim] * touched.shape[1] + row) * touched.shape[2] + column
    order = torch.argsort(tile, stable=True)
    counts = torch.bincount(tile, minlength=rooms * touched.shape[1] * touched.shape[2])
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(tile), device=tile.device) - first[tile[order]]
    order = order[torch.argsort(rank, stable=True)]
    sizes = torch.bincount(rank).tolist()
    return list(zip(*(torch.split(axis[order], sizes) for axis in (prim, row, column)), strict=True))


def _keep_nearest(best: Tensor, winner: Tensor, tile: Tensor, near: Tensor, prim: Tensor) -> None:
    """Where a distance is smaller than the best so far, take it and its primitive; ties stay with the first."""
    old = best.index_select(0, tile)
    nearer = (old - near).mul_(STEEP).clamp_(0, 1)
    best.index_copy_(0, tile, torch.minimum(old, near))
    holder = winner.index_select(0, tile)
    winner.index_copy_(0, tile, holder.addcmul_(prim.float()[:, None, None] - holder, nearer))


def _sphere_distance(
    primitives: Primitives,
    camera: Tensor,
    yaw: Tensor,
    longitude: Tensor,
    latitude: Tensor,
    prim: Tensor,
    row: Tensor,
    column: Tensor,
) -> Tensor:
    """Horizontal distance (N, TILE, TILE) to spheres; float64, because b^2 - c cancels for small ones far away."""
    within = torch.arange(TILE, device=prim.device)
    lon = longitude[(column[:, None] * TILE + within).clamp(max=len(longitude) - 1)]
    lat = latitude[(row[:, None] * TILE + within).clamp(max=len(latitude) - 1)]
    centre, radius = sphere_centres(primitives, camera, yaw, prim)
    level = centre[:, :1] * lon.sin() + centre[:, 2:] * lon.cos()
    cos_lat = lat.cos()[:, :, None]
    along = cos_lat * level[:, None, :] - (lat.sin() * centre[:, 1:2])[:, :, None]
    half = along * along - (centre.square().sum(1) - radius * radius)[:, None, None]
    distance = along - half.clamp(min=0).sqrt()
    hit = (half > 0) & (distance > 0)
    return torch.where(hit, distance * cos_lat, FAR).float()


def sphere_centres(primitives: Primitives, camera: Tensor, yaw: Tensor, prim: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (N, 3) in the camera frame and radii (N,) of some spheres."""
    room = primitives.room[prim]
    dx = primitives.frame[prim, 0] - camera[room, 0]
    dz = primitives.frame[prim, 1] - camera[room, 2]
    y = (primitives.lower[prim, 1] + primitives.upper[prim, 1]) / 2 - camera[room, 1]
    cos, sin = yaw[room].cos(), yaw[room].sin()
    return torch.stack((dx * cos + dz * sin, y, dz * cos - dx * sin), dim=1), primitives.upper[prim, 0]


__all__ = ("CYLINDER", "Hits", "Primitives", "cast", "sphere_centres", "stack_rooms")
