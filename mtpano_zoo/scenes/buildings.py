"""Buildings: blocks of flats with shops, detached houses, towers, arcades.

Their windows are painted on the facade (see `outdoor_materials.facade`); roofs, cornices, balconies, doors, awnings and
chimneys are solid. All of it is labelled `building`.
"""

import dataclasses

import numpy as np

from mtpano_zoo.scenes import materials, outdoor_materials
from mtpano_zoo.scenes.materials import Material
from mtpano_zoo.scenes.scene import GABLE, HIP, Builder, Frame

__all__ = ("Style", "arcade", "balcony", "block", "house")

LABEL = "building"


@dataclasses.dataclass
class Style:
    """What the buildings of a street roughly share."""

    storey: float  # metres
    floors: tuple[int, int]
    lit: float  # share of lit windows
    flat: float  # share of flat roofs
    shops: float  # share of ground floors with shops


def block(
    rng: np.random.Generator, builder: Builder, at: Frame, width: float, depth: float, style: Style, fine: bool
) -> float:
    """Add a building of a row, with its front at z = 0 of `at`, from x = 0 to `width`; return its height."""
    floors, storey = int(rng.integers(style.floors[0], style.floors[1] + 1)), style.storey * rng.uniform(0.92, 1.1)
    wall = outdoor_materials.plaster(rng)
    columns = max(1, round(width / rng.uniform(1.8, 3.4)))
    cell, ribbon = (width / columns, storey), rng.random() < 0.2
    pane = (0.92, rng.uniform(0.4, 0.6)) if ribbon else (rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.65))
    look = outdoor_materials.facade(rng, wall, cell, style.lit, pane)
    depth = max(1, round(depth / cell[0])) * cell[0]
    height, ground = storey * (floors + 1), storey
    builder.box(LABEL, look, (0.0, width), (ground, height), (-depth, 0.0), at, own=True)
    _ground_floor(rng, builder, at, width, depth, ground, wall, style, fine)
    _roof(rng, builder, at, width, depth, height, wall, style)
    if fine:
        _details(rng, builder, at, width, cell, floors, storey, wall)
    return height


def _ground_floor(
    rng: np.random.Generator,
    builder: Builder,
    at: Frame,
    width: float,
    depth: float,
    height: float,
    wall: Material,
    style: Style,
    fine: bool,
) -> None:
    shop = rng.random() < style.shops
    base = wall if rng.random() < 0.4 else outdoor_materials.plaster(rng)
    columns = max(1, round(width / (3.2 if shop else 2.4)))
    cell = (width / columns, height)
    pane = (0.82, 0.7) if shop else (rng.uniform(0.35, 0.55), rng.uniform(0.4, 0.55))
    lit = max(style.lit, 0.25) if shop else style.lit
    look = outdoor_materials.facade(rng, base, cell, lit, pane)
    front = rng.choice([0.0, 0.06])
    builder.box(LABEL, look, (0.0, width), (0.0, height), (-depth, front), at, own=True)
    band = (height - 0.15, height + 0.1)
    builder.box(LABEL, materials.paint(rng), (-0.01, width + 0.01), band, (-depth, front + 0.12), at)
    if not fine:
        return
    door = materials.pick(rng, "door")
    for _ in range(int(rng.integers(1, 3))):
        x = (int(rng.integers(0, columns)) + 0.5) * cell[0]
        wide, top = rng.uniform(0.9, 1.6), rng.uniform(2.1, 2.6)
        builder.box(
            LABEL,
            materials.pick(rng, "frame"),
            (x - wide / 2 - 0.12, x + wide / 2 + 0.12),
            (0.0, top + 0.12),
            (front, front + 0.08),
            at,
        )
        builder.box(LABEL, door, (x - wide / 2, x + wide / 2), (0.05, top), (front, front + 0.11), at)
        builder.box(LABEL, materials.concrete(rng), (x - wide / 2, x + wide / 2), (0.0, 0.12), (front, front + 0.4), at)
    if shop and rng.random() < 0.6:
        cloth, reach = materials.fabric(rng), rng.uniform(0.8, 1.6)
        x0, x1 = 0.1 * width, rng.uniform(0.5, 0.95) * width
        # Half of a gable roof is an awning; the other half is inside the wall.
        builder.roof(LABEL, cloth, (x0, x1), (height - 0.75, height - 0.2), (-reach, reach), at.at(0.0, front), GABLE)
    if shop:
        board = materials.strong_paint(rng)
        builder.box(
            "sign",
            board,
            (0.08 * width, rng.uniform(0.4, 0.9) * width),
            (height - 0.75, height - 0.2),
            (front, front + 0.14),
            at,
        )


def _roof(
    rng: np.random.Generator,
    builder: Builder,
    at: Frame,
    width: float,
    depth: float,
    height: float,
    wall: Material,
    style: Style,
) -> None:
    if rng.random() < style.flat:
        edge = rng.uniform(0.2, 0.6)
        builder.box(LABEL, wall, (-0.08, width + 0.08), (height, height + edge), (-0.3, 0.12), at)
        builder.box(LABEL, materials.gray(rng), (0.0, width), (height, height + 0.1), (-depth, -0.3), at)
        if rng.random() < 0.5:
            x = rng.uniform(0.2, 0.6) * width
            builder.box(
                LABEL, materials.gray(rng), (x, x + 2.0), (height, height + 1.8), (-0.7 * depth, -0.4 * depth), at
            )
        return
    tiles, rise = outdoor_materials.roofing(rng), depth * rng.uniform(0.25, 0.45)
    over = rng.uniform(0.1, 0.5)
    builder.roof(LABEL, tiles, (0.0, width), (height, height + rise), (-depth - over, over), at, GABLE)
    builder.box(LABEL, materials.paint(rng), (0.0, width), (height - 0.2, height), (-depth - over, over), at)
    for _ in range(int(rng.integers(0, 3))):
        x, z = rng.uniform(0.1, 0.85) * width, -depth * rng.uniform(0.3, 0.7)
        builder.box(
            LABEL, materials.brick(rng), (x, x + 0.7), (height + 0.3 * rise, height + rise + 1.0), (z, z + 0.5), at
        )


def _details(
    rng: np.random.Generator,
    builder: Builder,
    at: Frame,
    width: float,
    cell: tuple[float, float],
    floors: int,
    storey: float,
    wall: Material,
) -> None:
    trim = materials.paint(rng) if rng.random() < 0.7 else wall
    if rng.random() < 0.6:  # sills under every storey of windows
        for i in range(1, floors + 1):
            level = i * storey + 0.18 * storey
            builder.box(LABEL, trim, (0.0, width), (level - 0.08, level), (0.0, 0.07), at)
    if rng.random() < 0.35:  # pilasters
        for x in np.arange(0.0, width + 0.1, 2 * cell[0]).tolist():
            builder.box(LABEL, trim, (x - 0.15, x + 0.15), (0.0, storey * (floors + 1)), (0.0, 0.1), at)
    if rng.random() < 0.45:
        slab, rail = materials.concrete(rng), outdoor_materials.metal(rng)
        columns = round(width / cell[0])
        chosen = [c for c in range(columns) if rng.random() < 0.5]
        for i in range(1, min(floors, 6) + 1):
            for c in chosen:
                balcony(builder, at, ((c + 0.05) * cell[0], (c + 0.95) * cell[0]), i * storey, slab, rail, False)


def balcony(
    builder: Builder,
    at: Frame,
    x: tuple[float, float],
    floor: float,
    slab: Material,
    rail: Material,
    fine: bool,
    reach: float = 1.1,
) -> None:
    """Add a slab with a railing: of bars if `fine`, otherwise a closed parapet."""
    label = LABEL if not fine else "fence"
    builder.box(LABEL, slab, x, (floor - 0.15, floor), (0.0, reach), at)
    top = floor + 1.0
    if fine:
        builder.box(label, rail, x, (top - 0.06, top), (reach - 0.06, reach), at)
        for side in (x[0], x[1] - 0.05):
            builder.box(label, rail, (side, side + 0.05), (top - 0.06, top), (0.0, reach - 0.06), at)
        for p in np.arange(x[0], x[1] - 0.02, 0.14).tolist():
            builder.box(label, rail, (p, p + 0.02), (floor, top - 0.06), (reach - 0.04, reach - 0.02), at)
        return
    builder.box(label, rail, x, (floor + 0.1, top), (reach - 0.05, reach), at)
    for side in (x[0], x[1] - 0.05):
        builder.box(label, rail, (side, side + 0.05), (floor + 0.1, top), (0.0, reach - 0.05), at)


def house(rng: np.random.Generator, builder: Builder, at: Frame, width: float, depth: float, lit: float) -> None:
    """Add a detached house around `at`, one or two storeys under a roof, front towards +z."""
    storey, floors = rng.uniform(2.6, 3.1), int(rng.integers(1, 3))
    wall, height = outdoor_materials.plaster(rng), storey * floors
    columns = max(2, round(width / 2.6))
    look = outdoor_materials.facade(
        rng, wall, (width / columns, storey), lit, (rng.uniform(0.35, 0.55), rng.uniform(0.4, 0.55))
    )
    corner = at.at(-width / 2, depth / 2)
    builder.box(LABEL, look, (0.0, width), (0.0, height), (-depth, 0.0), corner, own=True)
    tiles, over = outdoor_materials.roofing(rng), rng.uniform(0.3, 0.7)
    rise = depth * rng.uniform(0.25, 0.5)
    span = ((-over, width + over), (height, height + rise), (-depth - over, over))
    builder.roof(LABEL, tiles, *span, corner, HIP if rng.random() < 0.35 else GABLE)
    builder.box(LABEL, materials.paint(rng), span[0], (height - 0.18, height), span[2], corner)
    x = rng.uniform(0.2, 0.7) * width
    builder.box(
        LABEL, materials.brick(rng), (x, x + 0.6), (height, height + rise + 0.6), (-0.6 * depth, -0.5 * depth), corner
    )
    x = (int(rng.integers(0, columns)) + 0.5) * width / columns
    builder.box(LABEL, materials.pick(rng, "door"), (x - 0.5, x + 0.5), (0.1, 2.2), (0.0, 0.08), corner)
    builder.box(LABEL, materials.concrete(rng), (x - 0.9, x + 0.9), (0.0, 0.12), (0.0, 1.0), corner)
    if rng.random() < 0.4:
        builder.roof(LABEL, tiles, (x - 1.1, x + 1.1), (2.4, 3.0), (-1.2, 1.2), corner, GABLE)
    if rng.random() < 0.5:  # a garage
        side = width if rng.random() < 0.5 else -3.4
        builder.box(LABEL, wall, (side, side + 3.4), (0.0, 2.7), (-5.5, -0.6), corner)
        builder.box(LABEL, materials.gray(rng), (side + 0.4, side + 3.0), (0.05, 2.2), (-0.6, -0.55), corner)


def arcade(rng: np.random.Generator, builder: Builder, at: Frame, width: float, height: float, reach: float) -> None:
    """Add a covered walk in front of a facade: columns, a beam over them and a ceiling, along x of `at`."""
    look = outdoor_materials.plaster(rng)
    look[materials.CHANNEL["line"]] = 0.0
    builder.box("ceiling", materials.paint(rng), (0.0, width), (height, height + 0.2), (0.0, reach), at)
    builder.box("beam", look, (0.0, width), (height - 0.45, height + 0.35), (reach - 0.45, reach), at)
    pitch, half, is_round = rng.uniform(2.6, 4.5), rng.uniform(0.18, 0.32), rng.random() < 0.5
    count = max(1, round(width / pitch))
    for i in range(count + 1):
        x = min(max(width * i / count, half), width - half)
        place = at.at(x, reach - 0.225)
        if is_round:
            builder.cylinder("column", look, half, (0.0, height - 0.45), place)
        else:
            builder.box("column", look, (-half, half), (0.0, height - 0.45), (-half, half), place)
        builder.box("column", look, (-half - 0.08, half + 0.08), (0.0, 0.25), (-half - 0.08, half + 0.08), place)
