"""Room plans: a rectangle from which rectangular blocks are cut, its walls, and the floor area that is still free."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.scenes.scene import Frame

__all__ = ("CELL", "GRID", "GRID_METRES", "GRID_ORIGIN", "Plan", "Rect", "Wall", "sample_plan")

CELL = 0.1  # metres, of the grid of free floor
GRID = 128  # cells along each side of the occupancy map
GRID_ORIGIN = -0.6  # metres, position of its first corner
GRID_METRES = GRID * CELL


class Rect(NamedTuple):
    """An axis-aligned rectangle in plan, in metres."""

    x0: float
    x1: float
    z0: float
    z1: float


@dataclasses.dataclass
class Wall:
    """A straight visible stretch of wall; x of its frame runs along it from 0 to `length`, z points into the room."""

    frame: Frame
    length: float
    outer: bool  # openings are cut in outer walls only: the others are the faces of solid blocks
    taken: list[tuple[float, float, float, float]] = dataclasses.field(default_factory=list)  # x0, x1, bottom, top

    def free(self, x0: float, x1: float, bottom: float, top: float) -> bool:
        """Return whether nothing hangs or opens in this part of the wall."""
        return not any(x0 < b and a < x1 and bottom < t and s < top for a, b, s, t in self.taken)


class Plan:
    """A box, L, T or U: `width` x `depth` metres minus `cuts`, with the walls and a grid of free floor."""

    def __init__(self, width: float, depth: float, cuts: list[Rect]) -> None:
        self.width = width
        self.depth = depth
        self.cuts = cuts
        self.walls = _outer_walls(width, depth, cuts) + _cut_walls(width, depth, cuts)
        columns, rows = math.ceil(width / CELL), math.ceil(depth / CELL)
        self._x = (np.arange(columns) + 0.5) * CELL
        self._z = (np.arange(rows)[:, None] + 0.5) * CELL
        inside = (self._x < width) & (self._z < depth)
        for cut in cuts:
            inside &= ~((self._x > cut.x0) & (self._x < cut.x1) & (self._z > cut.z0) & (self._z < cut.z1))
        self.inside: NDArray[np.bool_] = inside
        self._taken: NDArray[np.bool_] = np.zeros_like(inside)
        self.things: NDArray[np.bool_] = np.zeros_like(inside)  # where something stands

    def contains(self, x: float, z: float, margin: float = 0.0) -> bool:
        """Return whether a point lies inside, at least `margin` metres away from every wall."""
        if not (margin <= x <= self.width - margin and margin <= z <= self.depth - margin):
            return False
        return not any(c.x0 - margin < x < c.x1 + margin and c.z0 - margin < z < c.z1 + margin for c in self.cuts)

    def footprint(self, frame: Frame, width: float, depth: float) -> NDArray[np.bool_] | None:
        """Return the cells under a rectangle centred in a frame, or None if it is not entirely on free floor."""
        cos, sin = math.cos(frame.yaw), math.sin(frame.yaw)
        reach_x = (abs(cos) * width + abs(sin) * depth) / 2
        reach_z = (abs(sin) * width + abs(cos) * depth) / 2
        if not (
            reach_x <= frame.x <= self.width - reach_x + 1e-6 and reach_z <= frame.z <= self.depth - reach_z + 1e-6
        ):
            return None
        # Cells beyond these need not be checked; one more on each side for the rounding.
        rows = slice(max(0, int((frame.z - reach_z) / CELL) - 2), int((frame.z + reach_z) / CELL) + 3)
        columns = slice(max(0, int((frame.x - reach_x) / CELL) - 2), int((frame.x + reach_x) / CELL) + 3)
        across, along = self._distances(frame, rows, columns)
        # Half a cell more on each side, so that no thin object fits between two cell centres.
        near = (across < (width + CELL) / 2) & (along < (depth + CELL) / 2)
        if (near & self._taken[rows, columns]).any():
            return None
        inside = self.inside[rows, columns]
        if self.cuts and ((across < width / 2 - 0.02) & (along < depth / 2 - 0.02) & ~inside).any():
            return None
        under = np.zeros_like(self.inside)
        under[rows, columns] = near
        return under

    def occupy(self, frame: Frame, width: float, depth: float) -> bool:
        """Take the rectangle centred in a frame if it is free, and return whether it was."""
        under = self.footprint(frame, width, depth)
        if under is None:
            return False
        self._taken |= under
        self.things |= under
        return True

    def block_disc(self, x: float, z: float, radius: float) -> None:
        """Keep furniture away from a point."""
        self._taken |= (self._x - x) ** 2 + (self._z - z) ** 2 < radius**2

    def block(self, frame: Frame, width: float, depth: float) -> None:
        """Keep furniture out of a rectangle, free or not."""
        across, along = self._distances(frame)
        self._taken |= (across < width / 2) & (along < depth / 2)

    def free_area(self) -> float:
        """Return the area in square metres on which nothing stands."""
        return float((self.inside & ~self._taken).sum()) * CELL * CELL

    def _distances(
        self, frame: Frame, rows: slice = slice(None), columns: slice = slice(None)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the distances of cells, by default of all, from the two axes of a frame."""
        cos, sin = math.cos(frame.yaw), math.sin(frame.yaw)
        dx, dz = self._x[columns] - frame.x, self._z[rows] - frame.z
        return np.abs(dx * cos - dz * sin), np.abs(dx * sin + dz * cos)

    def occupancy(self) -> NDArray[np.float32]:
        """Return walls and furniture seen from above, (2, GRID, GRID), blurred over about half a metre."""
        cells = np.zeros((2, GRID, GRID), dtype=np.float32)
        cells[0] = 1.0
        start = round(-GRID_ORIGIN / CELL)
        rows, columns = (slice(start, start + n) for n in self.inside.shape)
        cells[0, rows, columns] = ~self.inside
        cells[1, rows, columns] = self.things
        for radius in (2, 2):
            for axis in (1, 2):
                cells = _box_blur(cells, radius, axis)
        return np.ascontiguousarray(cells)


def _box_blur(cells: NDArray[np.float32], radius: int, axis: int) -> NDArray[np.float32]:
    """Return the mean over 2 radius + 1 cells along an axis; the border is repeated."""
    cells = np.moveaxis(cells, axis, 0)
    length, width = len(cells), 2 * radius + 1
    wide = np.concatenate((*[cells[:1]] * radius, cells, *[cells[-1:]] * radius))
    total = wide[:length] + wide[1 : 1 + length]
    for i in range(2, width):
        total += wide[i : i + length]
    total /= width
    return np.moveaxis(total, 0, axis)


def sample_plan(rng: np.random.Generator) -> Plan:
    """Draw a plan of 3 to 11 metres: half of them boxes, the others L, T or U in any orientation."""
    width, depth = rng.uniform(3.0, 9.5), rng.uniform(3.0, 7.5)
    shape = rng.random()
    if shape >= 0.5:
        width, depth = width + 1.5, depth + 1.0
    # A wide door fits through the narrowest remaining part.
    notch_x, notch_z = rng.uniform(0.25, 0.55) * width, rng.uniform(0.25, 0.55) * depth
    cuts: list[Rect] = []
    if 0.5 <= shape < 0.75:  # L
        cuts = [Rect(0.0, notch_x, 0.0, notch_z)]
    elif 0.75 <= shape < 0.88:  # T
        second = rng.uniform(0.2, 0.35) * width
        cuts = [Rect(0.0, min(notch_x, 0.4 * width), 0.0, notch_z)]
        cuts.append(Rect(width - second, width, 0.0, notch_z * (1.0 if rng.random() < 0.5 else 0.6)))
    elif shape >= 0.88:  # U
        start = rng.uniform(0.28, 0.45) * width
        cuts = [Rect(start, start + rng.uniform(0.15, 0.27) * width, 0.0, notch_z)]
    if rng.random() < 0.5:
        cuts = [Rect(width - c.x1, width - c.x0, c.z0, c.z1) for c in cuts]
    if rng.random() < 0.5:
        cuts = [Rect(c.x0, c.x1, depth - c.z1, depth - c.z0) for c in cuts]
    if rng.random() < 0.5:
        width, depth = depth, width
        cuts = [Rect(c.z0, c.z1, c.x0, c.x1) for c in cuts]
    # Flipping back and forth leaves rounding errors; cuts that touch a side must do so exactly.
    cuts = [Rect(_snap(c.x0, width), _snap(c.x1, width), _snap(c.z0, depth), _snap(c.z1, depth)) for c in cuts]
    return Plan(width, depth, cuts)


def _snap(value: float, end: float) -> float:
    return 0.0 if abs(value) < 1e-6 else end if abs(value - end) < 1e-6 else value


def _outer_walls(width: float, depth: float, cuts: list[Rect]) -> list[Wall]:
    """Return the stretches of the four sides that no cut covers; the frame's x axis runs along the wall."""
    sides = (
        (Frame(0.0, 0.0, 0.0), width, [(c.x0, c.x1) for c in cuts if c.z0 == 0.0]),
        (Frame(width, depth, math.pi), width, [(width - c.x1, width - c.x0) for c in cuts if c.z1 == depth]),
        (Frame(0.0, depth, math.pi / 2), depth, [(depth - c.z1, depth - c.z0) for c in cuts if c.x0 == 0.0]),
        (Frame(width, 0.0, -math.pi / 2), depth, [(c.z0, c.z1) for c in cuts if c.x1 == width]),
    )
    walls = []
    for frame, length, covered in sides:
        start = 0.0
        for a, b in [*sorted(covered), (length, length)]:
            if a - start > 0.05:
                walls.append(Wall(frame.at(start, 0.0), a - start, outer=True))
            start = b
    return walls


def _cut_walls(width: float, depth: float, cuts: list[Rect]) -> list[Wall]:
    """Return the faces of the cut blocks that face the room."""
    walls = []
    for c in cuts:
        if c.z1 < depth:
            walls.append(Wall(Frame(c.x0, c.z1, 0.0), c.x1 - c.x0, outer=False))
        if c.z0 > 0:
            walls.append(Wall(Frame(c.x1, c.z0, math.pi), c.x1 - c.x0, outer=False))
        if c.x1 < width:
            walls.append(Wall(Frame(c.x1, c.z1, math.pi / 2), c.z1 - c.z0, outer=False))
        if c.x0 > 0:
            walls.append(Wall(Frame(c.x0, c.z0, -math.pi / 2), c.z1 - c.z0, outer=False))
    return walls
