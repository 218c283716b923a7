"""The disc that many panoramas have below the camera, in place of the tripod: a logo, one colour, a mirror ball."""

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ("nadir_disc",)

ROWS = 256
NEAREST, FARTHEST = 5, 45  # degrees from straight down between which the border is looked for
COLUMNS = 0.8  # share of the columns that show the border
STEP = 8  # of 255, beyond twice the step of the rows around; 120 rendered and 6 real panoramas reach 4


def nadir_disc(pixels: NDArray[np.uint8], seen: NDArray[np.bool_] | None = None) -> float | None:
    """Return the radius, in degrees, of a disc that covers the nadir of a panorama (H, W, 3); None if there is none.

    Steps beside pixels that are not `seen` (H, W) do not count: what lies outside a crop, or is transparent, is black.

    Its border is a sharp step at one latitude in nearly all columns, which nothing else in a scene makes. A tripod has
    no such border, and neither has a patch that was blended into the floor.

    Example:
        >>> panorama = np.full((256, 512, 3), 200, np.uint8)
        >>> panorama[-32:] = 0  # 32 of 256 rows: 22.5 degrees
        >>> round(nadir_disc(panorama))
        23
        >>> nadir_disc(np.zeros_like(panorama)) is None
        True
    """
    if pixels.shape[0] < ROWS // 4:
        return None
    small = cv2.resize(pixels, (2 * ROWS, ROWS), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Between rows 2 apart: the border may lie within a row.
    steps = np.abs(small[2:] - small[:-2]).max(-1)
    degrees = 180 * (ROWS - 1.5 - np.arange(len(steps))) / ROWS  # of the middle of the row between
    if seen is not None:
        shown = cv2.resize(seen.astype(np.float32), (2 * ROWS, ROWS), interpolation=cv2.INTER_AREA) > 0.999
        steps[~(shown[2:] & shown[1:-1] & shown[:-2])] = np.nan
        known = np.isfinite(steps).mean(1) >= COLUMNS
        steps, degrees = steps[known], degrees[known]
    steps = np.nanquantile(steps, 1 - COLUMNS, axis=1)
    best, found = float(STEP), None
    for i in np.flatnonzero((degrees > NEAREST) & (degrees < FARTHEST) & (np.arange(len(steps)) >= 9)):
        around = np.median(np.r_[steps[i - 9 : i - 2], steps[i + 3 : i + 10]])
        if steps[i] - 2 * around > best:
            best, found = float(steps[i] - 2 * around), float(degrees[i])
    return found
