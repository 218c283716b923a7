"""From the maps that a network returns, at its own size, to those of a prediction, at the size of the panorama."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtpano_zoo.resize import resize, resize_argmax
from mtpano_zoo.tasks import MAIN_TASKS, Kind

__all__ = ("FINISHERS", "geometric", "seam_blended")


def geometric(maps: Mapping[str, Any]) -> list[str]:
    """Return the tasks that have no value in the sky: distances and directions."""
    return [task for task in maps if MAIN_TASKS[task].kind in ("positive", "direction")]


def seam_blended(maps: Mapping[str, Tensor], sky: int | None) -> dict[str, Tensor]:
    """Replace the two columns on either side of the seam by the straight line between the third ones, row by row.

    Applies to depth (1, h, w) and normals (3, h, w, normalised first) at the network's own size; classes stay as they
    are. Where one of the third columns has no value, or is of the class `sky`, the four columns get none (NaN).
    """
    blended = dict(maps)
    for task in geometric(maps):
        directions = MAIN_TASKS[task].kind == "direction"
        values = nn.functional.normalize(maps[task], dim=0) if directions else maps[task].clone()
        ends = values[..., [-3, 2]]
        known = ((ends != 0) if directions else (ends > 1e-4)).any(0)  # values that are not finite stay so in the line
        if sky is not None:
            known &= maps["semseg"][..., [-3, 2]].argmax(0).ne(sky)
        for step, column in enumerate((-2, -1, 0, 1), start=1):
            line = torch.lerp(ends[..., 0], ends[..., 1], step / 5)
            values[..., column] = torch.where(known.all(-1), line, torch.nan)
        blended[task] = values
    return blended


def _classes(task: str, logits: Tensor, height: int, width: int) -> NDArray[Any]:
    """Resize logits (C, h, w) and return the index of the largest."""
    return resize_argmax(logits, height, width).cpu().numpy()


def _positive(task: str, values: Tensor, height: int, width: int) -> NDArray[np.float32]:
    """Resize positive numbers (1, h, w); 0 where the network returned no finite one."""
    values = resize(values, height, width)[0]
    return torch.where(values.isfinite(), values.clamp_min(MAIN_TASKS[task].minimum), 0).cpu().numpy()


def _direction(task: str, vectors: Tensor, height: int, width: int) -> NDArray[np.float32]:
    """Resize vectors (3, h, w) and normalise them; zero where they have no direction."""
    vectors = resize(nn.functional.normalize(vectors, dim=0), height, width)
    vectors = nn.functional.normalize(vectors.nan_to_num(), dim=0)
    return vectors.permute(1, 2, 0).contiguous().cpu().numpy()


def _binary(task: str, logits: Tensor, height: int, width: int) -> NDArray[np.bool_]:
    """Resize logits (1, h, w) and return where they are positive."""
    return (resize(logits, height, width)[0] > 0).cpu().numpy()


# Turn a network output into a map of the panorama's size.
FINISHERS: dict[Kind, Callable[[str, Tensor, int, int], NDArray[Any]]] = {
    "classes": _classes,
    "positive": _positive,
    "direction": _direction,
    "binary": _binary,
}
