"""Furniture and clutter, each made of a few boxes, cylinders and spheres around a frame on the floor.

Every function builds around `at`: the centre of the footprint, front towards +z.
"""

import math

import numpy as np

from mtpano_zoo.scenes import materials
from mtpano_zoo.scenes.materials import Material
from mtpano_zoo.scenes.scene import Builder, Frame, centred

__all__ = (
    "bin_",
    "bookcase",
    "boxes",
    "cabinet",
    "chair",
    "floor_lamp",
    "plant",
    "radiator",
    "round_table",
    "rug",
    "sofa",
    "table",
    "tabletop",
)


def _legs(
    builder: Builder, label: str, look: Material, at: Frame, size: tuple[float, float], height: float, thick: float
) -> None:
    """Add four square legs under a rectangle of the given size."""
    x, z = size[0] / 2, size[1] / 2
    for a in (-x, x - thick):
        for b in (-z, z - thick):
            builder.box(label, look, (a, a + thick), (0.0, height), (b, b + thick), at)


def table(
    rng: np.random.Generator,
    builder: Builder,
    at: Frame,
    size: tuple[float, float],
    height: float,
    glass: Material | None = None,
) -> None:
    """Add a rectangular table on four legs or between two side panels; `glass` is the material of a glass top."""
    look = materials.pick(rng, "furniture")
    legs = look if rng.random() < 0.5 else materials.pick(rng, "leg")
    top = rng.uniform(0.02, 0.06) if glass is None else rng.uniform(0.01, 0.018)
    surface = look if glass is None else glass
    builder.box("table", surface, centred(size[0]), (height - top, height), centred(size[1]), at)
    if rng.random() < 0.6:
        _legs(builder, "table", legs, at, (size[0] - 0.04, size[1] - 0.04), height - top, rng.uniform(0.03, 0.08))
        return
    for x in (-size[0] / 2 + 0.02, size[0] / 2 - 0.05):
        builder.box("table", legs, (x, x + 0.03), (0.0, height - top), centred(size[1] - 0.05), at)
    back = -size[1] / 2 + 0.05
    builder.box("table", legs, centred(size[0] - 0.1), (0.25, height - top), (back, back + 0.02), at)
    if rng.random() < 0.5:
        drawers = (size[0] / 2 - 0.45, size[0] / 2 - 0.05)
        builder.box("table", look, drawers, (0.08, height - top), centred(size[1] - 0.1), at)


def round_table(
    rng: np.random.Generator,
    builder: Builder,
    at: Frame,
    radius: float,
    height: float,
    glass: Material | None = None,
) -> None:
    """Add a round table: a top, of `glass` if there is one, on a post with a foot."""
    look, leg = materials.pick(rng, "furniture"), materials.pick(rng, "leg")
    top = 0.04 if glass is None else 0.014
    builder.cylinder("table", look if glass is None else glass, radius, (height - top, height), at)
    builder.cylinder("table", leg, 0.05, (0.03, height - top), at)
    builder.cylinder("table", leg, 0.55 * radius, (0.0, 0.03), at)


def chair(builder: Builder, at: Frame, style: int, looks: tuple[Material, Material]) -> None:
    """Add a chair with a footprint of 0.45 m: four legs (0), office swivel chair (1) or stool (2)."""
    seat, leg = looks
    height, size = 0.45, 0.44
    if style == 2:
        builder.cylinder("chair", seat, 0.18, (0.42, 0.47), at)
        builder.cylinder("chair", leg, 0.03, (0.02, 0.42), at)
        builder.cylinder("chair", leg, 0.19, (0.0, 0.02), at)
        return
    builder.box("chair", seat, centred(size), (height - 0.05, height), centred(size), at)
    back = (-size / 2, -size / 2 + 0.05)
    if style == 0:
        _legs(builder, "chair", leg, at, (size, size), height - 0.05, 0.035)
        for x in (-size / 2, size / 2 - 0.035):
            builder.box("chair", leg, (x, x + 0.035), (height, 0.88), (back[0], back[0] + 0.035), at)
        builder.box("chair", seat, centred(size - 0.08), (0.58, 0.88), back, at)
        return
    builder.box("chair", seat, centred(size - 0.02), (0.55, 1.02), back, at)
    builder.box("chair", leg, centred(0.08), (height - 0.05, 0.6), (back[0] - 0.03, back[0]), at)
    builder.cylinder("chair", leg, 0.03, (0.08, height - 0.05), at)
    for yaw in (0.0, math.pi / 3, 2 * math.pi / 3):
        builder.box("chair", leg, centred(0.5), (0.03, 0.08), centred(0.05), at.at(0.0, 0.0, yaw))
    for x in (-size / 2 - 0.04, size / 2):
        builder.box("chair", leg, (x, x + 0.04), (0.64, 0.67), centred(0.28), at)
        builder.box("chair", leg, (x, x + 0.04), (0.42, 0.64), centred(0.05), at)


def sofa(rng: np.random.Generator, builder: Builder, at: Frame, width: float, depth: float) -> None:
    """Add a sofa: base, seat cushions, back and arms; with a width of about a metre it is an armchair."""
    look = materials.pick(rng, "sofa")
    arm, back = rng.uniform(0.12, 0.22), rng.uniform(0.18, 0.25)
    seat, top, foot = rng.uniform(0.38, 0.45), rng.uniform(0.72, 0.92), rng.uniform(0.03, 0.12)
    inner = width - 2 * arm
    builder.box("sofa", look, centred(inner), (foot, seat - 0.12), (-depth / 2, depth / 2), at)
    builder.box("sofa", look, centred(inner), (seat - 0.12, top), (-depth / 2, -depth / 2 + back), at)
    for x in (-width / 2, width / 2 - arm):
        builder.box("sofa", look, (x, x + arm), (foot, seat + rng.uniform(0.12, 0.2)), centred(depth), at)
    count = max(1, round(inner / 0.65))
    for i in range(count):
        x0 = -inner / 2 + inner * i / count
        cushion = (x0 + 0.008, x0 + inner / count - 0.008)
        builder.box("sofa", look, cushion, (seat - 0.12, seat), (-depth / 2 + back, depth / 2 + 0.01), at)
        builder.box("sofa", look, cushion, (seat, top - 0.06), (-depth / 2 + back, -depth / 2 + back + 0.1), at)
    _legs(builder, "sofa", materials.pick(rng, "leg"), at, (width - 0.1, depth - 0.1), foot, 0.06)
    if rng.random() < 0.5:
        x = rng.uniform(-inner / 2 + 0.2, inner / 2 - 0.2)
        pillow = at.at(x, -depth / 2 + back + 0.18, rng.uniform(-0.3, 0.3))
        builder.box("clutter", materials.fabric(rng), centred(0.36), (seat, seat + 0.34), centred(0.1), pillow)


def bookcase(rng: np.random.Generator, builder: Builder, at: Frame, size: tuple[float, float], height: float) -> None:
    """Add a bookcase: sides, back, shelves, and on most shelves rows of books or small things."""
    look = materials.pick(rng, "furniture")
    (width, depth), board = size, rng.uniform(0.018, 0.03)
    for x in (-width / 2, width / 2 - board):
        builder.box("bookcase", look, (x, x + board), (0.0, height), centred(depth), at)
    inner = (-width / 2 + board, width / 2 - board)
    builder.box("bookcase", look, inner, (0.0, height), (-depth / 2, -depth / 2 + 0.015), at)
    shelves = max(2, round(height / rng.uniform(0.3, 0.42)))
    pitch = (height - board) / shelves
    for i in range(shelves + 1):
        shelf = (i * pitch, i * pitch + board)
        builder.box("bookcase", look, inner, shelf, (-depth / 2 + 0.015, depth / 2), at)
        if i < shelves:
            _fill_shelf(rng, builder, at, inner, depth, shelf[1], pitch - board)


def _fill_shelf(
    rng: np.random.Generator,
    builder: Builder,
    at: Frame,
    inner: tuple[float, float],
    depth: float,
    bottom: float,
    space: float,
) -> None:
    x = inner[0] + rng.uniform(0.0, 0.15)
    while x < inner[1] - 0.15:
        run = min(rng.uniform(0.12, 0.5), inner[1] - x - 0.01)
        kind, tall = rng.random(), space * rng.uniform(0.6, 0.93)
        z = (-depth / 2 + 0.015, depth / 2 - rng.uniform(0.02, 0.08))
        if kind < 0.72:
            builder.box("bookcase", materials.books(rng), (x, x + run), (bottom, bottom + tall), z, at)
        elif kind < 0.82:
            low = bottom + 0.6 * tall
            builder.box("clutter", materials.pick(rng, "object"), (x, x + 0.8 * run), (bottom, low), z, at)
        x += run + (rng.uniform(0.02, 0.3) if rng.random() < 0.5 else 0.003)


def cabinet(
    rng: np.random.Generator,
    builder: Builder,
    at: Frame,
    size: tuple[float, float],
    height: float,
    glass: Material | None = None,
) -> None:
    """Add a closed cabinet with doors and handles; `glass` adds panes on the doors."""
    look = materials.pick(rng, "furniture")
    front, knob = size[1] / 2, materials.gray(rng)
    builder.box("cabinet", look, centred(size[0]), (0.0, height), centred(size[1]), at)
    count = max(1, round(size[0] / 0.5))
    for i in range(count):
        x0 = -size[0] / 2 + size[0] * i / count
        x = (x0 + 0.01, x0 + size[0] / count - 0.01)
        builder.box("cabinet", look, x, (0.06, height - 0.02), (front, front + 0.018), at)
        if glass is not None:
            pane = (x[0] + 0.02, x[1] - 0.02)
            builder.box("clutter", glass, pane, (0.1, height - 0.06), (front + 0.018, front + 0.022), at)
        handle = x[1] - 0.05 if i % 2 == 0 else x[0] + 0.03
        grip = (height * 0.5, height * 0.5 + 0.12)
        builder.box("cabinet", knob, (handle, handle + 0.02), grip, (front + 0.018, front + 0.04), at)


def radiator(rng: np.random.Generator, builder: Builder, at: Frame, width: float) -> None:
    """Add a ribbed radiator in front of a wall; `at` lies on the wall."""
    look = materials.material(materials.hsv(0.1, 0.04, rng.uniform(0.7, 0.95)), checker=1.0, cell_u=0.05)
    look[3:6] = look[:3] * 0.6
    builder.box("clutter", look, centred(width), (0.12, rng.uniform(0.45, 0.58)), (0.03, 0.11), at)


def rug(rng: np.random.Generator, builder: Builder, at: Frame, size: tuple[float, float]) -> None:
    """Add a rug on the floor, round or oblong."""
    look = materials.carpet(rng) if rng.random() < 0.6 else materials.picture(rng)
    if rng.random() < 0.25:
        builder.cylinder("rug", look, min(size) / 2, (0.0, 0.012), at)
    else:
        builder.box("rug", look, centred(size[0]), (0.0, 0.012), centred(size[1]), at)


def bin_(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a round waste bin."""
    builder.cylinder(
        "clutter", materials.pick(rng, "object"), rng.uniform(0.12, 0.2), (0.0, rng.uniform(0.25, 0.6)), at
    )


def boxes(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a pile of one to three boxes on a footprint of 0.5 m."""
    bottom, size = 0.0, rng.uniform(0.3, 0.5)
    for _ in range(int(rng.integers(1, 4))):
        tall = rng.uniform(0.15, 0.4)
        turned = at.at(0.0, 0.0, rng.uniform(-0.3, 0.3))
        look = materials.cardboard(rng) if rng.random() < 0.6 else materials.pick(rng, "object")
        builder.box("clutter", look, centred(size), (bottom, bottom + tall), centred(size * 0.8), turned)
        bottom, size = bottom + tall, size * rng.uniform(0.7, 1.0)


def plant(rng: np.random.Generator, builder: Builder, at: Frame, scale: float = 1.0, base: float = 0.0) -> None:
    """Add a plant: a pot, a stem and a few balls of leaves."""
    pot, leaves = materials.pick(rng, "object"), materials.foliage(rng)
    radius, height = 0.14 * scale, rng.uniform(0.2, 0.4) * scale
    builder.cylinder("plant", pot, radius, (base, base + height), at)
    top = base + height + rng.uniform(0.2, 0.9) * scale
    builder.cylinder("plant", materials.wood(rng), 0.02 * scale, (base + height, top), at)
    for _ in range(int(rng.integers(2, 6))):
        size = rng.uniform(0.1, 0.22) * scale
        spot = at.at(rng.uniform(-0.13, 0.13) * scale, rng.uniform(-0.13, 0.13) * scale)
        builder.sphere("plant", leaves, size, top + rng.uniform(-0.2, 0.15) * scale, spot)


def floor_lamp(rng: np.random.Generator, builder: Builder, at: Frame, light: Material) -> float:
    """Add a floor lamp: a foot, a pole and a shade or globe; return the height of the light."""
    metal, height = materials.gray(rng), rng.uniform(1.35, 1.75)
    builder.cylinder("lamp", metal, 0.14, (0.0, 0.025), at)
    # The pole ends below the light, which it would otherwise hide from half of the room.
    builder.cylinder("lamp", metal, 0.015, (0.025, height - 0.12), at)
    if rng.random() < 0.5:
        builder.sphere("lamp", light, 0.14, height, at)
    else:
        builder.cylinder("lamp", light, 0.18, (height - 0.12, height + 0.16), at)
    return height


def tabletop(rng: np.random.Generator, builder: Builder, at: Frame, size: tuple[float, float], height: float) -> None:
    """Add small things on a table of the given size: screens, boxes, cups, balls, a plant."""
    columns = max(1, int(size[0] / 0.45))
    for i in range(columns):
        if rng.random() < 0.35:
            continue
        x = -size[0] / 2 + size[0] * (i + rng.uniform(0.35, 0.65)) / columns
        spot = at.at(x, rng.uniform(-0.2, 0.2) * size[1], rng.uniform(-0.5, 0.5))
        kind, look = rng.random(), materials.pick(rng, "object")
        if kind < 0.35 and size[1] > 0.5:
            _monitor(rng, builder, at.at(x, -0.1 * size[1], rng.uniform(-0.3, 0.3)), height)
        elif kind < 0.6:
            width, tall = rng.uniform(0.1, 0.3), rng.uniform(0.02, 0.25)
            builder.box("clutter", look, centred(width), (height, height + tall), centred(0.7 * width), spot)
        elif kind < 0.8:
            builder.cylinder("clutter", look, rng.uniform(0.03, 0.07), (height, height + rng.uniform(0.08, 0.25)), spot)
        elif kind < 0.9:
            radius = rng.uniform(0.05, 0.12)
            builder.sphere("clutter", look, radius, height + radius, spot)
        else:
            plant(rng, builder, spot, scale=0.4, base=height)


def _monitor(rng: np.random.Generator, builder: Builder, at: Frame, height: float) -> None:
    black, width = materials.material(materials.hsv(0.0, 0.0, rng.uniform(0.1, 0.35))), rng.uniform(0.4, 0.65)
    bottom, top = height + 0.12, height + 0.12 + 0.6 * width
    builder.box("screen", black, centred(0.22), (height, height + 0.015), centred(0.16), at)
    builder.box("screen", black, centred(0.05), (height + 0.015, bottom + 0.1), (-0.05, -0.02), at)
    builder.box("screen", black, centred(width), (bottom, top), (-0.02, 0.02), at)
    inner = (bottom + 0.015, top - 0.015)
    builder.box("screen", materials.screen(rng), centred(width - 0.03), inner, (0.02, 0.024), at)
