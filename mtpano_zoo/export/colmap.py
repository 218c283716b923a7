"""Write panoramas with their distances as a scene in COLMAP's text format, which splat trainers read.

Format: https://colmap.github.io/format.html. COLMAP counts pixels from the upper left corner of the image, so that the
centre of the first one is 0.5; its cameras look along +z with y down, as ours do. Its model EQUIRECTANGULAR has width
and height as parameters, and longitude and latitude as in our convention.
"""

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.export.poses import Pose, quaternion
from mtpano_zoo.image_io import encode_depth, encode_normals, write_bytes, write_npy, write_png
from mtpano_zoo.limits import VARIABLE, max_pixels
from mtpano_zoo.point_cloud import clean_points
from mtpano_zoo.sphere import (
    Mode,
    cube_rotations,
    distance_to_z,
    erp_rays,
    icosahedron_rotations,
    intrinsics_from_fov,
    solid_angles,
    to_perspective,
)

__all__ = ("FOV", "VIEWS", "ColmapWriter", "Scan", "default_size", "name_in_scene")

FOV = 90.0  # degrees, of a perspective view
VIEWS = {6: cube_rotations, 12: icosahedron_rotations}
EDGE = 1.2  # ratio of neighbouring distances above which points of the cloud would float
POINTS = 100_000


class Scan(NamedTuple):
    """A panorama of a scene, and what is known about it.

    Attributes:
        name: name of its files, without a suffix; slashes separate folders.
        image: RGB (H, W, 3).
        depth: metres along the ray (H, W), 0 = no value.
        normals: (H, W, 3), zero = no value.
        sky: bool (H, W).
        pose: world to camera.
        seen: bool (H, W), false beside a crop and where the image is transparent; None if everything was seen.
    """

    name: str
    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32] | None
    sky: NDArray[np.bool_] | None
    pose: Pose
    seen: NDArray[np.bool_] | None = None


class _View(NamedTuple):
    """An image to write: its maps by folder; `masks` is false where pixels are to be ignored."""

    name: str
    maps: dict[str, NDArray[np.generic]]
    pose: Pose
    camera: str


def default_size(height: int) -> int:
    """Return the rows and columns of a view that shows as much detail in its centre as a panorama of `height` rows.

    Example:
        >>> default_size(512)
        326
    """
    return 2 * round(height / np.pi)


def name_in_scene(name: str) -> str:
    """Return the name of a scan's files without whitespace, at which programs end a name in `images.txt`.

    Example:
        >>> name_in_scene("first floor/living room")
        'first_floor/living_room'
    """
    return re.sub(r"\s", "_", name)


class ColmapWriter:
    """Write scans into a folder, one after another; `finish` writes the cameras, poses and points.

    NAME is that of the scan, see `name_in_scene`; the names of all scans must differ.

    - `images/NAME.png`
    - `sparse/0/cameras.txt`, `images.txt`, `points3D.txt`: the points, about 100,000, cover every panorama evenly
    - `depth/NAME.npy` float32 metres and `depth/NAME.png` 16-bit millimetres, 0 = no value: the distance along the ray
      in panoramas, the z-coordinate in perspective views
    - `normals/NAME.png`: `128 + 127 n` in the frame of its camera, x right, y down, z forward
    - `masks/NAME.png.png`: 0 where nothing was seen and below the camera, where a tripod stands, 255 elsewhere; COLMAP
      names masks like this, and every image has one, because trainers expect all masks or none
    - `sky/NAME.png`: 255 where the sky is

    Args:
        root: an empty folder.
        count: number of scans that will be written.
        views: 6 (the faces of a cube) or 12 (towards the corners of an icosahedron) perspective views of 90 degrees in
            place of each panorama; those that show nothing of a crop are left out.
        size: rows and columns of a view; by default as dense as the panorama, see `default_size`.
        nadir: degrees from straight down within which the masks are 0.

    Raises:
        InputError: If views is neither 6 nor 12, or size or nadir is out of range.
    """

    def __init__(
        self, root: Path, count: int, views: int | None = None, size: int | None = None, nadir: float = 0.0
    ) -> None:
        if views is not None and views not in VIEWS:
            raise InputError(f"views is {' or '.join(map(str, VIEWS))}, or left out for panoramas, not {views}")
        if size is not None and (size < 2 or views is None):
            raise InputError(f"size is at least 2 pixels, and goes with views, not {size}")
        largest = default_size(math.isqrt(max_pixels() // 2))
        if size is not None and size > largest:
            raise InputError(
                f"size is at most {largest} pixels, as for the largest panorama that {VARIABLE} allows, not {size}"
            )
        if not 0 <= nadir < 180:
            raise InputError(f"nadir is an angle from straight down in degrees, below 180, not {nadir}")
        self.root = root
        self.views = views
        self.size = size
        self.nadir = nadir
        self.share = POINTS // max(count, 1)
        self.cameras: dict[str, int] = {}
        self.images: list[str] = []
        self.points: list[str] = []

    def write(self, scan: Scan) -> None:
        """Write the maps of a scan, and remember its cameras and points.

        Raises:
            InputError: If no pixel has a distance.
            OSError: If a file cannot be written.
        """
        if not clean_points(scan.depth).any():
            raise InputError(f"{scan.name} has no pixel with a distance: depth is 0 everywhere; leave it out")
        scan = scan._replace(name=name_in_scene(scan.name))
        for view in self._cut(scan) if self.views else [self._whole(scan)]:
            if not view.maps["masks"].any():  # it shows nothing of a crop
                continue
            camera = self.cameras.setdefault(view.camera, len(self.cameras) + 1)
            numbers = " ".join(f"{number:.9g}" for number in (*quaternion(view.pose.rotation), *view.pose.translation))
            self.images.append(f"{len(self.images) + 1} {numbers} {camera} {view.name}.png\n")
            self._save(view)
        self._remember_points(scan)

    def finish(self) -> None:
        """Write `sparse/0`."""
        folder = self.root / "sparse" / "0"
        folder.mkdir(parents=True)
        cameras = [f"{number} {camera}" for camera, number in self.cameras.items()]
        for name, title, lines in (
            ("cameras.txt", "CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", cameras),
            ("images.txt", "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; then POINTS2D[]", self.images),
            ("points3D.txt", "POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]", self.points),
        ):
            # A name that is not UTF-8 keeps its bytes.
            write_bytes(folder / name, os.fsencode("".join(f"{line}\n" for line in (f"# {title}", *lines))))

    def _maps(self, scan: Scan) -> dict[str, NDArray[np.generic]]:
        maps: dict[str, NDArray[np.generic]] = {"images": scan.image, "depth": scan.depth}
        maps |= {} if scan.normals is None else {"normals": scan.normals}
        maps |= {} if scan.sky is None else {"sky": scan.sky}
        mask = clean_points(np.ones_like(scan.depth), nadir=self.nadir)
        maps["masks"] = mask if scan.seen is None else mask & scan.seen
        return maps

    def _whole(self, scan: Scan) -> _View:
        height, width = scan.depth.shape
        return _View(scan.name, self._maps(scan), scan.pose, f"EQUIRECTANGULAR {width} {height} {width} {height}")

    def _cut(self, scan: Scan) -> list[_View]:
        """Cut the perspective views out of all maps."""
        size = self.size or default_size(len(scan.depth))
        rotations = VIEWS[self.views or 6](dtype=torch.float64)
        half = size / 2  # a field of view of 90 degrees: the focal length is half the width
        camera = f"PINHOLE {size} {size} {half:g} {half:g} {half:g} {half:g}"
        modes: dict[str, Mode] = {"images": "image", "depth": "depth", "normals": "vectors"}
        cut: dict[str, NDArray[np.generic]] = {}
        for kind, values in self._maps(scan).items():
            planes = torch.from_numpy(np.atleast_3d(values)).permute(2, 0, 1)[None]
            mode = modes.get(kind, "label")
            planes = planes.byte() if mode == "label" else planes
            found = to_perspective(planes, rotations.float(), size, size, fov=FOV, mode=mode)[0]
            if kind == "depth":
                found = distance_to_z(found, intrinsics_from_fov(FOV, size, size))
            cut[kind] = (found.bool() if mode == "label" else found).permute(0, 2, 3, 1).squeeze(-1).numpy()
        return [
            _View(
                f"{scan.name}_{i:02d}",
                {kind: values[i] for kind, values in cut.items()},
                scan.pose.seen_by(rotations[i].numpy()),
                camera,
            )
            for i in range(len(rotations))
        ]

    def _save(self, view: _View) -> None:
        for kind, values in view.maps.items():
            path = self.root / kind / f"{view.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "depth":
                write_npy(path.with_name(f"{path.stem}.npy"), values)
                write_png(path, encode_depth(values))
            elif kind == "normals":
                write_png(path, encode_normals(values))
            elif kind == "images":
                write_png(path, values)
            else:
                # COLMAP appends .png to the whole name of an image to find its mask.
                path = path.with_name(f"{path.name}.png") if kind == "masks" else path
                write_png(path, np.where(values, np.uint8(255), np.uint8(0)))

    def _remember_points(self, scan: Scan) -> None:
        """Sample points in proportion to solid angle, so that the poles get no more than their share."""
        height, width = scan.depth.shape
        kept = clean_points(scan.depth, EDGE, self.nadir)
        kept &= ~scan.sky if scan.sky is not None else True
        chance = solid_angles(height, width).numpy() / (4 * np.pi) * self.share
        kept &= np.random.default_rng(0).random((height, width)) < chance
        places = scan.pose.to_world(erp_rays(height, width).numpy()[kept] * scan.depth[kept][:, None])
        for (x, y, z), (red, green, blue) in zip(places.tolist(), scan.image[kept].tolist(), strict=True):
            self.points.append(f"{len(self.points) + 1} {x:.6g} {y:.6g} {z:.6g} {red} {green} {blue} 0")
