"""Matterport3D: real homes, photographed and measured from tripods."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.classes import MPCAT40_CLASSES, MPCAT40_PALETTE, NYU40_CLASSES, NYU40_PALETTE
from mtpano_zoo.data.panoramas import PanoramaDataModule, Split
from mtpano_zoo.data.reading import (
    FORWARD_UP_LEFT,
    Decoder,
    decode_depth,
    decode_labels,
    decode_rgb,
    decode_vectors,
)
from mtpano_zoo.errors import InputError
from mtpano_zoo.tasks import NO_LABEL
from mtpano_zoo.text_files import read_lines

__all__ = ("Matterport3DDataModule", "scan_splits")

Labels = Literal["nyu40", "mpcat40"]
Layout = Literal["mtpano", "unifuse"]

# Layout of UniFuse's file lists, whose images its own script stitched; Depth Anywhere reads them too.
UNIFUSE_FILES: Mapping[str, tuple[str, ...]] = {
    "image": ("{scan}/pano_skybox_color/{name}.jpg",),
    "depth": ("{scan}/pano_depth/{name}.png",),
}
UNIFUSE_COMPLETE = 10800  # without the panoramas that have no depth

_CLASSES = {"nyu40": NYU40_CLASSES, "mpcat40": MPCAT40_CLASSES}
_PALETTES = {"nyu40": NYU40_PALETTE, "mpcat40": MPCAT40_PALETTE}


class Matterport3DDataModule(PanoramaDataModule):
    """Matterport3D (Chang et al., 3DV 2017): 10,912 panoramas in 90 buildings, in the layout of MTPano.

    The release holds no panoramas. `mtpano data prepare matterport3d` makes them from it (see
    `matterport3d_prepare.prepare`): image, depth and normals, but no classes, for which the release has meshes only.
    Training, validation and test are the 61, 11 and 18 buildings of the owner's benchmark: 7,941, 957 and 2,014
    panoramas. 112 of the training panoramas have no depth and no normals.

    Get it: sign the terms of use on the project page (niessner.github.io/Matterport) and mail them to the owners, who
    send a script that downloads by kind of file. `prepare` needs `matterport_skybox_images`,
    `undistorted_camera_parameters`, `undistorted_depth_images` and, for normals, `undistorted_normal_images`. Terms:
    Matterport3D terms of use, research only.

    Expected, below the root or below `root/Matterport3D_Processed`::

        mp3d_results_panoramas/17DRP5sb8fy/<uuid>_panorama.jpg          8-bit colour
        mp3d_aligned_labels/17DRP5sb8fy/semantic/<uuid>_semantic.png    class 1 to 40, 0 none
                                        depth/<uuid>_depth.png          16-bit, millimetres along the ray, 0 none
                                        normal/<uuid>_normal.png        127.5 (1 + n), towards the camera, 128 grey none

    or, with ``layout: unifuse``, what UniFuse's script stitches and Depth Anywhere reads: image and depth only, 7,829,
    957 and 2,014 panoramas::

        17DRP5sb8fy/pano_skybox_color/<uuid>.jpg    8-bit colour
                    pano_depth/<uuid>.png           16-bit, 1/4000 m along the ray, 0 none

    What is inferred: MTPano prints the names of NYUv2-40 for its labels, but nothing published proves that they are
    not mpcat40, which also has 40 classes: look at one image and set `labels`. The frame of its normals, (R, G, B) =
    (forward, up, left), is that of Structured3D, because its code turns and mirrors both alike.

    Args:
        root: Folder that holds `Matterport3D_Processed/`, or is it, or was written by `prepare`.
        labels: Meaning of the numbers in the semantic images: NYUv2-40 or the owner's mpcat40.
        max_depth: Metres beyond which depth counts as not measured; MTPano and other readers use 10.
        train_on_all: Train on all buildings, including those of validation and test, to test on another data set.
        layout: Which of the two folders.
        options: See `PanoramaDataModule`.

    Cite: A. Chang, A. Dai, T. Funkhouser, M. Halber, M. Niessner, M. Savva, S. Song, A. Zeng, Y. Zhang, "Matterport3D:
    Learning from RGB-D Data in Indoor Environments", 3DV 2017.
    """

    prefix = "Matterport3D_Processed/"
    complete = 10912
    id_pattern = "{scan}_{name}"
    expressions: Mapping[str, str] = {"name": "[0-9a-f]{32}"}
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("mp3d_results_panoramas/{scan}/{name}_panorama.jpg",),
        "semseg": ("mp3d_aligned_labels/{scan}/semantic/{name}_semantic.png",),
        "depth": ("mp3d_aligned_labels/{scan}/depth/{name}_depth.png",),
        "normals": ("mp3d_aligned_labels/{scan}/normal/{name}_normal.png",),
    }

    def __init__(
        self,
        root: str | Path,
        *,
        labels: Labels = "nyu40",
        max_depth: float = 10.0,
        train_on_all: bool = False,
        layout: Layout = "mtpano",
        **options: Any,
    ) -> None:
        if layout not in get_args(Layout):
            raise InputError(f"layout is mtpano or unifuse, not {layout!r}")
        if labels not in get_args(Labels) or not max_depth > 0:
            raise InputError(
                f"labels is nyu40 or mpcat40 and max_depth a positive number, not {labels!r} and {max_depth}"
            )
        if layout == "mtpano":
            self.classes, self.palette = _CLASSES[labels], _PALETTES[labels]
        else:
            self.files, self.prefix, self.complete = UNIFUSE_FILES, "", UNIFUSE_COMPLETE
        unlabelled = [NO_LABEL] if labels == "mpcat40" else []
        self.decoders: Mapping[str, Decoder] = {
            "image": decode_rgb,
            "semseg": functools.partial(decode_labels, lookup=[NO_LABEL, *range(40), *unlabelled]),
            "depth": functools.partial(_decode_near, unit=0.001 if layout == "mtpano" else 1 / 4000, limit=max_depth),
            "normals": functools.partial(decode_vectors, middle=127.5, scale=127.5, to_camera=FORWARD_UP_LEFT),
        }
        super().__init__(root, **options)
        self.train_on_all = train_on_all

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return the split of the building; None if it is in none of the owner's lists."""
        return scan_splits().get(fields["scan"])


@functools.cache
def scan_splits() -> dict[str, Split]:
    """Read the split of every building, as in the owner's tasks/benchmark/scenes_train.txt, _val.txt and _test.txt.

    Example:
        >>> [*scan_splits().values()].count("test")
        18
    """
    lines = filter(None, read_lines(Path(__file__).with_name("matterport3d_scans.txt")))
    splits: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
    return {scan: splits[split] for scan, split in map(str.split, lines)}


def _decode_near(data: bytes, unit: float, limit: float) -> NDArray[np.float32]:
    depth = decode_depth(data, unit=unit)
    depth[depth > limit] = 0
    return depth
