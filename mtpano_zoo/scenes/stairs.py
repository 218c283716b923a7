"""A straight flight of stairs along a wall, up to a landing or through the ceiling to another floor.

Treads, risers and landing are labelled `floor`, like the strings of an open flight. The panel that closes the space
below is labelled `wall`, and the railing with its posts `fence`.
"""

import dataclasses
import math

import numpy as np

from mtpano_zoo.scenes import materials
from mtpano_zoo.scenes.materials import Material
from mtpano_zoo.scenes.plan import Plan, Rect, Wall
from mtpano_zoo.scenes.scene import Builder, Frame

__all__ = ("SLAB", "Stairs", "build_stairs", "place_stairs")

HEADROOM = 2.0  # metres over a tread; the ceiling opens where it would be less
SLAB = 0.3  # metres between a ceiling and the floor above it
_FREE = 0.8  # metres of floor that stay free before the first step
_RAIL = 0.86  # height of the handrail above the edges of the treads in metres
_TREAD = 0.04  # metres, thickness


@dataclasses.dataclass(frozen=True)
class Stairs:
    """The place of a flight; distances along it are in metres from the foot, in the direction of climbing."""

    wall: Wall
    foot: float  # x on the wall
    back: bool  # climbs towards smaller x
    width: float
    rise: float  # height of a step in metres
    going: float  # depth of a step in metres
    steps: int
    length: float
    landing: bool  # otherwise it goes through the ceiling

    def along(self, start: float, end: float) -> tuple[float, float]:
        """Return the range of x on the wall between two distances from the foot."""
        return (self.foot - end, self.foot - start) if self.back else (self.foot + start, self.foot + end)

    def at(self, ahead: float, z: float) -> Frame:
        """Return the place at a distance from the foot and from the wall."""
        return self.wall.frame.at(self.along(ahead, ahead)[0], z)

    def rect(self, start: float, end: float) -> Rect:
        """Return the part between two distances from the foot, seen from above."""
        ends = (self.at(start, 0.0), self.at(end, self.width))
        (x0, x1), (z0, z1) = sorted(f.x for f in ends), sorted(f.z for f in ends)
        return Rect(x0, x1, z0, z1)

    def well(self, height: float) -> Rect | None:
        """Return the opening in a ceiling of the given height; None for a flight that ends at a landing."""
        below = max(0, math.floor((height - HEADROOM) / self.rise))
        return None if self.landing else self.rect(below * self.going, self.length)


def place_stairs(rng: np.random.Generator, plan: Plan, height: float) -> Stairs | None:
    """Find a place for a flight, and take its floor and its part of the walls; None if there is none."""
    landing = height > 2.75 and rng.random() < 0.6
    rise, going, width = rng.uniform(0.17, 0.2), rng.uniform(0.22, 0.27), rng.uniform(0.8, 1.05)
    if landing:
        steps = max(3, int(rng.uniform(0.55, height - 2.1) / rise))
        length = (steps - 1) * going + rng.uniform(0.9, 1.3)
    else:
        steps = math.ceil((height + SLAB) / rise)
        rise, length = (height + SLAB) / steps, steps * going
    walls = [wall for wall in plan.walls if wall.length >= length + _FREE]
    for _ in range(6 if walls else 0):
        wall, back = walls[int(rng.integers(len(walls)))], rng.random() < 0.5
        spare = wall.length - length
        before = spare if rng.random() < 0.7 else rng.uniform(_FREE, spare)  # usually it ends in a corner
        foot = wall.length - before if back else before
        stairs = Stairs(wall, foot, back, width, rise, going, steps, length, landing)
        # A little less than its footprint, because it touches the wall.
        if wall.free(*stairs.along(0.0, length), 0.0, height) and plan.occupy(
            stairs.at(length / 2, width / 2), length - 0.02, width - 0.02
        ):
            plan.block(stairs.at(-_FREE / 2, width / 2), _FREE, width)
            _take_walls(plan, stairs, height)
            return stairs
    return None


def _take_walls(plan: Plan, stairs: Stairs, height: float) -> None:
    """Mark the parts of walls behind or near the flight as taken, so that nothing opens or hangs there."""
    ends = [stairs.at(ahead, z) for ahead in (0.0, stairs.length) for z in (0.0, stairs.width)]
    for wall in plan.walls:
        cos, sin = round(math.cos(wall.frame.yaw)), round(math.sin(wall.frame.yaw))
        places = [(end.x - wall.frame.x, end.z - wall.frame.z) for end in ends]
        along, away = [x * cos - z * sin for x, z in places], [x * sin + z * cos for x, z in places]
        if -0.01 < min(away) < _FREE:
            wall.taken.append((min(along), max(along), 0.0, height))


def build_stairs(rng: np.random.Generator, builder: Builder, stairs: Stairs, height: float, panel: Material) -> None:
    """Add treads, risers or strings, and usually a railing; `panel` closes the space below unless it is open."""
    look = materials.pick(rng, "furniture") if rng.random() < 0.7 else materials.pick(rng, "floor")
    risers = look if rng.random() < 0.5 else materials.white(rng)
    is_open = not stairs.landing and rng.random() < 0.35
    frame, width, rise, going = stairs.wall.frame, stairs.width, stairs.rise, stairs.going
    for i in range(stairs.steps):
        start, top = i * going, (i + 1) * rise
        end = stairs.length if i == stairs.steps - 1 else start + going
        nose = stairs.along(start - 0.02, end)
        builder.box("floor", look, nose, (top - _TREAD, top), (0.0, width), frame)
        if is_open:
            _strings(builder, look, stairs, i)
            continue
        face = (top - rise, top - _TREAD)
        builder.box("floor", risers, stairs.along(start - 0.015, start), face, (0.0, width - 0.01), frame)
        builder.box("wall", panel, stairs.along(start, end), (0.0, top - _TREAD), (0.0, width - 0.02), frame)
    if rng.random() < 0.9:
        _railing(rng, builder, stairs, height)


def _strings(builder: Builder, look: Material, stairs: Stairs, step: int) -> None:
    """Add the two boards that carry the treads of an open flight: slanted, hence in small pieces."""
    half = stairs.going / 2
    for piece in range(2):
        start, top = step * stairs.going + piece * half, (step + 1 + 0.5 * piece) * stairs.rise
        if piece == 1 and step == stairs.steps - 1:
            top -= 0.5 * stairs.rise
        height = (max(0.0, top - 0.32), top)
        for z in ((0.0, 0.035), (stairs.width - 0.035, stairs.width)):
            builder.box("floor", look, stairs.along(start, start + half), height, z, stairs.wall.frame)


def _railing(rng: np.random.Generator, builder: Builder, stairs: Stairs, height: float) -> None:
    """Add posts and a handrail on the room's side, as far as they stay below the ceiling."""
    look = materials.wood(rng) if rng.random() < 0.4 else materials.gray(rng)
    rail = look if rng.random() < 0.6 else materials.wood(rng)
    frame, rise, going = stairs.wall.frame, stairs.rise, stairs.going
    thick, per_step = rng.uniform(0.015, 0.035), int(rng.integers(1, 3))
    z = (stairs.width - 0.05 - thick, stairs.width - 0.05)
    middle = (z[0] + z[1]) / 2
    wide = (middle - 0.025, middle + 0.025)
    slope = (stairs.steps - 1) * going if stairs.landing else stairs.length
    post = stairs.along(0.02, 0.1)
    builder.box("fence", look, post, (rise, rise + _RAIL + 0.1), (middle - 0.04, middle + 0.04), frame)
    pieces = math.ceil(slope / 0.09)
    for i in range(pieces):
        start, end = slope * i / pieces, slope * (i + 1) / pieces
        low = rise * (start / going + 1) + _RAIL
        top = rise * (end / going + 1) + _RAIL + 0.045
        if top < height - 0.02:
            builder.box("fence", rail, stairs.along(start, end), (low, top), wide, frame)
    for i in range(round(slope / going) * per_step):
        ahead = (i + 0.5) * going / per_step
        tread, top = (int(ahead / going) + 1) * rise, rise * (ahead / going + 1) + _RAIL + 0.01
        if top < height - 0.08:
            builder.box("fence", look, stairs.along(ahead - thick / 2, ahead + thick / 2), (tread, top), z, frame)
    if stairs.landing:
        floor = stairs.steps * rise
        _fence(builder, (look, rail), stairs, (slope, stairs.length), (floor, floor + _RAIL + 0.1), (z, wide))


def _fence(
    builder: Builder,
    looks: tuple[Material, Material],
    stairs: Stairs,
    ahead: tuple[float, float],
    height: tuple[float, float],
    z: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    """Add posts and a rail along a landing, and across its end if there is no wall."""
    (posts, wide), frame, thick = z, stairs.wall.frame, z[0][1] - z[0][0]
    look, rail = looks
    top = (height[1] - 0.045, height[1])
    builder.box("fence", rail, stairs.along(*ahead), top, wide, frame)
    count = math.ceil((ahead[1] - ahead[0]) / 0.14)
    for i in range(count + 1):
        x = ahead[0] + 0.03 + (ahead[1] - ahead[0] - 0.06) * i / count
        upright = stairs.along(x - thick / 2, x + thick / 2)
        builder.box("fence", look, upright, (height[0], top[0]), posts, frame)
    end = stairs.along(ahead[1], ahead[1])[0]
    if 0.1 < end < stairs.wall.length - 0.1:
        across = stairs.along(ahead[1] - 0.075, ahead[1] - 0.025)
        builder.box("fence", rail, across, top, (0.0, posts[1]), frame)
        middle = stairs.along(ahead[1] - 0.05 - thick / 2, ahead[1] - 0.05 + thick / 2)
        for i in range(round(stairs.width / 0.14)):
            place = 0.05 + 0.14 * i
            builder.box("fence", look, middle, (height[0], top[0]), (place, place + thick), frame)
