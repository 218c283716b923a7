"""Rooms to batches: image, classes, depth and normals from the same ray hits."""

from collections.abc import Sequence
from typing import Any

import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.scenes.batching import stack_primitives, stack_views
from mtpano_zoo.scenes.casting import cast
from mtpano_zoo.scenes.lighting import cast_shadows, develop
from mtpano_zoo.scenes.scene import Room
from mtpano_zoo.scenes.shading import surface

_CAST_AT_ONCE = {"cpu": 2**17, "cuda": 2**23}  # pixels
_BAND = 2**15  # on a CPU, one room is shaded at a time in bands of so many pixels, which fit into the cache


def render(rooms: Sequence[Room], height: int, width: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Render rooms as panoramas of height x width pixels.

    Returns a batch: `image` float32 (B, 3, H, W) in [0, 1] in steps of 1/255; `semseg` int64 (B, H, W), S3DIS classes;
    `depth` float32 (B, H, W), metres along the ray; `normals` float32 (B, 3, H, W), unit, towards the camera; `id`.
    Every pixel has a value. A window has the depth and the normal of its pane, not of what is seen through it.

    Raises:
        InputError: If there is no room, or the size is not 2:1 or smaller than 8 x 16.
    """
    check_size(height, width)
    if not rooms:
        raise InputError("render needs at least one room")
    device = torch.device(device)
    step = max(1, _CAST_AT_ONCE.get(device.type, 2**20) // (height * width))
    chunks = [_render(rooms[i : i + step], height, width, device) for i in range(0, len(rooms), step)]
    batch: dict[str, Any] = {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}
    return batch | {"id": [room.id for room in rooms]}


def check_size(height: int, width: int) -> None:
    """Refuse sizes that no panorama has.

    Raises:
        InputError: If the size is not 2:1 or smaller than 8 x 16.
    """
    if height < 8 or width != 2 * height:
        raise InputError(f"rooms are rendered at height x (2 height) from 8 x 16 on, got {height} x {width}")


def _render(rooms: Sequence[Room], height: int, width: int, device: torch.device) -> dict[str, torch.Tensor]:
    primitives, views = stack_primitives(rooms, device), stack_views(rooms, device)
    hits = cast(primitives, views.camera, views.turn, height, width)
    shadows = cast_shadows(primitives, views)
    shape = (len(rooms), 3, height, width)
    image, normals = torch.empty(shape, device=device), torch.empty(shape, device=device)
    depth = torch.empty(shape[0], height, width, device=device)
    few, band = (1, max(1, _BAND // width)) if device.type == "cpu" else (len(rooms), height)
    for first in range(0, len(rooms), few):
        some = slice(first, min(first + few, len(rooms)))
        for top in range(0, height, band):
            rows = slice(top, min(top + band, height))
            seen = surface(primitives, hits, views, some, rows, height, width)
            some_views, some_shadows = views.slice(some.start, some.stop), shadows.slice(some.start, some.stop)
            image[some, :, rows] = develop(primitives, seen, some_views, some_shadows, rows)
            depth[some, rows] = seen.depth
            for axis in range(3):
                normals[some, axis, rows] = seen.normal[axis]
    return {"image": image, "semseg": primitives.label[hits.primitive], "depth": depth, "normals": normals}
