"""Draws a whole street, square, suburb or stretch of country, with its light and the camera in it."""

import math

import numpy as np

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import buildings, materials, outdoor_materials, street_things
from mtpano_zoo.scenes.buildings import Style
from mtpano_zoo.scenes.plan import GRID
from mtpano_zoo.scenes.sampling import random_tilt, room_key
from mtpano_zoo.scenes.scene import Builder, Float32, Frame, Room
from mtpano_zoo.scenes.weather import Weather

SPACE = 2  # of keys, see `room_key`
END = 3000.0  # metres to where the ground ends
KERB = 0.13  # metres that pavements lie above the road
RIGHT, LEFT = math.pi / 2, -math.pi / 2


def sample_street(seed: int, split: str, index: int, tilt: float = 0.0) -> Room:
    """Draw the outdoor scene of a split and an index; the same arguments always give the same scene.

    Args:
        seed: Of the set.
        split: "train", "val" or "test".
        index: Of the scene.
        tilt: The camera leans by up to so many degrees, in any direction; 180 takes any attitude. The scene is the same.

    Raises:
        InputError: If the split is unknown, or seed, index or tilt are out of range.
    """
    key = room_key(seed, split, index, SPACE)
    rng = np.random.Generator(np.random.Philox(key=key))
    place = Place(rng)
    kind = rng.random()
    if kind < 0.5:
        place.street()
    elif kind < 0.68:
        place.square()
    elif kind < 0.86:
        place.suburb()
    else:
        place.country()
    place.background()
    weather, builder = place.weather, place.builder
    room = Room(
        id=f"{split}-{index:06d}",
        **builder.arrays(),  # type: ignore[arg-type]
        camera=place.camera,
        yaw=rng.uniform(-math.pi, math.pi),
        lights=place.lights(),
        ambient=weather.ambient,
        occupancy=np.zeros((2, GRID, GRID), dtype=np.float32),
        exposure=weather.exposure,
        white_balance=np.array([rng.uniform(0.92, 1.08), 1.0, rng.uniform(0.92, 1.08)], dtype=np.float32),
        noise=rng.uniform(0.0, 0.014),
        salt=int(rng.integers(2**31)),
        classes=SCENE_CLASSES,
        sky=weather.sky,
    )
    return random_tilt(room, key, tilt)


class Place:
    """Builds one scene. The main axis is z; x = 0 is the middle of the road."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.builder, self.weather = rng, Builder(SCENE_CLASSES), Weather(rng)
        self.camera = np.zeros(3)
        self._taken: list[tuple[float, float, float]] = []  # discs: x, z, radius
        self._lamps: list[tuple[float, float, float]] = []
        self._glow = materials.glow((1.0, 0.8, 0.5), 3.0 if self.weather.dark else 0.25)
        self.leaves = [outdoor_materials.leaves(rng) for _ in range(3)]
        self.asphalt, self.paving = outdoor_materials.asphalt(rng), outdoor_materials.paving(rng)
        self.meadow = outdoor_materials.grass(rng) if rng.random() < 0.75 else outdoor_materials.earth(rng)
        self.style = Style(
            storey=rng.uniform(2.8, 3.8),
            floors=[(1, 2), (2, 4), (3, 6), (5, 12)][int(rng.integers(4))],
            lit=self.weather.lit,
            flat=rng.uniform(0.0, 1.0),
            shops=rng.uniform(0.0, 0.9),
        )

    # Layouts

    def street(self) -> None:
        """A road between rows of buildings, often with a crossing."""
        rng, half = self.rng, self.rng.uniform(2.2, 7.0)
        walk, far = rng.uniform(1.5, 5.0), rng.uniform(60.0, 320.0)
        cross = rng.uniform(-25.0, 45.0) if rng.random() < 0.55 else None
        if rng.random() < 0.12:
            self._balcony_camera(half + walk)
        else:
            self._camera(half, walk, far)
        self._base(self.paving if rng.random() < 0.8 else self.meadow, 0.0)
        self._road(half, far, cross)
        for side in (-1.0, 1.0):
            self._row(side, half + walk, far, cross)
            self._pavement(side, half, walk, far, cross)
        if rng.random() < 0.5:
            end = Frame(-30.0, far + rng.uniform(5.0, 20.0), math.pi)
            self._facades(end.at(-60.0, 0.0), 60.0, 1.0, fine=False)
        self._furniture(half, walk, far)
        self._traffic(half, far)
        self._people(half, walk, far)

    def square(self) -> None:
        """A paved square, a courtyard or a park lawn between buildings, some behind arcades."""
        rng = self.rng
        width, depth = rng.uniform(14.0, 70.0), rng.uniform(14.0, 80.0)
        self._base(self.paving, 0.0)
        self.camera = np.array([rng.uniform(-0.3, 0.3) * width, -self._eye(), rng.uniform(-0.3, 0.3) * depth])
        self._taken.append((float(self.camera[0]), float(self.camera[2]), 1.3))
        if rng.random() < 0.35 and min(width, depth) > 22:
            lawn = 0.32
            self.builder.box(
                "ground", self.meadow, (-lawn * width, lawn * width), (0.0, 0.08), (-lawn * depth, lawn * depth)
            )
        open_sides = rng.permutation(4)[: int(rng.integers(0, 3))] if width > 25 else []
        vaulted = rng.random() < 0.5
        reach = rng.uniform(2.2, 4.5)
        for side in range(4):
            length, away = (width, depth / 2) if side % 2 == 0 else (depth, width / 2)
            corner = Frame(0.0, 0.0, side * math.pi / 2).at(length / 2 + 1.0, away, math.pi)
            if side in open_sides:
                corner = corner.at(0.0, -rng.uniform(15.0, 50.0))
            if vaulted and side not in open_sides and rng.random() < 0.7:
                buildings.arcade(rng, self.builder, corner, length + 2.0, rng.uniform(3.0, 4.2), reach)
            self._facades(corner, length + 2.0, 0.95, fine=True)
        area = width * depth
        for _ in range(int(rng.integers(0, 2 + int(area / 120)))):
            if at := self._spot(0.42 * width, 0.42 * depth, 1.2):
                street_things.tree(rng, self.builder, at, rng.uniform(4.0, 11.0), self._leaves(), fine=True)
        for _ in range(int(rng.integers(0, 3 + int(area / 250)))):
            if at := self._spot(0.4 * width, 0.4 * depth, 1.4):
                (street_things.bench, street_things.cafe, street_things.cafe)[int(rng.integers(3))](
                    rng, self.builder, at
                )
        for _ in range(int(rng.integers(1, 5))):
            if at := self._spot(0.42 * width, 0.42 * depth, 0.5):
                self._lamp(at, rng.uniform(3.2, 5.0))
        for _ in range(int(rng.integers(0, 4 + int(area / 150)))):
            if at := self._spot(0.45 * width, 0.45 * depth, 0.5):
                street_things.person(rng, self.builder, at)
        for _ in range(int(rng.integers(0, 4)) if width > 25 else 0):
            if at := self._spot(0.4 * width, 0.4 * depth, 2.5):
                street_things.car(rng, self.builder, at)

    def suburb(self) -> None:
        """Detached houses with gardens along a road."""
        rng, half = self.rng, self.rng.uniform(2.2, 4.0)
        walk, far = rng.uniform(1.2, 2.2), rng.uniform(80.0, 300.0)
        self._camera(half, walk, far)
        self._base(self.meadow, 0.0)
        self._road(half, far, None)
        for side in (-1.0, 1.0):
            if rng.random() < 0.8:
                self._pavement(side, half, walk, far, None)
            self._gardens(side, half + walk, far)
        self._furniture(half, walk, far, sparse=True)
        self._traffic(half, far)
        self._people(half, walk, far)

    def country(self) -> None:
        """A road or none through fields, with trees, hedges, fences and a house now and then."""
        rng, far = self.rng, self.rng.uniform(150.0, 400.0)
        half = rng.uniform(1.5, 4.0)
        self._camera(half, 1.5, far)
        self._base(self.meadow, 0.0)
        if rng.random() < 0.8:
            self._road(half, far, None)
        for side in (-1.0, 1.0):
            for _ in range(int(rng.integers(0, 4))):  # fields
                x, z = side * rng.uniform(half + 3.0, 60.0), rng.uniform(-far, far)
                wide, long = rng.uniform(10.0, 60.0), rng.uniform(20.0, 120.0)
                look = outdoor_materials.earth(rng) if rng.random() < 0.5 else outdoor_materials.grass(rng)
                self.builder.box("ground", look, (x, x + side * wide)[:: int(side)], (0.0, 0.012), (z, z + long))
            if rng.random() < 0.4:
                x, z = side * (half + rng.uniform(1.0, 4.0)), rng.uniform(-20.0, 20.0)
                if abs(x - self.camera[0]) > 1.0:
                    street_things.fence(rng, self.builder, Frame(x, z, RIGHT), rng.uniform(10.0, 40.0))
            for _ in range(int(rng.integers(2, 22))):
                x, z = side * (half + rng.uniform(2.0, 80.0)), rng.uniform(-90.0, 110.0)
                self._tree(x, z, rng.uniform(4.0, 14.0))
            for _ in range(int(rng.integers(0, 8))):
                x, z = side * (half + rng.uniform(1.5, 30.0)), rng.uniform(-40.0, 40.0)
                if self._free(x, z, 1.5):
                    street_things.bush(rng, self.builder, Frame(x, z, 0.0), rng.uniform(0.5, 1.6), self._leaves())
            for _ in range(int(rng.integers(0, 3))):
                x, z = side * rng.uniform(half + 14.0, 70.0), rng.uniform(-80.0, 100.0)
                if self._free(x, z, 9.0):
                    at = Frame(x, z, rng.uniform(-math.pi, math.pi))
                    buildings.house(
                        rng, self.builder, at, rng.uniform(8.0, 14.0), rng.uniform(6.0, 10.0), self.style.lit
                    )
        self._traffic(half, far)
        self._people(half, 1.5, far)

    def background(self) -> None:
        """Hills, woods and a skyline behind everything."""
        rng = self.rng
        if rng.random() < 0.6:
            look = outdoor_materials.leaves(rng) if rng.random() < 0.5 else self.meadow
            look = look.copy()
            look[materials.CHANNEL["noise_u"]] = look[materials.CHANNEL["noise_v"]] = 0.01
            for _ in range(int(rng.integers(2, 9))):
                angle, away = rng.uniform(-math.pi, math.pi), rng.uniform(500.0, 2200.0)
                size = rng.uniform(0.25, 0.6) * away
                at = Frame(away * math.sin(angle), away * math.cos(angle), angle)
                half = (size * rng.uniform(0.8, 1.8), rng.uniform(0.04, 0.16) * away, size * 0.7)
                self.builder.ellipsoid("ground", look, half, -0.1 * half[1], at)
        for _ in range(int(rng.integers(0, 14))):
            angle, away = rng.uniform(-math.pi, math.pi), rng.uniform(120.0, 450.0)
            at = Frame(away * math.sin(angle), away * math.cos(angle), angle)
            if abs(at.x) < 30.0:
                continue
            if rng.random() < 0.6:
                half = (rng.uniform(8.0, 40.0), rng.uniform(5.0, 12.0), rng.uniform(8.0, 20.0))
                self.builder.ellipsoid("vegetation", self._leaves(), half, 0.3 * half[1], at)
            else:
                size, height = rng.uniform(10.0, 30.0), rng.uniform(8.0, 60.0)
                wall = outdoor_materials.plaster(rng)
                look = outdoor_materials.facade(rng, wall, (3.0, 3.2), self.style.lit, (0.5, 0.5))
                x, z = (-size / 2, size / 2), (-8.0, 8.0)
                self.builder.box("building", look, x, (0.0, height), z, at, own=True)

    def lights(self) -> Float32:
        """The nearest lamps as (L, 6), when it is dark."""
        if not self.weather.dark:
            return np.zeros((0, 6), dtype=np.float32)
        x, _, z = self.camera
        near = sorted(self._lamps, key=lambda lamp: (lamp[0] - x) ** 2 + (lamp[2] - z) ** 2)[:5]
        rows = [(*lamp, 14.0, 10.5, 6.0) for lamp in near]
        return np.array(rows, dtype=np.float32).reshape(-1, 6)

    # Parts

    def _eye(self) -> float:
        """Height of the camera: in the hand, on a car, or on a drone."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.62:
            return rng.uniform(1.2, 1.9)
        if kind < 0.84:
            return rng.uniform(1.9, 3.0)
        return float(math.exp(rng.uniform(math.log(5.0), math.log(60.0))))

    def _camera(self, half: float, walk: float, far: float) -> None:
        rng, eye = self.rng, self._eye()
        x = rng.uniform(-half, half) if eye > 1.9 or rng.random() < 0.4 else rng.choice([-1, 1]) * (half + 0.6)
        self.camera = np.array([x, -eye, rng.uniform(-0.1, 0.1) * far])
        # Crowns of trees reach farther than what stands on the ground.
        self._taken.append((float(x), float(self.camera[2]), 4.5 if eye > 3.0 else 1.4))

    def _balcony_camera(self, front: float) -> None:
        rng = self.rng
        floor, reach = rng.uniform(3.0, 15.0), rng.uniform(1.2, 2.2)
        # The row on the left has its fronts at x = -front.
        at = Frame(-front, 0.0, RIGHT)
        slab, rail = materials.concrete(rng), outdoor_materials.metal(rng)
        buildings.balcony(rng, self.builder, at, (-2.0, 2.0), floor, slab, rail, True, reach)
        self.camera = np.array([-front + reach * 0.6, -floor - rng.uniform(1.2, 1.7), rng.uniform(-1.0, 1.0)])
        self._taken.append((float(self.camera[0]), float(self.camera[2]), 4.5))

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
            for step in np.arange(-half + 0.3, half - 0.5, 1.0) if rng.random() < 0.7 else ():
                white = outdoor_materials.stripes(rng, asphalt, 0.0)
                for z in (cross - wide - 4.0, cross + wide + 1.0):
                    add("road", white, (step, step + 0.5), (0.02, 0.024), (z, z + 3.0))
        if half > 2.6 and rng.random() < 0.75:
            dashes = outdoor_materials.stripes(rng, asphalt, rng.choice([0.0, 3.0, 4.0]))
            add("road", dashes, (-0.07, 0.07), (0.02, 0.023), (-far, far))
        if rng.random() < 0.4:
            for x in (-half + 0.3, half - 0.42):
                add("road", outdoor_materials.stripes(rng, asphalt, 0.0), (x, x + 0.12), (0.02, 0.023), (-far, far))

    def _stretches(self, far: float, cross: float | None, margin: float) -> list[tuple[float, float]]:
        """What is left of the length of a street beside its crossing."""
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
        """Buildings along one side."""
        rng = self.rng
        closed = rng.uniform(0.6, 1.0)
        for z0, z1 in self._stretches(far, cross, rng.uniform(1.5, 4.0)):
            # The frame's x axis runs along the facade: towards -z on the left side, towards +z on the right one.
            corner = Frame(side * front, z1 if side < 0 else z0, RIGHT if side < 0 else LEFT)
            self._facades(corner, z1 - z0, closed, fine=True)

    def _facades(self, corner: Frame, length: float, closed: float, *, fine: bool) -> None:
        """Buildings wall to wall from a corner along its x axis, with gaps, hedges and trees between some."""
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
                x = (side * front, side * (front + setback + 2.0))
                self.builder.box("pavement", self.paving, (min(x), max(x)), (0.0, 0.015), drive)
                if rng.random() < 0.5:
                    self._taken.append((side * (front + 3.5), sum(drive) / 2, 2.5))
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
        """Lamps, trees, signs, bins, bollards and benches along the kerbs."""
        rng = self.rng
        pitch, height = rng.uniform(15.0, 35.0), rng.uniform(4.5, 9.0)
        trees = rng.uniform(7.0, 14.0) if rng.random() < (0.3 if sparse else 0.5) and walk > 1.9 else None
        posts = rng.uniform(1.5, 3.0) if rng.random() < 0.25 else None
        look = outdoor_materials.metal(rng)
        for side in (-1.0, 1.0):
            facing, x = (RIGHT if side < 0 else LEFT), side * (half + 0.45)
            for z in np.arange(-far + rng.uniform(0.0, pitch), far, pitch)[:26]:
                if self._free(x, z, 0.3):
                    self._lamp(Frame(x, float(z), facing), height)
            if trees is not None:
                for z in np.arange(-min(far, 120.0) + rng.uniform(0.0, 9.0), min(far, 120.0), trees):
                    self._tree(side * (half + 0.9), float(z), rng.uniform(5.0, 9.0))
            if posts is not None:
                for z in np.arange(self.camera[2] - 18.0, self.camera[2] + 18.0, posts):
                    if self._free(x, z, 0.15):
                        street_things.bollard(rng, self.builder, Frame(x, float(z), 0.0), look)
            for _ in range(int(rng.integers(0, 5))):
                z, kind = self.camera[2] + rng.normal(0.0, 18.0), int(rng.integers(4))
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
        """Cars that stand at the kerb and cars that drive."""
        rng = self.rng
        density = rng.choice([0.0, 0.2, 0.5, 0.8], p=[0.15, 0.35, 0.3, 0.2])
        for side in (-1.0, 1.0):
            z = -min(far, 110.0)
            parked = half > 3.0 and rng.random() < 0.7
            while parked and z < min(far, 110.0):
                z += rng.uniform(5.4, 7.5)
                x = side * (half - 1.1)
                if rng.random() < density and self._free(x, z, 2.6):
                    turned = 0.0 if side > 0 else math.pi
                    kind = street_things.van if rng.random() < 0.12 else street_things.car
                    kind(rng, self.builder, Frame(x, z, turned + rng.uniform(-0.04, 0.04)))
            for _ in range(int(rng.integers(0, 4))):
                x, z = side * half * (0.25 if parked else 0.5), self.camera[2] + rng.uniform(-80.0, 80.0)
                if half > 2.2 and abs(z - self.camera[2]) > 4.0 and self._free(x, z, 3.0):
                    kind = street_things.van if rng.random() < 0.2 else street_things.car
                    kind(rng, self.builder, Frame(x, z, 0.0 if side > 0 else math.pi))

    def _people(self, half: float, walk: float, far: float) -> None:
        rng = self.rng
        for _ in range(int(rng.integers(0, 9))):
            z = self.camera[2] + rng.normal(0.0, 14.0)
            x = rng.choice([-1.0, 1.0]) * (half + rng.uniform(0.2, max(0.3, walk - 0.3)))
            if self._free(x, z, 0.4):
                street_things.person(rng, self.builder, Frame(x, z, rng.uniform(-math.pi, math.pi)))

    def _lamp(self, at: Frame, height: float) -> None:
        under = street_things.street_lamp(self.rng, self.builder, at, height, self._glow)
        self._lamps.append((under.x, -height + 0.3, under.z))

    def _tree(self, x: float, z: float, height: float) -> None:
        away = math.hypot(x - self.camera[0], z - self.camera[2])
        # The crown must not hold the camera.
        if away < 0.55 * height + 0.5 or not self._free(x, z, 0.7):
            return
        street_things.tree(self.rng, self.builder, Frame(x, z, 0.0), height, self._leaves(), fine=away < 40)

    def _leaves(self) -> materials.Material:
        return self.leaves[int(self.rng.integers(len(self.leaves)))]

    def _free(self, x: float, z: float, radius: float) -> bool:
        """Whether nothing stands there yet; if so, take it."""
        if any((x - a) ** 2 + (z - b) ** 2 < (radius + r) ** 2 for a, b, r in self._taken):
            return False
        self._taken.append((x, z, radius))
        return True

    def _spot(self, x: float, z: float, radius: float) -> Frame | None:
        for _ in range(6):
            at = Frame(self.rng.uniform(-x, x), self.rng.uniform(-z, z), self.rng.uniform(-math.pi, math.pi))
            if self._free(at.x, at.z, radius):
                return at
        return None
