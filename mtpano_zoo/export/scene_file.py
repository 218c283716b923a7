"""Write one panorama as one file in three dimensions: a point cloud or a mesh."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.export.glb import write_glb
from mtpano_zoo.export.mesh import MAX_ANGLE, sphere_mesh
from mtpano_zoo.image_io import write_ply
from mtpano_zoo.point_cloud import cloud

__all__ = ("EXPORTERS", "Cut", "default_stride", "write_scene")

ROWS = 512


class Cut(NamedTuple):
    """Which part of a panorama is exported.

    Attributes:
        stride: use every `stride`-th row and column; None for `default_stride`.
        edge: leave out pixels at edges, see `mtpano_zoo.point_cloud.clean_points`.
        nadir: leave out pixels less than this many degrees from straight down, see the same.
        max_angle: for a mesh, leave out triangles that are seen at a more grazing angle, in degrees, see
            `mtpano_zoo.export.mesh.sphere_mesh`.
    """

    stride: int | None = None
    edge: float | None = None
    nadir: float = 0.0
    max_angle: float = MAX_ANGLE


Exporter = Callable[[Path, NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None, Cut], None]


def default_stride(height: int) -> int:
    """Return the smallest stride that leaves at most 512 rows: half a million points, a million triangles.

    Example:
        >>> default_stride(512), default_stride(2000)
        (1, 4)
    """
    return -(-height // ROWS)


def write_scene(
    path: str | Path,
    image: NDArray[np.uint8],
    depth: NDArray[np.float32] | None,
    normals: NDArray[np.float32] | None = None,
    cut: Cut | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a panorama as a `.ply` or `.glb` file, as the suffix says, and return its path.

    Args:
        path: the file; its folder is created.
        image: RGB (H, W, 3).
        depth: metres (H, W), 0 = no value.
        normals: (H, W, 3), zero = no value. If omitted, a cloud uses those of the surface through its points.
        cut: which part is exported.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: If the file exists and `overwrite` is false.
        IsADirectoryError: If the path is a folder.
        InputError: If the name ends in something else, there is no depth, no pixel has a distance, or an option is out
            of range.
    """
    path = Path(path)
    if path.suffix.lower() not in EXPORTERS:
        raise InputError(f"{path} must end in {' or '.join(EXPORTERS)}: a point cloud or a mesh")
    if depth is None:
        raise InputError(f"{path.name} needs depth, which this network does not predict")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} already exists: choose another name, or overwrite it")
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = cut or Cut()
    if cut.stride is None:
        cut = cut._replace(stride=default_stride(len(depth)))
    EXPORTERS[path.suffix.lower()](path, image, depth, normals, cut)
    return path


def _ply(
    path: Path, image: NDArray[np.uint8], depth: NDArray[np.float32], normals: NDArray[np.float32] | None, cut: Cut
) -> None:
    points = cloud(image, depth, normals, cast(int, cut.stride), cut.edge, cut.nadir)
    if len(points.points) == 0:
        raise InputError("there is no point to export, because no pixel has a distance: depth is 0 everywhere")
    write_ply(path, *points)


def _glb(
    path: Path, image: NDArray[np.uint8], depth: NDArray[np.float32], normals: NDArray[np.float32] | None, cut: Cut
) -> None:
    write_glb(path, sphere_mesh(depth, cast(int, cut.stride), cut.edge, cut.nadir, cut.max_angle), image)


EXPORTERS: dict[str, Exporter] = {".ply": _ply, ".glb": _glb}
