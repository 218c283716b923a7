"""Detect images that are 2:1 but not panoramas: fisheye pairs, stereo pairs, black margins, photographs.

Every threshold lies between the values of rendered and real panoramas and those of the wrong images.
"""

from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ("Layout", "doubt_about", "stereo_layout")

Array: TypeAlias = NDArray[np.float32]

ROWS = 128  # at this size sensor noise and compression are averaged away
SMALLEST = 64  # images with fewer rows are not judged
BLACK = 12  # of 255: darker pixels show nothing, even after JPEG
SHIFTS = 4  # pixels: largest disparity of a stereo pair, at half the size
ALIKE = 0.8  # correlation of halves; panoramas reach 0.61, pairs 0.88
ALIKE_EDGES = 0.35  # correlation of their edges; panoramas reach 0.24, pairs 0.42
JUMP = 1.5  # step across the seam over the largest step inside; 160 panoramas reach 1.01
BROKEN_ROWS = 0.6  # share of rows whose step at the seam stands out from its surroundings; panoramas reach 0.38
VISIBLE = 8  # of 255: smaller steps are differences of exposure

Layout = Literal["stacked", "beside"]


def stereo_layout(pixels: NDArray[np.uint8]) -> Layout | None:
    """Return how the two panoramas of a stereo pair (H, W, 3) are arranged: one above the other, or side by side.

    Pairs that are squeezed to 2:1 are recognised by their halves, which are nearly the same.

    Example:
        >>> stereo_layout(np.zeros((64, 64, 3), np.uint8))
        'stacked'
    """
    height, width = pixels.shape[:2]
    if abs(width / height - 1) < 0.01:
        return "stacked"
    if abs(width / (4 * height) - 1) < 0.01:
        return "beside"
    if abs(width / (2 * height) - 1) > 0.01 or height < SMALLEST:
        return None
    return _squeezed(_small(pixels).mean(2))


def doubt_about(pixels: NDArray[np.uint8], unstretched: tuple[int, int] | None = None) -> str | None:
    """Return what a 2:1 image (H, W, 3) looks like, and what to do; None if it looks like a panorama.

    Args:
        pixels: the image.
        unstretched: its height and width before it was stretched to 2:1; its own by default.

    Example:
        >>> doubt_about(np.zeros((64, 128, 3), np.uint8)) is None  # nothing to see
        True
    """
    if pixels.shape[0] < SMALLEST:
        return None
    image = _small(pixels)
    grey = image.mean(2)
    if _is_fisheye_pair(grey):
        return "shows two fisheye circles: stitch it with the camera's program or with `mtpano convert fisheye`"
    if margin := _black_margin(grey):
        return (
            f"has no image in its last {margin:.0%} of columns: cut the black margin off, or state the field "
            "of view of what remains with --fov"
        )
    if layout := _squeezed(grey):
        halves = "upper and lower" if layout == "stacked" else "left and right"
        return f"its {halves} halves are nearly the same, like a stereo pair: take one with --eye left or --eye right"
    if not _is_closed(image):
        height, width = unstretched or pixels.shape[:2]
        return (
            "its left and right edges do not meet, as in a photograph or a part of a panorama: state its field of view "
            f"as in --fov 180x{180 * height / width:.3g}"
        )
    return None


def _small(pixels: NDArray[np.uint8]) -> Array:
    return np.asarray(cv2.resize(pixels, (2 * ROWS, ROWS), interpolation=cv2.INTER_AREA), np.float32)


def _is_fisheye_pair(grey: Array) -> bool:
    row, column = np.indices((ROWS, ROWS)) - (ROWS - 1) / 2
    radius = np.hypot(row, column)
    # Lenses differ in size and place. The outside reaches beyond black poles, which many panoramas have.
    outside, inside = np.tile(radius > 0.54 * ROWS, (1, 2)), np.tile(radius < 0.35 * ROWS, (1, 2))
    return bool((grey[outside] < 2 * BLACK).mean() > 0.97 and (grey[inside] < 2 * BLACK).mean() < 0.5)


def _black_margin(grey: Array) -> float:
    """Return the share of black columns at the right edge, as in street-view tiles; 0 if the left edge is black too."""
    black = np.asarray((grey < BLACK).all(0))
    if black.all() or black[0]:
        return 0.0
    return float(np.argmin(black[::-1])) / len(black)


def _squeezed(grey: Array) -> Layout | None:
    half = np.asarray(cv2.resize(grey, (ROWS, ROWS // 2), interpolation=cv2.INTER_AREA), np.float32)
    middle = ROWS // 2
    # Floors, skies and black margins are the same in all directions, so edges along them do not count.
    detail = half - half.mean(1, keepdims=True)
    halves: dict[Layout, tuple[Array, Array, int]] = {
        "beside": (detail[:, :middle], detail[:, middle:], 1),
        "stacked": (half[: middle // 2], half[middle // 2 :], 0),
    }
    for layout, (first, second, axis) in halves.items():
        edges = np.diff(first, axis=axis), np.diff(second, axis=axis)
        if _alike(first, second) > ALIKE and _alike(*edges) > ALIKE_EDGES:
            return layout
    return None


def _alike(first: Array, second: Array) -> float:
    """Return the largest correlation of two images over small shifts; 0 if one of them is uniform."""
    first, second = first - first.mean(), second - second.mean()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    if size < first.size:  # less than one level of 255
        return 0.0
    return max(float((first * np.roll(second, shift, 1)).sum()) for shift in range(-SHIFTS, SHIFTS + 1)) / size


def _is_closed(image: Array) -> bool:
    """Return whether the left and right edges of an image (H, W, 3) meet as neighbouring columns do."""
    steps = np.abs(np.roll(image, -1, 1) - image).mean(2)
    seam, beside = steps[:, -1], (steps[:, 0] + steps[:, -2]) / 2
    if seam.mean() < VISIBLE:
        return True
    inside = float(steps[:, :-1].mean(0).max())
    return bool(seam.mean() <= JUMP * inside and (seam > 3 * beside + VISIBLE).mean() <= BROKEN_ROWS)
