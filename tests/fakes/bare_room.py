"""A room of which everything is known: no lamp, no noise, even light or none."""

import dataclasses
from typing import Any

import numpy as np

from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.scenes import Room
from mtpano_zoo.scenes.scene import Builder


def bare_room(builder: Builder, **changes: Any) -> Room:
    """What a builder has gathered, with the camera at (1.7, 2.2), 1.4 m high."""
    room = Room(
        id="test",
        **builder.arrays(),  # type: ignore[arg-type]
        camera=np.array([1.7, -1.4, 2.2]),
        yaw=0.0,
        lights=np.zeros((0, 6), dtype=np.float32),
        ambient=np.zeros(3, dtype=np.float32),
        occupancy=np.zeros((2, 128, 128), dtype=np.float32),
        exposure=1.0,
        white_balance=np.ones(3, dtype=np.float32),
        noise=0.0,
        salt=3,
        classes=SCENE_CLASSES,
    )
    return dataclasses.replace(room, **changes)
