"""Draws a whole room: plan, camera, shell, furniture, lights and the look of the camera."""

import math
from typing import Literal, get_args

import numpy as np

from mtpano_zoo.data.rooms import furniture, materials
from mtpano_zoo.data.rooms.plan import CELL, Plan, sample_plan
from mtpano_zoo.data.rooms.scene import Builder, Float32, Frame, Room
from mtpano_zoo.data.rooms.walls import Shell

Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

MAX_LIGHTS = 6
GRID = 96  # cells of the occupancy map; 0.13 m each in the largest room


def sample_room(seed: int, split: str, index: int) -> Room:
    """Draw the room of a split and an index; the same arguments always give the same room.

    The generator is keyed by (seed, split, index) through an injective map, so no two of them share a stream.

    Raises:
        ValueError: The split is unknown, or seed or index are out of range.
    """
    rng = np.random.Generator(np.random.Philox(key=room_key(seed, split, index)))
    height, daylight = rng.uniform(2.4, 3.6), float(rng.random() < 0.75) * rng.uniform(0.3, 1.0)
    plan, builder = sample_plan(rng), Builder()
    x, z = _camera(rng, plan)
    camera = np.array([x, -rng.uniform(1.0, 1.9), z])
    plan.block_disc(x, z, 0.8)
    shell = Shell(builder, plan, rng, height, daylight)
    _openings(rng, shell)
    plan.block_disc(x, z, 0.0)
    lamp = materials.glow(_lamp_color(rng), rng.uniform(1.5, 4.0))
    lights = _Lights(rng, daylight)
    _furnish(rng, plan, builder, height, lamp, lights)
    if rng.random() < 0.45:
        shell.beams()
    shell.close()
    for window in shell.windows:
        lights.window(window)
    _ceiling_lamps(rng, plan, builder, height, lamp, (x, z), lights)
    occupancy, extent = _occupancy(plan)
    return Room(
        id=f"{split}-{index:06d}",
        **builder.arrays(),  # type: ignore[arg-type]
        camera=camera,
        yaw=rng.uniform(-math.pi, math.pi),
        lights=lights.array(plan.width * plan.depth),
        ambient=lights.ambient(),
        occupancy=occupancy,
        extent=extent,
        exposure=rng.uniform(0.75, 1.35),
        white_balance=np.array([rng.uniform(0.92, 1.08), 1.0, rng.uniform(0.9, 1.1)], dtype=np.float32),
        noise=rng.uniform(0.0, 0.02),
        salt=int(rng.integers(2**31)),
    )


def room_key(seed: int, split: str, index: int) -> int:
    """The 128-bit key of a room: the seed in the upper half, split and index in the lower.

    Raises:
        ValueError: The split is unknown, or seed or index are out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= seed < 2**63 or not 0 <= index < 2**56:
        raise ValueError(f"seed and index must not be negative or astronomically large, got {seed} and {index}")
    return (int(seed) << 64) | (SPLITS.index(split) << 56) | int(index)


def _camera(rng: np.random.Generator, plan: Plan) -> tuple[float, float]:
    """A place at least 0.6 m away from every wall."""
    for margin in (0.9, 0.6, 0.6, 0.4, 0.0):
        for _ in range(40):
            x, z = rng.uniform(0.0, plan.width), rng.uniform(0.0, plan.depth)
            if plan.contains(x, z, margin):
                return x, z
    raise RuntimeError("a plan without free floor was drawn")


def _openings(rng: np.random.Generator, shell: Shell) -> None:
    for _ in range(1 + int(rng.random() < 0.3)):
        if rng.random() < 0.93:
            shell.door()
    if rng.random() < 0.82:
        for _ in range(int(rng.integers(1, 5))):
            shell.window()
    if rng.random() < 0.4:
        shell.columns()
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 3))):
            size = (rng.uniform(0.9, 3.2), rng.uniform(0.8, 1.3))
            shell.hang("board", materials.board(rng), size, rng.uniform(0.75, 1.0))
    for _ in range(int(rng.integers(0, 4))):
        size = (rng.uniform(0.25, 1.1), rng.uniform(0.25, 0.8))
        look = materials.picture(rng) if rng.random() < 0.8 else materials.screen(rng)
        shell.hang("clutter", look, size, rng.uniform(1.1, 1.5))


def _furnish(
    rng: np.random.Generator, plan: Plan, builder: Builder, height: float, lamp: materials.Material, lights: "_Lights"
) -> None:
    """Fill the floor: large things first, against the walls, then tables with chairs, then clutter."""
    area = float(plan.free.sum()) * CELL * CELL
    crowd = rng.uniform(0.5, 1.3) * min(1.5, area / 25)
    for _ in range(_count(rng, 0.65, 1.6 * crowd)):
        size, tall = (rng.uniform(0.6, 1.8), rng.uniform(0.25, 0.4)), rng.uniform(0.8, min(2.3, height - 0.1))
        if at := _at_wall(rng, plan, size, tall):
            furniture.bookcase(rng, builder, at, size, tall)
    for _ in range(_count(rng, 0.6, 1.2 * crowd)):
        size = (rng.choice([rng.uniform(0.85, 1.1), rng.uniform(1.5, 2.4)]), rng.uniform(0.8, 1.0))
        at = _at_wall(rng, plan, size, 0.9) if rng.random() < 0.7 else _anywhere(rng, plan, size)
        if at:
            furniture.sofa(rng, builder, at, *size)
    style, looks = int(rng.integers(0, 3)), (materials.pick(rng, "seat"), materials.pick(rng, "leg"))
    for _ in range(_count(rng, 0.88, 2.0 * crowd)):
        _table_group(rng, plan, builder, style, looks)
    for _ in range(_count(rng, 0.4, 1.5 * crowd)):
        if at := _anywhere(rng, plan, (0.55, 0.55)):
            furniture.chair(rng, builder, at, int(rng.integers(0, 3)), looks)
    for _ in range(_count(rng, 0.5, 1.2 * crowd)):
        size, tall = (
            (rng.uniform(0.5, 1.6), rng.uniform(0.35, 0.6)),
            rng.choice([0.75, 1.2, 2.0]) * rng.uniform(0.9, 1.1),
        )
        if at := _at_wall(rng, plan, size, tall):
            furniture.cabinet(rng, builder, at, size, tall)
            if tall < 0.9:
                furniture.tabletop(rng, builder, at, size, tall)
    for _ in range(_count(rng, 0.9, 3.0 * crowd)):
        if at := _at_wall(rng, plan, (0.5, 0.5), 0.8) if rng.random() < 0.7 else _anywhere(rng, plan, (0.5, 0.5)):
            (furniture.bin_, furniture.boxes, furniture.plant)[int(rng.integers(0, 3))](rng, builder, at)
    if rng.random() < 0.3 and (at := _at_wall(rng, plan, (0.4, 0.4), 1.7)):
        lights.lamp(at, furniture.floor_lamp(rng, builder, at, lamp), lamp)


def _table_group(
    rng: np.random.Generator,
    plan: Plan,
    builder: Builder,
    style: int,
    looks: tuple[materials.Material, materials.Material],
) -> None:
    """A table with things on it and chairs around it."""
    kind, height = rng.random(), rng.uniform(0.7, 0.78)
    if kind < 0.2:
        radius, height = rng.uniform(0.35, 0.75), height if rng.random() < 0.7 else 0.45
        if at := _anywhere(rng, plan, (2 * radius, 2 * radius)):
            furniture.round_table(rng, builder, at, radius, height)
            furniture.tabletop(rng, builder, at, (radius, radius), height)
            for i in range(int(rng.integers(0, 5))):
                _seat(
                    rng, plan, builder, at.at(0.0, 0.0, i * math.pi / 2 + rng.uniform(-0.3, 0.3)), radius, style, looks
                )
        return
    if kind < 0.55:  # desk at a wall
        size = (rng.uniform(1.0, 1.9), rng.uniform(0.6, 0.85))
        at, sides = _at_wall(rng, plan, size, height), 1
    else:
        size = (rng.uniform(1.0, 2.8), rng.uniform(0.7, 1.2))
        at, sides = _anywhere(rng, plan, size), 2
        if rng.random() < 0.25:
            height = rng.uniform(0.35, 0.5)
    if at is None:
        return
    furniture.table(rng, builder, at, size, height)
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
    """A chair `distance` in front of a frame, facing back to it, if there is room."""
    turn = math.pi + rng.uniform(-0.35, 0.35) * (1 + (style > 0))
    spot = at.at(rng.uniform(-0.05, 0.05), distance + rng.uniform(0.32, 0.5), turn)
    if plan.occupy(spot, 0.45, 0.45):
        furniture.chair(rng, builder, spot, style, looks)


def _count(rng: np.random.Generator, chance: float, mean: float) -> int:
    """None with probability 1 - `chance`, otherwise at least one and `mean` on average."""
    return 0 if rng.random() > chance else max(1, int(mean * rng.uniform(0.5, 1.5) + 0.5))


def _at_wall(rng: np.random.Generator, plan: Plan, size: tuple[float, float], tall: float) -> Frame | None:
    """A free place with its back to a wall, clear of openings and of what hangs there."""
    for _ in range(8):
        wall = plan.walls[int(rng.integers(len(plan.walls)))]
        if wall.length < size[0] + 0.1:
            continue
        x = rng.uniform(size[0] / 2 + 0.03, wall.length - size[0] / 2 - 0.03)
        at = wall.frame.at(x, size[1] / 2 + rng.uniform(0.02, 0.06))
        if wall.free(x - size[0] / 2, x + size[0] / 2, 0.0, tall) and plan.occupy(at, *size):
            return at
    return None


def _anywhere(rng: np.random.Generator, plan: Plan, size: tuple[float, float]) -> Frame | None:
    """A free place on the floor, along the walls or at any angle."""
    for _ in range(10):
        yaw = rng.choice([0.0, 0.5, 1.0, 1.5]) * math.pi if rng.random() < 0.6 else rng.uniform(-math.pi, math.pi)
        at = Frame(rng.uniform(0.0, plan.width), rng.uniform(0.0, plan.depth), yaw)
        if plan.occupy(at, *size):
            return at
    return None


def _lamp_color(rng: np.random.Generator) -> materials.Color:
    warm = rng.random()
    return (1.0, 1.0 - 0.25 * warm, 1.0 - 0.55 * warm)


def _ceiling_lamps(
    rng: np.random.Generator,
    plan: Plan,
    builder: Builder,
    height: float,
    lamp: materials.Material,
    camera: tuple[float, float],
    lights: "_Lights",
) -> None:
    """Panels, round lamps or pendants on a regular grid."""
    kind = rng.random()
    nx, nz = max(1, round(plan.width / 3)), max(1, round(plan.depth / 3))
    size = (rng.uniform(0.15, 0.6), rng.uniform(0.4, 1.3))
    drop = rng.uniform(0.3, 0.7)
    for i in range(nx):
        for j in range(nz):
            at = Frame(plan.width * (i + 0.5) / nx, plan.depth * (j + 0.5) / nz, 0.0)
            near = math.hypot(at.x - camera[0], at.z - camera[1]) < 0.6
            if not plan.contains(at.x, at.z, 0.35):
                continue
            hanging = kind > 0.75 and not near
            if kind < 0.5:
                x, z = (-size[0] / 2, size[0] / 2), (-size[1] / 2, size[1] / 2)
                builder.box("clutter", lamp, x, (height - 0.04, height), z, at)
            elif not hanging:
                builder.cylinder("clutter", lamp, 0.18, (height - 0.08, height), at)
            else:
                builder.cylinder("clutter", materials.gray(rng), 0.01, (height - drop, height), at)
                builder.sphere("clutter", lamp, 0.16, height - drop - 0.14, at)
            lights.lamp(at, height - 0.1 - (drop + 0.1) * hanging, lamp)


def _occupancy(plan: Plan) -> tuple[Float32, Float32]:
    """Walls and furniture from above, each blurred by a box of about half a metre, on a square grid."""
    cells = np.ones((2, GRID, GRID), dtype=np.float32)
    rows, columns = min(GRID, plan.free.shape[0]), min(GRID, plan.free.shape[1])
    cells[0, :rows, :columns] = ~plan.inside[:rows, :columns]
    cells[1, :rows, :columns] = (plan.inside & ~plan.free)[:rows, :columns]
    cells[1, rows:], cells[1, :, columns:] = 0.0, 0.0
    return cells, np.array([GRID * CELL, GRID * CELL], dtype=np.float32)


class _Lights:
    """Gathers light sources and balances them, so that rooms are neither black nor burnt out."""

    def __init__(self, rng: np.random.Generator, daylight: float) -> None:
        self._rng, self._daylight = rng, daylight
        self._on = daylight < 0.3 or rng.random() < 0.7
        self._lamps: list[tuple[float, ...]] = []
        self._windows: list[tuple[float, ...]] = []

    def lamp(self, at: Frame, height: float, look: materials.Material) -> None:
        """Add a lamp over a place on the floor."""
        self._lamps.append((at.x, -height, at.z, *(float(c) for c in look[:3])))

    def window(self, at: Frame) -> None:
        """Add the light that comes in at a window."""
        self._windows.append((at.x, -1.5, at.z, 0.85, 0.95, 1.1))

    def array(self, area: float) -> Float32:
        """(MAX_LIGHTS, 6); unused rows are dark."""
        chosen = []
        if self._on or not self._windows:
            kept = self._rng.permutation(len(self._lamps))[: MAX_LIGHTS - 2]
            power = 0.9 * math.sqrt(area) / max(1, len(kept))
            chosen += [(*lamp[:3], *(power * c for c in lamp[3:])) for lamp in (self._lamps[i] for i in sorted(kept))]
        power = 2.2 * self._daylight / max(1, math.sqrt(len(self._windows)))
        chosen += [(*w[:3], *(power * c for c in w[3:])) for w in self._windows[: MAX_LIGHTS - len(chosen)]]
        table = np.zeros((MAX_LIGHTS, 6), dtype=np.float32)
        if chosen:
            table[: len(chosen)] = chosen
        return table

    def ambient(self) -> Float32:
        """Light from everywhere, bluish by day."""
        level, day = self._rng.uniform(0.18, 0.4), self._daylight
        return np.array([level * (1 - 0.05 * day), level, level * (1 + 0.1 * day)], dtype=np.float32)
