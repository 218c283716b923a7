"""Things in streets: trees, hedges, vehicles, people, lamps, signs, fences, benches.

Every function builds around `at`: the centre of the footprint, front towards +z.
"""

import math

import numpy as np

from mtpano_zoo.scenes import materials, outdoor_materials
from mtpano_zoo.scenes.materials import Material
from mtpano_zoo.scenes.scene import CABIN, Builder, Frame, centred

__all__ = (
    "bench",
    "bin_",
    "bollard",
    "bush",
    "cafe",
    "car",
    "fence",
    "hedge",
    "person",
    "sign",
    "street_lamp",
    "traffic_light",
    "tree",
    "van",
)

_HEADLIGHT, _TAIL_LIGHT = materials.glow((1.0, 0.95, 0.8), 0.5), materials.material((0.5, 0.02, 0.02))


def tree(rng: np.random.Generator, builder: Builder, at: Frame, height: float, look: Material, fine: bool) -> None:
    """Add a trunk and a crown: balls of leaves, or the cones of a conifer; more of them if `fine`."""
    bark, add = outdoor_materials.bark(rng), builder
    trunk = 0.03 * height * rng.uniform(0.5, 1.0)
    if rng.random() < 0.2:
        add.cylinder("vegetation", bark, trunk, (0.0, 0.3 * height), at)
        tiers = 3 if fine else 1
        for i in range(tiers):
            low, high = 0.15 + 0.25 * i, 0.15 + 0.25 * i + (0.42 if fine else 0.85)
            radius = height * rng.uniform(0.16, 0.24) * (1 - 0.27 * i)
            add.cone("vegetation", look, radius, (low * height, min(high, 1.0) * height), at)
        return
    stem = height * rng.uniform(0.2, 0.4)
    add.cylinder("vegetation", bark, trunk, (0.0, stem + 0.2 * height), at)
    crown = (height - stem) / 2
    wide = crown * rng.uniform(0.7, 1.25)
    half = (0.75 * wide, 0.8 * crown, 0.75 * wide)
    add.ellipsoid("vegetation", look, half, stem + crown, at)
    count = int(rng.integers(4, 8)) if fine else 2
    for i, (a, b, c) in enumerate(rng.random((count, 3)).tolist()):
        turn, lift, size = 2.4 * i + a, 1.2 * b - 0.6, 0.35 + 0.25 * c
        reach = 0.55 * wide * math.sqrt(1 - lift * lift)
        spot = at.at(reach * math.sin(turn), reach * math.cos(turn))
        half = (size * wide, size * crown, size * wide)
        add.ellipsoid("vegetation", look, half, stem + crown * (1 + 0.75 * lift), spot)


def bush(rng: np.random.Generator, builder: Builder, at: Frame, size: float, look: Material) -> None:
    """Add one to three balls of leaves on the ground."""
    for i in range(int(rng.integers(1, 4))):
        half = size * rng.uniform(0.5, 1.0)
        spot = at.at(i * 0.7 * size, rng.uniform(-0.2, 0.2) * size)
        builder.ellipsoid("vegetation", look, (half, 0.8 * half, half), 0.5 * half, spot)


def hedge(rng: np.random.Generator, builder: Builder, at: Frame, length: float, look: Material) -> None:
    """Add a clipped hedge along x."""
    height, thick = rng.uniform(0.7, 2.0), rng.uniform(0.5, 1.0)
    builder.box("vegetation", look, centred(length), (0.0, height), centred(thick), at)


def car(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a car along z: body, cabin, wheels, lights."""
    paint, glass = outdoor_materials.car_paint(rng), outdoor_materials.dark_glass()
    length, width, waist = rng.uniform(3.7, 4.9), rng.uniform(1.65, 1.95), rng.uniform(0.8, 1.0)
    top = waist + rng.uniform(0.5, 0.75)
    add = builder.box
    add("vehicle", paint, centred(width), (0.28, waist), centred(length), at)
    back, front = -length * rng.uniform(0.38, 0.48), length * rng.uniform(0.12, 0.28)
    builder.roof("vehicle", glass, centred(width * 0.96), (waist, top), (back, front), at, CABIN)
    middle, half = (back + front) / 2, (front - back) / 2 * 0.62
    add("vehicle", paint, centred(width * 0.78), (top - 0.03, top + 0.02), (middle - half, middle + half), at)
    _wheels(builder, at, width, 0.31, (0.32 * length, -0.3 * length))
    for x in (-width / 2 + 0.1, width / 2 - 0.35):
        add("vehicle", _HEADLIGHT, (x, x + 0.25), (0.6, 0.72), (length / 2, length / 2 + 0.015), at)
        add("vehicle", _TAIL_LIGHT, (x, x + 0.25), (0.65, 0.78), (-length / 2 - 0.015, -length / 2), at)


def van(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a van, lorry or bus along z: a box on wheels, with a row of windows for a bus."""
    paint, bus = outdoor_materials.car_paint(rng), rng.random() < 0.4
    length, width = (rng.uniform(9.0, 13.0), 2.5) if bus else (rng.uniform(4.8, 7.5), rng.uniform(1.9, 2.4))
    top = 3.1 if bus else rng.uniform(2.1, 3.3)
    look = outdoor_materials.facade(rng, paint, (1.5, 1.9), 0.0, (0.88, 0.5)) if bus else paint
    body = (-length / 2, length / 2 - (0.0 if bus else 1.2))
    builder.box("vehicle", look, centred(width), (0.35, top), body, at, own=True)
    if not bus:
        nose = (length / 2 - 1.2, length / 2)
        builder.box("vehicle", paint, centred(width), (0.35, 1.2), nose, at)
        builder.roof(
            "vehicle",
            outdoor_materials.dark_glass(),
            centred(width),
            (1.2, min(top, 2.2)),
            (nose[0] - 1.2, nose[1]),
            at,
            CABIN,
        )
    _wheels(builder, at, width, 0.42, (0.33 * length, -0.3 * length))


def _wheels(builder: Builder, at: Frame, width: float, radius: float, places: tuple[float, float]) -> None:
    rubber = outdoor_materials.rubber()
    for z in places:
        axle = at.at(0.0, z)
        for x in (-width / 2 - 0.01, width / 2 - 0.2):
            builder.wheel("vehicle", rubber, radius, (x, x + 0.21), radius, axle)


def person(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a rough figure of 1.5 to 1.9 m: legs, trunk, arms and head."""
    scale = rng.uniform(0.86, 1.08)
    trousers, shirt, face = outdoor_materials.cloth(rng), outdoor_materials.cloth(rng), outdoor_materials.skin(rng)
    hair = materials.material(materials.hsv(rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.6)))
    step = rng.uniform(0.0, 0.22)
    hip = 0.86 * scale
    for side in (-1.0, 1.0):
        leg = at.at(side * 0.09 * scale, side * step)
        builder.cylinder("person", trousers, 0.075 * scale, (0.0, hip), leg)
        arm = at.at(side * 0.24 * scale, -side * step * 0.7)
        builder.ellipsoid("person", shirt, (0.055 * scale, 0.33 * scale, 0.06 * scale), hip + 0.25 * scale, arm)
    builder.ellipsoid("person", shirt, (0.2 * scale, 0.38 * scale, 0.13 * scale), hip + 0.27 * scale, at)
    head = hip + 0.74 * scale
    builder.ellipsoid("person", face, (0.08 * scale, 0.115 * scale, 0.095 * scale), head, at)
    builder.ellipsoid(
        "person", hair, (0.086 * scale, 0.09 * scale, 0.1 * scale), head + 0.045 * scale, at.at(0.0, -0.02)
    )


def street_lamp(rng: np.random.Generator, builder: Builder, at: Frame, height: float, light: Material) -> Frame:
    """Add a post with a light that may reach out towards +z; return the place under the light."""
    look = outdoor_materials.metal(rng)
    builder.cylinder("pole", look, 0.07, (0.0, height), at)
    reach = rng.choice([0.0, rng.uniform(0.8, 1.8)])
    if reach == 0:
        builder.cylinder("pole", look, 0.12, (0.0, 0.5), at)
        builder.sphere("lamp", light, 0.22, height + 0.2, at)
        return at
    builder.box("pole", look, (-0.04, 0.04), (height - 0.06, height + 0.02), (0.0, reach), at)
    builder.box("lamp", light, (-0.12, 0.12), (height - 0.14, height - 0.06), (reach - 0.3, reach + 0.3), at)
    return at.at(0.0, reach)


def sign(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a round or square traffic sign on a pole, facing +z."""
    builder.cylinder("pole", materials.gray(rng), 0.03, (0.0, 2.6), at)
    hue = rng.choice([0.0, 0.6, 0.14])
    look = materials.material(materials.hsv(hue, 0.85, 0.8), (0.9, 0.9, 0.9), checker=1.0, cell_u=0.21, cell_v=0.21)
    size = rng.uniform(0.25, 0.38)
    if rng.random() < 0.5:
        builder.wheel("sign", look, size, (0.04, 0.06), 2.4, at.at(0.0, 0.0, -math.pi / 2))
    else:
        builder.box("sign", look, (-size, size), (2.4 - size, 2.4 + size), (0.04, 0.06), at)


def traffic_light(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a pole with a box of three lights, facing +z."""
    dark = materials.material(materials.hsv(0.3, 0.2, 0.15))
    builder.cylinder("pole", materials.gray(rng), 0.06, (0.0, 3.0), at)
    builder.box("sign", dark, (-0.15, 0.15), (2.3, 3.2), (0.06, 0.26), at)
    lit = int(rng.integers(0, 3))
    for i, color in enumerate(((0.1, 1.0, 0.3), (1.0, 0.6, 0.05), (1.0, 0.05, 0.03))):
        look = materials.glow(color, 1.2) if i == lit else materials.material(tuple(0.1 * c for c in color))  # type: ignore[arg-type]
        builder.wheel("sign", look, 0.1, (0.26, 0.3), 2.45 + 0.3 * i, at.at(0.0, 0.0, -math.pi / 2))


def fence(rng: np.random.Generator, builder: Builder, at: Frame, length: float) -> None:
    """Add posts and rails along x, or a low wall."""
    height = rng.uniform(0.8, 1.7)
    if rng.random() < 0.35:
        look = outdoor_materials.plaster(rng)
        builder.box("fence", look, centred(length), (0.0, height), (-0.12, 0.12), at)
        builder.box("fence", materials.concrete(rng), centred(length + 0.1), (height, height + 0.06), (-0.16, 0.16), at)
        return
    look = materials.wood(rng) if rng.random() < 0.5 else outdoor_materials.metal(rng)
    posts = max(2, round(length / 2.2))
    for i in range(posts + 1):
        x = -length / 2 + length * i / posts
        builder.box("fence", look, (x - 0.05, x + 0.05), (0.0, height), (-0.05, 0.05), at)
    rails = int(rng.integers(2, 6))
    for i in range(rails):
        low = height * (i + 0.6) / rails - 0.06
        builder.box("fence", look, centred(length), (low, low + height * 0.35 / rails), (-0.02, 0.02), at)


def bench(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a bench with a back, which our classes call a chair."""
    look, leg, width = materials.wood(rng), materials.gray(rng), rng.uniform(1.4, 2.0)
    builder.box("chair", look, centred(width), (0.42, 0.46), (-0.22, 0.22), at)
    builder.box("chair", look, centred(width), (0.55, 0.85), (-0.27, -0.23), at)
    for x in (-width / 2 + 0.1, width / 2 - 0.18):
        builder.box("chair", leg, (x, x + 0.08), (0.0, 0.42), (-0.2, 0.2), at)
        builder.box("chair", leg, (x, x + 0.08), (0.46, 0.85), (-0.23, -0.19), at)


def cafe(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a round table with chairs, usually under a parasol."""
    look, leg = materials.pick(rng, "furniture"), materials.gray(rng)
    builder.cylinder("table", look, 0.4, (0.7, 0.74), at)
    builder.cylinder("table", leg, 0.04, (0.0, 0.7), at)
    seat = materials.pick(rng, "seat")
    for i in range(int(rng.integers(2, 5))):
        spot = at.at(0.0, 0.0, i * math.pi / 2 + rng.uniform(-0.3, 0.3)).at(0.0, 0.75, math.pi)
        builder.box("chair", seat, centred(0.42), (0.42, 0.46), centred(0.42), spot)
        builder.box("chair", seat, centred(0.42), (0.46, 0.88), (-0.21, -0.17), spot)
        for x in (-0.2, 0.16):
            builder.box("chair", leg, (x, x + 0.04), (0.0, 0.42), (-0.2, 0.2), spot)
    if rng.random() < 0.6:
        builder.cylinder("clutter", leg, 0.025, (0.74, 2.4), at)
        builder.cone("clutter", materials.fabric(rng), rng.uniform(1.2, 1.7), (2.1, 2.7), at)


def bin_(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a litter bin or a wheeled bin."""
    look = materials.plastic(rng) if rng.random() < 0.6 else outdoor_materials.metal(rng)
    if rng.random() < 0.5:
        builder.cylinder("clutter", look, rng.uniform(0.2, 0.3), (0.0, rng.uniform(0.7, 1.0)), at)
    else:
        builder.box("clutter", look, centred(0.6), (0.0, 1.05), centred(0.7), at)


def bollard(builder: Builder, at: Frame, look: Material) -> None:
    """Add a low post."""
    builder.cylinder("pole", look, 0.08, (0.0, 0.9), at)
