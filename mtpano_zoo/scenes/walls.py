"""The shell of a room: floor, ceiling, walls with openings, doors, windows, beams, columns, and what hangs on walls."""

import numpy as np

from mtpano_zoo.scenes import furniture, materials
from mtpano_zoo.scenes.materials import Material
from mtpano_zoo.scenes.plan import Plan, Rect, Wall
from mtpano_zoo.scenes.scene import Builder, Frame

__all__ = ("THICKNESS", "Shell", "free_stretch")

THICKNESS = 0.3  # metres of wall behind its visible face
_OVERLAP = 0.1  # hidden overlap at corners, so that no ray slips through


def free_stretch(
    rng: np.random.Generator, plan: Plan, width: float, bottom: float, top: float, *, outer: bool = False
) -> tuple[Wall, float] | None:
    """Draw a wall and the start x of a stretch of `width` metres on which nothing hangs yet, and take it."""
    walls = [wall for wall in plan.walls if wall.length > width + 0.1 and (wall.outer or not outer)]
    if not walls:
        return None
    lengths = np.cumsum([wall.length for wall in walls])
    for _ in range(8):
        wall = walls[int(np.searchsorted(lengths, rng.random() * lengths[-1]))]
        x0 = rng.uniform(0.05, wall.length - width - 0.05)
        if wall.free(x0 - 0.05, x0 + width + 0.05, bottom, top):
            wall.taken.append((x0, x0 + width, bottom, top))
            return wall, x0
    return None


def _around(whole: Rect, hole: Rect | None) -> list[Rect]:
    """Return rectangles that fill another one except for a hole in it."""
    if hole is None:
        return [whole]
    return [
        whole._replace(x1=hole.x0),
        whole._replace(x0=hole.x1),
        Rect(hole.x0, hole.x1, whole.z0, hole.z0),
        Rect(hole.x0, hole.x1, hole.z1, whole.z1),
    ]


class Shell:
    """The fixed parts of a room: openings are gathered first, then `close` builds the walls around them."""

    def __init__(self, builder: Builder, plan: Plan, rng: np.random.Generator, height: float, daylight: float) -> None:
        self.builder = builder
        self.plan = plan
        self.rng = rng
        self.height = height
        self.daylight = daylight
        self.frame_look = materials.pick(rng, "frame")
        self.door_look = materials.pick(rng, "door")
        self.windows: list[Frame] = []  # centres of the panes
        self.well: Rect | None = None  # an opening in the ceiling
        self._holes: list[tuple[Wall, float, float, float, float]] = []
        self._sky = self._sample_sky()

    def door(self) -> None:
        """Add a door: recessed in an outer wall, or mounted on the face of a block."""
        rng = self.rng
        width, top = rng.uniform(0.75, 1.15) * (1.8 if rng.random() < 0.15 else 1.0), rng.uniform(1.95, 2.2)
        found = free_stretch(rng, self.plan, width, 0.0, top)
        if found is None:
            return
        wall, x0 = found
        x1, recess = x0 + width, rng.uniform(0.02, 0.15) if wall.outer else -0.03
        if wall.outer:
            self._holes.append((wall, x0, x1, 0.0, top))
        add, frame, look = self.builder.box, wall.frame, self.door_look
        add("door", look, (x0 - 0.01, x1 + 0.01), (0.0, top + 0.01), (-recess - 0.05, -recess), frame)
        self._frame("door", wall, x0, x1, 0.0, top, rng.uniform(0.05, 0.1), 0.02)
        if rng.random() < 0.6:  # panels that stand out a little
            accent = look if rng.random() < 0.6 else materials.pick(rng, "door")
            for bottom, upper in ((0.15, 0.9), (1.05, top - 0.15)):
                add("door", accent, (x0 + 0.15, x1 - 0.15), (bottom, upper), (-recess, 0.015 - recess), frame)
        handle = x0 + 0.08 if rng.random() < 0.5 else x1 - 0.2
        metal = materials.gray(rng)
        add("door", metal, (handle, handle + 0.12), (1.0, 1.03), (0.03 - recess, 0.06 - recess), frame)
        self.plan.block(frame.at((x0 + x1) / 2, 0.4), width + 0.1, 0.8)

    def window(self) -> None:
        """Add a window with a frame and bars; the outside is painted on its pane."""
        rng = self.rng
        width = rng.uniform(0.7, 2.6)
        low = rng.random() < 0.12
        bottom, top = (0.05 if low else rng.uniform(0.6, 1.1)), rng.uniform(1.9, min(self.height - 0.1, 2.6))
        found = free_stretch(rng, self.plan, width, bottom, top, outer=True)
        if found is None:
            return
        wall, x0 = found
        x1, recess = x0 + width, rng.uniform(0.05, 0.22)
        self._holes.append((wall, x0, x1, bottom, top))
        add, frame, look = self.builder.box, wall.frame, self.frame_look
        blind = rng.random() < 0.12
        pane = self._sky if not blind else materials.checker(rng)
        add("window", pane, (x0 - 0.01, x1 + 0.01), (bottom - 0.01, top + 0.01), (-recess - 0.03, -recess), frame)
        bar, front = rng.uniform(0.04, 0.08), (-recess, 0.04 - recess)
        uprights = [x0, x1 - bar, *(x0 + (width - bar) * (i + 1) / 3 for i in range(2) if width > 1.4)]
        uprights += [x0 + (width - bar) / 2] if 0.9 < width <= 1.4 else []
        for x in uprights:
            add("window", look, (x, x + bar), (bottom, top), front, frame)
        for h in (bottom, top - bar, *([bottom + 0.65 * (top - bottom)] if rng.random() < 0.4 else [])):
            add("window", look, (x0 + bar, x1 - bar), (h, h + bar), front, frame)
        if rng.random() < 0.6 and not low:
            add("window", look, (x0 - 0.05, x1 + 0.05), (bottom - 0.04, bottom), (-0.05, 0.08), frame)
        if rng.random() < 0.3:
            self._curtains(wall, x0, x1, bottom, top)
        if bottom > 0.6 and rng.random() < 0.4:
            furniture.radiator(rng, self.builder, frame.at((x0 + x1) / 2, 0.0), min(width, 1.2))
            self.plan.block(frame.at((x0 + x1) / 2, 0.1), min(width, 1.2), 0.2)
        if not blind:
            self.windows.append(frame.at((x0 + x1) / 2, 0.5))

    def hang(self, label: str, look: Material, size: tuple[float, float], bottom: float) -> tuple[Wall, float] | None:
        """Hang a flat framed thing (board, picture, screen) on a wall."""
        rng = self.rng
        found = free_stretch(rng, self.plan, size[0], bottom, bottom + size[1])
        if found is not None:
            wall, x0 = found
            depth = rng.uniform(0.015, 0.04)
            x, height = (x0, x0 + size[0]), (bottom, bottom + size[1])
            self.builder.box(label, look, x, height, (0.0, depth), wall.frame)
            self._frame(label, wall, *x, *height, rng.uniform(0.02, 0.05), depth + 0.012)
        return found

    def beams(self) -> None:
        """Add one to four parallel beams from wall to wall."""
        rng, plan = self.rng, self.plan
        width, drop = rng.uniform(0.15, 0.45), rng.uniform(0.12, min(0.45, self.height - 2.15))
        look = materials.pick(rng, "structure")
        along_x = rng.random() < 0.5
        span, across = (plan.width, plan.depth) if along_x else (plan.depth, plan.width)
        count = int(rng.integers(1, 5))
        for i in range(count):
            centre = across * (i + rng.uniform(0.35, 0.65)) / count
            length, breadth = (-0.05, span + 0.05), (centre - width / 2, centre + width / 2)
            x, z = (length, breadth) if along_x else (breadth, length)
            self.builder.box("beam", look, x, (self.height - drop, self.height), z)

    def columns(self) -> None:
        """Add one to three columns from floor to ceiling, free-standing or at a wall, square or round."""
        rng, plan = self.rng, self.plan
        look = materials.pick(rng, "structure")
        is_round, size = rng.random() < 0.3, rng.uniform(0.25, 0.6)
        half, full = (-size / 2, size / 2), (0.0, self.height)
        missing = int(rng.integers(1, 4))
        for _ in range(10 * missing):
            wall, x = plan.walls[int(rng.integers(len(plan.walls)))], 0.0
            at_wall = not is_round and rng.random() < 0.5
            if at_wall:
                x = rng.uniform(0.0, wall.length)
                frame = wall.frame.at(x, size / 2)
            else:
                frame = Frame(rng.uniform(0.5, plan.width - 0.5), rng.uniform(0.5, plan.depth - 0.5), 0.0)
            if (at_wall and not wall.free(x - size / 2, x + size / 2, *full)) or not plan.occupy(frame, size, size):
                continue
            if at_wall:
                wall.taken.append((x - size / 2, x + size / 2, *full))
            if is_round:
                self.builder.cylinder("column", look, size / 2, full, frame)
            else:
                self.builder.box("column", look, half, full, half, frame)
            missing -= 1
            if missing == 0:
                return

    def close(self) -> None:
        """Build floor, ceiling and walls, leaving the openings free."""
        rng, plan, height, add = self.rng, self.plan, self.height, self.builder.box
        x, z = (-THICKNESS, plan.width + THICKNESS), (-THICKNESS, plan.depth + THICKNESS)
        add("floor", materials.pick(rng, "floor"), x, (-THICKNESS, 0.0), z)
        ceiling = materials.pick(rng, "ceiling")
        for part in _around(Rect(*x, *z), self.well):
            add("ceiling", ceiling, (part.x0, part.x1), (height, height + THICKNESS), (part.z0, part.z1))
        main, accent = self.wall_look(), self.wall_look()
        skirting = materials.pick(rng, "frame") if rng.random() < 0.6 else None
        skirting_height = rng.uniform(0.05, 0.14)
        accented = rng.random() < 0.35
        full, back = (0.0, height), (-THICKNESS, 0.0)
        for index, wall in enumerate(plan.walls):
            look = accent if accented and index == 0 else main
            holes = sorted(h[1:] for h in self._holes if h[0] is wall)
            start = -_OVERLAP
            for x0, x1, bottom, top in [*holes, (wall.length + _OVERLAP,) * 2 + full]:
                if wall.outer:
                    add("wall", look, (start, x0), full, back, wall.frame)
                    if x1 > x0 and bottom > 0:
                        add("wall", look, (x0, x1), (0.0, bottom), back, wall.frame)
                    if x1 > x0:
                        add("wall", look, (x0, x1), (top, height), back, wall.frame)
                start = x1
            if skirting is not None:
                self._skirting(skirting, skirting_height, wall)
        for cut in plan.cuts:
            x = (cut.x0 - _OVERLAP * (cut.x0 == 0), cut.x1 + _OVERLAP * (cut.x1 == plan.width))
            z = (cut.z0 - _OVERLAP * (cut.z0 == 0), cut.z1 + _OVERLAP * (cut.z1 == plan.depth))
            add("wall", main, x, full, z)

    def wall_look(self) -> Material:
        """Draw the material of a wall."""
        return materials.pick(self.rng, "wall")

    def _curtains(self, wall: Wall, x0: float, x1: float, bottom: float, top: float) -> None:
        """Add two pleated strips of cloth beside a window, and the rod that they hang from."""
        rng = self.rng
        cloth = materials.fabric(rng)
        cloth[materials.CHANNEL["checker"]], cloth[materials.CHANNEL["cell_u"]] = 1.0, 0.06
        cloth[3:6] = cloth[:3] * 0.75
        low, wide = (0.03 if rng.random() < 0.5 else max(0.03, bottom - 0.1)), rng.uniform(0.15, 0.35)
        add, height, z = self.builder.box, (low, top + 0.08), (0.05, 0.09)
        add("curtain", cloth, (x0 - 0.1, x0 - 0.1 + wide), height, z, wall.frame)
        add("curtain", cloth, (x1 + 0.1 - wide, x1 + 0.1), height, z, wall.frame)
        rod = (top + 0.08, top + 0.11)
        add("curtain", self.frame_look, (x0 - 0.2, x1 + 0.2), rod, (0.055, 0.085), wall.frame)

    def _skirting(self, look: Material, top: float, wall: Wall) -> None:
        start = 0.0
        for x0, x1 in sorted((x0 - 0.1, x1 + 0.1) for x0, x1, bottom, _ in wall.taken if bottom < top):
            if x0 > start:
                self.builder.box("wall", look, (start, x0), (0.0, top), (0.0, 0.012), wall.frame)
            start = x1
        if wall.length > start:
            self.builder.box("wall", look, (start, wall.length), (0.0, top), (0.0, 0.012), wall.frame)

    def _frame(
        self, label: str, wall: Wall, x0: float, x1: float, bottom: float, top: float, bar: float, depth: float
    ) -> None:
        """Add four bars around a rectangle on a wall; one that stands on the floor gets no lower bar."""
        add, look, z = self.builder.box, self.frame_look, (0.0, depth)
        low = bottom - bar if bottom > 0 else 0.0
        add(label, look, (x0 - bar, x0), (low, top + bar), z, wall.frame)
        add(label, look, (x1, x1 + bar), (low, top + bar), z, wall.frame)
        add(label, look, (x0, x1), (top, top + bar), z, wall.frame)
        if bottom > 0:
            add(label, look, (x0, x1), (low, bottom), z, wall.frame)

    def _sample_sky(self) -> Material:
        rng, strength = self.rng, 0.15 + 1.6 * self.daylight
        hue, saturation = rng.uniform(0.52, 0.64), rng.uniform(0.05, 0.6)
        if rng.random() < 0.2:  # dusk
            return materials.sky(
                materials.hsv(rng.uniform(0.02, 0.1), 0.4, 0.95), materials.hsv(hue, 0.5, 0.7), strength
            )
        return materials.sky(
            materials.hsv(hue, 0.3 * saturation, 0.97), materials.hsv(hue, saturation, rng.uniform(0.6, 0.95)), strength
        )
