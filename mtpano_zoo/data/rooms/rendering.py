"""Rooms to batches: image, classes, depth and normals from the same ray hits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mtpano_zoo.data.rooms.casting import cast, stack_rooms
from mtpano_zoo.data.rooms.scene import Room
from mtpano_zoo.data.rooms.shading import shade, surface

_PIXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**23}  # on a CPU the planes of a chunk should stay in the cache


def render(rooms: Sequence[Room], height: int, width: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Render rooms as panoramas of height x width pixels.

    Returns a batch: `image` float32 (B, 3, H, W) in [0, 1] in steps of 1/255; `semseg` int64 (B, H, W), S3DIS classes;
    `depth` float32 (B, H, W), metres along the ray; `normals` float32 (B, 3, H, W), unit, towards the camera; `id`.
    Every pixel has a value. A window has the depth and the normal of its pane, not of what is seen through it.

    Raises:
        ValueError: There is no room, or the size is not 2:1 or smaller than 8 x 16.
    """
    check_size(height, width)
    if not rooms:
        raise ValueError("render needs at least one room")
    device = torch.device(device)
    step = max(1, _PIXELS_AT_ONCE.get(device.type, 2**20) // (height * width))
    chunks = [_render(rooms[i : i + step], height, width, device) for i in range(0, len(rooms), step)]
    batch: dict[str, Any] = {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}
    return batch | {"id": [room.id for room in rooms]}


def check_size(height: int, width: int) -> None:
    """Refuse sizes that no panorama has.

    Raises:
        ValueError: The size is not 2:1 or smaller than 8 x 16.
    """
    if height < 8 or width != 2 * height:
        raise ValueError(f"rooms are rendered at height x (2 height) from 8 x 16 on, got {height} x {width}")


def _render(rooms: Sequence[Room], height: int, width: int, device: torch.device) -> dict[str, torch.Tensor]:
    camera = torch.from_numpy(np.stack([room.camera for room in rooms])).to(device)
    yaw = torch.tensor([room.yaw for room in rooms], dtype=torch.float64).to(device)
    primitives = stack_rooms(rooms, device)
    hits = cast(primitives, camera, yaw, height, width)
    geometry = surface(primitives, hits, camera, yaw, height, width)
    return {
        "image": shade(rooms, primitives, hits, geometry),
        "semseg": primitives.label[hits.primitive].long(),
        "depth": geometry.depth,
        "normals": torch.stack(geometry.normal, dim=1),
    }
