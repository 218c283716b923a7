"""Resize decoded maps to the size of a sample."""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from mtpano_zoo.resize import resize
from mtpano_zoo.tasks import SAMPLE_MAPS

__all__ = ("resize_map",)


def resize_map(role: str, values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize a decoded map: classes and depth by the nearest pixel, images by area, normals bilinearly.

    Shrinking averages images over the area of a pixel; growing interpolates them around the seam. Normals are
    interpolated between measured pixels and scaled to length one; a hole remains where the nearest pixel is one.

    Example:
        >>> resize_map("semseg", np.array([[1, 2]], np.uint8), 2, 4).tolist()
        [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    rows, columns = values.shape[:2]
    if (rows, columns) == (height, width):
        return values
    if SAMPLE_MAPS[role].sampling == "image":
        if height <= rows and width <= columns:
            shrunk: NDArray[Any] = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
            return shrunk
        grown = resize(torch.from_numpy(np.require(values, None, "W")).permute(2, 0, 1), height, width).permute(1, 2, 0)
        return grown.round().byte().numpy()
    nearest = values[_nearest(rows, height)[:, None], _nearest(columns, width)]
    if SAMPLE_MAPS[role].sampling != "vectors":
        return nearest
    top, bottom, down = _between(rows, height)
    left, right, across = _between(columns, width)
    top, bottom = top.clip(0)[:, None], bottom.clip(max=rows - 1)[:, None]
    left, right = left % columns, right % columns
    upper = values[top, left] * (1 - across) + values[top, right] * across
    lower = values[bottom, left] * (1 - across) + values[bottom, right] * across
    mixed = upper * (1 - down[:, None]) + lower * down[:, None]  # holes are zero: they have no weight
    length = np.linalg.norm(mixed, axis=-1, keepdims=True)
    known = (nearest != 0).any(-1, keepdims=True) & (length > 0)
    smooth: NDArray[np.float32] = np.divide(mixed, length, out=np.zeros_like(mixed), where=known)
    return smooth


def _nearest(size: int, new_size: int) -> NDArray[np.intp]:
    """Return the sample nearest to the centre of each new one; if two are equally near, the later one."""
    return (2 * np.arange(new_size) + 1) * size // (2 * new_size)


def _between(size: int, new_size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the two samples around the centre of each new one, and the weight (new_size, 1) of the second."""
    position = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(position).astype(np.intp)
    return first, first + 1, (position - first).astype(np.float32)[:, None]
