"""Furnish the rooms of homes: bedrooms, kitchens, living rooms, offices."""

import math

import numpy as np

from mtpano_zoo.scenes import furniture, glazing, home_things, materials, street_things
from mtpano_zoo.scenes.furnishing import anywhere, at_wall, count, table_group
from mtpano_zoo.scenes.lamps import Lights
from mtpano_zoo.scenes.materials import Material
from mtpano_zoo.scenes.plan import Plan
from mtpano_zoo.scenes.scene import Builder, Frame

__all__ = ("Furnisher",)


class Furnisher:
    """Furnish a room as a bedroom, a kitchen, a living room or an office, sometimes as a mixture of two."""

    def __init__(
        self,
        rng: np.random.Generator,
        plan: Plan,
        builder: Builder,
        height: float,
        lamp: Material,
        lights: Lights,
        version: int = 1,
    ) -> None:
        self.rng = rng
        self.version = version  # from 2 on, wardrobes may have mirrors on their doors, and from 3 on tables a glass top
        self.plan = plan
        self.builder = builder
        self.height = height
        self.lamp = lamp
        self.lights = lights
        self.crowd = rng.uniform(0.8, 2.1) * min(1.8, plan.free_area() / 20)

    def furnish(self) -> None:
        """Draw the kind of the room and fill it, large things first."""
        rng = self.rng
        kinds = (self.bedroom, self.kitchen, self.living_room, self.office)
        chosen = kinds[int(rng.choice(4, p=[0.27, 0.28, 0.28, 0.17]))]
        self._rug()
        chosen()
        if rng.random() < 0.25:
            kinds[int(rng.integers(4))]()
        self._rest()

    def bedroom(self) -> None:
        """Add beds with nightstands, wardrobes, a chest of drawers."""
        rng, plan, builder = self.rng, self.plan, self.builder
        for _ in range(1 + int(rng.random() < 0.25)):
            width, length = rng.choice([0.9, 1.0, 1.4, 1.6, 1.8]), rng.uniform(1.95, 2.15)
            at = at_wall(rng, plan, (width, length + 0.12), 1.0)
            if at is None:
                continue
            home_things.bed(rng, builder, at, width, length)
            for side in (-1.0, 1.0):
                stand = at.at(side * (width / 2 + 0.26), -length / 2 + 0.2)
                if rng.random() < 0.7 and plan.occupy(stand, 0.42, 0.38):
                    home_things.nightstand(rng, builder, stand, self.lamp)
        for _ in range(count(rng, 0.8, 1.3 * self.crowd)):
            self._cabinet((rng.uniform(0.8, 2.4), 0.6), rng.uniform(1.8, min(2.3, self.height - 0.1)))
        for _ in range(count(rng, 0.6, 1.0)):
            self._cabinet((rng.uniform(0.6, 1.4), 0.45), rng.uniform(0.7, 1.1))

    def kitchen(self) -> None:
        """Add one or two runs of units, an island, tables."""
        rng, plan, builder = self.rng, self.plan, self.builder
        for _ in range(1 + int(rng.random() < 0.4)):
            for width in (rng.uniform(2.0, 4.2), rng.uniform(1.5, 2.2)):
                if at := at_wall(rng, plan, (width, 0.64), min(2.2, self.height - 0.1)):
                    home_things.kitchen(rng, builder, at, width, self.height - 0.1)
                    break
        size = (rng.uniform(1.2, 2.4), rng.uniform(0.7, 1.1))
        if rng.random() < 0.3 and (at := anywhere(rng, plan, size)):
            home_things.island(rng, builder, at, *size)
        self._tables(0.85, 1.2)

    def living_room(self) -> None:
        """Add sofas, low tables, a screen, shelves."""
        rng, plan, builder = self.rng, self.plan, self.builder
        for _ in range(count(rng, 0.95, 1.6 * self.crowd)):
            size = (rng.choice([rng.uniform(0.85, 1.1), rng.uniform(1.6, 2.8)]), rng.uniform(0.8, 1.0))
            if at := at_wall(rng, plan, size, 0.9) if rng.random() < 0.65 else anywhere(rng, plan, size):
                furniture.sofa(rng, builder, at, *size)
                low = at.at(0.0, size[1] / 2 + rng.uniform(0.5, 0.8))
                if size[0] > 1.4 and rng.random() < 0.6 and plan.occupy(low, 1.0, 0.55):
                    tall = rng.uniform(0.35, 0.48)
                    furniture.table(rng, builder, low, (1.0, 0.55), tall, self._glass())
                    # In versions 1 and 2, which must not change, things hover over lower tables.
                    furniture.tabletop(rng, builder, low, (1.0, 0.5), tall if self.version > 2 else 0.48)
        width = rng.uniform(1.0, 2.2)
        if rng.random() < 0.7 and (at := at_wall(rng, plan, (width, 0.45), 1.5)):
            home_things.media(rng, builder, at, width)
        self._shelves(0.75, 1.6)
        self._tables(0.5, 1.0)
        if rng.random() < 0.35 and (at := anywhere(rng, plan, (0.6, 0.6))):
            home_things.pouf(rng, builder, at)

    def office(self) -> None:
        """Add desks with screens, shelves, cabinets."""
        self._tables(1.0, 2.2)
        self._shelves(0.6, 1.4)
        for _ in range(count(self.rng, 0.6, 1.2)):
            self._cabinet((self.rng.uniform(0.6, 1.6), 0.45), self.rng.choice([0.75, 1.2, 1.9]))

    def _rest(self) -> None:
        """Add things that may stand in any room: plants, boxes, heaps, lamps, people."""
        rng, plan, builder = self.rng, self.plan, self.builder
        if rng.random() < 0.3:
            self._shelves(1.0, 1.0)
        things = (furniture.plant, furniture.boxes, furniture.bin_, home_things.heap, home_things.vase, furniture.plant)
        for _ in range(count(rng, 0.92, 3.0 * self.crowd)):
            make, size = things[int(rng.integers(len(things)))], 0.55
            if at := at_wall(rng, plan, (size, size), 0.8) if rng.random() < 0.7 else anywhere(rng, plan, (size, size)):
                make(rng, builder, at)
        looks = (materials.pick(rng, "seat"), materials.pick(rng, "leg"))
        for _ in range(count(rng, 0.4, 1.2)):
            if at := anywhere(rng, plan, (0.55, 0.55)):
                furniture.chair(builder, at, int(rng.integers(0, 3)), looks)
        if rng.random() < 0.45 and (at := at_wall(rng, plan, (0.4, 0.4), 1.7)):
            self.lights.lamp(at, furniture.floor_lamp(rng, builder, at, self.lamp), self.lamp)
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.3 else 0):
            if at := anywhere(rng, plan, (0.6, 0.6)):
                street_things.person(rng, builder, at)

    def _rug(self) -> None:
        rng, plan = self.rng, self.plan
        if rng.random() > 0.6:
            return
        size = (rng.uniform(1.2, 3.2), rng.uniform(0.9, 2.2))
        for _ in range(4):
            at = Frame(rng.uniform(0.0, plan.width), rng.uniform(0.0, plan.depth), rng.choice([0.0, math.pi / 2]))
            if plan.contains(at.x, at.z, size[0] / 2 + 0.05):
                furniture.rug(rng, self.builder, at, size)
                return

    def _cabinet(self, size: tuple[float, float], tall: float) -> None:
        if at := at_wall(self.rng, self.plan, size, tall):
            mirrored = self.version > 1 and tall > 1.75 and self.rng.random() < 0.25
            glass = materials.mirror(self.rng) if mirrored else None
            furniture.cabinet(self.rng, self.builder, at, size, tall, glass)
            if tall < 1.2:
                furniture.tabletop(self.rng, self.builder, at, size, tall)

    def _shelves(self, chance: float, mean: float) -> None:
        rng = self.rng
        for _ in range(count(rng, chance, mean * self.crowd)):
            size, tall = (rng.uniform(0.6, 2.2), rng.uniform(0.25, 0.4)), rng.uniform(0.8, min(2.4, self.height - 0.1))
            if at := at_wall(rng, self.plan, size, tall):
                furniture.bookcase(rng, self.builder, at, size, tall)

    def _tables(self, chance: float, mean: float) -> None:
        rng, style = self.rng, int(self.rng.integers(0, 3))
        looks = (materials.pick(rng, "seat"), materials.pick(rng, "leg"))
        for _ in range(count(rng, chance, mean * self.crowd)):
            table_group(rng, self.plan, self.builder, style, looks, self._glass())

    def _glass(self) -> Material | None:
        """Return the glass of a table's top, or None."""
        rng = self.rng
        return materials.clear_glass(rng) if self.version > 2 and rng.random() < glazing.TABLES else None
