"""Input of `mtpano generate edit`: a panorama with a mask, or a photograph or part of a panorama to extend."""

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.augment import place_photo, prepare_panorama
from mtpano_zoo.image_io import RATIO_TOLERANCE, load_panorama, read_panorama
from mtpano_zoo.image_io.decoding import decode_image
from mtpano_zoo.limits import read_file

__all__ = ("FieldOfView", "read_task")

FieldOfView = float | tuple[float, float]
"""Horizontal field of view of a photograph, or width and height of a part of a panorama, in degrees."""
DIAGONAL, LENS = 43.3, 26.0  # mm: diagonal of full frame, and a phone's main lens in full-frame equivalent


def read_task(
    image: str | Path, mask: str | Path | None, fov: FieldOfView | None, height: int | None
) -> tuple[Tensor, Tensor]:
    """Read the input of `edit`: the panorama (3, H, W) in [0, 1], and which of its pixels (H, W) are kept.

    Args:
        image: A panorama; with `fov`, a photograph or a part of a panorama to extend.
        mask: Image of the size of the panorama, white where it is to be repainted.
        fov: Field of view of the image, centred on the forward direction.
        height: Rows of the result. If omitted, those of the panorama, or 1024 with `fov`.

    Raises:
        InputError: If both or neither of mask and field of view are passed, or they do not fit the image.
        OSError: If a file cannot be read.
    """
    if height is not None and height < 1:
        raise InputError(f"a panorama has at least one row, not {height}")
    if mask is not None and fov is not None:
        raise InputError("pass --mask to edit a panorama, or --fov to extend an image, not both")
    if fov is None:
        return _masked(image, mask, height)
    if isinstance(fov, tuple):
        part = load_panorama(image, fov=fov)
        seen = np.ones(part.pixels.shape[:2], bool) if part.seen is None else part.seen
        kept = prepare_panorama(np.repeat(np.uint8(255) * seen[..., None], 3, 2), height or 1024).amin(0) > 0.99
        return prepare_panorama(part.pixels, height or 1024), kept
    return _photograph(_pixels(image), fov, height or 1024)


def _photograph(pixels: NDArray[np.uint8], fov: float, height: int) -> tuple[Tensor, Tensor]:
    """Place a photograph; shrink a large one first, because placing samples single pixels, which would alias."""
    rows, columns = pixels.shape[:2]
    finer = columns / 2 / math.tan(math.radians(fov) / 2) / (height / math.pi) if 0 < fov < 180 else 1.0
    if finer > 1:
        size = (max(1, round(columns / finer)), max(1, round(rows / finer)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    photo = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return place_photo(photo, sphere.rotation_matrix(), fov, height)


def _masked(image: str | Path, mask: str | Path | None, height: int | None) -> tuple[Tensor, Tensor]:
    try:
        pixels = read_panorama(image)
    except InputError:
        _check_full(image, *_pixels(image).shape[:2])
        raise
    if mask is None:
        raise InputError(f"pass --mask with an image of the size of {image}, white where it is to be repainted")
    white = _pixels(mask)
    height = height or pixels.shape[0]
    if white.shape != pixels.shape:
        raise InputError(
            f"the mask is {white.shape[0]} x {white.shape[1]}, but the panorama is {pixels.shape[0]} x "
            f"{pixels.shape[1]}: make them the same size"
        )
    grey = ((white > 5) & (white < 250)).any(-1)
    if grey.any():
        raise InputError(
            f"{int(grey.sum())} pixels of the mask are grey: paint it white where the panorama is to be repainted, and "
            "black elsewhere"
        )
    new = prepare_panorama(white, height).amax(0) > 0.5
    if not new.any():
        raise InputError(f"the mask {mask} is black, so nothing would change: paint it white where to repaint")
    return prepare_panorama(pixels, height), ~new


def _check_full(name: str | Path, rows: int, columns: int) -> None:
    """Check that an image has the shape of a whole panorama; otherwise say how to extend it to one."""
    ratio = columns / (2 * rows)
    if abs(ratio - 1) <= RATIO_TOLERANCE:
        return
    if ratio > 1:
        advice = f"a strip that goes all the way round, --fov 360x{360 * rows / columns:.3g}"
    else:
        side = DIAGONAL * columns / math.hypot(rows, columns)
        angle = math.degrees(2 * math.atan(side / 2 / LENS))
        advice = f"a photograph, its horizontal field of view: --fov {angle:.0f} with a phone's {LENS:g} mm lens"
    raise InputError(
        f"{name} is {columns} x {rows} pixels, but a panorama is twice as wide as high: to extend it, pass --fov "
        f"instead of --mask; for {advice}"
    )


def _pixels(path: str | Path) -> NDArray[np.uint8]:
    """Read an image of any shape, upright, as (H, W, 3)."""
    return decode_image(read_file(Path(path)), str(path)).pixels
