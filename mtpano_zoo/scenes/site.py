"""Parts that outdoor scenes share: ground, roads, rows of buildings, gardens, traffic, people, and free places."""

import bisect
import dataclasses
import math
from collections.abc import Callable

import numpy as np

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import buildings, materials, outdoor_materials, street_things
from mtpano_zoo.scenes.buildings import Style
from mtpano_zoo.scenes.scene import Builder, Float32, Frame
from mtpano_zoo.scenes.weather import Weather

__all__ = ("RIGHT", "Site")

END = 3000.0  # metres to the end of the ground
KERB = 0.13  # height of pavements above the road in metres
RIGHT, LEFT = math.pi / 2, -math.pi / 2
_LANE = 16.0  # metres along z; things in one lane can only touch things in the same or the next lanes


class Site:
    """A scene under construction; the main axis is z, and x = 0 is the middle of the road."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.builder = Builder(SCENE_CLASSES)
        self.weather = Weather(rng)
        self.camera = (0.0, 0.0, 0.0)
        self._taken: dict[int, list[tuple[float, float, float]]] = {}  # by lane, discs: x, z, radius
        self._lamps: list[tuple[float, float, float]] = []
        self._glow = materials.glow((1.0, 0.8, 0.5), 3.0 if self.weather.dark else 0.25)
        self.leaves = [outdoor_materials.leaves(rng) for _ in range(3)]
        self.asphalt = outdoor_materials.asphalt(rng)
        self.paving = outdoor_materials.paving(rng)
        self.meadow = outdoor_materials.grass(rng) if rng.random() < 0.75 else outdoor_materials.earth(rng)
        self.style = Style(
            storey=rng.uniform(2.8, 3.8),
            floors=[(1, 2), (2, 4), (3, 6), (5, 12)][int(rng.integers(0, 4))],
            lit=self.weather.lit,
            flat=rng.uniform(0.0, 1.0),
            shops=rng.uniform(0.0, 0.9),
        )

    def lights(self) -> Float32:
        """Return the nearest lamps as (L, 6); none unless it is dark."""
        if not self.weather.dark:
            return np.zeros((0, 6), dtype=np.float32)
        x, _, z = self.camera
        near = sorted(self._lamps, key=lambda lamp: (lamp[0] - x) ** 2 + (lamp[2] - z) ** 2)[:5]
        rows = [(*lamp, 14.0, 10.5, 6.0) for lamp in near]
        return np.array(rows, dtype=np.float32).reshape(-1, 6)

    def _eye(self) -> float:
        """Draw the height of the camera: hand-held, on a car, or on a drone."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.62:
            return rng.uniform(1.2, 1.9)
        if kind < 0.84:
            return rng.uniform(1.9, 3.0)
        return float(math.exp(rng.uniform(math.log(5.0), math.log(60.0))))

    def _camera(self, half: float, far: float) -> None:
        rng, eye = self.rng, self._eye()
        x = rng.uniform(-half, half) if eye > 1.9 or rng.random() < 0.4 else rng.choice([-1, 1]) * (half + 0.6)
        self.camera = (x, -eye, rng.uniform(-0.1, 0.1) * far)
        # High cameras keep more distance, because crowns of trees reach farther than things on the ground.
        self._take(x, self.camera[2], 4.5 if eye > 3.0 else 1.4)

    def _balcony_camera(self, front: float) -> None:
        rng = self.rng
        floor, reach = rng.uniform(3.0, 15.0), rng.uniform(1.2, 2.2)
        # The row on the left has its fronts at x = -front.
        at = Frame(-front, 0.0, RIGHT)
        slab, rail = materials.concrete(rng), outdoor_materials.metal(rng)
        # Its house stands whatever else the row has: where faces coincide, the first one built wins.
        storeys = math.ceil((floor + 3.0) / (0.9 * self.style.storey))
        style = dataclasses.replace(self.style, floors=(storeys, storeys + 2))
        buildings.block(rng, self.builder, Frame(-front, 8.0, RIGHT), 16.0, 12.0, style, fine=False)
        buildings.balcony(self.builder, at, (-2.0, 2.0), floor, slab, rail, True, reach)
        self.camera = (-front + reach * 0.6, -floor - rng.uniform(1.2, 1.7), rng.uniform(-1.0, 1.0))
        self._take(self.camera[0], self.camera[2], 4.5)

    def _base(self, look: materials.Material, top: float) -> None:
        label = "ground" if look is self.meadow else "pavement"
        self.builder.box(label, look, (-END, END), (top - 5.0, top), (-END, END))
        if label == "pavement":  # the town ends somewhere
            for a, b in ((-END, -400.0), (400.0, END)):
                self.builder.box("ground", self.meadow, (a, b), (top, top + 0.02), (-END, END))
                self.builder.box("ground", self.meadow, (-400.0, 400.0), (top, top + 0.02), (a, b))

    def _road(self, half: float, far: float, cross: float | None) -> None:
        rng, add, asphalt = self.rng, self.builder.box, self.asphalt
        add("road", asphalt, (-half, half), (0.0, 0.02), (-far, far))
        if cross is not None:
            wide = rng.uniform(2.5, 5.0)
            self._crossing = (cross - wide, cross + wide)
            for x in ((-far, -half), (half, far)):
                add("road", asphalt, x, (0.0, 0.02), self._crossing)
            for step in np.arange(-half + 0.3, half - 0.5, 1.0).tolist() if rng.random() < 0.7 else ():
                white = outdoor_materials.stripes(rng, asphalt, 0.0)
                for z in (cross - wide - 4.0, cross + wide + 1.0):
                    add("road", white, (step, step + 0.5), (0.02, 0.024), (z, z + 3.0))
        if half > 2.6 and rng.random() < 0.75:
            dashes = outdoor_materials.stripes(rng, asphalt, rng.choice([0.0, 3.0, 4.0]))
            add("road", dashes, (-0.07, 0.07), (0.02, 0.023), (-far, far))
        if rng.random() < 0.4:
            for edge in (-half + 0.3, half - 0.42):
                line = (edge, edge + 0.12)
                add("road", outdoor_materials.stripes(rng, asphalt, 0.0), line, (0.02, 0.023), (-far, far))

    def _stretches(self, far: float, cross: float | None, margin: float) -> list[tuple[float, float]]:
        """Return the stretches of a street beside its crossing."""
        if cross is None:
            return [(-far, far)]
        low, high = self._crossing
        return [(-far, low - margin), (high + margin, far)]

    def _pavement(self, side: float, half: float, walk: float, far: float, cross: float | None) -> None:
        kerb = materials.concrete(self.rng)
        for z in self._stretches(far, cross, 0.0):
            near, edge, back = side * half, side * (half + 0.16), side * (half + walk)
            self.builder.box("pavement", self.paving, (min(edge, back), max(edge, back)), (0.0, KERB), z)
            self.builder.box("pavement", kerb, (min(near, edge), max(near, edge)), (0.0, KERB), z)

    def _row(self, side: float, front: float, far: float, cross: float | None) -> None:
        """Add buildings along one side."""
        rng = self.rng
        closed = rng.uniform(0.6, 1.0)
        for z0, z1 in self._stretches(far, cross, rng.uniform(1.5, 4.0)):
            # The frame's x axis runs along the facade: towards -z on the left side, towards +z on the right one.
            corner = Frame(side * front, z1 if side < 0 else z0, RIGHT if side < 0 else LEFT)
            self._facades(corner, z1 - z0, closed, fine=True)

    def _facades(self, corner: Frame, length: float, closed: float, *, fine: bool) -> None:
        """Add buildings wall to wall from a corner along its x axis, with gaps, fences and trees between some."""
        rng, x = self.rng, 0.0
        while x < length - 4.0:
            width = min(rng.uniform(7.0, 26.0), length - x)
            at = corner.at(x, 0.0)
            away = math.hypot(at.x - self.camera[0], at.z - self.camera[2])
            if rng.random() < closed:
                buildings.block(rng, self.builder, at, width, rng.uniform(8.0, 14.0), self.style, fine and away < 45)
            else:
                if rng.random() < 0.7:
                    street_things.fence(rng, self.builder, corner.at(x + width / 2, -0.3), width)
                for _ in range(int(rng.integers(1, 4))):
                    spot = corner.at(x + rng.uniform(0.2, 0.8) * width, -rng.uniform(4.0, 10.0))
                    self._tree(spot.x, spot.z, rng.uniform(5.0, 12.0))
            x += width

    def _gardens(self, side: float, front: float, far: float) -> None:
        rng, z = self.rng, -far
        while z < far - 10.0:
            plot = rng.uniform(14.0, 28.0)
            near = abs(z + plot / 2 - self.camera[2]) < 70
            middle, edge = z + plot / 2, side * (front + 0.5)
            border = rng.random()
            facing = RIGHT if side < 0 else LEFT
            if border < 0.35:
                street_things.hedge(rng, self.builder, Frame(edge, middle, facing), plot - 4.0, self._leaves())
            elif border < 0.65 and near:
                street_things.fence(rng, self.builder, Frame(edge, middle, facing), plot - 3.0)
            setback = rng.uniform(5.0, 14.0)
            depth = rng.uniform(7.0, 10.0)
            at = Frame(side * (front + setback + depth / 2), middle + rng.uniform(-2.0, 2.0), facing)
            buildings.house(rng, self.builder, at, rng.uniform(8.0, min(14.0, plot - 4.5)), depth, self.style.lit)
            if rng.random() < 0.6:
                drive = (middle + plot / 2 - 3.5, middle + plot / 2 - 0.8)
                ends = (side * front, side * (front + setback + 2.0))
                self.builder.box("pavement", self.paving, (min(ends), max(ends)), (0.0, 0.015), drive)
                if rng.random() < 0.5:
                    self._take(side * (front + 3.5), sum(drive) / 2, 2.5)
                    street_things.car(rng, self.builder, Frame(side * (front + 3.5), sum(drive) / 2, facing))
            for _ in range(int(rng.integers(0, 4))):
                x = side * (front + rng.uniform(1.5, setback - 0.5))
                self._tree(x, z + rng.uniform(0.5, plot - 4.0), rng.uniform(3.0, 8.0))
            if near and rng.random() < 0.5:
                x = side * (front + rng.uniform(1.2, setback - 1.0))
                if self._free(x, middle, 0.8):
                    street_things.bush(rng, self.builder, Frame(x, middle, 0.0), rng.uniform(0.4, 1.0), self._leaves())
            self._tree(side * (front + setback + depth + rng.uniform(3.0, 9.0)), middle, rng.uniform(6.0, 13.0))
            z += plot

    def _furniture(self, half: float, walk: float, far: float, sparse: bool = False) -> None:
        """Add lamps, trees, signs, bins, bollards and benches along the kerbs."""
        rng = self.rng
        pitch, height = rng.uniform(15.0, 35.0), rng.uniform(4.5, 9.0)
        trees = rng.uniform(7.0, 14.0) if rng.random() < (0.3 if sparse else 0.5) and walk > 1.9 else None
        posts = rng.uniform(1.5, 3.0) if rng.random() < 0.25 else None
        look = outdoor_materials.metal(rng)
        for side in (-1.0, 1.0):
            facing, x = (RIGHT if side < 0 else LEFT), side * (half + 0.45)
            for z in np.arange(-far + rng.uniform(0.0, pitch), far, pitch)[:26].tolist():
                if self._free(x, z, 0.3):
                    self._lamp(Frame(x, z, facing), height)
            if trees is not None:
                for z in np.arange(-min(far, 120.0) + rng.uniform(0.0, 9.0), min(far, 120.0), trees).tolist():
                    self._tree(side * (half + 0.9), z, rng.uniform(5.0, 9.0))
            if posts is not None:
                for z in np.arange(self.camera[2] - 18.0, self.camera[2] + 18.0, posts).tolist():
                    if self._free(x, z, 0.15):
                        street_things.bollard(self.builder, Frame(x, z, 0.0), look)
            for _ in range(int(rng.integers(1, 8))):
                z, kind = self.camera[2] + rng.normal(0.0, 13.0), int(rng.integers(0, 4))
                if not self._free(x, z, 0.6):
                    continue
                if kind == 0:
                    street_things.sign(rng, self.builder, Frame(x, z, 0.0 if side < 0 else math.pi))
                elif kind == 1:
                    street_things.bin_(rng, self.builder, Frame(x + side * 0.3, z, facing))
                elif kind == 2 and walk > 2.2:
                    street_things.bench(rng, self.builder, Frame(side * (half + 1.2), z, facing))
                else:
                    street_things.traffic_light(rng, self.builder, Frame(x, z, 0.0 if side < 0 else math.pi))

    def _traffic(self, half: float, far: float) -> None:
        """Add parked cars at the kerb and moving cars."""
        rng = self.rng
        density = (0.0, 0.2, 0.5, 0.8)[bisect.bisect((0.15, 0.5, 0.8), rng.random())]
        for side in (-1.0, 1.0):
            z = -min(far, 110.0)
            parked = half > 3.0 and rng.random() < 0.7
            while parked and z < min(far, 110.0):
                z += rng.uniform(5.4, 7.5)
                x = side * (half - 1.1)
                kind, room = self._vehicle(0.12)
                if rng.random() < density and self._free(x, z, room):
                    turned = 0.0 if side > 0 else math.pi
                    kind(rng, self.builder, Frame(x, z, turned + rng.uniform(-0.04, 0.04)))
            for _ in range(int(rng.integers(0, 4))):
                x, z = side * half * (0.25 if parked else 0.5), self.camera[2] + rng.uniform(-80.0, 80.0)
                kind, room = self._vehicle(0.2)
                if half > 2.2 and self._free(x, z, room):
                    kind(rng, self.builder, Frame(x, z, 0.0 if side > 0 else math.pi))

    def _vehicle(self, vans: float) -> tuple[Callable[[np.random.Generator, Builder, Frame], None], float]:
        """Draw a kind of vehicle, and the radius that it takes."""
        return (street_things.van, 6.8) if self.rng.random() < vans else (street_things.car, 2.7)

    def _people(self, half: float, walk: float) -> None:
        rng = self.rng
        for _ in range(int(rng.integers(0, 9))):
            z = self.camera[2] + rng.normal(0.0, 10.0)
            x = rng.choice([-1.0, 1.0]) * (half + rng.uniform(0.2, max(0.3, walk - 0.3)))
            if self._free(x, z, 0.4):
                street_things.person(rng, self.builder, Frame(x, z, rng.uniform(-math.pi, math.pi)))

    def _lamp(self, at: Frame, height: float) -> None:
        under = street_things.street_lamp(self.rng, self.builder, at, height, self._glow)
        self._lamps.append((under.x, -height + 0.3, under.z))

    def _tree(self, x: float, z: float, height: float) -> None:
        away = math.hypot(x - self.camera[0], z - self.camera[2])
        # The crown must not contain the camera.
        if away < 0.55 * height + 0.5 or not self._free(x, z, 0.7):
            return
        street_things.tree(self.rng, self.builder, Frame(x, z, 0.0), height, self._leaves(), fine=away < 40)

    def _leaves(self) -> materials.Material:
        return self.leaves[self.rng.integers(0, len(self.leaves))]

    def _free(self, x: float, z: float, radius: float) -> bool:
        """Take a disc if nothing stands there yet, and return whether it was free."""
        lane = int(z // _LANE)
        for near in (lane - 1, lane, lane + 1):
            for a, b, r in self._taken.get(near, ()):
                across, along, reach = x - a, z - b, radius + r
                if across * across + along * along < reach * reach:
                    return False
        self._take(x, z, radius)
        return True

    def _take(self, x: float, z: float, radius: float) -> None:
        """Keep other things off a disc with a radius of at most 7 metres."""
        self._taken.setdefault(int(z // _LANE), []).append((x, z, radius))

    def _spot(self, x: float, z: float, radius: float) -> Frame | None:
        for _ in range(6):
            at = Frame(self.rng.uniform(-x, x), self.rng.uniform(-z, z), self.rng.uniform(-math.pi, math.pi))
            if self._free(at.x, at.z, radius):
                return at
        return None
