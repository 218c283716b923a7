"""Things in homes beyond `furniture`: beds, kitchens, screens, lamps, vases, heaps of things.

Every function builds around `at`: the centre of the footprint, front towards +z, its back to the wall.
"""

import math

import numpy as np

from mtpano_zoo.scenes import furniture, materials, outdoor_materials
from mtpano_zoo.scenes.materials import CHANNEL, Material
from mtpano_zoo.scenes.scene import Builder, Frame, centred

__all__ = ("bed", "heap", "island", "kitchen", "media", "nightstand", "pouf", "table_lamp", "vase", "wallpaper")


def bed(rng: np.random.Generator, builder: Builder, at: Frame, width: float, length: float) -> None:
    """Add a bed: frame, mattress, blanket, pillows and usually a headboard at the back."""
    frame, linen = materials.pick(rng, "furniture"), materials.fabric(rng)
    white = materials.white(rng)
    low, top = rng.uniform(0.2, 0.3), rng.uniform(0.42, 0.6)
    add = builder.box
    add("bed", frame, centred(width), (0.06, low), centred(length), at)
    for x in (-width / 2, width / 2 - 0.08):
        for z in (-length / 2, length / 2 - 0.08):
            add("bed", frame, (x, x + 0.08), (0.0, 0.06), (z, z + 0.08), at)
    add("bed", white, centred(width - 0.04), (low, top), centred(length - 0.04), at)
    if rng.random() < 0.85:
        back = (-length / 2 - 0.05, -length / 2)
        add("bed", frame if rng.random() < 0.6 else materials.fabric(rng), centred(width), (0.1, top + 0.5), back, at)
    cover = rng.uniform(0.45, 0.75)
    add("bed", linen, centred(width + 0.04), (top - 0.2, top + 0.07), (length * (0.5 - cover), length / 2), at)
    count = 2 if width > 1.3 else 1
    for i in range(count):
        x = (i + 0.5) * width / count - width / 2
        half = (0.4 * width / count, 0.09, 0.22)
        pillow = white if rng.random() < 0.6 else materials.fabric(rng)
        builder.ellipsoid("bed", pillow, half, top + 0.08, at.at(x, -length / 2 + 0.3, rng.uniform(-0.1, 0.1)))
    if rng.random() < 0.3:  # a throw at the foot
        foot = (length / 2 - 0.6, length / 2 - 0.15)
        add("bed", materials.fabric(rng), centred(width + 0.06), (top - 0.22, top + 0.09), foot, at)


def table_lamp(rng: np.random.Generator, builder: Builder, at: Frame, height: float, light: Material) -> None:
    """Add a small lamp that stands on something of the given height."""
    stem = height + rng.uniform(0.15, 0.3)
    look = materials.pick(rng, "object")
    builder.cylinder("lamp", look, 0.06, (height, height + 0.02), at)
    builder.cylinder("lamp", look, 0.012, (height + 0.02, stem), at)
    shade = light.copy()
    # Multiplied in double precision, as the scenes of earlier versions were.
    shade[CHANNEL["emission"]] = float(light[CHANNEL["emission"]]) * rng.choice([0.05, 0.5])
    if rng.random() < 0.6:
        builder.cone("lamp", shade, rng.uniform(0.1, 0.16), (stem, stem + 0.22), at)
    else:
        builder.sphere("lamp", shade, 0.1, stem + 0.09, at)


def nightstand(rng: np.random.Generator, builder: Builder, at: Frame, light: Material) -> None:
    """Add a small cabinet, often with a lamp or a plant on it."""
    height = rng.uniform(0.4, 0.6)
    furniture.cabinet(rng, builder, at, (0.42, 0.38), height)
    if rng.random() < 0.6:
        table_lamp(rng, builder, at, height, light)
    elif rng.random() < 0.5:
        furniture.plant(rng, builder, at, scale=0.35, base=height)


def kitchen(rng: np.random.Generator, builder: Builder, at: Frame, width: float, tall: float) -> None:
    """Add base units under a worktop with sink, hob and oven, wall units and a hood above, and a fridge at one end."""
    front, top = materials.pick(rng, "furniture"), materials.pick(rng, "furniture")
    steel = materials.material(materials.hsv(0.6, 0.03, rng.uniform(0.5, 0.85)), gloss=0.6, noise=0.02)
    black = materials.material(materials.hsv(0.0, 0.0, rng.uniform(0.08, 0.2)), gloss=0.7)
    add, depth, x0 = builder.box, 0.6, -width / 2
    back = (-depth / 2, depth / 2)
    x1 = width / 2
    if width > 2.0 and rng.random() < 0.75:
        fridge = steel if rng.random() < 0.5 else materials.white(rng)
        add("appliance", fridge, (x1 - 0.62, x1), (0.02, min(tall, rng.uniform(1.6, 2.0))), back, at)
        add("appliance", black, (x1 - 0.56, x1 - 0.53), (0.7, 1.1), (depth / 2, depth / 2 + 0.03), at)
        x1 -= 0.64
    add("cabinet", front, (x0, x1), (0.1, 0.86), (-depth / 2, depth / 2 - 0.03), at)
    add("cabinet", black, (x0, x1), (0.0, 0.1), (-depth / 2, depth / 2 - 0.1), at)
    add("cabinet", top, (x0, x1), (0.86, 0.9), (-depth / 2, depth / 2 + 0.02), at)
    units = max(2, round((x1 - x0) / 0.6))
    pitch, oven, sink = (x1 - x0) / units, int(rng.integers(units)), int(rng.integers(units))
    for i in range(units):
        x = (x0 + i * pitch + 0.006, x0 + (i + 1) * pitch - 0.006)
        face = (depth / 2 - 0.03, depth / 2 - 0.012)
        if i == oven:
            add("appliance", steel, x, (0.12, 0.85), face, at)
            add("appliance", black, (x[0] + 0.06, x[1] - 0.06), (0.25, 0.66), (face[1], face[1] + 0.006), at)
            add("appliance", black, (x[0], x[1]), (0.9, 0.906), (-0.22, 0.24), at)
            hood = (x[0], x[1])
        else:
            add("cabinet", front, x, (0.12, 0.85), face, at)
            add("cabinet", steel, (x[0] + 0.1, x[1] - 0.1), (0.78, 0.795), (face[1], face[1] + 0.03), at)
    if sink != oven:
        middle = x0 + (sink + 0.5) * pitch
        add("cabinet", steel, (middle - 0.25, middle + 0.25), (0.9, 0.905), (-0.18, 0.2), at)
        builder.cylinder("clutter", steel, 0.018, (0.9, 1.2), at.at(middle, -0.22))
        add("clutter", steel, (middle - 0.015, middle + 0.015), (1.17, 1.2), (-0.22, -0.05), at)
    if tall > 2.0 and rng.random() < 0.8:
        upper = (-depth / 2, -depth / 2 + 0.35)
        ceiling = min(tall - 0.02, rng.uniform(2.0, 2.3))
        for i in range(units):
            x = (x0 + i * pitch + 0.004, x0 + (i + 1) * pitch - 0.004)
            if i == oven:
                add("appliance", steel, hood, (1.6, 1.72), (-depth / 2, 0.15), at)
                add("appliance", steel, (hood[0] + 0.15, hood[1] - 0.15), (1.72, ceiling), (-depth / 2, -0.05), at)
            elif rng.random() < 0.85:
                add("cabinet", front, x, (1.42, ceiling), upper, at)
    furniture.tabletop(rng, builder, at.at((x0 + x1) / 2, 0.0), (x1 - x0, 0.45), 0.906)


def island(rng: np.random.Generator, builder: Builder, at: Frame, width: float, depth: float) -> None:
    """Add a kitchen island with room for stools under its overhang."""
    builder.box(
        "cabinet", materials.pick(rng, "furniture"), centred(width - 0.1), (0.0, 0.88), centred(depth - 0.3), at
    )
    builder.box("cabinet", materials.pick(rng, "furniture"), centred(width), (0.88, 0.93), centred(depth), at)
    furniture.tabletop(rng, builder, at, (width, depth), 0.93)


def media(rng: np.random.Generator, builder: Builder, at: Frame, width: float) -> None:
    """Add a low cabinet with a screen on it."""
    height = rng.uniform(0.35, 0.55)
    furniture.cabinet(rng, builder, at, (width, 0.4), height)
    size = min(width - 0.1, rng.uniform(0.8, 1.5))
    dark = materials.material(materials.hsv(0.0, 0.0, 0.15), gloss=0.3)
    low, high = height + 0.08, height + 0.08 + 0.58 * size
    builder.box("screen", dark, (-0.15, 0.15), (height, low + 0.05), (-0.1, 0.1), at)
    builder.box("screen", dark, centred(size), (low, high), (-0.04, 0.0), at)
    face = centred(size - 0.03)
    builder.box("screen", materials.screen(rng), face, (low + 0.015, high - 0.015), (0.0, 0.004), at)


def heap(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add bags, balls and boxes on a footprint of about 0.8 m."""
    for _ in range(int(rng.integers(2, 6))):
        spot = at.at(rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.uniform(-1.5, 1.5))
        look, size = materials.pick(rng, "object"), rng.uniform(0.08, 0.2)
        kind = rng.random()
        if kind < 0.4:
            builder.ellipsoid("clutter", look, (size, 0.8 * size, 0.7 * size), 0.8 * size, spot)
        elif kind < 0.8:
            builder.box("clutter", look, centred(2 * size), (0.0, rng.uniform(0.1, 0.4)), centred(1.4 * size), spot)
        else:
            builder.cylinder("clutter", look, 0.7 * size, (0.0, rng.uniform(0.2, 0.5)), spot)


def pouf(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a soft round seat."""
    builder.ellipsoid("chair", materials.fabric(rng), (0.3, 0.22, 0.3), 0.22, at)


def vase(rng: np.random.Generator, builder: Builder, at: Frame) -> None:
    """Add a floor vase, sometimes with twigs."""
    look, height = materials.plastic(rng), rng.uniform(0.25, 0.6)
    builder.ellipsoid("clutter", look, (0.13, height / 2, 0.13), height / 2, at)
    if rng.random() < 0.6:
        for i in range(3):
            spot = at.at(0.06 * math.sin(2.1 * i), 0.06 * math.cos(2.1 * i))
            builder.cylinder("plant", materials.wood(rng), 0.008, (height * 0.9, height + 0.4), spot)
            builder.ellipsoid("plant", outdoor_materials.leaves(rng), (0.07, 0.16, 0.07), height + 0.45, spot)


def wallpaper(rng: np.random.Generator) -> Material:
    """Draw a wallpaper: light stripes or a small pattern."""
    hue, value = rng.random(), rng.uniform(0.7, 0.95)
    first = materials.hsv(hue, rng.uniform(0.02, 0.3), value)
    second = materials.hsv(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.05, 0.45), value * rng.uniform(0.75, 0.98))
    size = rng.uniform(0.05, 0.3)
    tall = 1e3 if rng.random() < 0.55 else size * rng.uniform(0.6, 2.0)
    return materials.material(first, second, checker=1.0, cell_u=size, cell_v=tall, noise=0.03)
