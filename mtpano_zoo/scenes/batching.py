"""Stack several rooms as tensors on one device, for the ray caster and the shading."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtpano_zoo.scenes.scene import Room
from mtpano_zoo.sphere import rotation_matrix

__all__ = ("Primitives", "Views", "stack_primitives", "stack_views")


@dataclasses.dataclass
class Primitives:
    """The primitives of several rooms, concatenated; geometry in float64."""

    room: Tensor  # (P,) index of the room
    kind: Tensor  # (P,)
    label: Tensor  # (P,)
    frame: Tensor  # (P, 4) x, z, and cosine and sine of the yaw
    lower: Tensor  # (P, 3)
    upper: Tensor  # (P, 3)
    material: Tensor  # (fields, P) float32

    def select(self, mask: Tensor) -> "Primitives":
        """Return the primitives where `mask` (P,) is true."""
        rows = {name: getattr(self, name)[mask] for name in ("room", "kind", "label", "frame", "lower", "upper")}
        return Primitives(**rows, material=self.material[:, mask])


@dataclasses.dataclass
class Views:
    """One camera in each room, and everything else that exists once per room; positions in the camera frame."""

    camera: Tensor  # (B, 3) float64, room frame
    turn: Tensor  # (B, 2) float64, cosine and sine of the yaw of the room
    lights: Tensor  # (B, L, 6)
    ambient: Tensor  # (B, 3)
    gain: Tensor  # (B, 3) exposure times white balance
    noise: Tensor  # (B,)
    salt: Tensor  # (B,) int32
    occupancy: Tensor  # (B, 2, G, G)
    sky: Tensor  # (B, 18) the numbers of `Sky`, zeros indoors
    tilt: Tensor  # (B, 3, 3) float64, from the camera to the level frame of the same heading
    outside: tuple[tuple[Tensor, float] | None, ...]  # B panoramas for windows, (H, W, 3), and their yaws

    def slice(self, start: int, stop: int) -> "Views":
        """Return the views of some of the rooms."""
        return Views(*(getattr(self, field.name)[start:stop] for field in dataclasses.fields(self)))


def stack_primitives(rooms: Sequence[Room], device: torch.device) -> Primitives:
    """Concatenate the primitives of some rooms."""

    def join(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(room, name) for room in rooms])).to(device)

    counts = [len(room.kinds) for room in rooms]
    frames = np.concatenate([room.frames for room in rooms])
    yaws, which = np.unique(frames[:, 2], return_inverse=True)
    # One by one: the last bit of a vectorised cosine may depend on its position in the vector, but a room must not
    # depend on which others it is rendered with.
    turns = np.array([(math.cos(yaw), math.sin(yaw)) for yaw in yaws.tolist()])
    return Primitives(
        room=torch.from_numpy(np.repeat(np.arange(len(rooms)), counts)).to(device),
        kind=join("kinds"),
        label=join("labels").long(),
        frame=torch.from_numpy(np.concatenate((frames[:, :2], turns[which]), axis=1)).to(device),
        lower=join("lower"),
        upper=join("upper"),
        material=join("materials").t().contiguous(),
    )


def stack_views(rooms: Sequence[Room], device: torch.device) -> Views:
    """Gather what exists once per room."""

    def stack(arrays: list[np.ndarray], dtype: type[np.generic] = np.float32) -> Tensor:
        return torch.from_numpy(np.stack(arrays).astype(dtype)).to(device)

    # Computed once per tilt: most cameras are level, and a matrix takes as long as everything that is stacked.
    tilts = {
        tilt: rotation_matrix(pitch=tilt[0], roll=tilt[1], dtype=torch.float64) for tilt in {r.tilt for r in rooms}
    }
    return Views(
        camera=stack([room.camera for room in rooms], np.float64),
        turn=stack([np.array((math.cos(room.yaw), math.sin(room.yaw))) for room in rooms], np.float64),
        lights=stack(_camera_lights(rooms)),
        ambient=stack([room.ambient for room in rooms]),
        gain=stack([room.exposure * room.white_balance for room in rooms]),
        noise=stack([np.asarray(room.noise) for room in rooms]),
        salt=stack([np.asarray(room.salt) for room in rooms], np.int32),
        occupancy=stack([room.occupancy for room in rooms]),
        sky=stack([np.array(room.sky.row() if room.sky else [0.0] * 18) for room in rooms]),
        tilt=torch.stack([tilts[room.tilt] for room in rooms]).to(device),
        outside=tuple(
            (torch.from_numpy(room.outside.pixels).to(device), room.outside.turn) if room.outside else None
            for room in rooms
        ),
    )


def _camera_lights(rooms: Sequence[Room]) -> list[np.ndarray]:
    """Return lights with positions in the camera frame, padded with dark ones to the largest number in any room."""
    most = max(1, max(len(room.lights) for room in rooms))
    tables = []
    for room in rooms:
        table = np.zeros((most, 6))
        offset, cos, sin = room.lights[:, :3] - room.camera, math.cos(room.yaw), math.sin(room.yaw)
        table[: len(offset), 0] = offset[:, 0] * cos + offset[:, 2] * sin
        table[: len(offset), 1] = offset[:, 1]
        table[: len(offset), 2] = offset[:, 2] * cos - offset[:, 0] * sin
        table[: len(offset), 3:] = room.lights[:, 3:]
        tables.append(table)
    return tables
