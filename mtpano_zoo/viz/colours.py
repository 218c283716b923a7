"""Colour maps as RGB: arrays (H, W) or (H, W, 3) in, uint8 (H, W, 3) out."""

from typing import Any

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtpano_zoo.image_io import encode_normals

__all__ = ("colour_depth", "colour_normals", "colour_semseg", "colour_valid", "depth_range")

YES = np.array([60, 160, 80], np.uint8)
NO = np.array([110, 30, 30], np.uint8)


def colour_semseg(labels: NDArray[Any], palette: ArrayLike) -> NDArray[np.uint8]:
    """Colour class indices (H, W) by `palette` (N, 3); indices without a colour, such as 255, are black.

    Example:
        >>> colour_semseg(np.array([[1, 255]]), [(0, 0, 9), (7, 8, 9)]).tolist()
        [[[7, 8, 9], [0, 0, 0]]]
    """
    colours = np.asarray(palette, np.uint8).reshape(-1, 3)
    known = (labels >= 0) & (labels < len(colours))
    return np.vstack((colours, np.zeros((1, 3), np.uint8)))[np.where(known, labels, len(colours))]


def depth_range(depth: NDArray[Any]) -> tuple[float, float]:
    """Return the range in metres worth showing: the 1st to the 99th percentile of valid depth (finite, above 0).

    Example:
        >>> depth_range(np.array([0.0, 2.0, 2.0, np.nan]))
        (2.0, 2.01)
    """
    valid = depth[np.isfinite(depth) & (depth > 0)]
    if valid.size == 0:
        return 0.0, 1.0
    valid = valid[:: -(-valid.size // 1_000_000)]  # a million pixels are enough for percentiles
    low, high = (float(value) for value in np.percentile(valid, (1, 99)))
    return low, max(high, low + 0.01)  # a flat map still needs a range that a colour bar can label


def colour_depth(depth: NDArray[Any], minimum: float, maximum: float) -> NDArray[np.uint8]:
    """Colour depth (H, W) in metres from blue (`minimum` and nearer) to red (`maximum` and farther); no value is black.

    Fix the range over the frames of a video: a range per frame flickers.

    Example:
        >>> colour_depth(np.array([[0.0, 1.0]]), 1, 5)[0, 0].tolist()
        [0, 0, 0]
    """
    valid = np.isfinite(depth) & (depth > 0)
    level = np.clip((np.where(valid, depth, minimum) - minimum) / (maximum - minimum), 0, 1)
    colours: NDArray[np.uint8] = matplotlib.colormaps["turbo"](level, bytes=True)[..., :3]
    return np.where(valid[..., None], colours, np.uint8(0))


def colour_normals(normals: ArrayLike) -> NDArray[np.uint8]:
    """Colour unit normals (H, W, 3): red grows with x (right), green with y (down), blue with z (forward).

    These are the colours of the PNG that `encode_normals` makes; no value (the zero vector) is the middle grey.

    Example:
        >>> colour_normals(np.array([[[0.0, 0.0, -1.0]]])).tolist()
        [[[128, 128, 1]]]
    """
    colours: NDArray[np.uint8] = encode_normals(normals, 8)
    return colours


def colour_valid(valid: NDArray[Any]) -> NDArray[np.uint8]:
    """Colour a mask (H, W): green where it is true, dark red where it is not.

    Example:
        >>> colour_valid(np.array([[True, False]]))[0].argmax(1).tolist()
        [1, 0]
    """
    colours: NDArray[np.uint8] = np.where(valid[..., None].astype(bool), YES, NO)
    return colours
