"""Light under the open sky: the sun with its shadows, light from the whole sky, haze, and the sky itself."""

import dataclasses

import torch
from torch import Tensor

from mtpano_zoo.scenes.batching import Primitives, Views
from mtpano_zoo.scenes.shading import Surface, planes_to_room, take, texture_noise
from mtpano_zoo.scenes.tracing import FAR, STEEP, TILE, Rays, corners, from_tiles, into_tiles, trace

__all__ = ("SUNLIGHT", "SunMap", "haze", "sky_colors", "sun_map", "sunlit")

SUN_MAP = 192  # pixels along each side of the sun's shadow map
_CENTRE, _BEND = 20.0, 0.88  # metres per unit in the middle of the map, and how fast it grows outwards
_SUN_DISTANCE = 2000.0  # metres; rays of the sun start this far away

# Positions of the numbers in `Sky.row`.
SUN, SUNLIGHT, ZENITH, HORIZON, CLOUD = (slice(3 * i, 3 * i + 3) for i in range(5))
COVER, SCALE, HAZE = 15, 16, 17


@dataclasses.dataclass
class SunMap:
    """What the sun sees of every scene, in a plane across its light that is finer around the camera."""

    depth: Tensor  # (B, SUN_MAP, SUN_MAP) metres from the plane where the rays start
    axes: Tensor  # (B, 3, 3) right and down of the map, and the direction towards the sun; room frame
    centre: Tensor  # (B, 3) room frame

    def slice(self, start: int, stop: int) -> "SunMap":
        """Return the maps of some of the scenes."""
        return SunMap(self.depth[start:stop], self.axes[start:stop], self.centre[start:stop])


def sun_map(primitives: Primitives, views: Views) -> SunMap:
    """Cast the light of the sun on every scene; its rays are parallel, so each has its own start."""
    device, count = views.camera.device, len(views.camera)
    toward = views.sky[:, SUN].double()
    right = torch.nn.functional.normalize(torch.stack((toward[:, 2], 0 * toward[:, 0], -toward[:, 0]), 1), dim=1)
    down = torch.linalg.cross(toward, right)
    axes = torch.stack((right, down, toward), dim=1)
    centre = views.camera * torch.tensor([1.0, 0.0, 1.0], device=device, dtype=torch.float64)

    grid = (torch.arange(SUN_MAP, device=device, dtype=torch.float64) + 0.5) * (2 / SUN_MAP) - 1
    offset = _CENTRE * grid / (1 - _BEND * grid.abs())
    plane = offset[None, None, :, None] * down[:, :, None, None] + offset[None, None, None] * right[:, :, None, None]
    start = plane + (centre + toward * _SUN_DISTANCE)[:, :, None, None]
    tiles = into_tiles(start)
    rays = Rays(tiles, -toward[:, None, :, None].expand(-1, tiles.shape[1], -1, -1))

    # The bounds of a primitive in the plane, and the tiles that they reach.
    points = corners(primitives) - centre[primitives.room][:, None]
    flat = torch.einsum("pcj,pij->pci", points, axes[primitives.room, :2])
    low, high = flat.amin(1), flat.amax(1)
    across = offset.view(-1, TILE)
    first, last = across[:, 0], across[:, -1]
    columns = (low[:, :1] <= last) & (high[:, :1] >= first)
    rows = (low[:, 1:] <= last) & (high[:, 1:] >= first)
    touched = (rows[:, :, None] & columns[:, None, :]).flatten(1)
    distance, _ = trace(primitives, rays, touched)
    return SunMap(from_tiles(distance, SUN_MAP, SUN_MAP).view(count, SUN_MAP, SUN_MAP), axes.float(), centre.float())


def sunlit(seen: Surface, views: Views, sun: SunMap) -> Tensor:
    """Return the cosine of the sun's light on the surface, 0 in shadow."""
    turn = views.turn.float()[:, :, None, None].unbind(1)
    camera = views.camera.float()[:, :, None, None] - sun.centre[:, :, None, None]

    axes = sun.axes[:, :, :, None, None]
    normal = planes_to_room(seen.normal, turn)
    facing = sum(n * axes[:, 2, i] for i, n in enumerate(normal))
    position = [p + camera[:, i] for i, p in enumerate(planes_to_room(seen.point, turn))]

    def within(axis: int) -> Tensor:
        return position[0] * axes[:, axis, 0] + position[1] * axes[:, axis, 1] + position[2] * axes[:, axis, 2]

    # The depth of a slanted surface varies over one texel: look from a little in front of it.
    across, along = within(0), within(1)
    texel = torch.maximum(across.abs(), along.abs()).mul_(_BEND / _CENTRE).add_(1).square_().mul_(2 * _CENTRE / SUN_MAP)
    for i, n in enumerate(normal):
        position[i].addcmul_(n, texel * 1.2 + 0.03)
    threshold = _SUN_DISTANCE - within(2) - 0.02 - 0.5 * texel
    u, v = ((c / (c.abs() * _BEND + _CENTRE)).add_(1).mul_(SUN_MAP / 2).sub_(0.5) for c in (within(0), within(1)))
    inside = (u > 0) & (u < SUN_MAP - 1) & (v > 0) & (v < SUN_MAP - 1)
    left, top = u.clamp(0, SUN_MAP - 2).floor(), v.clamp(0, SUN_MAP - 2).floor()
    du, dv = (u - left).clamp_(0, 1), (v - top).clamp_(0, 1)
    room = torch.arange(len(u), device=u.device)[:, None, None] * SUN_MAP
    texel_number = ((top.long() + room) * SUN_MAP) + left.long()

    def visible(step: int) -> Tensor:
        return take(sun.depth, texel_number + step).sub_(threshold).mul_(STEEP).clamp_(0, 1)

    above, below = visible(0).lerp_(visible(1), du), visible(SUN_MAP).lerp_(visible(SUN_MAP + 1), du)
    lit = above.lerp_(below, dv).masked_fill_(~inside, 1.0)
    light: Tensor = facing.clamp(min=0) * lit  # type: ignore[union-attr]
    return light


def haze(energy: Tensor, seen: Surface, views: Views, channel: int) -> Tensor:
    """Fade a channel into the colour of the horizon, more with distance; in place."""
    length = views.sky[:, HAZE, None, None].clamp(min=1.0)
    share = 1 - (-seen.depth.clamp(max=FAR) / length).exp()
    return energy.lerp_(views.sky[:, HORIZON][:, channel, None, None].expand_as(energy), share)


def sky_colors(seen: Surface, views: Views, at: Tensor) -> list[Tensor]:
    """Return the colours of the sky at some pixels: paler towards the horizon and around the sun, with clouds."""
    x, y, z = (take(plane, at) for plane in seen.sight())
    room = at // seen.depth[0].numel()
    row, salt = views.sky[room], views.salt[room]
    length = (x * x + y * y + z * z).sqrt()
    x, y, z = planes_to_room((x, y, z), views.turn.float()[room].unbind(1))
    east, up, north = x / length, -y / length, z / length
    sun = row[:, SUN]
    close = (east * sun[:, 0] - up * sun[:, 1] + north * sun[:, 2]).clamp(-1, 1)
    height = up.clamp(min=0)
    blue = height.sqrt()
    # Clouds lie on a plane overhead: farther ones are smaller and run together at the horizon.
    spread = row[:, SCALE] / (height + 0.12)
    u, v = east * spread, north * spread
    noise = 0.65 * texture_noise(u * 0.11, v * 0.11, salt) + 0.35 * texture_noise(u * 0.37 + 0.3, v * 0.37, salt)
    cover = row[:, COVER]
    thick = ((noise * 1.6 + cover * 2.2 - 1.1) * 2.5).clamp(0, 1) * (height * 12).clamp(0, 1)
    shade = 1 - 0.35 * ((noise * 1.6 + cover * 2.2 - 1.4) * 1.2).clamp(0, 1)
    glow = (1 - (1 - close) * 3).clamp(min=0) ** 2
    disc = ((close - 0.9993) * 4000).clamp(0, 1) * (1 - 0.9 * thick)
    colors = []
    for c in range(3):
        clear = torch.lerp(row[:, HORIZON][:, c], row[:, ZENITH][:, c], blue)
        clear = clear + glow * 0.25 * row[:, SUNLIGHT][:, c]
        cloudy = torch.lerp(clear, row[:, CLOUD][:, c] * shade, thick)
        colors.append(cloudy + disc * 20 * row[:, SUNLIGHT][:, c])
    return colors
