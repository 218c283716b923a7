"""Render rooms to batches: image, classes, depth and normals from the same ray hits."""

from collections.abc import Sequence
from typing import Any

import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import check_pixels
from mtpano_zoo.scenes.batching import stack_primitives, stack_views
from mtpano_zoo.scenes.casting import cast
from mtpano_zoo.scenes.lighting import cast_shadows, develop, radiance
from mtpano_zoo.scenes.materials import CHANNEL
from mtpano_zoo.scenes.scene import Room
from mtpano_zoo.scenes.secondary_rays import mix_secondary_rays
from mtpano_zoo.scenes.shading import surface, traced_surface
from mtpano_zoo.sphere import turn_vectors

__all__ = ("check_size", "render")

_CAST_AT_ONCE = {"cpu": 2**17, "cuda": 2**23}  # pixels
_BAND = 2**15  # pixels: on a CPU, one room is shaded at a time in bands of this size, which fit into the cache


def render(rooms: Sequence[Room], height: int, width: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Render rooms as panoramas of height x width pixels.

    Returns a batch: `image` float32 (B, 3, H, W) in [0, 1] in steps of 1/255; `semseg` int64 (B, H, W), index into the
    classes of the rooms; `depth` float32 (B, H, W), metres along the ray; `normals` float32 (B, 3, H, W), unit, towards
    the camera; `id`. Windows and clear glass have the class, the depth and the normal of their panes, not of
    what is seen through them, and mirrors those of their surface. If a scene is under the open sky, the batch has
    `far`, bool (B, H, W): true where a ray meets nothing, depth is 0 and normals are zero.

    Raises:
        InputError: If there is no room, or the size is not 2:1 or smaller than 8 x 16.

    Example:
        >>> from mtpano_zoo.scenes import sample_room
        >>> batch = render([sample_room(0, "train", 0)], 8, 16)
        >>> batch["depth"].shape, batch["id"]
        (torch.Size([1, 8, 16]), ['train-000000'])
    """
    check_size(height, width)
    if not rooms:
        raise InputError("render needs at least one room")
    device = torch.device(device)
    step = max(1, _CAST_AT_ONCE.get(device.type, 2**20) // (height * width))
    # Level cameras in closed rooms need no rays of their own, and must not depend on what else is in the batch.
    parts = [[i for i, room in enumerate(rooms) if _kind(room) == kind] for kind in sorted(set(map(_kind, rooms)))]
    order = [i for part in parts for i in part]
    chunks = [
        _render([rooms[i] for i in part[start : start + step]], height, width, device)
        for part in parts
        for start in range(0, len(part), step)
    ]
    back = torch.tensor(order, device=device).argsort()
    batch: dict[str, Any] = {key: torch.cat([chunk[key] for chunk in chunks])[back] for key in chunks[0]}
    if all(room.sky is None for room in rooms):
        del batch["far"]
    return batch | {"id": [room.id for room in rooms]}


def _kind(room: Room) -> tuple[bool, bool]:
    return room.tilt != (0.0, 0.0), room.sky is not None


def check_size(height: int, width: int) -> None:
    """Refuse sizes that cannot be rendered.

    Raises:
        InputError: If the size is not 2:1, smaller than 8 x 16, or has more pixels than an image may have.

    Example:
        >>> check_size(64, 64)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    if height < 8 or width != 2 * height:
        raise InputError(f"rooms are rendered at height x (2 height), at least 8 x 16, got {height} x {width}")
    check_pixels(height, width, "a room")


def _render(rooms: Sequence[Room], height: int, width: int, device: torch.device) -> dict[str, torch.Tensor]:
    primitives, views = stack_primitives(rooms, device), stack_views(rooms, device)
    shadows = cast_shadows(primitives, views)
    tilted = rooms[0].tilt != (0.0, 0.0)
    hits = cast(primitives, views.camera, views.turn, height, width) if not tilted else None
    whole = traced_surface(primitives, views, height, width) if tilted else None
    shape = (len(rooms), 3, height, width)
    image, normals = torch.empty(shape, device=device), torch.empty(shape, device=device)
    semseg = torch.empty(shape[0], height, width, dtype=torch.int64, device=device)
    depth, far = torch.empty(shape[0], height, width, device=device), torch.zeros_like(semseg, dtype=torch.bool)
    twice = [CHANNEL["mirror"], CHANNEL["glass"]]
    second = [i for i, room in enumerate(rooms) if room.materials[:, twice].any()]
    few, band = (1, max(1, _BAND // width)) if device.type == "cpu" else (len(rooms), height)
    for first in range(0, len(rooms), few):
        some = slice(first, min(first + few, len(rooms)))
        for top in range(0, height, band):
            rows = slice(top, min(top + band, height))
            if hits is not None:
                seen = surface(primitives, hits, views, some, rows, height, width)
            elif whole is not None:
                seen = whole.part(some, rows)
            some_views, some_shadows = views.slice(some.start, some.stop), shadows.slice(some.start, some.stop)
            light = radiance(primitives, seen, some_views, some_shadows)
            for room in second:
                if some.start <= room < some.stop:
                    mix_secondary_rays(light, primitives, seen, views, shadows, room, some.start)
            image[some, :, rows] = develop(light, some_views, rows)
            semseg[some, rows] = primitives.label[seen.primitive]
            depth[some, rows] = seen.depth
            for axis in range(3):
                normals[some, axis, rows] = seen.normal[axis]
            if seen.sky is not None:
                far[some, rows] = seen.sky
    if tilted:
        normals = turn_vectors(normals, views.tilt.mT.float())
    if rooms[0].sky is not None:
        # All scenes under the sky share one list of classes.
        semseg.masked_fill_(far, rooms[0].classes.index("sky"))
        depth.masked_fill_(far, 0.0)
        normals.masked_fill_(far[:, None], 0.0)
    return {"image": image, "semseg": semseg, "depth": depth, "normals": normals, "far": far}
