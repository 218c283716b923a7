"""The files of the Matterport3D release: skybox faces, depth and normals of views, cameras."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.data.reading import UNREADABLE, decode_depth, decode_rgb, open_image, reason_of, unit_or_zero
from mtpano_zoo.data.source import PLAIN, Place, Source, list_archive
from mtpano_zoo.errors import InputError

__all__ = ("DEPTH", "LEVEL", "NORMALS", "YAWS", "Camera", "Cameras", "Scan", "find_scans", "open_scan", "parse_cameras")

SKYBOX, CAMERAS, DEPTH, NORMALS = KINDS = (
    "matterport_skybox_images",
    "undistorted_camera_parameters",
    "undistorted_depth_images",
    "undistorted_normal_images",
)

# Camera 0 looks up, 1 ahead, 2 down; each takes six views, each 60 degrees further to the right.
LEVEL, YAWS = 1, range(6)

_UP_AND_BACK = np.array([1.0, -1.0, -1.0])  # from x right, y up, z back to x right, y down, z forward

T = TypeVar("T")


class Camera(NamedTuple):
    """A view's pinhole camera.

    Args:
        intrinsics: Matrix (3, 3) in pixels.
        rotation: Camera-to-world (3, 3), x right, y down, z forward.
        position: (3,) in metres in the world of the scan, whose z axis points up.
    """

    intrinsics: NDArray[np.float64]
    rotation: NDArray[np.float64]
    position: NDArray[np.float64]


Cameras = dict[tuple[int, int], Camera]


@dataclass
class Scan:
    """A building: its files by kind and name, unpacked or in the zip files in which they are released."""

    folder: Path
    source: Source
    files: dict[str, tuple[str, Place]]

    @property
    def name(self) -> str:
        """The eleven letters and digits of the building."""
        return self.folder.name

    def panoramas(self) -> list[str]:
        """Return the ids of the panoramas, which are those with a skybox face."""
        names = (re.fullmatch(rf"{SKYBOX}/([0-9a-f]{{32}})_skybox\d_sami\.jpg", file) for file in self.files)
        return sorted({match[1] for match in names if match})

    def has(self, kind: str) -> bool:
        """Return whether there are any files of a kind."""
        return any(file.startswith(f"{kind}/") for file in self.files)

    def cameras(self) -> dict[str, Cameras]:
        """Return the cameras of every panorama, by camera and yaw index; none if neither they nor depth exist.

        Raises:
            InputError: If the file is missing although there is depth, or it is damaged.
            OSError: If it cannot be read.
        """
        file = f"{CAMERAS}/{self.name}.conf"
        return self._read(file, parse_cameras) if self.has(DEPTH) or file in self.files else {}

    def faces(self, panorama: str) -> list[NDArray[np.uint8]]:
        """Return the six skybox faces (S, S, 3).

        Raises:
            InputError: If one is missing, damaged, not square or of another size.
            OSError: If one cannot be read.
        """
        faces = [self._read(f"{SKYBOX}/{panorama}_skybox{i}_sami.jpg", decode_rgb) for i in range(6)]
        if len({side for face in faces for side in face.shape[:2]}) > 1:
            raise InputError(f"the skybox faces of {panorama} are not six squares of one size")
        return faces

    def z_depth(self, panorama: str, camera: int, yaw: int) -> NDArray[np.float32]:
        """Return the depth (h, w) of a view in metres along its axis, 0 where there is none.

        Raises:
            InputError: If it is missing or damaged.
            OSError: If it cannot be read.
        """
        return self._read(f"{DEPTH}/{panorama}_d{camera}_{yaw}.png", lambda data: decode_depth(data, 1 / 4000))

    def normals(self, panorama: str, camera: int, yaw: int) -> NDArray[np.float32]:
        """Return the normals (h, w, 3) of a view in its frame, x right, y down, z forward; zero where there are none.

        Raises:
            InputError: If a component is missing or damaged.
            OSError: If one cannot be read.
        """
        stem = f"{NORMALS}/{panorama}_d{camera}_{yaw}"
        stored = [self._read(f"{stem}_n{axis}.png", _decode_component) for axis in "xyz"]
        if len({component.shape for component in stored}) > 1:
            raise InputError(f"the three components of the normals {stem} differ in size")
        return unit_or_zero(np.stack(stored, -1) * _UP_AND_BACK.astype(np.float32))

    def _read(self, file: str, decode: Callable[[bytes], T]) -> T:
        if file not in self.files:
            raise FileNotFoundError(f"{self.folder} has no {file}, neither unpacked nor in a zip file")
        place = self.files[file]
        try:
            return decode(self.source.read(*place))
        except OSError:
            raise
        except UNREADABLE as error:
            raise InputError(f"{self.source.describe(*place)} cannot be used: {reason_of(error)}") from error


def find_scans(root: Path) -> list[Path]:
    """Find the folders of the buildings below a root: it, its folder `v1/scans` or `scans`, or one building.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: pass the one that holds v1/scans")
    if _is_scan(root):
        return [root]
    base = next((path for path in (root / "v1" / "scans", root / "scans") if path.is_dir()), root)
    scans = sorted(path for path in base.iterdir() if path.is_dir() and _is_scan(path))
    if not scans:
        raise FileNotFoundError(
            f"{base} holds no building of Matterport3D, which has {SKYBOX}.zip or a folder {SKYBOX}: pass the folder "
            "that holds v1/scans"
        )
    return scans


def open_scan(folder: Path) -> Scan:
    """List the files of a building that are needed for panoramas.

    Raises:
        InputError: If a zip file is damaged.
        OSError: If a folder or a zip file cannot be read.
    """
    source = Source(folder, [])
    files: dict[str, tuple[str, Place]] = {}
    for kind in KINDS:
        archive = folder / f"{kind}.zip"
        if archive.is_file():
            wanted = re.compile(rf"{kind}/[^/]+")
            members = list_archive(archive, len(source.archives), f"{folder.name}/", wanted)
            source.archives.append(archive)
            files |= {name: (name, place) for name, place in members.items()}
        for below in ("", f"{folder.name}/"):  # unpacking a zip file in place repeats the name of the building
            unpacked = f"{below}{kind}"
            if (folder / unpacked).is_dir():
                for name in os.listdir(folder / unpacked):  # noqa: PTH208 - tens of thousands of names, no paths
                    files[f"{kind}/{name}"] = (f"{unpacked}/{name}", PLAIN)
    return Scan(folder, source, files)


def parse_cameras(data: bytes) -> dict[str, Cameras]:
    """Read a camera file: panorama -> (camera index, yaw index) -> camera.

    Its canonical camera looks along -z with y up, and is turned here. Rows of pixels are counted from the top, as its
    readers do, although the owner calls the origin of the images bottom-left.

    Raises:
        InputError: If a line is not as documented.
    """
    cameras: dict[str, Cameras] = {}
    intrinsics: NDArray[np.float64] | None = None
    for number, line in enumerate(data.decode("ascii", errors="replace").split("\n"), 1):
        words = line.split()
        try:
            if words[:1] == ["intrinsics_matrix"]:
                intrinsics = np.array(words[1:], np.float64).reshape(3, 3)
                if not (np.isfinite(intrinsics).all() and intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
                    raise InputError("no pinhole camera")
            elif words[:1] == ["scan"]:
                match = re.fullmatch(r"([0-9a-f]{32})_d(\d)_(\d)\.png", words[1])
                if match is None or intrinsics is None:
                    raise InputError("no view, or one before any intrinsics")
                pose = np.array(words[3:], np.float64).reshape(4, 4)
                rotation = pose[:3, :3] * _UP_AND_BACK
                error = np.abs(rotation.T @ rotation - np.eye(3)).max()
                if not (np.isfinite(pose).all() and error < 1e-3 and np.linalg.det(rotation) > 0):
                    raise InputError("no rotation")
                view = Camera(intrinsics, rotation, pose[:3, 3])
                cameras.setdefault(match[1], {})[int(match[2]), int(match[3])] = view
        except (ValueError, IndexError) as error:
            raise InputError(
                f"its line {number} is not as documented (intrinsics_matrix and 9 numbers, or scan, two files and a "
                "4 x 4 camera-to-world matrix)"
            ) from error
    if not cameras:
        raise InputError("it holds no camera")
    return cameras


def _is_scan(folder: Path) -> bool:
    places = (folder / SKYBOX, folder / folder.name / SKYBOX)
    return any(place.is_dir() for place in places) or (folder / f"{SKYBOX}.zip").is_file()


def _decode_component(data: bytes) -> NDArray[np.float32]:
    image = open_image(data)
    if not image.mode.startswith("I"):
        raise InputError(f"its normals are 8-bit or colour (mode {image.mode}), but they are stored in 16-bit grey")
    component: NDArray[np.float32] = np.array(image).astype(np.float32) / np.float32(32768) - np.float32(1)
    return component
