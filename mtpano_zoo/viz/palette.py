"""Default colours for classes without a palette."""

from colorsys import hsv_to_rgb

import numpy as np
from numpy.typing import NDArray

__all__ = ("default_palette",)


def default_palette(count: int) -> NDArray[np.uint8]:
    """Return `count` different colours (N, 3), none of them near black, which stands for "no label".

    The first k colours do not depend on `count`.

    Example:
        >>> len(np.unique(default_palette(13), axis=0))
        13
    """
    index = np.arange(count)
    turn = index // 144  # after this Fibonacci number, hues repeat to within a degree, so all else shifts
    hue = (index * 0.61803398875 + turn * 0.0175) % 1  # the golden ratio keeps a hue away from all earlier ones
    saturation = (np.array([0.60, 0.85, 0.40])[index % 3] + turn * 0.12) % 1
    value = np.array([0.90, 0.65, 0.98, 0.78])[index % 4] * 0.95**turn
    colours = np.array([hsv_to_rgb(*colour) for colour in zip(hue, saturation, value, strict=True)]).reshape(-1, 3)
    palette: NDArray[np.uint8] = np.rint(colours * 255).astype(np.uint8)
    return palette
