"""From ray hits to maps and to an image: surfaces, procedural texture, light, camera.

Only +, -, *, /, square roots and integer hashing decide about a pixel, and the image is rounded to 8 bits, so that a
room looks the same on every machine. Masks are floats made by clamping: several times faster than `torch.where` here.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mtpano_zoo.data.rooms.casting import STEEP, Hits, Primitives, sphere_centres
from mtpano_zoo.data.rooms.materials import CHANNEL
from mtpano_zoo.data.rooms.scene import SPHERE, Room
from mtpano_zoo.sphere import erp_angles

NOISE_SIZE = 512  # texels of the noise table along each side


@dataclasses.dataclass
class Surface:
    """Geometry at every hit; all (B, H, W), in the camera frame and metres."""

    point: tuple[Tensor, Tensor, Tensor]
    normal: tuple[Tensor, Tensor, Tensor]
    depth: Tensor
    u: Tensor
    v: Tensor


def surface(primitives: Primitives, hits: Hits, camera: Tensor, yaw: Tensor, height: int, width: int) -> Surface:
    """Points, normals, depth and texture coordinates of the hits; `camera` (B, 3) and `yaw` (B,) in float64."""
    device = hits.distance.device
    longitude, latitude = erp_angles(height, width, device=device, dtype=torch.float64)
    sin_lon, cos_lon = longitude.sin().float(), longitude.cos().float()
    slope = (-latitude.tan()).float()[:, None]
    per_column = hits.primitive * width + torch.arange(width, device=device)
    per_row = hits.primitive * height + torch.arange(height, device=device)[:, None]

    r = hits.distance
    level = ((_take(hits.entry_row, per_row) - _take(hits.entry_column, per_column)) * STEEP).clamp_(0, 1)
    upright = 1 - level
    x, y, z = r * sin_lon, r * slope, r * cos_lon
    normal_x = _take(hits.side[0], per_column) * upright
    normal_z = _take(hits.side[1], per_column) * upright
    normal_y = -slope.sign() * level

    cos, sin = _take(hits.heading[:, 0], hits.primitive), _take(hits.heading[:, 1], hits.primitive)
    local_x = _take(hits.origin[:, 0], hits.primitive) + x * cos - z * sin
    local_z = _take(hits.origin[:, 1], hits.primitive) + x * sin + z * cos
    u = _take(hits.side[2], per_column) * upright + local_x * level
    v = (y + camera[:, 1].float()[:, None, None]) * upright + local_z * level

    normal = (normal_x, normal_y, normal_z)
    room, row, column = (primitives.kind == SPHERE)[hits.primitive].nonzero(as_tuple=True)
    if len(room):
        at = (room, row, column)
        centre, radius = sphere_centres(primitives, camera, yaw, hits.primitive[at])
        for axis, (point, target) in enumerate(zip((x, y, z), normal, strict=True)):
            target[at] = ((point[at] - centre[:, axis]) / radius).float()
        u[at], v[at] = (normal_x[at] + normal_z[at]) * radius.float(), normal_y[at] * radius.float()
    depth = r * (1 / latitude.cos()).float()[:, None]
    return Surface((x, y, z), normal, depth, u, v)


def shade(rooms: Sequence[Room], primitives: Primitives, hits: Hits, geometry: Surface) -> Tensor:
    """The image (B, 3, H, W) in [0, 1], a multiple of 1/255 everywhere."""
    device = geometry.depth.device
    salt = _per_room([room.salt % 2**31 for room in rooms], device).to(torch.int32)
    look = {name: _take(primitives.material[i], hits.primitive) for name, i in CHANNEL.items()}
    albedo = _albedo(look, geometry, salt)
    occlusion = _occlusion(rooms, geometry)
    light, gloss = _light(rooms, geometry)
    emission = look["emission"]
    pane = look["sky"]
    outside = _outside(look, geometry)
    noise = _sensor_noise(geometry.depth.shape, salt)
    planes = []
    for channel in range(3):
        reflected = albedo[channel] * light[channel] * occlusion + 0.25 * look["gloss"] * gloss[channel]
        glow = torch.lerp(albedo[channel] * emission, outside[channel], pane)
        balance = _per_room([room.exposure * float(room.white_balance[channel]) for room in rooms], device)
        energy = (reflected * (1 - pane) + glow) * balance
        # A shoulder instead of a hard clip, then gamma 2.
        planes.append(
            (energy * (1 + energy * 0.25) / (1 + energy)).sqrt()
            + noise[channel] * _per_room([room.noise for room in rooms], device)
        )
    image = torch.stack(planes, dim=1)
    return image.mul_(255).round_().clamp_(0, 255).div_(255)


def _take(table: Tensor, index: Tensor) -> Tensor:
    """Look up single numbers: flat table, index of any shape."""
    return table.reshape(-1).index_select(0, index.flatten()).view(index.shape)


def _per_room(values: Sequence[float], device: torch.device) -> Tensor:
    dtype = torch.int64 if isinstance(values[0], int) else torch.float32
    return torch.tensor(values, dtype=dtype).to(device)[:, None, None]


def _step(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, as float."""
    return (x * STEEP).clamp_(0, 1)


@functools.cache
def _noise_table() -> Tensor:
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
    return (total / total.abs().amax()).flatten()


def _hash(a: Tensor, b: Tensor) -> Tensor:
    """A well-mixed non-negative int32 from two int32 tensors; multiplication wraps around on purpose."""
    mixed = a * 374761393 + b * 668265263
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return (mixed ^ (mixed >> 16)) & 0x7FFFFFFF


def _unit_interval(bits: Tensor, shift: int) -> Tensor:
    """Ten bits of a hash as a number in [0, 1)."""
    return ((bits >> shift) & 0x3FF).float() * (1 / 1024)


def _albedo(look: dict[str, Tensor], geometry: Surface, salt: Tensor) -> list[Tensor]:
    """The procedural texture; see `materials`."""
    u, v = torch.lerp(geometry.u, geometry.v, look["turn"]), torch.lerp(geometry.v, geometry.u, look["turn"])
    a, b = u / look["cell_u"], v / look["cell_v"]
    j = b.floor()
    a = a + j * look["shift"]
    i = a.floor()
    # Distance to the nearest joint against its half width, softened over one pixel's footprint on the surface.
    edge = torch.minimum((0.5 - (a - i - 0.5).abs()) * look["cell_u"], (0.5 - (b - j - 0.5).abs()) * look["cell_v"])
    x, y, z = geometry.point
    nx, ny, nz = geometry.normal
    facing = (x * nx + y * ny + z * nz).abs() / geometry.depth
    footprint = geometry.depth * (3.14 / geometry.depth.shape[-2]) / (facing + 0.1) + 1e-4
    line = look["line"]
    joint = ((0.5 * line - edge) / footprint + 0.5).clamp_(0, 1) * (line / footprint).clamp(max=1)
    fade = (1.5 - footprint / torch.minimum(look["cell_u"], look["cell_v"])).clamp_(0, 1)

    cell = _hash(i.to(torch.int32), j.to(torch.int32) ^ salt)
    parity = ((i.to(torch.int32) + j.to(torch.int32)) & 1).float()
    second = look["checker"] * torch.lerp(torch.full_like(parity, 0.5), parity, fade)
    column = (u * look["noise_u"] * NOISE_SIZE).to(torch.int32) & (NOISE_SIZE - 1)
    row = (v * look["noise_v"] * NOISE_SIZE).to(torch.int32) & (NOISE_SIZE - 1)
    offset = salt & (NOISE_SIZE * NOISE_SIZE - 1)
    texel = (row * NOISE_SIZE + column + offset) & (NOISE_SIZE * NOISE_SIZE - 1)
    noise = _take(_noise_table().to(u.device), texel) * look["noise"]
    jitter = look["jitter"] * fade * (_unit_interval(cell, 0) - 0.5) * 2
    tone = ((1 + noise) * (1 + jitter)).clamp_(min=0.05) * (1 + joint * (look["line_tone"] - 1))
    colors = []
    for channel, name in enumerate(("red", "green", "blue")):
        color = torch.lerp(look[name], look[name + "2"], second)
        own = _unit_interval(cell, 5 + 5 * channel)
        colors.append(torch.lerp(color, own * own, look["hue_jitter"] * fade) * tone)
    return colors


def _occlusion(rooms: Sequence[Room], geometry: Surface) -> Tensor:
    """Factor in (0, 1] that darkens corners, the floor near furniture and the upper edge of walls."""
    return torch.ones_like(geometry.depth)


def _light(rooms: Sequence[Room], geometry: Surface) -> tuple[list[Tensor], list[Tensor]]:
    """Diffuse light and mirror-like highlights, three channels each."""
    device = geometry.depth.device
    x, y, z = geometry.point
    nx, ny, nz = geometry.normal
    ambient = torch.from_numpy(np.stack([room.ambient for room in rooms])).to(device)[:, :, None, None]
    soft = 0.9 - 0.1 * ny  # a little more light from above
    diffuse = [ambient[:, c] * soft for c in range(3)]
    gloss = [torch.zeros_like(x) for _ in range(3)]
    for lights in _camera_lights(rooms).to(device).unbind(1):
        px, py, pz, *color = lights[:, :, None, None].unbind(1)
        lx, ly, lz = px - x, py - y, pz - z
        square = lx * lx + ly * ly + lz * lz + 0.05
        facing = (lx * nx + ly * ny + lz * nz).clamp_(min=0) * square.rsqrt()
        strength = facing / (square + 0.6)
        # Halfway vector: the highlight of a dull polish.
        distance, back = square.sqrt(), geometry.depth
        hx, hy, hz = lx / distance - x / back, ly / distance - y / back, lz / distance - z / back
        cosine = ((hx * nx + hy * ny + hz * nz).clamp_(min=0) * (hx * hx + hy * hy + hz * hz + 1e-6).rsqrt()) ** 2
        shine = cosine * cosine
        shine = shine * shine
        shine = shine * shine
        shine = shine * shine
        for c in range(3):
            diffuse[c] = diffuse[c] + color[c] * strength
            gloss[c] = gloss[c] + color[c] * shine
    return diffuse, gloss


def _camera_lights(rooms: Sequence[Room]) -> Tensor:
    """(B, L, 6) lights with positions in the camera frame."""
    tables = []
    for room in rooms:
        offset = room.lights[:, :3] - room.camera
        cos, sin = np.cos(room.yaw), np.sin(room.yaw)
        turned = (offset[:, 0] * cos + offset[:, 2] * sin, offset[:, 1], offset[:, 2] * cos - offset[:, 0] * sin)
        tables.append(np.column_stack((*turned, room.lights[:, 3:])).astype(np.float32))
    return torch.from_numpy(np.stack(tables))


def _outside(look: dict[str, Tensor], geometry: Surface) -> list[Tensor]:
    """What a window shows: sky that pales towards the horizon, and dark ground below."""
    elevation = -geometry.point[1] / geometry.depth
    ground = _step(-elevation - 0.02)
    up = (elevation * 2).clamp(0, 1)
    tones = (0.12, 0.16, 0.08)
    return [
        torch.lerp(torch.lerp(look[n], look[n + "2"], up), torch.full_like(up, t), ground) * look["emission"]
        for n, t in zip(("red", "green", "blue"), tones, strict=True)
    ]


def _sensor_noise(shape: torch.Size, salt: Tensor) -> list[Tensor]:
    """Zero mean, unit variance, bell-shaped (sum of three uniforms) noise for three channels."""
    height, width = shape[-2:]
    pixel = torch.arange(height * width, dtype=torch.int32, device=salt.device).view(height, width)
    noise = []
    for channel in range(3):
        bits = _hash(pixel, salt ^ (channel + 1))
        total = _unit_interval(bits, 0) + _unit_interval(bits, 10) + _unit_interval(bits, 20)
        noise.append((total - 1.5) * 2.0)
    return noise
