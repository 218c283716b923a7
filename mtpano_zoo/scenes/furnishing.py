"""Fill the floor of a room with furniture, without overlaps."""

import math

import numpy as np

from mtpano_zoo.scenes import furniture, materials
from mtpano_zoo.scenes.lamps import Lights
from mtpano_zoo.scenes.plan import Plan
from mtpano_zoo.scenes.scene import Builder, Frame

__all__ = ("anywhere", "at_wall", "count", "furnish", "table_group")


def furnish(
    rng: np.random.Generator, plan: Plan, builder: Builder, height: float, lamp: materials.Material, lights: Lights
) -> None:
    """Fill the floor: large things first, against the walls, then tables with chairs, then clutter."""
    crowd = rng.uniform(0.7, 1.6) * min(1.7, plan.free_area() / 20)
    for _ in range(count(rng, 0.65, 1.6 * crowd)):
        size, tall = (rng.uniform(0.6, 1.8), rng.uniform(0.25, 0.4)), rng.uniform(0.8, min(2.3, height - 0.1))
        if at := at_wall(rng, plan, size, tall):
            furniture.bookcase(rng, builder, at, size, tall)
    for _ in range(count(rng, 0.6, 1.2 * crowd)):
        size = (rng.choice([rng.uniform(0.85, 1.1), rng.uniform(1.5, 2.4)]), rng.uniform(0.8, 1.0))
        at = at_wall(rng, plan, size, 0.9) if rng.random() < 0.7 else anywhere(rng, plan, size)
        if at:
            furniture.sofa(rng, builder, at, *size)
    style, looks = int(rng.integers(0, 3)), (materials.pick(rng, "seat"), materials.pick(rng, "leg"))
    for _ in range(count(rng, 0.88, 2.0 * crowd)):
        table_group(rng, plan, builder, style, looks)
    for _ in range(count(rng, 0.4, 1.5 * crowd)):
        if at := anywhere(rng, plan, (0.55, 0.55)):
            furniture.chair(builder, at, int(rng.integers(0, 3)), looks)
    for _ in range(count(rng, 0.5, 1.2 * crowd)):
        size, tall = (rng.uniform(0.5, 1.6), rng.uniform(0.35, 0.6)), rng.choice([0.7, 0.8, 1.2, 1.9])
        if at := at_wall(rng, plan, size, tall):
            furniture.cabinet(rng, builder, at, size, tall)
            if tall < 0.9:
                furniture.tabletop(rng, builder, at, size, tall)
    for _ in range(count(rng, 0.9, 3.0 * crowd)):
        if at := at_wall(rng, plan, (0.5, 0.5), 0.8) if rng.random() < 0.7 else anywhere(rng, plan, (0.5, 0.5)):
            (furniture.bin_, furniture.boxes, furniture.plant)[int(rng.integers(0, 3))](rng, builder, at)
    if rng.random() < 0.35:
        size = (rng.uniform(1.2, 2.8), rng.uniform(0.9, 1.8))
        at = Frame(rng.uniform(0.0, plan.width), rng.uniform(0.0, plan.depth), rng.choice([0.0, math.pi / 2]))
        if plan.contains(at.x, at.z, size[0] / 2 + 0.05):
            furniture.rug(rng, builder, at, size)
    if rng.random() < 0.3 and (at := at_wall(rng, plan, (0.4, 0.4), 1.7)):
        lights.lamp(at, furniture.floor_lamp(rng, builder, at, lamp), lamp)


def table_group(
    rng: np.random.Generator,
    plan: Plan,
    builder: Builder,
    style: int,
    looks: tuple[materials.Material, materials.Material],
    glass: materials.Material | None = None,
) -> None:
    """Add a table with things on it and chairs around it; `glass` is the material of a glass top."""
    kind, height = rng.random(), rng.uniform(0.7, 0.78)
    if kind < 0.2:
        radius, height = rng.uniform(0.35, 0.75), height if rng.random() < 0.7 else 0.45
        if at := anywhere(rng, plan, (2 * radius, 2 * radius)):
            furniture.round_table(rng, builder, at, radius, height, glass)
            furniture.tabletop(rng, builder, at, (radius, radius), height)
            for i in range(int(rng.integers(0, 5))):
                _seat(
                    rng, plan, builder, at.at(0.0, 0.0, i * math.pi / 2 + rng.uniform(-0.3, 0.3)), radius, style, looks
                )
        return
    if kind < 0.55:  # desk at a wall
        size = (rng.uniform(1.0, 1.9), rng.uniform(0.6, 0.85))
        at, sides = at_wall(rng, plan, size, height), 1
    else:
        size = (rng.uniform(1.0, 2.8), rng.uniform(0.7, 1.2))
        at, sides = anywhere(rng, plan, size), 2
        if rng.random() < 0.25:
            height = rng.uniform(0.35, 0.5)
    if at is None:
        return
    furniture.table(rng, builder, at, size, height, glass)
    furniture.tabletop(rng, builder, at, size, height)
    places = max(1, int(size[0] / 0.65))
    for side in range(sides):
        for i in range(places):
            if rng.random() < 0.65:
                x = -size[0] / 2 + size[0] * (i + 0.5) / places
                spot = at.at(x, 0.0) if side == 0 else at.at(x, 0.0, math.pi)
                _seat(rng, plan, builder, spot, size[1] / 2, style, looks)


def _seat(
    rng: np.random.Generator,
    plan: Plan,
    builder: Builder,
    at: Frame,
    distance: float,
    style: int,
    looks: tuple[materials.Material, materials.Material],
) -> None:
    """Add a chair `distance` in front of a frame, facing back to it, if there is room."""
    turn = math.pi + rng.uniform(-0.35, 0.35) * (1 + (style > 0))
    spot = at.at(rng.uniform(-0.05, 0.05), distance + rng.uniform(0.32, 0.5), turn)
    if plan.occupy(spot, 0.45, 0.45):
        furniture.chair(builder, spot, style, looks)


def count(rng: np.random.Generator, chance: float, mean: float) -> int:
    """Draw a count: zero with probability 1 - `chance`, otherwise at least one and about `mean` on average."""
    return 0 if rng.random() > chance else max(1, int(mean * rng.uniform(0.5, 1.5) + 0.5))


def at_wall(rng: np.random.Generator, plan: Plan, size: tuple[float, float], tall: float) -> Frame | None:
    """Find a free place with its back to a wall, clear of openings and of what hangs there."""
    for _ in range(8):
        wall = plan.walls[int(rng.integers(len(plan.walls)))]
        if wall.length < size[0] + 0.1:
            continue
        x = rng.uniform(size[0] / 2 + 0.03, wall.length - size[0] / 2 - 0.03)
        at = wall.frame.at(x, size[1] / 2 + rng.uniform(0.02, 0.06))
        if wall.free(x - size[0] / 2, x + size[0] / 2, 0.0, tall) and plan.occupy(at, *size):
            return at
    return None


def anywhere(rng: np.random.Generator, plan: Plan, size: tuple[float, float]) -> Frame | None:
    """Find a free place on the floor, parallel to the walls or at any angle."""
    for _ in range(10):
        yaw = rng.choice([0.0, 0.5, 1.0, 1.5]) * math.pi if rng.random() < 0.6 else rng.uniform(-math.pi, math.pi)
        at = Frame(rng.uniform(0.0, plan.width), rng.uniform(0.0, plan.depth), yaw)
        if plan.occupy(at, *size):
            return at
    return None
