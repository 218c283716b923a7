"""Draw a whole street, square, suburb or stretch of country, with its light and the camera in it."""

import math

import numpy as np

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import buildings, materials, outdoor_materials, street_things
from mtpano_zoo.scenes.draws import Draws
from mtpano_zoo.scenes.plan import GRID
from mtpano_zoo.scenes.sampling import random_tilt, room_key
from mtpano_zoo.scenes.scene import Frame, Room
from mtpano_zoo.scenes.site import RIGHT, Site

__all__ = ("SPACE", "Place", "sample_street")

SPACE = 2  # key space, see `room_key`


def sample_street(seed: int, split: str, index: int, tilt: float = 0.0) -> Room:
    """Draw the outdoor scene of a split and an index; the same arguments always yield the same scene.

    Args:
        seed: Seed of the set.
        split: "train", "val" or "test".
        index: Index of the scene in its split.
        tilt: Largest tilt of the camera in degrees, in any direction; 180 allows any attitude. The scene is the same.

    Raises:
        InputError: If the split is unknown, or seed, index or tilt are out of range.

    Example:
        >>> sample_street(0, "train", 3).id
        'train-000003'
    """
    key = room_key(seed, split, index, SPACE)
    rng = Draws(key)
    place = Place(rng)
    kind = rng.random()
    if kind < 0.5:
        place.street()
    elif kind < 0.7:
        place.square()
    elif kind < 0.88:
        place.suburb()
    else:
        place.country()
    place.background()
    weather, builder = place.weather, place.builder
    room = Room(
        id=f"{split}-{index:06d}",
        **builder.arrays(),  # type: ignore[arg-type]
        camera=np.array(place.camera),
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


class Place(Site):
    """The layout of one scene."""

    def street(self) -> None:
        """Lay out a road between rows of buildings, often with a crossing."""
        rng, half = self.rng, self.rng.uniform(1.8, 6.5)
        walk, far = rng.uniform(1.5, 5.0), rng.uniform(60.0, 320.0)
        cross = rng.uniform(-25.0, 45.0) if rng.random() < 0.55 else None
        if rng.random() < 0.12:
            self._balcony_camera(half + walk)
        else:
            self._camera(half, far)
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
        self._people(half, walk)

    def square(self) -> None:
        """Lay out a paved square, a courtyard or a park lawn between buildings, some behind arcades."""
        rng = self.rng
        width, depth = rng.uniform(14.0, 70.0), rng.uniform(14.0, 80.0)
        self._base(self.paving, 0.0)
        self.camera = (rng.uniform(-0.3, 0.3) * width, -self._eye(), rng.uniform(-0.3, 0.3) * depth)
        self._take(self.camera[0], self.camera[2], 1.3)
        if rng.random() < 0.35 and min(width, depth) > 22:
            lawn = 0.32
            self.builder.box(
                "ground", self.meadow, (-lawn * width, lawn * width), (0.0, 0.08), (-lawn * depth, lawn * depth)
            )
        open_sides = rng.permutation(4)[: int(rng.integers(0, 3))].tolist() if width > 25 else []
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
                (street_things.bench, street_things.cafe, street_things.cafe)[int(rng.integers(0, 3))](
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
        """Lay out detached houses with gardens along a road."""
        rng, half = self.rng, self.rng.uniform(2.2, 4.0)
        walk, far = rng.uniform(1.2, 2.2), rng.uniform(80.0, 300.0)
        self._camera(half, far)
        self._base(self.meadow, 0.0)
        self._road(half, far, None)
        for side in (-1.0, 1.0):
            if rng.random() < 0.8:
                self._pavement(side, half, walk, far, None)
            self._gardens(side, half + walk, far)
        self._furniture(half, walk, far, sparse=True)
        self._traffic(half, far)
        self._people(half, walk)

    def country(self) -> None:
        """Lay out fields, usually with a road, with trees, hedges, fences and a few houses."""
        rng, far = self.rng, self.rng.uniform(150.0, 400.0)
        half = rng.uniform(1.5, 4.0)
        self._camera(half, far)
        self._base(self.meadow, 0.0)
        if rng.random() < 0.8:
            self._road(half, far, None)
        for side in (-1.0, 1.0):
            for _ in range(int(rng.integers(0, 4))):  # fields
                x, z = side * rng.uniform(half + 3.0, 60.0), rng.uniform(-far, far)
                wide, long = rng.uniform(10.0, 60.0), rng.uniform(20.0, 120.0)
                look = outdoor_materials.earth(rng) if rng.random() < 0.5 else outdoor_materials.grass(rng)
                self.builder.box(
                    "ground", look, (min(x, x + side * wide), max(x, x + side * wide)), (0.0, 0.012), (z, z + long)
                )
            if rng.random() < 0.4:
                x, z = side * (half + rng.uniform(1.0, 4.0)), self.camera[2] + rng.uniform(-20.0, 20.0)
                if abs(x - self.camera[0]) > 1.0:
                    length = rng.uniform(10.0, 40.0)
                    if rng.random() < 0.6:
                        street_things.fence(rng, self.builder, Frame(x, z, RIGHT), length)
                    else:
                        street_things.hedge(rng, self.builder, Frame(x, z, RIGHT), length, self._leaves())
            for _ in range(int(rng.integers(2, 20))):
                x, z = side * (half + rng.uniform(2.0, 70.0)), rng.uniform(-70.0, 90.0)
                self._tree(x, z, rng.uniform(4.0, 14.0))
            if rng.random() < 0.45:  # the edge of a wood, or an avenue
                away, pitch, reach = rng.uniform(2.0, 25.0), rng.uniform(3.5, 9.0), rng.uniform(40.0, 120.0)
                for z in np.arange(-reach, reach, pitch).tolist():
                    x = side * (half + away + rng.uniform(0.0, 4.0))
                    self._tree(x, self.camera[2] + z, rng.uniform(7.0, 14.0))
            for _ in range(int(rng.integers(0, 14))):
                x, z = side * (half + rng.uniform(1.0, 22.0)), self.camera[2] + rng.normal(0.0, 14.0)
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
        self._people(half, 1.5)

    def background(self) -> None:
        """Add hills, woods and a skyline behind everything."""
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
