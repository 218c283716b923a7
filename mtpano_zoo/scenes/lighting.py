"""Light and camera: lamps, windows, a shadow map, darkened corners, the outside, exposure and sensor noise."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from mtpano_zoo.scenes.batching import Primitives, Views
from mtpano_zoo.scenes.casting import distances
from mtpano_zoo.scenes.daylight import SUNLIGHT, SunMap, haze, sky_colors, sun_map, sunlit
from mtpano_zoo.scenes.materials import CHANNEL
from mtpano_zoo.scenes.outside import look_out
from mtpano_zoo.scenes.plan import GRID_METRES, GRID_ORIGIN
from mtpano_zoo.scenes.shading import (
    Surface,
    albedo,
    hashed,
    panes,
    planes_to_room,
    take,
    texture_noise,
    to_room,
    unit_interval,
)
from mtpano_zoo.scenes.tracing import STEEP
from mtpano_zoo.sphere import erp_angles

__all__ = ("Shadows", "cast_shadows", "develop", "radiance")

SHADOW_HEIGHT = 64  # rows of the shadow map


@dataclasses.dataclass
class Shadows:
    """What the first light of every room sees, as a small panorama in the orientation of the camera."""

    depth: Tensor  # (B, h, w) metres
    sun: SunMap | None = None  # outdoors

    def slice(self, start: int, stop: int) -> "Shadows":
        """Return the shadows of some of the rooms."""
        return Shadows(self.depth[start:stop], self.sun.slice(start, stop) if self.sun else None)


def cast_shadows(primitives: Primitives, views: Views) -> Shadows:
    """Cast rays from the first light of every room, and from the sun; lamps and glass let light through."""
    primitives = primitives.select(primitives.material[CHANNEL["glass"]] == 0)
    sun = sun_map(primitives, views) if bool(views.sky[:, SUNLIGHT].any()) else None
    if not bool(views.lights[:, 0, 3:].any()):
        nothing = torch.full((len(views.lights), SHADOW_HEIGHT, 2 * SHADOW_HEIGHT), 1e9, device=views.lights.device)
        return Shadows(nothing, sun)
    solid = primitives.select(primitives.material[CHANNEL["emission"]] == 0)
    light = views.camera + to_room(views.lights[:, 0, :3].double(), views.turn)
    distance = distances(solid, light, views.turn, SHADOW_HEIGHT, 2 * SHADOW_HEIGHT)
    latitude = erp_angles(SHADOW_HEIGHT, 2 * SHADOW_HEIGHT, device=light.device, dtype=torch.float64)[1]
    return Shadows(distance * (1 / latitude.cos()).float()[:, None], sun)


def radiance(primitives: Primitives, seen: Surface, views: Views, shadows: Shadows) -> list[Tensor]:
    """Return the light that comes from what is seen, linear RGB: three times (B, rows, W)."""
    salt = views.salt[:, None, None]
    colors = albedo(primitives, seen, salt)
    dark = _occlusion(seen, views)
    diffuse, gloss = _light(seen, views, shadows)
    emission = take(primitives.material[CHANNEL["emission"]], seen.primitive)
    polish = take(primitives.material[CHANNEL["gloss"]], seen.primitive).mul_(0.25)
    sky = take(primitives.material[CHANNEL["sky"]], seen.primitive).flatten().nonzero()[:, 0]
    outside = _outside(primitives, seen, views, sky)
    if shadows.sun is not None:
        sun = sunlit(seen, views, shadows.sun)
        for c in range(3):
            diffuse[c].addcmul_(sun, views.sky[:, SUNLIGHT][:, c, None, None])
    panes(primitives, seen, salt, colors, emission)
    above = seen.sky.flatten().nonzero()[:, 0] if seen.sky is not None else sky[:0]
    heaven = sky_colors(seen, views, above)
    light = []
    for c in range(3):
        energy = diffuse[c].mul_(dark).add_(emission).mul_(colors[c]).addcmul_(polish, gloss[c])
        energy.view(-1).index_copy_(0, sky, outside[c])
        if seen.sky is not None:
            haze(energy, seen, views, c).view(-1).index_copy_(0, above, heaven[c])
        light.append(energy)
    return light


def develop(light: list[Tensor], views: Views, rows: slice) -> Tensor:
    """Apply exposure, tone curve and sensor noise: return the image (B, 3, rows, W) in [0, 1], in steps of 1/255."""
    noise = _sensor_noise(light[0].shape[-1], rows, views.salt[:, None, None])
    planes = []
    for c, energy in enumerate(light):
        energy.mul_(views.gain[:, c, None, None])
        # A shoulder instead of a hard clip, then gamma 2.
        shoulder = energy.mul(0.3).add_(1).mul_(energy).div_(energy.add_(1)).sqrt_()
        planes.append(shoulder.addcmul_(noise[c], views.noise[:, None, None]))
    return torch.stack(planes, dim=1).mul_(255).round_().clamp_(0, 255).div_(255)


def _light(seen: Surface, views: Views, shadows: Shadows) -> tuple[list[Tensor], list[Tensor]]:
    """Return diffuse light and mirror-like highlights, three channels each."""
    (x, y, z), (nx, ny, nz) = seen.point, seen.normal
    # A little more light comes from above; under the open sky much more.
    soft = 0.9 - 0.1 * ny if seen.sky is None else 0.65 - 0.35 * ny
    diffuse = [views.ambient[:, c, None, None] * soft for c in range(3)]
    gloss = [torch.zeros_like(x) for _ in range(3)]
    # The viewing ray, mirrored at the surface.
    rx, ry, rz = seen.sight()
    toward = (rx * nx).addcmul_(ry, ny).addcmul_(rz, nz).mul_(2)
    mx, my, mz = (
        torch.addcmul(p, toward, n, value=-1).div_(seen.depth) for p, n in zip((rx, ry, rz), seen.normal, strict=True)
    )
    for index, light in enumerate(views.lights.unbind(1)):
        px, py, pz, *color = light[:, :, None, None].unbind(1)
        lx, ly, lz = px - x, py - y, pz - z
        square = (lx * lx).addcmul_(ly, ly).addcmul_(lz, lz).add_(1e-4)
        inverse = square.rsqrt()
        facing = (lx * nx).addcmul_(ly, ny).addcmul_(lz, nz).clamp_(min=0).mul_(inverse)
        shine = (lx * mx).addcmul_(ly, my).addcmul_(lz, mz).clamp_(min=0).mul_(inverse)
        for _ in range(6):
            shine.mul_(shine)
        if index == 0:
            lit = _lit(lx, ly, lz, square, facing, shadows)
            facing.mul_(lit)
            shine.mul_(lit)
        facing.div_(square.add_(0.63))
        for c in range(3):
            diffuse[c].addcmul_(facing, color[c])
            gloss[c].addcmul_(shine, color[c])
    return diffuse, gloss


def _lit(lx: Tensor, ly: Tensor, lz: Tensor, square: Tensor, cosine: Tensor, shadows: Shadows) -> Tensor:
    """Return the share of the four shadow-map texels around a point that see it; (lx, ly, lz) lead to the light."""
    rooms, height, width = shadows.depth.shape
    distance = square.sqrt()
    # The depth of a tilted surface varies over one texel of the map: it must not shade itself.
    threshold = distance * (1 - 1.5 * torch.pi / height / (cosine + 1e-3)) - 0.05
    u = torch.atan2(lx, lz).mul_(width / (2 * torch.pi)).add_(width - 0.5)  # half a turn added: seen from the light
    v = torch.asin((ly / distance).clamp_(-1, 1)).mul_(-height / torch.pi).add_(height / 2 - 0.5)
    left, top = u.floor(), v.floor()
    du, dv = u.sub_(left), v.sub_(top)
    column, row = left.to(torch.int32), top.to(torch.int32)
    room = torch.arange(rooms, dtype=torch.int32, device=lx.device)[:, None, None].mul(height)

    def visible(down: int, right: int) -> Tensor:
        texel = ((row + down).clamp_(0, height - 1).add_(room)).mul_(width).add_((column + right) % width)
        return take(shadows.depth, texel).sub_(threshold).mul_(STEEP).clamp_(0, 1)

    above = visible(0, 0).lerp_(visible(0, 1), du)
    return above.lerp_(visible(1, 0).lerp_(visible(1, 1), du), dv)


def _occlusion(seen: Surface, views: Views) -> Tensor:
    """Return a factor in (0, 1] that darkens corners, the floor near furniture and the edges of floor and ceiling."""
    camera = views.camera.float()[:, :, None, None]
    # Look a little in front of upright surfaces, which would otherwise be half inside themselves.
    x = torch.add(seen.point[0], seen.normal[0], alpha=0.12)
    z = torch.add(seen.point[2], seen.normal[2], alpha=0.12)
    x, y, z = planes_to_room((x, seen.point[1], z), views.turn.float()[:, :, None, None].unbind(1))
    gx = x.add_(camera[:, 0] - GRID_ORIGIN).mul_(2 / GRID_METRES).sub_(1)
    gz = z.add_(camera[:, 2] - GRID_ORIGIN).mul_(2 / GRID_METRES).sub_(1)
    grid = torch.stack((gx, gz), dim=-1)
    walls, things = functional.grid_sample(views.occupancy, grid, padding_mode="border", align_corners=False).unbind(1)
    height = -(y + camera[:, 1])
    near_floor = (1 - height / 0.7).clamp_(0, 1)
    foot = (1 - height * 4).clamp_(0, 1).mul_(1 - seen.level)
    # Tops of low things are open to the light: only the floor itself lies in their shade.
    top = (height - 0.05).mul_(STEEP).clamp_(0, 1).mul_(seen.level).mul_(0.7)
    shade = things.mul_(near_floor).mul_(0.6).mul_(1 - top)
    return (1 - 0.5 * walls).mul_(1 - shade).mul_(1 - 0.25 * foot * foot)


def _outside(primitives: Primitives, seen: Surface, views: Views, at: Tensor) -> list[Tensor]:
    """Return what windows show at some pixels: a panorama, or a sky paler at the horizon, buildings, trees, ground."""
    x, y, z = (take(plane, at) for plane in seen.sight())
    primitive = take(seen.primitive, at)
    room = at // seen.depth[0].numel()
    salt = views.salt[room]
    east, y, north = planes_to_room((x, y, z), views.turn.float()[room].unbind(1))
    r = (east * east + north * north).sqrt()
    elevation = -y / r
    # A cheap angle, and from it the number of the building that stands there.
    angle = east / (east.abs() + north.abs()) * north.sign() + 2
    lot = (angle * 23).to(torch.int32)
    house = hashed(lot, salt)
    roof = unit_interval(house, 0) * 0.35 - 0.1
    leafy = (unit_interval(house, 3) - 0.45).mul(STEEP).clamp(0, 1)
    roof = roof * (1 - 0.6 * leafy) + leafy * (0.05 + 0.1 * texture_noise(angle * 3, angle * 0, salt))
    built = ((roof - elevation) * STEEP).clamp(0, 1)
    ground = ((-0.03 - elevation) * STEEP).clamp(0, 1)
    storey = (((elevation * 30).floor() + (angle * 160).floor()).to(torch.int32) & 1).float() * (1 - leafy)
    noise = 1 + 0.5 * texture_noise(angle * 3, elevation * 2, salt)
    up = (elevation * 1.5).clamp(0, 1)
    haze = (1 + elevation * 4).clamp(0, 1)

    def channel(c: int, name: str) -> Tensor:
        material = [take(primitives.material[CHANNEL[n]], primitive) for n in (name, name + "2", "emission")]
        sky = torch.lerp(material[0], material[1], up)
        wall = (unit_interval(house, 8) * 0.3 + 0.12 - storey * 0.07) * (unit_interval(house, 8 + 4 * c) * 0.3 + 0.85)
        tree = (0.05, 0.11, 0.03)[c] * noise
        far = torch.lerp(wall, tree, leafy)
        color = torch.lerp(sky, far, built)
        meadow = torch.lerp((0.08, 0.1, 0.05)[c] * noise, material[0] * 0.4, haze)
        return torch.lerp(color, meadow, ground) * material[2]

    colors = [channel(c, name) for c, name in enumerate(("red", "green", "blue"))]
    for number, outside in enumerate(views.outside):
        if outside is not None:
            own = (room == number).nonzero()[:, 0]
            shown = look_out(*outside, east[own], y[own], north[own])
            bright = take(primitives.material[CHANNEL["emission"]], primitive[own])
            for color, plane in zip(colors, shown.unbind(1), strict=True):
                color.index_copy_(0, own, plane * bright)
    return colors


def _sensor_noise(width: int, rows: slice, salt: Tensor) -> list[Tensor]:
    """Return bell-shaped noise of zero mean and unit variance (a sum of three uniforms) for three channels."""
    pixel = torch.arange(rows.start * width, rows.stop * width, dtype=torch.int32, device=salt.device).view(-1, width)
    noise = []
    for channel in range(3):
        bits = hashed(pixel, salt ^ (channel + 1))
        noise.append((unit_interval(bits, 0) + unit_interval(bits, 10) + unit_interval(bits, 20)).sub_(1.5).mul_(2))
    return noise
