"""Choose the pixels of a map of distances that make a clean point cloud."""

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError

__all__ = ("clean_points",)


def clean_points(depth: NDArray[np.float32], edge: float | None = None, nadir: float = 0.0) -> NDArray[np.bool_]:
    """Return the pixels (H, W) of a panorama that have a distance, without edges and the place below the camera.

    Args:
        depth: metres (H, W), 0 = no value.
        edge: leave out pixels beside which the distance is this many times larger or smaller, left and right across the
            seam and above and below: there it is a mixture of two surfaces, and its points float between them.
        nadir: leave out what is less than so many degrees from straight down, where a tripod stands.

    Raises:
        InputError: If the ratio is not above 1, or the angle not from 0 to 180.

    Example:
        >>> depth = np.full((4, 8), 2, np.float32)
        >>> depth[0, 0] = 9
        >>> clean_points(depth, edge=1.5, nadir=50).astype(int).tolist()  # the lowest row is 22.5 degrees off
        [[0, 0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]]
    """
    if edge is not None and not edge > 1:
        raise InputError(f"edge is a ratio of distances above 1, not {edge}")
    if not 0 <= nadir <= 180:
        raise InputError(f"nadir is an angle from straight down in degrees, from 0 to 180, not {nadir}")
    valid: NDArray[np.bool_] = np.isfinite(depth) & (depth > 0)
    kept = valid.copy()
    if edge is not None:
        logarithm = np.log(np.where(valid, depth, 1))
        for axis in (0, 1):
            steep = np.abs(np.roll(logarithm, -1, axis) - logarithm) > np.log(edge)
            steep &= valid & np.roll(valid, -1, axis)
            if axis == 0:
                steep[-1] = False  # the lowest row is no neighbour of the highest
            kept &= ~(steep | np.roll(steep, 1, axis))
    below = (len(depth) - np.arange(len(depth)) - 0.5) / len(depth) * 180
    return kept & (below >= nadir)[:, None]
