"""From ray hits to surfaces and their procedural texture.

Only +, -, *, /, square roots and integer hashing decide about geometry and texture, so that a room looks the same on
every machine. Masks are floats made by clamping: several times faster than `torch.where` on a CPU.
"""

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mtpano_zoo.scenes.batching import Primitives, Views
from mtpano_zoo.scenes.casting import STEEP, Hits, sphere_centres
from mtpano_zoo.scenes.materials import CHANNEL
from mtpano_zoo.scenes.scene import SPHERE
from mtpano_zoo.sphere import erp_angles

NOISE_SIZE = 512  # texels of the noise table along each side

Planes = tuple[Tensor, Tensor, Tensor]


@dataclasses.dataclass
class Surface:
    """What is seen in some rows of some panoramas; all (B, rows, W), camera frame, metres."""

    primitive: Tensor
    point: Planes
    normal: Planes
    depth: Tensor
    level: Tensor  # 1 on faces that look straight up or down, 0 on upright ones
    u: Tensor  # texture coordinates
    v: Tensor
    angle: float  # radians that a pixel spans


def surface(
    primitives: Primitives, hits: Hits, views: Views, rooms: slice, rows: slice, height: int, width: int
) -> Surface:
    """Points, normals, depth and texture coordinates of the hits in some rooms and rows."""
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
    return Surface(primitive, (x, y, z), normal, depth, level, u, v, torch.pi / height)


def take(table: Tensor, index: Tensor) -> Tensor:
    """Look up single numbers in a flattened table, with an index of any shape.

    Example:
        >>> take(torch.tensor([5.0, 6.0, 7.0]), torch.tensor([[2, 0]])).tolist()
        [[7.0, 5.0]]
    """
    return table.reshape(-1).index_select(0, index.flatten()).view(index.shape)


def hashed(a: Tensor, b: Tensor) -> Tensor:
    """A well-mixed non-negative int32 from two int32 tensors; multiplication wraps around on purpose."""
    mixed = a * 374761393 + b * 668265263
    mixed = mixed.bitwise_xor_(mixed >> 13).mul_(1274126177)
    return mixed.bitwise_xor_(mixed >> 16).bitwise_and_(0x7FFFFFFF)


def unit_interval(bits: Tensor, shift: int) -> Tensor:
    """Ten bits of a hash as a number in [0, 1).

    Example:
        >>> unit_interval(torch.tensor([512], dtype=torch.int32), 0).tolist()
        [0.5]
    """
    return ((bits >> shift) & 0x3FF).float().mul_(1 / 1024)


@functools.cache
def _noise_table(device: torch.device) -> Tensor:
    """Smooth periodic noise in [-1, 1], five octaves, (NOISE_SIZE^2,)."""
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
    """The noise table at texture coordinates in periods."""
    column = (u * NOISE_SIZE).to(torch.int32).bitwise_and_(NOISE_SIZE - 1)
    row = (v * NOISE_SIZE).to(torch.int32).bitwise_and_(NOISE_SIZE - 1)
    texel = row.mul_(NOISE_SIZE).add_(column).add_(salt & (NOISE_SIZE**2 - 1)).bitwise_and_(NOISE_SIZE**2 - 1)
    return take(_noise_table(u.device), texel)


def albedo(primitives: Primitives, seen: Surface, salt: Tensor) -> Planes:
    """The procedural texture, linear RGB; `salt` is int32 (B, 1, 1). See `materials` for the formula's meaning."""

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


def footprint(seen: Surface) -> Tensor:
    """Metres of surface that a pixel covers across its longer side."""
    (x, y, z), (nx, ny, nz) = seen.point, seen.normal
    facing = (x * nx).addcmul_(y, ny).addcmul_(z, nz).abs_().div_(seen.depth).add_(0.1)
    return seen.depth.mul(seen.angle).div_(facing).add_(1e-4)
