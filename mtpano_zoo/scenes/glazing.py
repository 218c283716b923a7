"""Things of clear glass in homes of version 3: partitions, glazed doors, tops of tables.

A partition is labelled `window`, pane and frame, and a low one `fence`, like other railings. A glazed leaf is labelled
`door`, and the top of a table `table`.
"""

import math

import numpy as np

from mtpano_zoo.scenes import materials
from mtpano_zoo.scenes.lamps import lamp_places
from mtpano_zoo.scenes.materials import Material
from mtpano_zoo.scenes.plan import Plan
from mtpano_zoo.scenes.scene import Builder, Frame

__all__ = ("DOORS", "PARTITIONS", "TABLES", "doors", "partition")

PARTITIONS = 0.4  # share of the homes that look for a place for a partition
DOORS = 0.5  # share of the passages with glazed doors
TABLES = 0.25  # share of the tables with a glass top
_PASS = 0.5  # metres between a partition and the next wall or thing


def partition(rng: np.random.Generator, plan: Plan, builder: Builder, height: float, metal: Material) -> None:
    """Add a framed pane that divides the room, a frameless screen or a low balustrade, if there is a place for it."""
    low = rng.random() < 0.2
    tall = rng.uniform(0.95, 1.1) if low else min(height - 0.15, rng.uniform(1.9, 2.4))
    length = rng.uniform(0.9, 2.6)
    at = _place(rng, plan, length, tall)
    if at is None:
        return
    label, bar = "fence" if low else "window", rng.uniform(0.02, 0.045)
    ends, depth, glass = (-length / 2, length / 2), (-bar / 2, bar / 2), materials.clear_glass(rng)
    add = builder.box
    add(label, glass, (ends[0] + 0.002, ends[1] - 0.002), (0.01, tall - 0.004), (-0.005, 0.005), at)
    add(label, metal, ends, (0.0, bar), depth, at)
    if not low and length < 1.4 and rng.random() < 0.6:  # a screen as in a shower: held by the floor and one post
        add(label, metal, (ends[0], ends[0] + bar), (bar, tall), depth, at)
        return
    add(label, metal, ends, (tall - bar, tall), depth, at)
    bays = max(1, round(length / rng.uniform(0.6, 1.3)))
    for i in range(bays + 1):
        x = ends[0] + (length - bar) * i / bays
        add(label, metal, (x, x + bar), (bar, tall - bar), depth, at)
    if not low and rng.random() < 0.3:
        rail = rng.uniform(0.8, 1.1)
        add(label, metal, ends, (rail, rail + bar), depth, at)


def _place(rng: np.random.Generator, plan: Plan, length: float, tall: float) -> Frame | None:
    """Find a place for a partition, away from lamps: its start at a wall, or free-standing; and take it."""
    lamps = lamp_places(plan)
    for _ in range(12):
        wall, x = None, 0.0
        if rng.random() < 0.65:
            wall = plan.walls[int(rng.integers(len(plan.walls)))]
            x = rng.uniform(0.3, max(0.3, wall.length - 0.3))
            if wall.length < 1.2 or not wall.free(x - 0.15, x + 0.15, 0.0, tall):
                continue
            at = wall.frame.at(x, length / 2 + 0.005, -math.pi / 2)
            clear = plan.footprint(at.at(_PASS / 2, 0.0), length + _PASS, 0.1)
        else:
            yaw = rng.choice([0.0, math.pi / 2])
            at = Frame(rng.uniform(0.0, plan.width), rng.uniform(0.0, plan.depth), yaw)
            clear = plan.footprint(at, length + 2 * _PASS, _PASS)
        cos, sin = math.cos(at.yaw), math.sin(at.yaw)
        offsets = [(lamp.x - at.x, lamp.z - at.z) for lamp in lamps]
        if any(abs(a * cos - b * sin) < length / 2 + 0.25 and abs(a * sin + b * cos) < 0.25 for a, b in offsets):
            continue
        if clear is not None:  # the floor is free, with space for people to pass at the ends that stand free
            # Not occupied: what is see-through does not darken the floor.
            plan.block(at, length + 0.1, 0.3)
            if wall is not None:
                wall.taken.append((x - 0.05, x + 0.05, 0.0, tall))
            return at
    return None


def doors(
    rng: np.random.Generator,
    builder: Builder,
    look: Material,
    frame: Frame,
    x: tuple[float, float],
    top: float,
    back: float,
) -> None:
    """Close an opening of a wall with glazed leaves, or leave one of them open.

    Args:
        rng: Random numbers.
        builder: Gathers the parts.
        look: Material of the rails.
        frame: Frame of the wall.
        x: Start and end of the opening.
        top: Height of the opening.
        back: z of the far face of the wall, negative.
    """
    glass, grip = materials.clear_glass(rng), materials.gray(rng)
    stile, kick = rng.uniform(0.05, 0.12), rng.choice([0.1, 0.2, 0.7])
    leaves = max(1, round((x[1] - x[0]) / 0.9))
    width, is_open = (x[1] - x[0] - 0.02) / leaves, rng.random() < 0.4
    for i in range(leaves):
        at = frame.at(x[0] + 0.01 + i * width, 0.6 * back)
        if leaves == 1 and is_open:
            at = frame.at(x[0] + 0.02, back, rng.uniform(0.9, 1.75))
        elif i == 0 and is_open:  # slid behind its neighbour
            at = frame.at(x[0] + 0.01 + 0.95 * width, 0.6 * back - 0.06)
        _leaf(builder, (look, glass, grip), width, top - 0.01, (stile, kick), at)


def _leaf(
    builder: Builder,
    looks: tuple[Material, Material, Material],
    width: float,
    top: float,
    rails: tuple[float, float],
    at: Frame,
) -> None:
    """Add a leaf along x of a frame: two stiles, two rails, a pane, and a grip on either side."""
    (look, glass, grip), (stile, kick), depth = looks, rails, (-0.045, 0.0)
    add, x, low = builder.box, (0.002, width - 0.002), 0.005
    inner = (x[0] + stile, x[1] - stile)
    for side in ((x[0], inner[0]), (inner[1], x[1])):
        add("door", look, side, (low, top), depth, at)
    add("door", look, inner, (low, kick), depth, at)
    add("door", look, inner, (top - stile, top), depth, at)
    add("door", glass, inner, (kick, top - stile), (-0.026, -0.018), at)
    for z in ((-0.07, depth[0]), (depth[1], 0.025)):
        add("door", grip, (inner[1] + 0.01, inner[1] + 0.03), (0.95, 1.15), z, at)
