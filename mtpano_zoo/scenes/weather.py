"""Time of day and weather: sun, sky, clouds, haze, and the camera's exposure."""

import math

import numpy as np

from mtpano_zoo.scenes import materials
from mtpano_zoo.scenes.scene import Sky

__all__ = ("Weather",)


class Weather:
    """Day, overcast or dusk; `dark` turns lamps on, and `lit` is the share of windows with light behind them."""

    def __init__(self, rng: np.random.Generator) -> None:
        kind, heading = rng.random(), rng.uniform(-math.pi, math.pi)
        hue = rng.uniform(0.56, 0.62)
        self.dark = False
        self.lit = 0.0
        haze = float(math.exp(rng.uniform(math.log(400.0), math.log(6000.0))))
        if kind < 0.58:  # day
            elevation = math.radians(rng.uniform(14.0, 75.0))
            power = rng.uniform(0.9, 1.9)
            warm = 1 - 0.35 * (1 - math.sin(elevation))
            sunlight = (power, power * (0.86 + 0.12 * warm), power * (0.62 + 0.3 * warm))
            zenith = materials.hsv(hue, rng.uniform(0.45, 0.75), rng.uniform(0.6, 0.85))
            horizon = materials.hsv(hue, rng.uniform(0.08, 0.25), rng.uniform(0.85, 1.0))
            cloud, cover = (1.05, 1.05, 1.05), rng.uniform(0.0, 0.75)
            level, self.exposure = rng.uniform(0.35, 0.6), rng.uniform(0.75, 1.35)
            tint = (0.9, 0.98, 1.12)
        elif kind < 0.82:  # overcast
            elevation, sunlight = math.radians(rng.uniform(20.0, 60.0)), (0.0, 0.0, 0.0)
            gray = rng.uniform(0.55, 0.95)
            cloud, cover = (gray, gray, 1.02 * gray), rng.uniform(0.8, 1.0)
            zenith = horizon = (0.9 * gray, 0.93 * gray, 0.98 * gray)
            level, self.exposure = rng.uniform(0.6, 0.9), rng.uniform(0.8, 1.4)
            tint = (0.97, 1.0, 1.04)
            haze *= 0.6
        else:  # dusk
            degrees = rng.uniform(-4.0, 10.0)
            elevation, self.dark = math.radians(max(degrees, 1.5)), True
            power = max(0.0, degrees) * 0.12
            sunlight = (power, power * 0.55, power * 0.25)
            zenith = materials.hsv(rng.uniform(0.58, 0.68), rng.uniform(0.4, 0.7), rng.uniform(0.25, 0.55))
            horizon = materials.hsv(rng.uniform(0.02, 0.12), rng.uniform(0.2, 0.6), rng.uniform(0.5, 0.95))
            cloud, cover = materials.hsv(rng.uniform(0.85, 1.08), 0.3, rng.uniform(0.35, 0.75)), rng.uniform(0.0, 0.7)
            level, self.exposure = rng.uniform(0.12, 0.35), rng.uniform(1.2, 2.2)
            tint = (0.95, 0.95, 1.15)
            self.lit = rng.uniform(0.1, 0.6)
        if not any(sunlight):
            self.lit = max(self.lit, rng.uniform(0.0, 0.2))
        self.ambient = np.array([level * c for c in tint], dtype=np.float32)
        sun = (
            math.cos(elevation) * math.sin(heading),
            -math.sin(elevation),
            math.cos(elevation) * math.cos(heading),
        )
        self.sky = Sky(sun, sunlight, zenith, horizon, cloud, cover, rng.uniform(0.5, 1.6), haze)
