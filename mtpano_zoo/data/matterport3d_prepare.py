"""Panoramas from the release of Matterport3D: six skybox faces and eighteen depth views become one panorama.

The owner does not state how faces and views are oriented, but three public readers agree (the stitching of
UniFuse, JOANNEUM's `matterport_utils`, the Matterport3D Simulator): face 0 is up and 5 down, with edges that touch face
1; faces 1 to 4 go around to the right; face 3 looks along view 2 of the level camera. As in UniFuse, face 2 is the
centre of the panorama.
"""

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mtpano_zoo import sphere
from mtpano_zoo.data.matterport3d import Matterport3DDataModule
from mtpano_zoo.data.matterport3d_release import DEPTH, LEVEL, NORMALS, YAWS, Cameras, Scan, find_scans, open_scan
from mtpano_zoo.data.reading import FORWARD_UP_LEFT, UNREADABLE, reason_of
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import encode_depth, write_bytes, write_png
from mtpano_zoo.machine.workers import stoppable
from mtpano_zoo.manifest import claim_marked_folder
from mtpano_zoo.output_paths import path_below

__all__ = ("Prepared", "View", "fuse_views", "load_views", "prepare", "prepare_scan", "stitch_skybox")

FRONT_VIEW = (LEVEL, 2)  # looks along face 3, 90 degrees to the right of the panorama's centre
MARKER = "matterport3d.txt"
_NONE = torch.iinfo(torch.int64).max
_INDEX_BITS = 24


class View(NamedTuple):
    """Measurements of a view, and its pose in the frame of its panorama.

    Args:
        z: Depth (h, w) along the axis in metres, 0 = none.
        normals: (h, w, 3) in the frame of the view, x right, y down, z forward, zero = none; or None.
        intrinsics: Pinhole matrix (3, 3) in pixels.
        rotation: Camera-to-panorama (3, 3).
        position: (3,) in metres from the centre of the panorama.
    """

    z: Tensor
    normals: Tensor | None
    intrinsics: Tensor
    rotation: Tensor
    position: Tensor


class Prepared(NamedTuple):
    """Result of `prepare`.

    Args:
        written: Panoramas written now.
        kept: Panoramas that were there before.
        failures: A sentence for every building with data that could not be used.
    """

    written: int
    kept: int
    failures: list[str]


def prepare(
    root: str | Path,
    out: str | Path,
    height: int = 512,
    width: int = 1024,
    workers: int = 1,
    report: Callable[[str], object] | None = None,
) -> Prepared:
    """Make panoramas, depth and normals from the release and write them for `Matterport3DDataModule`.

    Panoramas without views (112 of the release) get an image only, as does everything where `undistorted_depth_images`
    was not downloaded; without `undistorted_normal_images` there are no normals. There are no classes: the release has
    them on meshes only. Files appear complete or not at all, so an interrupted call can be repeated: panoramas that
    are complete are left alone.

    Args:
        root: Folder that holds `v1/scans`, or its buildings, or one building; unpacked or in the zip files.
        out: New folder, or one that an earlier call started.
        height: Rows of the panoramas, even, from 8 to 1024: the views have too few pixels for more.
        width: Columns, twice the rows.
        workers: Processes; each needs about 2 GB of memory.
        report: Called with a sentence after every building.

    Raises:
        InputError: If the size or the number of workers is out of range, or the output folder holds something else, or
            panoramas of another size.
        FileNotFoundError: If the root holds no building.
        OSError: If the output cannot be written, or a worker was killed.
    """
    if not 8 <= height <= 1024 or height % 2 or width != 2 * height or workers < 1:
        raise InputError(
            "height must be an even number from 8 to 1024, width twice that and workers at least 1, not "
            f"{height}, {width} and {workers}"
        )
    # A building is named after its folder, which ".." does not name.
    root = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - links keep their names
    scans, out = find_scans(root), Path(out).expanduser().absolute()
    claim_marked_folder(out, MARKER, f"Panoramas of Matterport3D, {height} x {width}\n", "panoramas of this size")
    written, kept = 0, 0
    failures: list[str] = []
    for name, done in _each(partial(prepare_scan, out=out, height=height, width=width), scans, workers):
        written, kept, failures = written + done.written, kept + done.kept, failures + done.failures
        if report is not None:
            report("; ".join((f"{name}: {done.written} panoramas written, {done.kept} were there", *done.failures)))
    return Prepared(written, kept, failures)


def prepare_scan(folder: Path, out: Path, height: int, width: int) -> Prepared:
    """Do what `prepare` does for one building.

    Raises:
        OSError: If the output cannot be written.
    """
    try:
        scan = open_scan(folder)
        cameras = scan.cameras()
    except UNREADABLE as error:
        return Prepared(0, 0, [f"{folder.name} is left out: {str(error) or reason_of(error)}"])
    panoramas, written, kept, reasons = scan.panoramas(), 0, 0, []
    for panorama in panoramas:
        views = cameras.get(panorama, {}) if scan.has(DEPTH) else {}
        roles = ["image", *(["depth"] if views else []), *(["normals"] if views and scan.has(NORMALS) else [])]
        names = {role: Matterport3DDataModule.files[role][0].format(scan=scan.name, name=panorama) for role in roles}
        try:
            paths = {role: path_below(out, name) for role, name in names.items()}
            if all(path.exists() for path in paths.values()):
                kept += 1
                continue
            image = stitch_skybox(scan.faces(panorama), height, width)
            depth, normals = fuse_views(load_views(scan, panorama, views, "normals" in roles), height, width)
        except UNREADABLE as error:
            reasons.append(str(error) or reason_of(error))
            continue
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if "normals" in paths:
            write_png(paths["normals"], _encode_normals(normals))
        if "depth" in paths:
            write_png(paths["depth"], encode_depth(depth))
        write_bytes(paths["image"], _encode_jpeg(image))  # last: an image makes a sample
        written += 1
    failures = [f"{scan.name}: {len(reasons)} of {len(panoramas)} panoramas are left out: {why}" for why in reasons[:1]]
    return Prepared(written, kept, failures)


def stitch_skybox(faces: Sequence[NDArray[np.uint8]], height: int, width: int) -> NDArray[np.uint8]:
    """Make an equirectangular image (H, W, 3), centred on face 2, from the six skybox faces (S, S, 3).

    The faces are sampled several times per pixel and averaged, so that a panorama with fewer pixels has no aliasing.
    """
    # Up and down touch face 1: with it in front, this is the cube of `sphere`.
    cube = torch.from_numpy(np.stack([faces[i] for i in (1, 2, 3, 4, 0, 5)])).permute(0, 3, 1, 2)[None].float()
    finer = max(1, math.ceil(4 * faces[0].shape[0] / width))
    panorama = avg_pool2d(sphere.from_cubemap(cube, finer * height, finer * width), finer)
    return sphere.rotate(panorama, sphere.rotation_matrix(90.0))[0].permute(1, 2, 0).round().byte().numpy()


def load_views(scan: Scan, panorama: str, cameras: Cameras, with_normals: bool) -> Iterator[View]:
    """Read the views of a panorama one after another, and place them in its frame.

    The centre of the panorama is the mean of the six level views, which lie on a circle of a few millimetres.

    Raises:
        InputError: If a level view has no camera, or a file is damaged or of another size.
        OSError: If a file is missing or cannot be read.
    """
    if not cameras:
        return
    if missing := [yaw for yaw in YAWS if (LEVEL, yaw) not in cameras]:
        raise InputError(f"the camera file of {scan.name} lacks the level views {missing} of {panorama}")
    centre = np.mean([cameras[LEVEL, yaw].position for yaw in YAWS], axis=0)
    to_panorama = sphere.rotation_matrix(90.0, dtype=torch.float64).numpy() @ cameras[FRONT_VIEW].rotation.T
    for (index, yaw), camera in sorted(cameras.items()):
        z = scan.z_depth(panorama, index, yaw)
        normals = scan.normals(panorama, index, yaw) if with_normals else None
        if normals is not None and normals.shape[:2] != z.shape:
            raise InputError(f"normals and depth of view {index}_{yaw} of {panorama} differ in size")
        yield View(
            torch.from_numpy(z),
            None if normals is None else torch.from_numpy(normals),
            torch.from_numpy(camera.intrinsics).float(),
            torch.from_numpy(to_panorama @ camera.rotation).float(),
            torch.from_numpy(to_panorama @ (camera.position - centre)).float(),
        )


def fuse_views(views: Iterable[View], height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fuse the measurements of several views into depth (H, W) along a panorama's rays and normals (H, W, 3).

    Every measurement becomes a point, seen from the centre of the panorama: the views are up to some centimetres away
    from it. Of the points within three quarters of a view's pixel around its ray, a pixel takes the nearest surface; if
    there is none, at the borders of views, it takes the next measurement in the pixel. Without any it is zero.
    """
    best = torch.full((height * width,), _NONE)
    depth, normals = torch.zeros(height * width), torch.zeros(height * width, 3)
    for view in views:
        seen = view.z.flatten().nonzero()[:, 0]
        rays = sphere.perspective_rays(
            *view.z.shape, intrinsics=view.intrinsics, rotation=view.rotation, normalize=False
        )
        # One plane per component in memory, as rays are: arithmetic runs over contiguous numbers.
        points = rays.movedim(-1, 0).reshape(3, -1)[:, seen] * view.z.flatten()[seen] + view.position[:, None]
        distance = (points * points).sum(0).sqrt()
        pixel, offset = _nearest_pixels(points.T, distance, height, width)
        # Compare by rings around the pixel's centre, of which the first is wide enough to meet every surface that the
        # view saw there; then by surface, separated in steps of 5 %; then by the offset from the centre.
        steps = offset * view.intrinsics[0, 0] / 0.75
        ring, surface, rest = steps.long(), (20 * distance.log()).floor().long() + 200, (steps.frac() * 2**15).long()
        key = (((((ring << 9) | surface) << 15) | rest) << _INDEX_BITS) | torch.arange(len(seen))
        nearest = torch.full_like(best, _NONE).scatter_reduce_(0, pixel, key, "amin")
        better = nearest >> _INDEX_BITS < best >> _INDEX_BITS
        chosen = nearest[better] & ((1 << _INDEX_BITS) - 1)
        best[better] = nearest[better]
        depth[better] = distance[chosen]
        if view.normals is not None:
            turned = sphere.rotate_rays(view.normals, view.rotation).reshape(-1, 3)
            normals[better] = turned[seen[chosen]]
    return depth.view(height, width).numpy(), normals.view(height, width, 3).numpy()


def _nearest_pixels(points: Tensor, distance: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the pixel (N,) of a panorama in which points (N, 3) lie, and the angle to its centre in radians."""
    place = sphere.rays_to_pixels(points, height, width)
    centre = place.round()
    across, down = ((place - centre) * (2 * math.pi / width)).unbind(-1)
    level = torch.hypot(points[:, 0], points[:, 2]) / distance  # cosine of the latitude
    column, row = centre.long().unbind(-1)
    return row.clamp(0, height - 1) * width + column % width, torch.hypot(across * level, down)


def _each(work: Callable[[Path], Prepared], scans: Sequence[Path], workers: int) -> Iterator[tuple[str, Prepared]]:
    """Do the work for all buildings, here or in processes, and yield results as they are ready."""
    if workers == 1:
        yield from ((scan.name, work(scan)) for scan in scans)
        return
    with stoppable(workers, threads=1) as pool:
        futures = {pool.submit(work, scan): scan.name for scan in scans}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker was killed, probably for lack of memory: run again with fewer; finished panoramas are kept"
            ) from error


def _encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _encode_normals(normals: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return 8-bit RGB in the frame of MTPano's files; the zero vector is the grey 128, far from any unit vector."""
    stored = normals @ np.array(FORWARD_UP_LEFT, np.float32)
    encoded: NDArray[np.uint8] = np.rint(127.5 * (1 + stored)).astype(np.uint8)
    return encoded
