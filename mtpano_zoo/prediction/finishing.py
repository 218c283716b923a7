"""Turn the maps that a network returns, at its own size, into those of a prediction, at the size of the panorama."""

from collections.abc import Callable, Collection, Mapping
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io.nadir import nadir_disc
from mtpano_zoo.point_cloud import beyond_nadir
from mtpano_zoo.resize import resize_argmax, resize_bands
from mtpano_zoo.tasks import MAIN_TASKS, NO_LABEL, Kind

__all__ = (
    "FINISHERS",
    "NadirMask",
    "check_nadir",
    "geometric",
    "nadir_angle",
    "seam_blended",
    "unseen_removed",
    "without_nadir",
)

NadirMask: TypeAlias = float | Literal["auto"]

NO_DEPTH = 1e-4  # metres up to which the published script sees no value
DISC_MARGIN = 1.0  # degrees; detected borders of discs were off by 0.8 at most


def geometric(maps: Mapping[str, Any]) -> list[str]:
    """Return the tasks that have no value in the sky: distances and directions.

    Example:
        >>> geometric({"semseg": None, "depth": None, "normals": None})
        ['depth', 'normals']
    """
    return [task for task in maps if MAIN_TASKS[task].kind in ("positive", "direction")]


def seam_blended(maps: Mapping[str, Tensor], sky: int | None, masked: Collection[str] = ()) -> dict[str, Tensor]:
    """Replace the two columns on either side of the seam by linear interpolation between the third ones, row by row.

    Applies to depth and disparity (1, h, w) and normals (3, h, w, normalised first) at the network's own size; classes
    stay as they are. Where one of the third columns has no value, or is of the class `sky`, the four columns get none
    (NaN). Tasks in `masked` have no value where the logits `valid` (1, h, w) are not positive.

    Example:
        >>> row = torch.tensor([9.0, 9, 3, 3, 3, 3, 9, 9])
        >>> seam_blended({"depth": row.expand(1, 1, 8)}, None)["depth"].flatten().tolist()
        [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    """
    blended = dict(maps)
    for task in geometric(maps):
        directions = MAIN_TASKS[task].kind == "direction"
        values = nn.functional.normalize(maps[task], dim=0) if directions else maps[task].clone()
        ends = values[..., [-3, 2]]
        # An inverse distance may be 0.
        none = ends == 0 if directions else ends <= (NO_DEPTH if task == "depth" else -torch.inf)
        known = ~none.all(0)  # non-finite ends keep the line non-finite
        if sky is not None:
            known &= maps["semseg"][..., [-3, 2]].argmax(0).ne(sky)
        if task in masked:
            known &= maps["valid"][0][..., [-3, 2]] > 0
        for step, column in enumerate((-2, -1, 0, 1), start=1):
            line = torch.lerp(ends[..., 0], ends[..., 1], step / 5)
            values[..., column] = torch.where(known.all(-1), line, torch.nan)
        blended[task] = values
    return blended


def check_nadir(mask_nadir: NadirMask) -> None:
    """Refuse an invalid angle around the nadir.

    Raises:
        InputError: If it is neither "auto" nor from 0 to 90.
    """
    if isinstance(mask_nadir, str):
        if mask_nadir != "auto":
            raise InputError(f'mask_nadir is an angle in degrees or "auto", not {mask_nadir}')
    elif not (isinstance(mask_nadir, Real) and 0 <= mask_nadir <= 90):
        raise InputError(f"mask_nadir is an angle from straight down in degrees, from 0 to 90, not {mask_nadir!r}")


def nadir_angle(mask_nadir: NadirMask, image: NDArray[np.uint8], seen: NDArray[np.bool_] | None = None) -> float:
    """Return the angle from straight down, in degrees, within which the maps of a panorama (H, W, 3) have no value.

    `seen` (H, W) says which part of it a camera has seen; None for all.

    Example:
        >>> nadir_angle(20, np.zeros((256, 512, 3), np.uint8)), nadir_angle("auto", np.zeros((256, 512, 3), np.uint8))
        (20, 0.0)
    """
    if mask_nadir != "auto":
        return mask_nadir
    found = nadir_disc(image, seen)
    return 0.0 if found is None else found + DISC_MARGIN


def without_nadir(seen: NDArray[np.bool_] | None, height: int, width: int, degrees: float) -> NDArray[np.bool_] | None:
    """Return the seen pixels (H, W) beyond an angle in degrees from straight down; None for all.

    Example:
        >>> without_nadir(None, 4, 1, 50).tolist()  # the lowest row is 22.5 degrees off
        [[True], [True], [True], [False]]
    """
    if seen is not None and seen.all():
        seen = None
    if degrees == 0:
        return seen
    kept = np.broadcast_to(beyond_nadir(height, degrees)[:, None], (height, width))
    return np.array(kept) if seen is None else seen & kept


def unseen_removed(task: str, values: NDArray[Any], seen: NDArray[np.bool_], classes: int) -> NDArray[Any]:
    """Return a finished map (H, W, ...) with no value where nothing was seen (H, W); `classes` is their number."""
    if MAIN_TASKS[task].kind != "classes":
        values[~seen] = 0
    elif classes <= NO_LABEL:  # with more classes, 255 is a class
        values[~seen] = NO_LABEL
    return values


def _classes(task: str, logits: Tensor, height: int, width: int) -> NDArray[Any]:
    """Resize logits (C, h, w) and return the index of the largest."""
    return resize_argmax(logits, height, width).cpu().numpy()


def _positive(task: str, values: Tensor, height: int, width: int) -> NDArray[np.float32]:
    """Resize positive numbers (1, h, w); 0 where the network returned no finite one."""
    finished = torch.empty(height, width, dtype=torch.float32)
    for rows, band in resize_bands(values, height, width):
        finished[rows] = torch.where(band[0].isfinite(), band[0].clamp_min(MAIN_TASKS[task].minimum), 0)
    return finished.numpy()


def _direction(task: str, vectors: Tensor, height: int, width: int) -> NDArray[np.float32]:
    """Resize vectors (3, h, w) and normalise them; zero where they have no direction."""
    finished = torch.empty(height, width, 3, dtype=torch.float32)
    for rows, band in resize_bands(nn.functional.normalize(vectors, dim=0), height, width):
        x, y, z = band.nan_to_num_()
        # `normalize` takes many times as long for three channels that lie so far apart in memory.
        length = (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_().clamp_min_(1e-12)
        finished[rows] = torch.div(band, length, out=band).permute(1, 2, 0)
    return finished.numpy()


def _binary(task: str, logits: Tensor, height: int, width: int) -> NDArray[np.bool_]:
    """Resize logits (1, h, w) and return where they are positive."""
    finished = torch.empty(height, width, dtype=torch.bool)
    for rows, band in resize_bands(logits, height, width):
        finished[rows] = band[0] > 0
    return finished.numpy()


# Turn a network output into a map of the panorama's size.
FINISHERS: dict[Kind, Callable[[str, Tensor, int, int], NDArray[Any]]] = {
    "classes": _classes,
    "positive": _positive,
    "direction": _direction,
    "binary": _binary,
}
