"""Turn ray hits into surfaces and their procedural texture.

Geometry and texture only use +, -, *, /, square roots and integer hashing, so that a room looks the same on every
machine. Masks are floats made by clamping, which is several times faster than `torch.where` on a CPU.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mtpano_zoo.scenes.batching import Primitives, Views
from mtpano_zoo.scenes.casting import Hits, in_tables, sphere_centres
from mtpano_zoo.scenes.materials import CHANNEL
from mtpano_zoo.scenes.scene import SPHERE
from mtpano_zoo.scenes.tracing import FAR, STEEP, Rays, details, from_tiles, into_tiles, touched_by_camera, trace
from mtpano_zoo.sphere import erp_angles, erp_rays

__all__ = (
    "Planes",
    "Surface",
    "albedo",
    "footprint",
    "hashed",
    "panes",
    "planes_to_room",
    "surface",
    "take",
    "texture_noise",
    "to_level",
    "to_room",
    "traced_surface",
    "unit_interval",
)

NOISE_SIZE = 512  # texels of the noise table along each side

Planes = tuple[Tensor, Tensor, Tensor]


@dataclasses.dataclass
class Surface:
    """What is seen in some rows of some panoramas; all (B, rows, W), metres.

    The frame is level and has the heading of the camera. Where a ray meets nothing, `sky` is true and the point is far
    away.
    """

    primitive: Tensor
    point: Planes
    normal: Planes
    depth: Tensor
    level: Tensor  # 1 on faces that look straight up or down, 0 on upright ones
    u: Tensor  # texture coordinates
    v: Tensor
    angle: float  # radians that a pixel spans
    sky: Tensor | None = None  # bool; None: every ray meets something
    ray: Planes | None = None  # as long as `depth`, along the last stretch of rays that mirrors have reflected

    def sight(self) -> Planes:
        """Return the viewing directions as vectors as long as `depth`."""
        return self.point if self.ray is None else self.ray

    def part(self, rooms: slice, rows: slice) -> "Surface":
        """Return some rows of some of the panoramas."""

        def cut(plane: Tensor) -> Tensor:
            return plane[rooms, rows].contiguous()

        (x, y, z), (nx, ny, nz) = self.point, self.normal
        return Surface(
            cut(self.primitive),
            (cut(x), cut(y), cut(z)),
            (cut(nx), cut(ny), cut(nz)),
            cut(self.depth),
            cut(self.level),
            cut(self.u),
            cut(self.v),
            self.angle,
            cut(self.sky) if self.sky is not None else None,
        )


def surface(
    primitives: Primitives, hits: Hits, views: Views, rooms: slice, rows: slice, height: int, width: int
) -> Surface:
    """Return points, normals, depth and texture coordinates of the hits in some rooms and rows."""
    device = hits.distance.device
    longitude, latitude = erp_angles(height, width, device=device, dtype=torch.float64)
    latitude = latitude[rows]
    sin_lon, cos_lon = longitude.sin().float(), longitude.cos().float()
    slope = (-latitude.tan()).float()[:, None]
    primitive = hits.primitive[rooms, rows].contiguous()
    per_column = primitive * width + torch.arange(width, device=device)
    per_row = primitive * height + torch.arange(rows.start, rows.stop, device=device)[:, None]

    r = hits.distance[rooms, rows].contiguous()
    level = (take(hits.entry_row, per_row) - take(hits.entry_column, per_column)).mul_(STEEP).clamp_(0, 1)
    upright = 1 - level
    x, y, z = r * sin_lon, r * slope, r * cos_lon
    normal = (
        take(hits.side[0], per_column).mul_(upright),
        -slope.sign() * level,
        take(hits.side[1], per_column).mul_(upright),
    )
    cos, sin = take(hits.heading[0], primitive), take(hits.heading[1], primitive)
    local_x = take(hits.origin[0], primitive).addcmul_(x, cos).addcmul_(z, sin, value=-1)
    local_z = take(hits.origin[1], primitive).addcmul_(x, sin).addcmul_(z, cos)
    floor = views.camera[rooms, 1].float()[:, None, None]
    u = torch.lerp(take(hits.side[2], per_column), local_x, level)
    v = torch.lerp(y + floor, local_z, level)

    at = take((primitives.kind == SPHERE).float(), primitive).flatten().nonzero()[:, 0]
    if len(at):
        centre, radius = sphere_centres(primitives, views.camera, views.turn, take(primitive, at))
        nx, ny, nz = (((take(p, at) - centre[:, axis]) / radius).float() for axis, p in enumerate((x, y, z)))
        for plane, values in zip((*normal, u, v), (nx, ny, nz, (nx + nz) * radius, ny * radius), strict=True):
            plane.view(-1).index_copy_(0, at, values.float())
        level.view(-1).index_fill_(0, at, 0.0)
    depth = r * (1 / latitude.cos()).float()[:, None]
    seen = Surface(primitive, (x, y, z), normal, depth, level, u, v, torch.pi / height)
    return _solve_singly(primitives, seen, views, rooms, longitude, latitude)


def _solve_singly(
    primitives: Primitives, seen: Surface, views: Views, rooms: slice, longitude: Tensor, latitude: Tensor
) -> Surface:
    """Fill in slanted and round solids, which the tables do not describe, and the sky; in place."""
    other = ~(in_tables(primitives.kind) | (primitives.kind == SPHERE))
    outdoors = bool((views.sky[rooms] != 0).any())
    if not outdoors and not bool(other.any()):
        return seen
    sky = seen.depth >= FAR
    at = (take(other, seen.primitive) & ~sky).flatten().nonzero()[:, 0]
    width = seen.depth.shape[2]
    lon, lat = longitude[at % width], latitude[at // width % len(latitude)]
    level = torch.stack((lat.cos() * lon.sin(), -lat.sin(), lat.cos() * lon.cos()), dim=1)
    room = at // seen.depth[0].numel() + rooms.start
    prim = take(seen.primitive, at)
    distance, normal, u, v = details(primitives, prim, views.camera[room], to_room(level, views.turn[room]))
    normal = to_level(normal, views.turn[room])
    planes = (*seen.point, *seen.normal, seen.depth, seen.u, seen.v, seen.level)
    point = level * distance[:, None]
    steep = normal[:, 1].abs() < 0.9
    values = (*point.unbind(1), *normal.unbind(1), distance, u, v, ~steep)
    for plane, value in zip(planes, values, strict=True):
        plane.view(-1).index_copy_(0, at, value.float())
    return dataclasses.replace(seen, sky=sky if outdoors else None)


def traced_surface(primitives: Primitives, views: Views, height: int, width: int) -> Surface:
    """Return what cameras see that may be tilted: every ray is traced by itself."""
    own = erp_rays(height, width, device=views.camera.device, dtype=torch.float64)
    level = torch.einsum("bij,hwj->bihw", views.tilt, own)
    turn = views.turn[:, :, None, None]
    direction = to_room(level.movedim(1, -1), turn.movedim(1, -1)).movedim(-1, 1)
    tiles = into_tiles(direction)
    rays = Rays(views.camera[:, None, :, None].expand(-1, tiles.shape[1], -1, -1), tiles)
    distance, winner = trace(primitives, rays, touched_by_camera(primitives, rays))
    primitive = from_tiles(winner, height, width).long()
    sky = from_tiles(distance, height, width) >= FAR

    at = (~sky).flatten().nonzero()[:, 0]
    room = at // (height * width)
    flat = direction.movedim(1, -1).reshape(-1, 3)[at]
    t, normal, u, v = details(primitives, take(primitive, at), views.camera[room], flat)
    normal = to_level(normal, views.turn[room])

    def plane(values: Tensor, empty: float) -> Tensor:
        full = torch.full(sky.shape, empty, device=values.device)
        full.view(-1).index_copy_(0, at, values.float())
        return full

    depth = plane(t, FAR)
    x, y, z = (depth * level[:, axis].float() for axis in range(3))
    nx, ny, nz = (plane(values, 0.0) for values in normal.unbind(1))
    lying = plane((normal[:, 1].abs() >= 0.9), 0.0)
    return Surface(
        primitive,
        (x, y, z),
        (nx, ny, nz),
        depth,
        lying,
        plane(u, 0.0),
        plane(v, 0.0),
        torch.pi / height,
        sky if bool((views.sky != 0).any()) else None,
    )


def to_room(vectors: Tensor, turn: Tensor) -> Tensor:
    """Rotate vectors (..., 3) from the level frame to the frame of the room; `turn` (..., 2)."""
    x, y, z = vectors.unbind(-1)
    return torch.stack(planes_to_room((x, y, z), turn.unbind(-1)), dim=-1)


def planes_to_room(planes: Planes, turn: Sequence[Tensor]) -> Planes:
    """Rotate x, y and z, given as separate planes, as `to_room` does; `turn` holds cosine and sine."""
    (x, y, z), (cos, sin) = planes, turn
    return x * cos - z * sin, y, x * sin + z * cos


def to_level(vectors: Tensor, turn: Tensor) -> Tensor:
    """Rotate vectors (..., 3) from the frame of the room to the level frame; `turn` (..., 2)."""
    (x, y, z), (cos, sin) = vectors.unbind(-1), turn.unbind(-1)
    return torch.stack((x * cos + z * sin, y, z * cos - x * sin), dim=-1)


def take(table: Tensor, index: Tensor) -> Tensor:
    """Look up single numbers in a flattened table, with an index of any shape.

    Example:
        >>> take(torch.tensor([5.0, 6.0, 7.0]), torch.tensor([[2, 0]])).tolist()
        [[7.0, 5.0]]
    """
    return table.reshape(-1).index_select(0, index.flatten()).view(index.shape)


def hashed(a: Tensor, b: Tensor) -> Tensor:
    """Return a well-mixed non-negative int32 from two int32 tensors; multiplication wraps around on purpose."""
    mixed = a * 374761393 + b * 668265263
    mixed = mixed.bitwise_xor_(mixed >> 13).mul_(1274126177)
    return mixed.bitwise_xor_(mixed >> 16).bitwise_and_(0x7FFFFFFF)


def unit_interval(bits: Tensor, shift: int) -> Tensor:
    """Return ten bits of a hash as a number in [0, 1).

    Example:
        >>> unit_interval(torch.tensor([512], dtype=torch.int32), 0).tolist()
        [0.5]
    """
    return ((bits >> shift) & 0x3FF).float().mul_(1 / 1024)


@functools.cache
def _noise_table(device: torch.device) -> Tensor:
    """Return smooth periodic noise in [-1, 1], five octaves, (NOISE_SIZE^2,)."""
    rng = np.random.Generator(np.random.Philox(key=2024))
    total = torch.zeros(1, 1, NOISE_SIZE, NOISE_SIZE)
    for octave in range(5):
        cells = 4 * 2**octave
        lattice = torch.from_numpy(rng.random((1, 1, cells, cells), dtype=np.float32)) * 2 - 1
        wrapped = functional.pad(lattice, (2, 2, 2, 2), mode="circular")
        scale = NOISE_SIZE // cells
        fine = functional.interpolate(wrapped, scale_factor=scale, mode="bicubic")
        total += fine[..., 2 * scale : -2 * scale, 2 * scale : -2 * scale] * 0.62**octave
    return (total / total.abs().amax()).flatten().to(device)


def texture_noise(u: Tensor, v: Tensor, salt: Tensor) -> Tensor:
    """Look up the noise table at texture coordinates in periods."""
    column = (u * NOISE_SIZE).to(torch.int32).bitwise_and_(NOISE_SIZE - 1)
    row = (v * NOISE_SIZE).to(torch.int32).bitwise_and_(NOISE_SIZE - 1)
    texel = row.mul_(NOISE_SIZE).add_(column).add_(salt & (NOISE_SIZE**2 - 1)).bitwise_and_(NOISE_SIZE**2 - 1)
    return take(_noise_table(u.device), texel)


def albedo(primitives: Primitives, seen: Surface, salt: Tensor) -> Planes:
    """Return the procedural texture, linear RGB, by the formula of `materials`; `salt` is int32 (B, 1, 1)."""

    def look(name: str) -> Tensor:
        return primitives.material[CHANNEL[name]].index_select(0, seen.primitive.flatten()).view(seen.primitive.shape)

    turn, cell_u, cell_v = look("turn"), look("cell_u"), look("cell_v")
    u, v = torch.lerp(seen.u, seen.v, turn), torch.lerp(seen.v, seen.u, turn)
    b = v / cell_v
    j = b.floor()
    a = (u / cell_u).addcmul_(j, look("shift"))
    i = a.floor()
    # Distance to the nearest joint against its half width, softened over one pixel's footprint on the surface.
    edge = torch.minimum(
        (a.sub_(i).sub_(0.5).abs_().neg_().add_(0.5)).mul_(cell_u),
        (b.sub_(j).sub_(0.5).abs_().neg_().add_(0.5)).mul_(cell_v),
    )
    pixel = 1 / footprint(seen)
    line = look("line")
    joint = line.mul(0.5).sub_(edge).mul_(pixel).add_(0.5).clamp_(0, 1).mul_((line * pixel).clamp_(max=1))
    # Patterns finer than the pixels fade into their mean.
    fade = (1.5 - 1 / (torch.minimum(cell_u, cell_v).mul_(pixel))).clamp_(0, 1)

    column, row = i.to(torch.int32), j.to(torch.int32)
    parity = ((column + row) & 1).float()
    second = look("checker").mul_(parity.sub_(0.5).mul_(fade).add_(0.5))
    cell = hashed(column, row ^ salt)
    noise = texture_noise(u.mul_(look("noise_u")), v.mul_(look("noise_v")), salt).mul_(look("noise")).add_(1)
    jitter = unit_interval(cell, 0).sub_(0.5).mul_(2).mul_(fade).mul_(look("jitter")).add_(1)
    tone = noise.mul_(jitter).clamp_(min=0.05).mul_(joint.mul_(look("line_tone").sub_(1)).add_(1))
    hue = look("hue_jitter").mul_(fade)

    def channel(name: str, shift: int) -> Tensor:
        first = look(name)
        own = unit_interval(cell, shift)
        return first.lerp_(look(name + "2"), second).lerp_(own.mul_(own), hue).mul_(tone)

    return channel("red", 5), channel("green", 10), channel("blue", 15)


def panes(primitives: Primitives, seen: Surface, salt: Tensor, colors: Planes, emission: Tensor) -> None:
    """Paint the windows of facades: one in each cell of the texture, with a frame and a bar; in place."""
    wide = primitives.material[CHANNEL["pane_u"]]
    if not bool(wide.any()):
        return
    at = take(wide, seen.primitive).flatten().nonzero()[:, 0]
    # Only upright faces have windows.
    at = at[take(seen.level, at) < 0.5]
    primitive = take(seen.primitive, at)

    def look(name: str) -> Tensor:
        return take(primitives.material[CHANNEL[name]], primitive)

    u, v = take(seen.u, at) / look("cell_u"), take(seen.v, at) / look("cell_v")
    column, row = u.floor(), v.floor()
    pixel = take(footprint(seen), at)

    def cover(distance: Tensor) -> Tensor:
        """Return the share of a pixel that is inside, from the distance to the edge in metres."""
        return (distance / pixel + 0.5).clamp(0, 1)

    across, down = (u - column - 0.5).abs(), (v - row - 0.5).abs()
    inside = torch.minimum((look("pane_u") / 2 - across) * look("cell_u"), (look("pane_v") / 2 - down) * look("cell_v"))
    glass = cover(inside)
    bar = cover(0.03 - across * look("cell_u")) * (0.06 / pixel).clamp(max=1)
    rim = glass - cover(inside - 0.06)
    room = at // seen.depth[0].numel()
    bits = hashed(column.to(torch.int32), row.to(torch.int32) ^ salt.flatten()[room])
    on = ((look("lit") - unit_interval(bits, 0)) * STEEP).clamp(0, 1)
    tone = 0.5 + unit_interval(bits, 10)
    frame = (bar * glass + rim).clamp(0, 1)
    shine = on * glass * (1 - frame)
    for c, (plane, name) in enumerate(zip(colors, ("red2", "green2", "blue2"), strict=True)):
        warm = (1.0, 0.75, 0.4)[c]
        dark = look(name) * tone
        color = torch.lerp(take(plane, at), torch.lerp(dark, torch.full_like(dark, warm), on), glass)
        plane.view(-1).index_copy_(0, at, torch.lerp(color, torch.full_like(color, 0.7), frame))
    emission.view(-1).index_copy_(0, at, shine * (0.2 + 0.6 * unit_interval(bits, 20)))


def footprint(seen: Surface) -> Tensor:
    """Return the metres of surface that a pixel covers along its longer side."""
    (x, y, z), (nx, ny, nz) = seen.sight(), seen.normal
    facing = (x * nx).addcmul_(y, ny).addcmul_(z, nz).abs_().div_(seen.depth).add_(0.1)
    return seen.depth.mul(seen.angle).div_(facing).add_(1e-4)
