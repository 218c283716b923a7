"""Draw lived-in rooms: bedrooms, kitchens, living rooms, offices, with views into further rooms."""

import math
from collections.abc import Sequence

import numpy as np

from mtpano_zoo.errors import InputError
from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import furniture, glazing, home_things, materials
from mtpano_zoo.scenes.draws import Draws
from mtpano_zoo.scenes.furnisher import Furnisher
from mtpano_zoo.scenes.lamps import Lights, ceiling_lamps, lamp_color
from mtpano_zoo.scenes.materials import CHANNEL, Material
from mtpano_zoo.scenes.outside import Backdrop, choose
from mtpano_zoo.scenes.plan import CELL, GRID_ORIGIN, Plan, Rect, sample_plan
from mtpano_zoo.scenes.sampling import camera_place, random_tilt, room_key
from mtpano_zoo.scenes.scene import Builder, Float32, Frame, Room
from mtpano_zoo.scenes.stairs import SLAB, Stairs, build_stairs, place_stairs
from mtpano_zoo.scenes.walls import THICKNESS, Shell, free_stretch

__all__ = ("SPACES", "HomeShell", "check_version", "home_wall", "sample_home")

SPACES = {1: 1, 2: 3, 3: 4}  # key spaces by version, see `room_key`
STAIRS = 0.15  # share of the homes from version 2 on that look for a place for stairs; nearly all find one
MIRRORS = 0.22  # share of the homes from version 2 on that hang up a mirror, if a wall has space for it


def sample_home(
    seed: int, split: str, index: int, tilt: float = 0.0, version: int = 1, backdrops: Sequence[Backdrop] = ()
) -> Room:
    """Draw the home of a split and an index; the same arguments always yield the same home.

    Args:
        seed: Seed of the set.
        split: "train", "val" or "test".
        index: Index of the home in its split.
        tilt: Largest tilt of the camera in degrees, in any direction; 180 allows any attitude. The home is the same.
        version: 1; 2 adds stairs and mirrors; 3 also clear glass. Each version has different homes.
        backdrops: Panoramas of which the windows show one, whose colour their light takes. If omitted, a drawn horizon.

    Raises:
        InputError: If the split or version is unknown, or seed, index or tilt are out of range.

    Example:
        >>> sample_home(0, "train", 3).id
        'train-000003'
    """
    check_version(version)
    key = room_key(seed, split, index, SPACES[version])
    rng = Draws(key)
    height, daylight = rng.uniform(2.3, 3.8), float(rng.random() < 0.78) * rng.uniform(0.3, 1.2)
    plan, builder = sample_plan(rng), Builder(SCENE_CLASSES)
    x, z = camera_place(rng, plan)
    camera = np.array([x, -rng.uniform(0.8, min(2.2, height - 0.35)), z])
    plan.block_disc(x, z, 0.7)
    shell = HomeShell(builder, plan, rng, height, daylight, glass=version > 2)
    lamp = materials.glow(lamp_color(rng), rng.uniform(1.5, 5.0))
    sky, outside = choose(backdrops, key) if backdrops else (None, None)
    lights = Lights(rng, daylight, sky.light) if sky else Lights(rng, daylight)
    stairs = place_stairs(rng, plan, height) if version > 1 and rng.random() < STAIRS else None
    if stairs is not None:
        shell.stairs(stairs, lamp, lights)
    if version > 1 and rng.random() < MIRRORS:
        shell.mirror()
    shell.openings(lamp, lights)
    if version > 2 and rng.random() < glazing.PARTITIONS:
        glazing.partition(rng, plan, builder, height, shell.frame_look)
    Furnisher(rng, plan, builder, height, lamp, lights, version).furnish()
    if rng.random() < 0.3 and shell.well is None:
        shell.beams()
    shell.close()
    for window in shell.windows:
        lights.window(window)
    above = stairs.rect(0.0, stairs.length) if stairs else None
    ceiling_lamps(rng, plan, builder, height, lamp, (x, z), lights, above)
    warm = rng.uniform(-0.2, 0.2)
    room = Room(
        id=f"{split}-{index:06d}",
        **builder.arrays(),  # type: ignore[arg-type]
        camera=camera,
        yaw=rng.uniform(-math.pi, math.pi),
        lights=lights.array(plan.width * plan.depth),
        ambient=lights.ambient(),
        occupancy=shell.occupancy(),
        exposure=rng.uniform(0.8, 1.8),
        white_balance=np.array([1 + warm, 1.0, 1 - warm], dtype=np.float32) * np.float32(rng.uniform(0.95, 1.05)),
        noise=rng.uniform(0.0, 0.016),
        salt=int(rng.integers(2**31)),
        classes=SCENE_CLASSES,
        outside=outside,
    )
    return random_tilt(room, key, tilt)


def check_version(version: int) -> None:
    """Refuse versions of homes that do not exist.

    Raises:
        InputError: If there is no such version.

    Example:
        >>> check_version(9)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    if version not in SPACES:
        raise InputError(f"homes have the versions {', '.join(map(str, SPACES))}, got {version!r}")


class HomeShell(Shell):
    """A shell with passages into further rooms, wallpapers, and windows that are too bright for the camera."""

    def __init__(
        self,
        builder: Builder,
        plan: Plan,
        rng: np.random.Generator,
        height: float,
        daylight: float,
        glass: bool = False,
    ) -> None:
        super().__init__(builder, plan, rng, height, daylight)
        self.glass = glass  # passages may have glazed doors
        self._further: list[tuple[Frame, float, float, float]] = []  # frame, x0, x1 and depth of further rooms
        if daylight and rng.random() < 0.35:
            self._sky[CHANNEL["emission"]] *= rng.uniform(2.0, 6.0)

    def openings(self, lamp: Material, lights: Lights) -> None:
        """Draw doors, passages, windows, columns, pictures, boards and screens."""
        rng = self.rng
        for _ in range(int(rng.choice([0, 1, 1, 2]))):
            self.passage(lamp, lights)
        for _ in range(int(rng.integers(0, 3))):
            self.door()
        for _ in range(int(rng.integers(0, 5))):
            self.window()
        if rng.random() < 0.2:
            self.columns()
        for _ in range(int(rng.integers(0, 7))):
            size = (rng.uniform(0.2, 1.3), rng.uniform(0.2, 0.9))
            self.hang("picture", materials.picture(rng), size, rng.uniform(1.0, 1.6))
        if rng.random() < 0.2:
            self.hang("screen", materials.screen(rng), (rng.uniform(0.8, 1.6), rng.uniform(0.5, 0.9)), 1.0)
        if rng.random() < 0.2:
            self.hang("board", materials.board(rng), (rng.uniform(0.8, 2.5), rng.uniform(0.7, 1.2)), 0.9)

    def passage(self, lamp: Material, lights: Lights) -> None:
        """Add an opening into a further room, with an open door, glazed doors or none."""
        rng = self.rng
        wide = rng.random() < 0.4
        width = rng.uniform(1.3, 2.6) if wide else rng.uniform(0.8, 1.0)
        top = min(self.height - 0.05, rng.uniform(1.98, 2.5))
        found = free_stretch(rng, self.plan, width, 0.0, top, outer=True)
        if found is None:
            return
        wall, x0 = found
        x1, frame = x0 + width, wall.frame
        self._holes.append((wall, x0, x1, 0.0, top))
        if not wide or rng.random() < 0.5:
            self._frame("door", wall, x0, x1, 0.0, top, rng.uniform(0.05, 0.1), 0.02)
        if self.glass and rng.random() < glazing.DOORS:
            glazing.doors(rng, self.builder, self.door_look, frame, (x0, x1), top, -THICKNESS)
        elif not wide and rng.random() < 0.75:
            hinge = frame.at(x0 + 0.02, -THICKNESS, rng.uniform(0.9, 1.75))
            self.builder.box("door", self.door_look, (0.0, width - 0.04), (0.005, top - 0.01), (-0.045, 0.0), hinge)
            self.builder.box("door", materials.gray(rng), (width - 0.18, width - 0.08), (1.0, 1.03), (0.0, 0.04), hinge)
        self.plan.block(frame.at((x0 + x1) / 2, 0.5), width + 0.1, 1.0)
        low = max(0.02, x0 - rng.uniform(0.2, 2.5))
        high = min(wall.length - 0.02, x1 + rng.uniform(0.2, 2.5))
        self._further_room(frame, low, high, rng.uniform(1.5, 6.0), lamp, lights)

    def _further_room(self, frame: Frame, x0: float, x1: float, depth: float, lamp: Material, lights: Lights) -> None:
        """Add a room as a box behind an outer wall, with a few things in it; z of the frame points out of it."""
        rng, add, height = self.rng, self.builder.box, self.height
        near, back = -THICKNESS, -THICKNESS - depth
        paint = home_wall(rng)
        add("floor", materials.pick(rng, "floor"), (x0, x1), (-THICKNESS, -0.0), (back, near), frame)
        add("ceiling", materials.pick(rng, "ceiling"), (x0, x1), (height, height + 0.3), (back, near), frame)
        add("wall", paint, (x0 - 0.2, x1 + 0.2), (-0.1, height + 0.1), (back - 0.2, back), frame)
        for x in ((x0 - 0.2, x0), (x1, x1 + 0.2)):
            add("wall", paint, x, (-0.1, height + 0.1), (back, near), frame)
        self._further.append((frame, x0, x1, depth))
        at, width = frame.at((x0 + x1) / 2, (near + back) / 2), x1 - x0
        glow = lamp.copy()
        glow[:3] = lamp_color(rng)
        bright = rng.random() < 0.7
        glow[CHANNEL["emission"]] = rng.uniform(1.0, 4.0) if bright else 0.2
        self.builder.cylinder("lamp", glow, 0.17, (height - 0.07, height), at)
        if bright:
            lights.beyond(at, height - 0.12, glow, rng.uniform(0.6, 1.2) * math.sqrt(width * depth))
        # The thing at the back faces the opening.
        stand = frame.at((x0 + x1) / 2 + rng.uniform(-0.2, 0.2), back + 0.35)
        kind = rng.random()
        if kind < 0.25:
            size = (min(width - 0.3, rng.uniform(0.8, 1.8)), 0.4)
            furniture.cabinet(rng, self.builder, stand, size, rng.choice([0.8, 1.9]))
        elif kind < 0.45:
            furniture.bookcase(rng, self.builder, stand, (min(width - 0.3, 1.4), 0.32), 1.9)
        elif kind < 0.6 and width > 1.8:
            furniture.sofa(rng, self.builder, stand.at(0.0, 0.25), min(width - 0.4, 2.0), 0.9)
        elif kind < 0.8:
            pane = (x0 + 0.3 * width, x0 + 0.7 * width)
            add("window", self._sky, pane, (0.9, min(2.1, height - 0.2)), (back, back + 0.02), frame)
        if depth > 2.5 and width > 1.6 and rng.random() < 0.5:
            spot = frame.at((x0 + x1) / 2, (near + back) / 2)
            furniture.table(rng, self.builder, spot, (min(width - 0.9, 1.2), 0.7), 0.75)

    def stairs(self, stairs: Stairs, lamp: Material, lights: Lights) -> None:
        """Add a flight of stairs, with an opening in the ceiling above it or, usually, a door on its landing."""
        rng = self.rng
        build_stairs(rng, self.builder, stairs, self.height, self.wall_look())
        self.well = stairs.well(self.height)
        if self.well is not None:
            self._upper_floor(self.well, lamp, lights)
        elif rng.random() < 0.75:
            x0, x1 = stairs.along(stairs.length - 0.84, stairs.length - 0.06)
            bottom, top = stairs.steps * stairs.rise, stairs.steps * stairs.rise + 1.95
            frame = stairs.wall.frame
            self.builder.box("door", self.door_look, (x0, x1), (bottom, top), (0.0, 0.03), frame)
            self._frame("door", stairs.wall, x0, x1, bottom, top, 0.05, 0.04)
            handle = (bottom + 1.0, bottom + 1.03)
            self.builder.box("door", materials.gray(rng), (x0 + 0.06, x0 + 0.18), handle, (0.06, 0.09), frame)

    def mirror(self) -> None:
        """Hang a framed mirror: one for the face, or a full-length one."""
        rng = self.rng
        tall = rng.random() < 0.45
        size = (
            (rng.uniform(0.45, 0.9), rng.uniform(1.4, 1.8)) if tall else (rng.uniform(0.5, 1.6), rng.uniform(0.5, 1.0))
        )
        self.hang("clutter", materials.mirror(rng), size, rng.uniform(0.08, 0.3) if tall else rng.uniform(0.9, 1.2))

    def _upper_floor(self, well: Rect, lamp: Material, lights: Lights) -> None:
        """Add walls around an opening in the ceiling, a ceiling over them, and a lamp, which is usually on."""
        rng, add, paint = self.rng, self.builder.box, home_wall(self.rng)
        low, top = self.height + SLAB - 0.05, self.height + SLAB + rng.uniform(2.2, 2.6)
        x, z = (well.x0 - 0.2, well.x1 + 0.2), (well.z0 - 0.2, well.z1 + 0.2)
        for side in ((x[0], well.x0), (well.x1, x[1])):
            add("wall", paint, side, (low, top + 0.1), z)
        for side in ((z[0], well.z0), (well.z1, z[1])):
            add("wall", paint, x, (low, top + 0.1), side)
        add("ceiling", materials.pick(rng, "ceiling"), x, (top, top + 0.2), z)
        at = Frame((well.x0 + well.x1) / 2, (well.z0 + well.z1) / 2, 0.0)
        glow, bright = lamp.copy(), rng.random() < 0.75
        glow[:3] = lamp_color(rng)
        glow[CHANNEL["emission"]] = rng.uniform(1.0, 4.0) if bright else 0.2
        self.builder.cylinder("lamp", glow, 0.15, (top - 0.07, top), at)
        if bright:
            lights.beyond(at, top - 0.15, glow, rng.uniform(0.8, 1.6))

    def occupancy(self) -> Float32:
        """Return the occupancy seen from above, where further rooms are mostly free."""
        cells = self.plan.occupancy()
        for frame, x0, x1, depth in self._further:
            corners = [frame.at(x, z) for x in (x0, x1) for z in (0.0, -THICKNESS - depth)]
            rows, columns = (
                slice(
                    max(0, round((min(values) - GRID_ORIGIN) / CELL)), max(0, round((max(values) - GRID_ORIGIN) / CELL))
                )
                for values in ([c.z for c in corners], [c.x for c in corners])
            )
            cells[0, rows, columns] *= 0.3
        return cells

    def wall_look(self) -> Material:
        """Draw the material of a wall."""
        return home_wall(self.rng)


def home_wall(rng: np.random.Generator) -> Material:
    """Draw the material of a wall: sometimes wallpaper, otherwise as in other rooms."""
    return home_things.wallpaper(rng) if rng.random() < 0.2 else materials.pick(rng, "wall")
