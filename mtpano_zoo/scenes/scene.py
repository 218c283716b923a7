"""The parts of a scene: boxes, cylinders, spheres and other simple solids in one frame, gathered by `Builder`."""

import dataclasses
import math
import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.classes import S3DIS_CLASSES
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_TO_S3DIS
from mtpano_zoo.scenes.materials import Material

__all__ = (
    "BOX",
    "CABIN",
    "CONE",
    "CYLINDER",
    "ELLIPSOID",
    "GABLE",
    "HIP",
    "SPHERE",
    "WHEEL",
    "Builder",
    "Float32",
    "Frame",
    "Outside",
    "Room",
    "Sky",
    "centred",
)

# A gable is a roof whose ridge runs along x, a hip one that slants on all sides, a cabin the upper half of a car; a
# wheel is a cylinder that lies along x.
BOX, CYLINDER, SPHERE, ELLIPSOID, CONE, WHEEL, GABLE, HIP, CABIN = range(9)

# Signs of x and z in frames turned by 0 to 3 right angles; odd ones also swap x and z.
_SIGNS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Sky:
    """What is seen where a ray meets nothing, and the light that comes from there; colours are linear RGB."""

    sun: tuple[float, float, float]  # direction towards the sun, room frame, y down
    sunlight: tuple[float, float, float]  # on a surface that faces the sun; black where clouds hide it
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    cloud: tuple[float, float, float]  # colour of the clouds
    cover: float  # share of the sky that clouds cover, roughly
    scale: float  # scale of the clouds
    haze: float  # metres after which a surface has taken on 1 - 1/e of the colour of the horizon

    def row(self) -> list[float]:
        """Return all numbers, in the order above."""
        return [n for value in dataclasses.astuple(self) for n in (value if isinstance(value, tuple) else (value,))]


@dataclasses.dataclass(frozen=True)
class Outside:
    """A panorama that windows show instead of the drawn horizon."""

    pixels: NDArray[np.float16]  # (H, W, 3) linear RGB, equirectangular
    turn: float  # radians: straight ahead in the room is this far to the right in the panorama


@dataclasses.dataclass(frozen=True)
class Room:
    """A scene, indoors or outdoors, independent of any resolution.

    The room frame has x right, y *down* and z forward, its origin on the floor; `yaw` turns the room about the camera
    (radians, positive to the right). Every primitive lies in a frame of its own, `frames` (x, z, yaw), between `lower`
    and `upper`, which it fills; upright cylinders, cones and spheres are centred at x = z = 0 of their frame.
    """

    id: str
    kinds: NDArray[np.uint8]  # (P,) BOX, CYLINDER, ...
    labels: NDArray[np.uint8]  # (P,) index into `classes`
    frames: Float64  # (P, 3) x, z in metres and yaw in radians
    lower: Float64  # (P, 3) metres
    upper: Float64  # (P, 3)
    materials: Float32  # (P, len(materials.FIELDS))
    camera: Float64  # (3,) metres
    yaw: float
    lights: Float32  # (L, 6) position in metres, linear RGB intensity; the first casts shadows
    ambient: Float32  # (3,) linear RGB
    occupancy: Float32  # (2, G, G) walls and furniture seen from above, blurred; see `plan`
    exposure: float
    white_balance: Float32  # (3,)
    noise: float  # standard deviation of the sensor noise in [0, 1] image units
    salt: int  # seed of the random numbers per pixel or texture cell
    classes: tuple[str, ...] = S3DIS_CLASSES
    sky: Sky | None = None  # None: a closed room, where every ray meets something
    tilt: tuple[float, float] = (0.0, 0.0)  # pitch and roll of the camera in degrees, as in `sphere.rotation_matrix`
    outside: Outside | None = None  # None: windows show a drawn horizon

    def turned(self, degrees: float) -> "Room":
        """Return the same room seen by a camera turned to the right by an angle in degrees."""
        return dataclasses.replace(self, yaw=self.yaw - math.radians(degrees))

    def tilted(self, degrees: float, heading: float = 0.0) -> "Room":
        """Return the same room seen by a camera tilted by an angle in degrees towards a heading (radians)."""
        angle = math.radians(degrees)
        # The down direction in the camera frame, and the pitch and roll that lead to it.
        x, y, z = math.sin(angle) * math.sin(heading), math.cos(angle), math.sin(angle) * math.cos(heading)
        pitch, roll = math.degrees(math.asin(-z)), math.degrees(math.atan2(x, y))
        return dataclasses.replace(self, tilt=(pitch, roll))


@lru_cache(4096)
def _rounded_turn(yaw: float) -> tuple[float, float]:
    """Return cosine and sine, rounded: otherwise right angles leave gaps of 6e-17 metres between things that touch."""
    return round(math.cos(yaw), 15), round(math.sin(yaw), 15)


def _align(solids: Float64, boxes: NDArray[np.bool_]) -> None:
    """Move boxes along the axes to the room frame, in place: walls then meet at bit-equal coordinates."""
    yaw = solids[:, 0, 2]
    quarters = np.rint(yaw / (math.pi / 2))
    along = boxes & (np.abs(yaw - quarters * (math.pi / 2)) < 1e-9)
    moved, turns = solids[along], quarters[along].astype(np.int64) % 4
    ends = moved[:, 1:, ::2]
    ends = np.where(turns[:, None, None] % 2, ends[..., ::-1], ends) * _SIGNS[turns, None] + moved[:, :1, :2]
    moved[:, 0] = 0.0
    first, second = ends[:, 0], ends[:, 1]
    moved[:, 1, ::2], moved[:, 2, ::2] = np.minimum(first, second), np.maximum(first, second)
    solids[along] = moved


@lru_cache(2)
def _label_numbers(classes: tuple[str, ...]) -> dict[str, int]:
    """Return the index of every name of a thing in a list of classes."""
    # Things are named by the longer list; S3DIS calls a rug "floor", and many other things "clutter".
    names = {name: name if name in classes else SCENE_TO_S3DIS[name] for name in SCENE_CLASSES}
    return {name: classes.index(own) for name, own in names.items() if own is not None}


class Frame(NamedTuple):
    """A place on the floor: position in plan and a yaw; its own z axis points at that yaw, its x axis to the right.

    Example:
        >>> Frame(1.0, 2.0, math.pi / 2).at(0.0, 1.0)[:2]  # one metre ahead
        (2.0, 2.0)
    """

    x: float
    z: float
    yaw: float

    def at(self, x: float, z: float, yaw: float = 0.0) -> "Frame":
        """Return the frame at a position in this frame, turned by a yaw."""
        cos, sin = _rounded_turn(self.yaw)
        # Half the time of `Frame(...)`.
        return tuple.__new__(Frame, (self.x + x * cos + z * sin, self.z - x * sin + z * cos, self.yaw + yaw))


ORIGIN = Frame(0.0, 0.0, 0.0)


def centred(size: float) -> tuple[float, float]:
    """Return the ends of a range of this size around 0, for the methods of `Builder`."""
    return -size / 2, size / 2


class Builder:
    """Collect primitives; heights are measured upwards from the floor."""

    def __init__(self, classes: tuple[str, ...] = S3DIS_CLASSES) -> None:
        self._number = _label_numbers(classes)
        self._kinds, self._labels = bytearray(), bytearray()
        self._numbers: list[float] = []  # nine per primitive: frame, lower and upper ends
        self._looks: list[Material] = []
        self._own: list[int] = []  # boxes that keep their frame

    def box(
        self,
        label: str,
        look: Material,
        x: tuple[float, float],
        height: tuple[float, float],
        z: tuple[float, float],
        frame: Frame = ORIGIN,
        own: bool = False,
    ) -> None:
        """Add a box that spans the given ranges of a frame; with `own`, its texture starts where the frame does."""
        if own:
            self._own.append(len(self._kinds))
        self._add(BOX, label, look, frame, (x[0], -height[1], z[0], x[1], -height[0], z[1]))

    def cylinder(self, label: str, look: Material, radius: float, height: tuple[float, float], frame: Frame) -> None:
        """Add an upright cylinder around the origin of a frame."""
        self._add(CYLINDER, label, look, frame, (-radius, -height[1], -radius, radius, -height[0], radius))

    def sphere(self, label: str, look: Material, radius: float, height: float, frame: Frame) -> None:
        """Add a sphere whose centre is at a height above the origin of a frame."""
        self._add(SPHERE, label, look, frame, (-radius, -height - radius, -radius, radius, -height + radius, radius))

    def ellipsoid(
        self,
        label: str,
        look: Material,
        half: tuple[float, float, float],
        height: float,
        frame: Frame,
    ) -> None:
        """Add an ellipsoid with half axes (x, up, z) whose centre is at a height above the origin of a frame."""
        x, up, z = half
        self._add(ELLIPSOID, label, look, frame, (-x, -height - up, -z, x, up - height, z))

    def cone(self, label: str, look: Material, radius: float, height: tuple[float, float], frame: Frame) -> None:
        """Add an upright cone with its tip on top, around the origin of a frame."""
        self._add(CONE, label, look, frame, (-radius, -height[1], -radius, radius, -height[0], radius))

    def roof(
        self,
        label: str,
        look: Material,
        x: tuple[float, float],
        height: tuple[float, float],
        z: tuple[float, float],
        frame: Frame = ORIGIN,
        kind: int = GABLE,
    ) -> None:
        """Add a GABLE, HIP or CABIN: its sides lean inwards from the lower height to the upper one."""
        self._add(kind, label, look, frame, (x[0], -height[1], z[0], x[1], -height[0], z[1]))

    def wheel(
        self, label: str, look: Material, radius: float, x: tuple[float, float], height: float, at: Frame
    ) -> None:
        """Add a cylinder that lies along x, its axis at a height over z = 0 of a frame."""
        self._add(WHEEL, label, look, at, (x[0], -height - radius, -radius, x[1], radius - height, radius))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the primitives as the arrays of `Room`."""
        kinds = np.array(self._kinds, dtype=np.uint8)
        # NumPy itself takes four times as long to convert a list or to join arrays.
        looks = bytearray().join(self._looks)  # type: ignore[arg-type]
        packed = bytearray(struct.pack(f"{len(self._numbers)}d", *self._numbers))
        solids = np.frombuffer(packed, dtype=np.float64).reshape(-1, 3, 3)
        boxes = kinds == BOX
        boxes[self._own] = False
        _align(solids, boxes)
        return {
            "kinds": kinds,
            "labels": np.array(self._labels, dtype=np.uint8),
            "frames": solids[:, 0].copy(),
            "lower": solids[:, 1].copy(),
            "upper": solids[:, 2].copy(),
            "materials": np.frombuffer(looks, dtype=np.float32).reshape(len(kinds), -1),
        }

    def _add(
        self,
        kind: int,
        label: str,
        look: Material,
        frame: Frame,
        ends: tuple[float, float, float, float, float, float],
    ) -> None:
        self._kinds.append(kind)
        self._labels.append(self._number[label])
        self._numbers += frame
        self._numbers += ends
        self._looks.append(look)
