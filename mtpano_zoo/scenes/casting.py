"""The ray caster: for every pixel of an equirectangular image, the nearest primitive.

Rays of one column share their heading and rays of one row their slope. With r the horizontal distance from the
camera, every upright side of a primitive is met at an r that depends on the column only, and every level face at an r
that depends on the row only. Entry and exit of all boxes and cylinders are therefore small tables over columns and
over rows, computed in float64; a pixel needs only max(column entry, row entry) <= min(column exit, row exit).
Spheres and slanted solids lack this property and are solved per pixel. Tiles of pixels that a primitive cannot touch,
or where it lies wholly behind another one, are skipped. `tracing` handles cameras that are not level.
"""

import dataclasses

import torch
from torch import Tensor

from mtpano_zoo.scenes.batching import Primitives
from mtpano_zoo.scenes.scene import BOX, CONE, CYLINDER, SPHERE
from mtpano_zoo.scenes.tracing import FAR, STEEP, TILE, disjoint_groups, keep_nearest, nearest
from mtpano_zoo.sphere import erp_angles

__all__ = ("Hits", "cast", "distances", "in_tables", "sphere_centres")


@dataclasses.dataclass
class Hits:
    """What the rays of B images of H x W pixels meet; float32."""

    primitive: Tensor  # (B, H, W) index into `Primitives`
    distance: Tensor  # (B, H, W) horizontal distance r in metres
    entry_column: Tensor  # (P, W) r at which a column enters the upright sides
    entry_row: Tensor  # (P, H) r at which a row enters the level faces
    side: tuple[Tensor, Tensor, Tensor]  # each (P, W): normal x and z (camera frame), texture coordinate of that side
    origin: Tensor  # (2, P) camera position x and z in the primitive's frame
    heading: Tensor  # (2, P) cosine and sine of the yaw of that frame in the camera frame


def cast(primitives: Primitives, camera: Tensor, turn: Tensor, height: int, width: int) -> Hits:
    """Cast all rays of panoramas at `camera` (B, 3) in rooms with a yaw, whose cosine and sine are `turn` (B, 2)."""
    longitude, latitude = erp_angles(height, width, device=camera.device, dtype=torch.float64)
    columns = _Columns(primitives, camera, turn, longitude)
    rows = _rows(primitives, camera, latitude)
    distance, primitive = _resolve(primitives, _tables(columns, rows), camera, turn, longitude, latitude)
    return Hits(
        primitive=primitive[:, :height, :width].long(),
        distance=distance[:, :height, :width].contiguous(),
        entry_column=columns.enter,
        entry_row=rows[0],
        side=columns.sides(),
        origin=columns.origin.t().float(),
        heading=columns.heading.t().float(),
    )


def distances(primitives: Primitives, camera: Tensor, turn: Tensor, height: int, width: int) -> Tensor:
    """Return only the horizontal distances (B, H, W) of `cast`."""
    longitude, latitude = erp_angles(height, width, device=camera.device, dtype=torch.float64)
    columns = _Columns(primitives, camera, turn, longitude)
    tables = _tables(columns, _rows(primitives, camera, latitude))
    return _resolve(primitives, tables, camera, turn, longitude, latitude)[0][:, :height, :width].contiguous()


class _Columns:
    """Where each column of pixels enters and leaves the upright sides of each primitive: `enter`, `leave` (P, W).

    Divisions are in float64; comparing their results only needs float32.
    """

    def __init__(self, primitives: Primitives, camera: Tensor, turn: Tensor, longitude: Tensor) -> None:
        frame, place, room = primitives.frame, camera[primitives.room], turn[primitives.room]
        dx, dz = place[:, 0] - frame[:, 0], place[:, 2] - frame[:, 1]
        (cos, sin), (room_cos, room_sin) = frame[:, 2:].unbind(1), room.unbind(1)
        self.origin = torch.stack((dx * cos - dz * sin, dx * sin + dz * cos), dim=1)
        self.heading = torch.stack((cos * room_cos - sin * room_sin, sin * room_cos + cos * room_sin), dim=1)

        # Heading of the rays in the primitive's frame; a zero would divide 0 by 0 on a box's edge.
        cos, sin, sin_lon, cos_lon = self.heading[:, :1], self.heading[:, 1:], longitude.sin(), longitude.cos()
        self._x = (cos * sin_lon).addcmul_(sin, cos_lon, value=-1).add_(1e-18)
        self._z = (sin * sin_lon).addcmul_(cos, cos_lon).add_(1e-18)
        x1, x2 = (((b[:, :1] - self.origin[:, :1]) / self._x).float() for b in (primitives.lower, primitives.upper))
        z1, z2 = (((b[:, 2:] - self.origin[:, 1:]) / self._z).float() for b in (primitives.lower, primitives.upper))
        self._enter_x = torch.minimum(x1, x2)
        self._enter_z = torch.minimum(z1, z2)
        self.enter = torch.maximum(self._enter_x, self._enter_z)
        self.leave = torch.minimum(torch.maximum(x1, x2), torch.maximum(z1, z2))

        kind = primitives.kind
        self._curved = ((kind == CYLINDER) | (kind == SPHERE) | (kind == CONE)).nonzero()[:, 0]
        x, z = self._x[self._curved], self._z[self._curved]
        ox, oz = self.origin[self._curved, :1], self.origin[self._curved, 1:]
        self._radius = primitives.upper[self._curved, :1]
        half = self._radius**2 - (ox * z - oz * x) ** 2
        middle, root, missed = -(ox * x + oz * z), half.clamp(min=0).sqrt(), half <= 0
        self._near = middle - root
        self.enter[self._curved] = self._near.masked_fill(missed, FAR).float()
        self.leave[self._curved] = (middle + root).masked_fill(missed, -FAR).float()
        _drop_behind(self.enter, self.leave)

    def sides(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return normal x and z in the camera frame and the horizontal texture coordinate where the columns enter."""
        x, z, heading = self._x.float(), self._z.float(), self.heading.float()
        cos, sin = heading[:, :1], heading[:, 1:]
        on_x = (self._enter_x - self._enter_z).mul_(STEEP).clamp_(0, 1)
        normal_x, normal_z = x.sign().neg_().mul_(on_x), z.sign().neg_().mul_(1 - on_x)
        origin = self.origin.float()
        along = torch.lerp(origin[:, :1] + self.enter * x, origin[:, 1:] + self.enter * z, on_x)
        ox, oz = self.origin[self._curved, :1], self.origin[self._curved, 1:]
        px = (ox + self._near * self._x[self._curved]) / self._radius
        pz = (oz + self._near * self._z[self._curved]) / self._radius
        normal_x[self._curved], normal_z[self._curved] = px.float(), pz.float()
        # Stands for the angle around the axis: monotonic, and the same to the last bit on every machine.
        around = (px / (px.abs() + pz.abs()) - 1) * pz.sign()
        along[self._curved] = (around * self._radius * 1.6).float()
        return normal_x * cos + normal_z * sin, normal_z * cos - normal_x * sin, along


def _rows(primitives: Primitives, camera: Tensor, latitude: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each row of pixels enters and leaves the level faces of each primitive, (P, H)."""
    # y = camera height + r * slope. An odd height has a level row, where the slope must not be zero.
    slope = -latitude.tan() + 1e-18
    height = camera[primitives.room, 1]
    one, other = (((b[:, 1] - height)[:, None] / slope).float() for b in (primitives.lower, primitives.upper))
    enter, leave = torch.minimum(one, other), torch.maximum(one, other)
    _drop_behind(enter, leave)
    return enter, leave


def _drop_behind(enter: Tensor, leave: Tensor) -> None:
    """Turn intervals that end behind the camera into misses, and keep numbers finite; in place."""
    enter.clamp_(-FAR, FAR)
    leave.clamp_(-FAR, FAR)
    enter.add_(leave.mul(-STEEP).clamp_(0, 1), alpha=2 * FAR)


def _tables(columns: _Columns, rows: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return entry and exit over columns and over rows, in tiles; what pads the last tile meets nothing."""
    (enter, leave), pad = rows, FAR
    return [_tiled(columns.enter, pad), _tiled(columns.leave, -pad), _tiled(enter, pad), _tiled(leave, -pad)]


def _tiled(table: Tensor, fill: float) -> Tensor:
    """Cut (P, N) into (P, tiles, TILE), padded at the end."""
    table = torch.nn.functional.pad(table, (0, -table.shape[1] % TILE), value=fill)
    return table.view(len(table), -1, TILE)


def _resolve(
    primitives: Primitives, tables: list[Tensor], camera: Tensor, turn: Tensor, longitude: Tensor, latitude: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the nearest distance and its primitive (as float32, exact up to 2^24) for all pixels, in whole tiles."""
    rooms, columns, rows = len(camera), tables[0].shape[1], tables[2].shape[1]
    touched = _touched_tiles(primitives, tables, rooms)
    best = torch.full((rooms * rows * columns, TILE, TILE), FAR, device=touched.device)
    winner = torch.zeros_like(best)
    solid, ball = in_tables(primitives.kind), primitives.kind == SPHERE
    for kind in (solid, ball, ~(solid | ball)):
        prim, row, column = (touched & kind[:, None, None]).nonzero(as_tuple=True)
        if len(prim) == 0:
            continue
        tile = (primitives.room[prim] * rows + row) * columns + column
        order, sizes = disjoint_groups(tile, len(best))
        tile, prim, row, column = tile[order], prim[order], row[order], column[order]
        if kind is solid:
            near = _entry(tables, prim, row, column)
        elif kind is ball:
            near = _sphere_distance(primitives, camera, turn, longitude, latitude, prim, row, column)
        else:
            near = _solid_distance(primitives, camera, turn, longitude, latitude, prim, row, column)
        keep_nearest(best, winner, sizes, tile, near, prim)
    shape, whole = (rooms, rows, columns, TILE, TILE), (rooms, rows * TILE, columns * TILE)
    return best.view(shape).transpose(2, 3).reshape(whole), winner.view(shape).transpose(2, 3).reshape(whole)


def in_tables(kind: Tensor) -> Tensor:
    """Return which kinds the tables describe completely."""
    return (kind == BOX) | (kind == CYLINDER)


def _entry(tables: list[Tensor], prim: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the distance (N, TILE, TILE) at which pixels of tiles enter a box or cylinder; above FAR for a miss."""
    enter, leave, row_enter, row_leave = (table.flatten(0, 1) for table in tables)
    column, row = prim * tables[0].shape[1] + column, prim * tables[2].shape[1] + row
    near = torch.maximum(enter.index_select(0, column)[:, None, :], row_enter.index_select(0, row)[:, :, None])
    far = torch.minimum(leave.index_select(0, column)[:, None, :], row_leave.index_select(0, row)[:, :, None])
    # A miss (near > far) is pushed away by arithmetic, which is many times faster than torch.where on a CPU.
    return near.add_(far.neg_().add_(near).clamp_(min=0), alpha=STEEP)


def _touched_tiles(primitives: Primitives, tables: list[Tensor], rooms: int) -> Tensor:
    """Return the tiles that a primitive may be visible in, (P, rows, columns)."""
    enter, leave, row_enter, row_leave = tables
    near = torch.maximum(row_enter.amin(2)[:, :, None], enter.amin(2)[:, None, :])
    touched = near <= torch.minimum(row_leave.amax(2)[:, :, None], leave.amax(2)[:, None, :])
    far = torch.maximum(row_enter.amax(2)[:, :, None], enter.amax(2)[:, None, :])
    covered = far <= torch.minimum(row_leave.amin(2)[:, :, None], leave.amin(2)[:, None, :])
    covered &= in_tables(primitives.kind)[:, None, None]
    # The nearest primitive that fills a tile hides whatever begins behind its farthest point.
    far.masked_fill_(~covered, FAR)
    occluder = torch.full((rooms, *far.shape[1:]), FAR, device=far.device)
    index = primitives.room[:, None, None].expand_as(far)
    occluder.scatter_reduce_(0, index, far, "amin")
    return touched & (near <= occluder.gather(0, index))


def _sphere_distance(
    primitives: Primitives,
    camera: Tensor,
    turn: Tensor,
    longitude: Tensor,
    latitude: Tensor,
    prim: Tensor,
    row: Tensor,
    column: Tensor,
) -> Tensor:
    """Return the horizontal distance to spheres (N, TILE, TILE); in float64, as b^2 - c cancels for small far ones."""
    within = torch.arange(TILE, device=prim.device)
    lon = longitude[(column[:, None] * TILE + within).clamp(max=len(longitude) - 1)]
    lat = latitude[(row[:, None] * TILE + within).clamp(max=len(latitude) - 1)]
    centre, radius = sphere_centres(primitives, camera, turn, prim)
    level = centre[:, :1] * lon.sin() + centre[:, 2:] * lon.cos()
    cos_lat = lat.cos()[:, :, None]
    along = cos_lat * level[:, None, :] - (lat.sin() * centre[:, 1:2])[:, :, None]
    half = along * along - (centre.square().sum(1) - radius * radius)[:, None, None]
    distance = along - half.clamp(min=0).sqrt()
    hit = (half > 0) & (distance > 0)
    return torch.where(hit, distance * cos_lat, FAR).float()


def _solid_distance(
    primitives: Primitives,
    camera: Tensor,
    turn: Tensor,
    longitude: Tensor,
    latitude: Tensor,
    prim: Tensor,
    row: Tensor,
    column: Tensor,
) -> Tensor:
    """Return the horizontal distance (N, TILE, TILE) to slanted and round solids."""
    within = torch.arange(TILE, device=prim.device)
    room = primitives.room[prim]

    def rays(some: Tensor) -> tuple[Tensor, Tensor]:
        lon = longitude[(column[some, None] * TILE + within).clamp(max=len(longitude) - 1)][:, None, :]
        lat = latitude[(row[some, None] * TILE + within).clamp(max=len(latitude) - 1)][:, :, None]
        cos, sin = (c[:, None, None] for c in turn[room[some]].unbind(1))
        level, down = lat.cos(), (-lat.sin()).expand(-1, TILE, TILE)
        east, north = lon.sin() * cos - lon.cos() * sin, lon.sin() * sin + lon.cos() * cos
        direction = torch.stack((level * east, down, level * north), dim=1)
        return camera[room[some]][:, :, None], direction.flatten(2)

    distance = nearest(primitives, prim, rays).view(-1, TILE, TILE)
    level = latitude.cos()[(row[:, None] * TILE + within).clamp(max=len(latitude) - 1)][:, :, None]
    # Misses stay at FAR.
    return torch.where(distance < FAR, distance * level, FAR).float()


def sphere_centres(primitives: Primitives, camera: Tensor, turn: Tensor, prim: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres (N, 3) in the camera frame and the radii (N,) of some spheres."""
    room = primitives.room[prim]
    dx = primitives.frame[prim, 0] - camera[room, 0]
    dz = primitives.frame[prim, 1] - camera[room, 2]
    y = (primitives.lower[prim, 1] + primitives.upper[prim, 1]) / 2 - camera[room, 1]
    cos, sin = turn[room].unbind(1)
    return torch.stack((dx * cos + dz * sin, y, dz * cos - dx * sin), dim=1), primitives.upper[prim, 0]
