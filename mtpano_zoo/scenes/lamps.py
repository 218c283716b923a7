"""Lamps and daylight, balanced so that rooms are neither black nor burnt out."""

import math

import numpy as np

from mtpano_zoo.scenes import materials
from mtpano_zoo.scenes.plan import Plan, Rect
from mtpano_zoo.scenes.scene import Builder, Float32, Frame

__all__ = ("Lights", "ceiling_lamps", "lamp_color", "lamp_places")

MAX_LIGHTS = 6


class Lights:
    """Light sources of a room, balanced so that it is neither black nor burnt out."""

    def __init__(self, rng: np.random.Generator, daylight: float, sky: materials.Color = (0.85, 0.95, 1.1)) -> None:
        self._rng = rng
        self._daylight = daylight
        self._sky = sky
        self._on = daylight < 0.3 or rng.random() < 0.7
        self._lamps: list[tuple[float, ...]] = []
        self._windows: list[tuple[float, ...]] = []
        self._beyond: list[tuple[float, ...]] = []

    def lamp(self, at: Frame, height: float, look: materials.Material) -> None:
        """Add a lamp over a place on the floor."""
        self._lamps.append((at.x, -height, at.z, *(float(c) for c in look[:3])))

    def window(self, at: Frame) -> None:
        """Add the light that comes in through a window."""
        self._windows.append((at.x, -1.5, at.z, *self._sky))

    def beyond(self, at: Frame, height: float, look: materials.Material, power: float) -> None:
        """Add a lamp of another room, which is on whether or not this room's lamps are."""
        self._beyond.append((at.x, -height, at.z, *(power * float(c) for c in look[:3])))

    def array(self, area: float) -> Float32:
        """Return the lights as (L, 6), the strongest first, because the first casts the shadows."""
        chosen: list[tuple[float, ...]] = []
        if self._windows and self._daylight > 0:
            power = 2.4 * self._daylight / math.sqrt(len(self._windows))
            chosen += [(*w[:3], *(power * c for c in w[3:])) for w in self._windows[:3]]
        if self._on or not chosen:
            kept = self._rng.permutation(len(self._lamps))[: MAX_LIGHTS - len(chosen)]
            power = 1.1 * math.sqrt(area) / max(1, len(kept))
            chosen += [(*lamp[:3], *(power * c for c in lamp[3:])) for lamp in (self._lamps[i] for i in kept)]
        chosen += self._beyond
        table = np.array(chosen, dtype=np.float32).reshape(-1, 6)
        return table[np.argsort(-table[:, 3], kind="stable")]

    def ambient(self) -> Float32:
        """Draw the light that comes from everywhere, bluish by day."""
        level, day = self._rng.uniform(0.18, 0.4), self._daylight
        return np.array([level * (1 - 0.05 * day), level, level * (1 + 0.1 * day)], dtype=np.float32)


def lamp_color(rng: np.random.Generator) -> materials.Color:
    """Draw a colour from daylight white to warm white."""
    warm = rng.random()
    return (1.0, 1.0 - 0.25 * warm, 1.0 - 0.55 * warm)


def ceiling_lamps(
    rng: np.random.Generator,
    plan: Plan,
    builder: Builder,
    height: float,
    lamp: materials.Material,
    camera: tuple[float, float],
    lights: Lights,
    clear: Rect | None = None,
) -> None:
    """Add panels, round lamps or pendants on a regular grid, none over `clear`."""
    kind = rng.random()
    size = (rng.uniform(0.15, 0.6), rng.uniform(0.4, 1.3))
    drop = rng.uniform(0.3, 0.7)
    for at in lamp_places(plan):
        near = math.hypot(at.x - camera[0], at.z - camera[1]) < 0.6
        if not plan.contains(at.x, at.z, 0.35) or (clear and _over(clear, at.x, at.z)):
            continue
        hanging = kind > 0.75 and not near
        if kind < 0.5:
            x, z = (-size[0] / 2, size[0] / 2), (-size[1] / 2, size[1] / 2)
            builder.box("lamp", lamp, x, (height - 0.04, height), z, at)
        elif not hanging:
            builder.cylinder("lamp", lamp, 0.18, (height - 0.08, height), at)
        else:
            builder.cylinder("lamp", materials.gray(rng), 0.01, (height - drop, height), at)
            builder.sphere("lamp", lamp, 0.16, height - drop - 0.14, at)
        lights.lamp(at, height - 0.1 - (drop + 0.1) * hanging, lamp)


def lamp_places(plan: Plan) -> list[Frame]:
    """Return the regular grid on which ceiling lamps may hang."""
    nx, nz = max(1, round(plan.width / 3)), max(1, round(plan.depth / 3))
    places = [(plan.width * (i + 0.5) / nx, plan.depth * (j + 0.5) / nz) for i in range(nx) for j in range(nz)]
    return [Frame(x, z, 0.0) for x, z in places]


def _over(rect: Rect, x: float, z: float) -> bool:
    """Return whether a lamp at a place would reach over a rectangle."""
    reach = 0.65  # metres, half of the longest lamp
    return rect.x0 - reach < x < rect.x1 + reach and rect.z0 - reach < z < rect.z1 + reach
