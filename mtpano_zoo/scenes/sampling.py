"""Draw a whole room: plan, camera, shell, furniture, lights and the look of the camera."""

import math

import numpy as np

from mtpano_zoo.errors import InputError
from mtpano_zoo.scenes import materials
from mtpano_zoo.scenes.draws import Draws
from mtpano_zoo.scenes.furnishing import furnish
from mtpano_zoo.scenes.lamps import Lights, ceiling_lamps, lamp_color
from mtpano_zoo.scenes.plan import Plan, sample_plan
from mtpano_zoo.scenes.scene import Builder, Room
from mtpano_zoo.scenes.walls import Shell

__all__ = ("camera_place", "check_tilt", "random_tilt", "room_key", "sample_room")

SPLITS = ("train", "val", "test")


def sample_room(seed: int, split: str, index: int, tilt: float = 0.0) -> Room:
    """Draw the room of a split and an index; the same arguments always yield the same room.

    The generator is keyed by (seed, split, index) through an injective map, so no two of them share a stream.

    Args:
        seed: Seed of the set.
        split: "train", "val" or "test".
        index: Index of the room in its split.
        tilt: Largest tilt of the camera in degrees, in any direction; 180 allows any attitude. The room is the same.

    Raises:
        InputError: If the split is unknown, or seed, index or tilt are out of range.

    Example:
        >>> sample_room(0, "train", 3).id
        'train-000003'
    """
    key = room_key(seed, split, index)
    rng = Draws(key)
    height, daylight = rng.uniform(2.4, 3.6), float(rng.random() < 0.75) * rng.uniform(0.3, 1.0)
    plan, builder = sample_plan(rng), Builder()
    x, z = camera_place(rng, plan)
    camera = np.array([x, -rng.uniform(1.0, 1.9), z])
    plan.block_disc(x, z, 0.7)
    shell = Shell(builder, plan, rng, height, daylight)
    _openings(rng, shell)
    lamp = materials.glow(lamp_color(rng), rng.uniform(1.5, 4.0))
    lights = Lights(rng, daylight)
    furnish(rng, plan, builder, height, lamp, lights)
    if rng.random() < 0.45:
        shell.beams()
    shell.close()
    for window in shell.windows:
        lights.window(window)
    ceiling_lamps(rng, plan, builder, height, lamp, (x, z), lights)
    room = Room(
        id=f"{split}-{index:06d}",
        **builder.arrays(),  # type: ignore[arg-type]
        camera=camera,
        yaw=rng.uniform(-math.pi, math.pi),
        lights=lights.array(plan.width * plan.depth),
        ambient=lights.ambient(),
        occupancy=plan.occupancy(),
        exposure=rng.uniform(0.9, 1.7),
        white_balance=np.array([rng.uniform(0.92, 1.08), 1.0, rng.uniform(0.9, 1.1)], dtype=np.float32),
        noise=rng.uniform(0.0, 0.014),
        salt=int(rng.integers(2**31)),
    )
    return random_tilt(room, key, tilt)


def room_key(seed: int, split: str, index: int, space: int = 0) -> int:
    """Return the 128-bit key of a scene: the seed in the upper half, split and index in the lower.

    Args:
        seed: Seed of the set.
        split: "train", "val" or "test".
        index: Index of the scene in its split.
        space: 0 for rooms; every other kind of scene has a number of its own, so that kinds share no key.

    Raises:
        InputError: If the split is unknown, or seed or index are out of range.

    Example:
        >>> room_key(0, "train", 0) != room_key(0, "val", 0), room_key(1, "train", 0) >> 64
        (True, 1)
    """
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= seed < 2**63 or not 0 <= index < 2**56:
        raise InputError(f"seed and index must not be negative or astronomically large, got {seed} and {index}")
    return (int(seed) << 64) | ((SPLITS.index(split) + 4 * space) << 56) | int(index)


def camera_place(rng: np.random.Generator, plan: Plan) -> tuple[float, float]:
    """Draw a place away from every wall, as far as the plan allows."""
    for margin in (0.9, 0.6, 0.4, 0.0):
        for _ in range(40):
            x, z = rng.uniform(0.0, plan.width), rng.uniform(0.0, plan.depth)
            if plan.contains(x, z, margin):
                return x, z
    raise RuntimeError("a plan without free floor was drawn")


def _openings(rng: np.random.Generator, shell: Shell) -> None:
    for _ in range(1 + int(rng.random() < 0.3)):
        if rng.random() < 0.93:
            shell.door()
    if rng.random() < 0.82:
        for _ in range(int(rng.integers(1, 5))):
            shell.window()
    if rng.random() < 0.4:
        shell.columns()
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 3))):
            size = (rng.uniform(0.9, 3.2), rng.uniform(0.8, 1.3))
            shell.hang("board", materials.board(rng), size, rng.uniform(0.75, 1.0))
    for _ in range(int(rng.integers(0, 4))):
        size = (rng.uniform(0.25, 1.1), rng.uniform(0.25, 0.8))
        label, look = ("picture", materials.picture) if rng.random() < 0.8 else ("screen", materials.screen)
        shell.hang(label, look(rng), size, rng.uniform(1.1, 1.5))


def random_tilt(room: Room, key: int, most: float) -> Room:
    """Tilt the camera of a room by up to `most` degrees in any direction.

    The tilt depends on the room's key, but uses random numbers that the room itself does not use.

    Raises:
        InputError: If `most` is not between 0 and 180.
    """
    check_tilt(most)
    if most == 0:
        return room
    # The counter after `jumped(2)`, which takes three times as long.
    share, heading = np.random.Generator(np.random.Philox(key=key, counter=2 << 128)).random(2)
    return room.tilted(most * float(share), 2 * math.pi * float(heading))


def check_tilt(tilt: float) -> None:
    """Refuse an invalid tilt.

    Raises:
        InputError: If it is not between 0 and 180.

    Example:
        >>> check_tilt(200)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    if not 0 <= tilt <= 180:
        raise InputError(f"tilt is an angle between 0 and 180 degrees, got {tilt}")
