"""Procedural materials: one row of numbers each, so that a single texture formula shades every surface.

Colours are linear RGB albedo. A pattern is a grid of cells in surface coordinates (metres): rows may be shifted (brick,
planks), joints have a width and a tone, cells vary in brightness and hue, and every other cell may take the second
colour (checker, stripes). Value noise, stretched for wood grain, lies over it.
"""

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = (
    "CHANNEL",
    "Color",
    "Material",
    "board",
    "books",
    "brick",
    "cardboard",
    "carpet",
    "checker",
    "clear_glass",
    "concrete",
    "fabric",
    "foliage",
    "glow",
    "gray",
    "hsv",
    "material",
    "mirror",
    "paint",
    "panels",
    "pick",
    "picture",
    "planks",
    "plastic",
    "screen",
    "sky",
    "strong_paint",
    "tiles",
    "white",
    "wood",
)

Material = NDArray[np.float32]
Color = tuple[float, float, float]

FIELDS = (
    "red",
    "green",
    "blue",
    "red2",  # second colour: of every other cell, or the zenith of a sky
    "green2",
    "blue2",
    "cell_u",  # cell size in metres
    "cell_v",
    "turn",  # 1: u and v exchanged
    "shift",  # offset from row to row, in cells
    "line",  # joint width in metres
    "line_tone",  # factor on the colour inside a joint
    "jitter",  # brightness variation between cells
    "hue_jitter",  # colour variation between cells
    "checker",  # 1: every other cell takes the second colour
    "noise",  # amplitude
    "noise_u",  # noise periods per metre
    "noise_v",
    "gloss",
    "emission",
    "sky",  # 1: shows the outside, whatever lies behind the pane
    "pane_u",  # share of a cell that a window of the second colour fills, across; 0: no windows
    "pane_v",
    "lit",  # share of the windows with light behind them
    "mirror",  # share of the light that comes by reflection, on flat faces; of the rest, if there is glass
    "glass",  # share of the light that comes straight through, on flat faces; 0: opaque
)
CHANNEL = {name: i for i, name in enumerate(FIELDS)}

_DEFAULTS: dict[str, float] = dict.fromkeys(FIELDS, 0.0) | {
    "cell_u": 1e3,
    "cell_v": 1e3,
    "line_tone": 1.0,
    "noise": 0.05,
    "noise_u": 0.4,
    "noise_v": 0.4,
}


_DEFAULT_ROW: Material = np.array([_DEFAULTS[name] for name in FIELDS], dtype=np.float32)


def material(color: Color, color2: Color | None = None, **fields: float) -> Material:
    """Return a row of `FIELDS`: plain `color` with faint noise unless `fields` say otherwise.

    Example:
        >>> row = material((0.5, 0.4, 0.3), gloss=0.2)
        >>> row[:3].tolist() == row[3:6].tolist(), round(float(row[CHANNEL["gloss"]]), 2)
        (True, 0.2)
    """
    row = _DEFAULT_ROW.copy()
    row[0], row[1], row[2] = color
    row[3], row[4], row[5] = color if color2 is None else color2
    for name, value in fields.items():
        row[CHANNEL[name]] = value
    return row


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Return the linear RGB of a colour whose hue, saturation and value are perceptual (gamma 2).

    Example:
        >>> hsv(0.0, 1.0, 0.5)
        (0.25, 0.0, 0.0)
    """
    if not (0.0 <= saturation <= 1.0 and 0.0 <= value <= 1.0):
        saturation, value = min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red * red, green * green, blue * blue


def _color(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
    return hsv(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def _wood_color(rng: np.random.Generator) -> Color:
    return hsv(rng.uniform(0.05, 0.11), rng.uniform(0.25, 0.65), rng.uniform(0.35, 0.9))


def paint(rng: np.random.Generator) -> Material:
    """Draw a light, mostly unsaturated wall paint."""
    return material(_color(rng, (0.0, 0.22), (0.7, 0.97)), noise=rng.uniform(0.01, 0.06))


def strong_paint(rng: np.random.Generator) -> Material:
    """Draw a saturated or dark paint."""
    return material(_color(rng, (0.2, 0.75), (0.3, 0.85)), noise=rng.uniform(0.01, 0.08))


def gray(rng: np.random.Generator) -> Material:
    """Draw any grey, from black plastic to white lacquer."""
    return material(hsv(rng.random(), rng.uniform(0, 0.06), rng.uniform(0.12, 0.95)), gloss=rng.choice([0.0, 0.3]))


def white(rng: np.random.Generator) -> Material:
    """Draw a near white, as on most ceilings."""
    return material(hsv(rng.uniform(0.05, 0.2), rng.uniform(0, 0.06), rng.uniform(0.85, 0.98)), noise=0.02)


def concrete(rng: np.random.Generator) -> Material:
    """Draw a concrete: grey with large stains."""
    color = hsv(rng.uniform(0.05, 0.15), rng.uniform(0, 0.1), rng.uniform(0.45, 0.8))
    return material(color, noise=rng.uniform(0.15, 0.35), noise_u=0.35, noise_v=0.35)


def planks(rng: np.random.Generator) -> Material:
    """Draw wooden boards with grain, along either direction."""
    length, width = rng.uniform(0.8, 2.4), rng.uniform(0.08, 0.22)
    grain = rng.uniform(0.15, 0.5)
    row = material(
        _wood_color(rng),
        cell_u=length,
        cell_v=width,
        shift=rng.uniform(0.3, 0.6),
        line=rng.uniform(0.002, 0.008),
        line_tone=rng.uniform(0.3, 0.8),
        jitter=rng.uniform(0.05, 0.4),
        noise=grain,
        noise_u=0.25,
        noise_v=2.5,
        gloss=rng.uniform(0, 0.5),
    )
    return _turned(row) if rng.random() < 0.5 else row


def wood(rng: np.random.Generator) -> Material:
    """Draw a veneer of furniture and doors."""
    row = material(_wood_color(rng), noise=rng.uniform(0.1, 0.45), noise_u=0.2, noise_v=2.0, gloss=rng.uniform(0, 0.3))
    return _turned(row) if rng.random() < 0.5 else row


def tiles(rng: np.random.Generator) -> Material:
    """Draw square or oblong tiles with light or dark joints."""
    size = rng.uniform(0.1, 0.7)
    return material(
        _color(rng, (0.0, 0.3), (0.4, 0.95)),
        cell_u=size,
        cell_v=size * rng.choice([1.0, 1.0, 0.5]),
        line=rng.uniform(0.004, 0.02),
        line_tone=rng.uniform(0.4, 1.5),
        jitter=rng.uniform(0, 0.2),
        noise=rng.uniform(0.02, 0.25),
        noise_u=0.7,
        noise_v=0.7,
        gloss=rng.uniform(0, 0.6),
    )


def checker(rng: np.random.Generator) -> Material:
    """Draw two alternating colours, in squares or stripes."""
    size = rng.uniform(0.15, 0.6)
    stripes = rng.random() < 0.4
    return material(
        _color(rng, (0.0, 0.4), (0.5, 0.95)),
        _color(rng, (0.0, 0.5), (0.15, 0.8)),
        cell_u=size * rng.uniform(0.3, 1) if stripes else size,
        cell_v=1e3 if stripes else size,
        checker=1.0,
        gloss=rng.uniform(0, 0.4),
    )


def brick(rng: np.random.Generator) -> Material:
    """Draw bricks, red to white."""
    return material(
        hsv(rng.uniform(0.0, 0.08), rng.uniform(0.05, 0.65), rng.uniform(0.45, 0.9)),
        cell_u=rng.uniform(0.2, 0.3),
        cell_v=rng.uniform(0.06, 0.1),
        shift=0.5,
        line=rng.uniform(0.008, 0.016),
        line_tone=rng.uniform(0.5, 1.6),
        jitter=rng.uniform(0.1, 0.45),
        noise=0.2,
        noise_u=1.5,
        noise_v=1.5,
    )


def panels(rng: np.random.Generator) -> Material:
    """Draw ceiling tiles of about 60 cm with thin joints."""
    size = rng.choice([0.6, 0.6, 1.2])
    return material(
        hsv(0.12, rng.uniform(0, 0.08), rng.uniform(0.75, 0.97)),
        cell_u=size,
        cell_v=0.6,
        line=rng.uniform(0.01, 0.025),
        line_tone=rng.uniform(0.55, 0.9),
        jitter=rng.uniform(0, 0.05),
        noise=rng.uniform(0.02, 0.12),
        noise_u=4.0,
        noise_v=4.0,
    )


def carpet(rng: np.random.Generator) -> Material:
    """Draw a fine-grained carpet of any colour."""
    return material(
        _color(rng, (0.0, 0.6), (0.2, 0.75)), noise=rng.uniform(0.15, 0.4), noise_u=2.5, noise_v=2.5, jitter=0.05
    )


def fabric(rng: np.random.Generator) -> Material:
    """Draw upholstery of any colour, sometimes striped."""
    first = _color(rng, (0.0, 0.75), (0.15, 0.9))
    if rng.random() < 0.2:
        return material(first, _color(rng, (0.0, 0.5), (0.3, 0.95)), checker=1.0, cell_u=rng.uniform(0.03, 0.15))
    return material(first, noise=rng.uniform(0.05, 0.25), noise_u=2.0, noise_v=2.0)


def plastic(rng: np.random.Generator) -> Material:
    """Draw a glossy plastic of any colour."""
    return material(_color(rng, (0.0, 0.85), (0.1, 0.95)), gloss=rng.uniform(0.2, 0.8), noise=0.02)


def cardboard(rng: np.random.Generator) -> Material:
    """Draw brown cardboard with a strip of tape."""
    color = hsv(rng.uniform(0.07, 0.1), rng.uniform(0.35, 0.55), rng.uniform(0.5, 0.8))
    return material(color, cell_v=0.3, line=0.05, line_tone=rng.uniform(0.8, 1.15), noise=0.1)


def foliage(rng: np.random.Generator) -> Material:
    """Draw leaves: strong fine noise on green."""
    color = hsv(rng.uniform(0.2, 0.38), rng.uniform(0.45, 0.85), rng.uniform(0.3, 0.65))
    return material(color, noise=0.9, noise_u=3.0, noise_v=3.0, jitter=0.5, cell_u=0.06, cell_v=0.06)


def books(rng: np.random.Generator) -> Material:
    """Draw a row of book spines, each with its own colour."""
    return material(
        _color(rng, (0.1, 0.5), (0.4, 0.8)),
        cell_u=rng.uniform(0.02, 0.05),
        line=0.004,
        line_tone=0.4,
        jitter=rng.uniform(0.3, 0.8),
        hue_jitter=rng.uniform(0.2, 0.9),
    )


def screen(rng: np.random.Generator) -> Material:
    """Draw a screen: dark glass, or a lit display."""
    if rng.random() < 0.4:
        color, color2 = _color(rng, (0.1, 0.7), (0.4, 0.9)), _color(rng, (0.0, 0.3), (0.6, 1.0))
        cell = rng.uniform(0.05, 0.2)
        return material(color, color2, checker=1.0, cell_u=cell * 2, cell_v=cell, emission=rng.uniform(0.2, 0.7))
    return material(hsv(rng.random(), 0.1, rng.uniform(0.08, 0.2)), gloss=0.8, noise=0.0)


def picture(rng: np.random.Generator) -> Material:
    """Draw the content of a picture frame: blotches of two colours."""
    cell = rng.uniform(0.08, 0.4)
    return material(
        _color(rng, (0.1, 0.8), (0.3, 0.95)),
        _color(rng, (0.1, 0.8), (0.2, 0.9)),
        checker=float(rng.random() < 0.6),
        cell_u=cell,
        cell_v=cell * rng.uniform(0.5, 2),
        jitter=0.4,
        hue_jitter=rng.uniform(0, 0.6),
        noise=rng.uniform(0.1, 0.9),
        noise_u=1.0,
        noise_v=1.0,
    )


def board(rng: np.random.Generator) -> Material:
    """Draw a whiteboard, blackboard, green board or cork board."""
    kind = rng.random()
    if kind < 0.5:
        return material(hsv(0.6, 0.02, rng.uniform(0.88, 1.0)), gloss=0.4, noise=0.04)
    if kind < 0.7:
        return material(hsv(rng.random(), 0.05, rng.uniform(0.12, 0.25)), noise=0.3, noise_u=0.8, noise_v=0.8)
    if kind < 0.88:
        return material(hsv(rng.uniform(0.35, 0.45), rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.4)), noise=0.3)
    return material(hsv(0.08, 0.5, rng.uniform(0.55, 0.75)), noise=0.5, noise_u=3.0, noise_v=3.0)


def mirror(rng: np.random.Generator) -> Material:
    """Draw silvered glass, which is plain grey when seen in another mirror."""
    return material(hsv(0.5, 0.02, rng.uniform(0.6, 0.75)), noise=0.0, mirror=rng.uniform(0.85, 0.96))


def clear_glass(rng: np.random.Generator) -> Material:
    """Draw clear glass, slightly tinted. A second pane behind it is not seen."""
    tint = hsv(rng.uniform(0.3, 0.55), rng.uniform(0.05, 0.3), rng.uniform(0.4, 0.7))
    return material(tint, noise=0.0, gloss=rng.uniform(0.6, 0.9), mirror=0.4, glass=rng.uniform(0.8, 0.93))


def glow(color: Color, strength: float) -> Material:
    """Return a lamp of the given linear colour."""
    return material(color, noise=0.0, emission=strength)


def sky(horizon: Color, zenith: Color, strength: float) -> Material:
    """Return a window pane that shows the outside."""
    return material(horizon, zenith, sky=1.0, emission=strength, noise=0.3, noise_u=0.5, noise_v=0.5)


def _turned(row: Material) -> Material:
    """Turn a pattern by a right angle; in place."""
    row[CHANNEL["turn"]] = 1.0
    return row


Maker = Callable[[np.random.Generator], Material]

# Materials of a role with their probabilities: none is certain, so no texture identifies a class.
_ROLES: dict[str, Sequence[tuple[float, Maker]]] = {
    "wall": ((0.62, paint), (0.12, strong_paint), (0.1, brick), (0.05, tiles), (0.06, concrete), (0.05, wood)),
    "floor": ((0.32, planks), (0.22, tiles), (0.22, carpet), (0.1, concrete), (0.08, checker), (0.06, gray)),
    "ceiling": ((0.5, white), (0.25, panels), (0.1, concrete), (0.08, planks), (0.07, paint)),
    "structure": ((0.4, paint), (0.2, concrete), (0.15, wood), (0.15, strong_paint), (0.1, brick)),
    "door": ((0.45, wood), (0.25, paint), (0.2, strong_paint), (0.1, gray)),
    "frame": ((0.4, white), (0.3, wood), (0.3, gray)),
    "furniture": ((0.5, wood), (0.2, white), (0.15, gray), (0.15, strong_paint)),
    "leg": ((0.5, gray), (0.35, wood), (0.15, plastic)),
    "seat": ((0.4, fabric), (0.3, plastic), (0.3, wood)),
    "sofa": ((0.75, fabric), (0.15, gray), (0.1, strong_paint)),
    "object": ((0.35, plastic), (0.15, cardboard), (0.15, strong_paint), (0.15, wood), (0.1, gray), (0.1, picture)),
}


def pick(rng: np.random.Generator, role: str) -> Material:
    """Draw a material for a role, one of the keys of the table above."""
    threshold = rng.random()
    for weight, maker in _ROLES[role]:
        threshold -= weight
        if threshold < 0:
            return maker(rng)
    return _ROLES[role][-1][1](rng)
