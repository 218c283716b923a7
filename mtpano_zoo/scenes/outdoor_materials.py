"""Materials under the open sky; see `materials` for what the numbers mean."""

import numpy as np

from mtpano_zoo.scenes.materials import CHANNEL, Material, brick, concrete, hsv, material

__all__ = (
    "asphalt",
    "bark",
    "car_paint",
    "cloth",
    "dark_glass",
    "earth",
    "facade",
    "grass",
    "leaves",
    "metal",
    "paving",
    "plaster",
    "roofing",
    "rubber",
    "skin",
    "stripes",
)

# What windows replace: all of the pattern of cells but their size and the tone of the joints.
_PATTERN = np.array([CHANNEL[name] for name in ("turn", "shift", "line", "jitter", "hue_jitter", "checker")])


def asphalt(rng: np.random.Generator) -> Material:
    """Draw asphalt: grey with patches."""
    color = hsv(rng.uniform(0.05, 0.65), rng.uniform(0.0, 0.08), rng.uniform(0.28, 0.55))
    return material(color, noise=rng.uniform(0.15, 0.4), noise_u=0.07, noise_v=0.07)


def paving(rng: np.random.Generator) -> Material:
    """Draw slabs, setts or plain concrete."""
    kind, value = rng.random(), rng.uniform(0.45, 0.8)
    color = hsv(rng.uniform(0.04, 0.14), rng.uniform(0.02, 0.2), value)
    if kind < 0.25:
        return concrete(rng)
    size = rng.uniform(0.3, 0.8) if kind < 0.65 else rng.uniform(0.1, 0.2)
    return material(
        color,
        cell_u=size,
        cell_v=size * rng.choice([1.0, 0.5, 1.5]),
        shift=rng.choice([0.0, 0.5]),
        line=0.06 * size,
        line_tone=rng.uniform(0.5, 0.85),
        jitter=rng.uniform(0.05, 0.3),
        noise=rng.uniform(0.05, 0.2),
    )


def grass(rng: np.random.Generator) -> Material:
    """Draw grass: green to dry, with patches."""
    color = hsv(rng.uniform(0.17, 0.33), rng.uniform(0.35, 0.7), rng.uniform(0.35, 0.62))
    return material(color, noise=rng.uniform(0.35, 0.7), noise_u=0.02, noise_v=0.023)


def earth(rng: np.random.Generator) -> Material:
    """Draw soil, sand or stubble."""
    color = hsv(rng.uniform(0.07, 0.13), rng.uniform(0.2, 0.5), rng.uniform(0.4, 0.75))
    return material(color, noise=rng.uniform(0.2, 0.5), noise_u=0.018, noise_v=0.02)


def leaves(rng: np.random.Generator) -> Material:
    """Draw foliage from afar: dark gaps and light tips, sometimes in autumn colours."""
    autumn = rng.random() < 0.12
    color = hsv(
        rng.uniform(0.04, 0.14) if autumn else rng.uniform(0.19, 0.36),
        rng.uniform(0.35, 0.8),
        rng.uniform(0.28, 0.55),
    )
    return material(color, noise=rng.uniform(0.7, 1.0), noise_u=0.8, noise_v=0.8, jitter=0.35, cell_u=0.17, cell_v=0.15)


def bark(rng: np.random.Generator) -> Material:
    """Draw bark for trunks."""
    return material(
        hsv(rng.uniform(0.05, 0.1), rng.uniform(0.1, 0.4), rng.uniform(0.25, 0.5)), noise=0.5, noise_u=3.0, noise_v=0.7
    )


def plaster(rng: np.random.Generator) -> Material:
    """Draw a facade: mostly light, sometimes strong, sometimes brick or concrete."""
    kind = rng.random()
    if kind < 0.25:
        return brick(rng)
    if kind < 0.35:
        return concrete(rng)
    light = rng.random() < 0.75
    color = hsv(
        rng.choice([rng.uniform(0.02, 0.16), rng.random()]),
        rng.uniform(0.02, 0.25) if light else rng.uniform(0.2, 0.55),
        rng.uniform(0.65, 0.95) if light else rng.uniform(0.4, 0.8),
    )
    return material(color, noise=rng.uniform(0.05, 0.2), noise_u=0.3, noise_v=0.3)


def facade(
    rng: np.random.Generator, wall: Material, cell: tuple[float, float], lit: float, pane: tuple[float, float]
) -> Material:
    """Return a wall with a window in every cell (metres across and up), of which the window fills the share `pane`."""
    row = wall.copy()
    glass = hsv(rng.uniform(0.5, 0.65), rng.uniform(0.1, 0.4), rng.uniform(0.15, 0.45))
    row[3], row[4], row[5] = glass
    if row[CHANNEL["line"]] > 0:  # bricks
        row[CHANNEL["noise"]], row[CHANNEL["noise_u"]], row[CHANNEL["noise_v"]] = 0.35, 1.5, 2.5
    row[CHANNEL["cell_u"]], row[CHANNEL["cell_v"]] = cell
    row[CHANNEL["pane_u"]], row[CHANNEL["pane_v"]] = pane
    row[CHANNEL["lit"]], row[CHANNEL["gloss"]] = lit, 0.1
    row[_PATTERN] = 0.0
    return row


def roofing(rng: np.random.Generator) -> Material:
    """Draw red, brown or grey roof tiles."""
    kind = rng.random()
    hue, saturation = (rng.uniform(0.0, 0.06), rng.uniform(0.4, 0.7)) if kind < 0.5 else (0.6, rng.uniform(0.0, 0.15))
    return material(
        hsv(hue, saturation, rng.uniform(0.3, 0.65)),
        cell_u=0.3,
        cell_v=0.35,
        line=0.04,
        line_tone=0.6,
        jitter=0.3,
        noise=0.25,
    )


def car_paint(rng: np.random.Generator) -> Material:
    """Draw a car paint: white, grey or black, sometimes a colour."""
    if rng.random() < 0.65:
        return material(hsv(0.6, 0.05, rng.choice([0.12, 0.35, 0.6, 0.95])), gloss=0.7, noise=0.02)
    return material(hsv(rng.random(), rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.8)), gloss=0.7, noise=0.02)


def dark_glass() -> Material:
    """Return dark glass, as of windscreens."""
    return material(hsv(0.58, 0.2, 0.2), gloss=0.9, noise=0.0)


def rubber() -> Material:
    """Return rubber, as of tyres."""
    return material(hsv(0.0, 0.0, 0.15), noise=0.1)


def stripes(rng: np.random.Generator, base: Material, length: float) -> Material:
    """Draw road markings: dashes along the second texture coordinate, or one line if `length` is 0."""
    white = hsv(0.12, rng.uniform(0.0, 0.1), rng.uniform(0.75, 0.95))
    if length == 0:
        return material(white, noise=0.2)
    return material(white, (float(base[0]), float(base[1]), float(base[2])), checker=1.0, cell_v=length, cell_u=length)


def skin(rng: np.random.Generator) -> Material:
    """Draw a skin colour."""
    return material(hsv(rng.uniform(0.03, 0.08), rng.uniform(0.25, 0.55), rng.uniform(0.35, 0.9)), noise=0.03)


def cloth(rng: np.random.Generator) -> Material:
    """Draw the cloth of people's clothes: any colour, often dark."""
    return material(
        hsv(rng.random(), rng.uniform(0.0, 0.7), rng.uniform(0.1, 0.9)), noise=0.15, noise_u=2.0, noise_v=2.0
    )


def metal(rng: np.random.Generator) -> Material:
    """Draw the metal of poles and railings."""
    return material(hsv(rng.uniform(0.3, 0.65), rng.uniform(0.0, 0.3), rng.uniform(0.15, 0.65)), noise=0.05, gloss=0.2)
