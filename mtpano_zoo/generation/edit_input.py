"""What `mtpano generate edit` takes: a panorama and a mask, or a photograph or part of a panorama to be extended."""

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
"""Degrees across of a photograph, or degrees across and down of a part of a panorama."""
DIAGONAL, LENS = 43.3, 26.0  # mm: of full frame, and the lens of a phone's main camera on it


def read_task(
    image: str | Path, mask: str | Path | None, fov: FieldOfView | None, height: int | None
) -> tuple[Tensor, Tensor]:
    """Read what `edit` takes: the panorama (3, H, W) in [0, 1], and which of its pixels (H, W) stay.

    Args:
        image: A panorama; with `fov` a photograph, or a part of a panorama, to be extended.
        mask: Image of the size of the panorama, white where something new is to be.
        fov: What the image shows of the sphere, around the direction that is forward.
        height: Rows of the result; those of the panorama, or 1024 for what is extended, if not given.

    Raises:
        InputError: If mask and field of view are both given, or none, or do not fit the image.
        OSError: If a file cannot be read.
    """
    if height is not None and height < 1:
        raise InputError(f"a panorama has at least one row, not {height}")
    if mask is not None and fov is not None:
        raise InputError("pass --mask for a panorama, or --fov for what is to be extended, not both")
    if fov is None:
        return _masked(image, mask, height)
    if isinstance(fov, tuple):
        part = load_panorama(image, fov=fov)
        seen = np.ones(part.pixels.shape[:2], bool) if part.seen is None else part.seen
        kept = prepare_panorama(np.repeat(np.uint8(255) * seen[..., None], 3, 2), height or 1024).amin(0) > 0.99
        return prepare_panorama(part.pixels, height or 1024).clamp(0, 1), kept
    return _photograph(_pixels(image), fov, height or 1024)


def _photograph(pixels: NDArray[np.uint8], fov: float, height: int) -> tuple[Tensor, Tensor]:
    """Place a photograph; a large one is shrunk first, as placing takes single pixels of it."""
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
        raise InputError(f"pass --mask with an image of the size of {image} that is white where something new is to be")
    white = _pixels(mask)
    height = height or pixels.shape[0]
    if white.shape != pixels.shape:
        raise InputError(
            f"the mask is {white.shape[0]} x {white.shape[1]}, but the panorama {pixels.shape[0]} x {pixels.shape[1]}: "
            "paint the mask on the panorama"
        )
    grey = ((white > 5) & (white < 250)).any(-1)
    if grey.any():
        raise InputError(
            f"{int(grey.sum())} pixels of the mask are grey: it is white where something new is to be, else black"
        )
    new = prepare_panorama(white, height).amax(0) > 0.5
    if not new.any():
        raise InputError(f"the mask {mask} is black, so nothing would change: paint white where something new is to be")
    return prepare_panorama(pixels, height).clamp(0, 1), ~new


def _check_full(name: str | Path, rows: int, columns: int) -> None:
    """See that an image may be a whole panorama, or say how it is extended to one."""
    ratio = columns / (2 * rows)
    if abs(ratio - 1) <= RATIO_TOLERANCE:
        return
    if ratio > 1:
        advice = f"a strip that goes all the way round, --fov 360x{360 * rows / columns:.3g}"
    else:
        side = DIAGONAL * columns / math.hypot(rows, columns)
        angle = math.degrees(2 * math.atan(side / 2 / LENS))
        advice = f"a photograph, its degrees across: --fov {angle:.0f} for a lens of {LENS:g} mm, as phones have"
    raise InputError(
        f"{name} is {columns} x {rows} pixels, but a panorama is twice as wide as high: to extend it, pass --fov in "
        f"place of --mask; for {advice}"
    )


def _pixels(path: str | Path) -> NDArray[np.uint8]:
    """Read an image of any shape, upright, as (H, W, 3)."""
    return decode_image(read_file(Path(path)), str(path)).pixels
