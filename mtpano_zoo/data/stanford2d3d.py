"""Stanford2D3D (2D-3D-S): scanned panoramas of six office areas."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.classes import S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.data.index import Index
from mtpano_zoo.data.panoramas import PanoramaDataModule, Split
from mtpano_zoo.data.reading import (
    Decoder,
    decode_depth,
    decode_rgb,
    decode_vectors,
    look_up,
    open_image,
)
from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere import erp_angles
from mtpano_zoo.tasks import NO_LABEL
from mtpano_zoo.text_files import parse_json

__all__ = ("Stanford2D3DDataModule", "decode_normals", "decode_semantic", "mask_black")

ClassOrder = Literal["s3dis", "alphabetical"]
Layout = Literal["release", "unifuse"]

AREAS = ("1", "2", "3", "4", "5a", "5b", "6")

# Layout of UniFuse's file lists; Depth Anywhere reads them too.
UNIFUSE_FILES: Mapping[str, tuple[str, ...]] = {
    "image": ("area_{area}/rgb_/camera_{camera}_{room}_frame_equirectangular_domain_rgb.png",),
    "depth": ("area_{area}/depth/camera_{camera}_{room}_frame_equirectangular_domain_depth.png",),
}

TEST_AREAS = {1: ("5a", "5b"), 2: ("2", "4"), 3: ("1", "3", "6")}

# The owner's assets/semantic_labels.json lists the instances in the order of their classes: this many of each, after
# entry 0, which is unknown.
INSTANCES = {
    "beam": 159,
    "board": 137,
    "bookcase": 584,
    "ceiling": 385,
    "chair": 1363,
    "clutter": 3882,
    "column": 254,
    "door": 543,
    "floor": 284,
    "sofa": 55,
    "table": 455,
    "wall": 1546,
    "window": 168,
}

# From (R, G, B) to the x, y, z of the world, whose z is up; see the data sheet.
NORMALS_TO_WORLD = (((1, 0, 0), (0, 0, 1), (0, -1, 0)), ((1, 0, 0), (0, 0, -1), (0, -1, 0)))


def decode_semantic(data: bytes, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Decode an image whose colours are 24-bit numbers of instances.

    Numbers above 65535, such as #0D0D0D, are no label.

    Args:
        data: The file.
        classes: The 13 names, in the order of the classes.

    Raises:
        InputError: If it is not RGB, or holds a number that the list of instances does not have.
    """
    image = open_image(data)
    if image.mode not in ("RGB", "RGBA"):
        raise InputError(f"its labels are stored as mode {image.mode}, but the release has 24-bit numbers in RGB")
    red, green, blue = np.moveaxis(np.asarray(image)[..., :3].astype(np.uint16), -1, 0)
    numbers = np.where(red == 0, green * np.uint16(256) + blue, 0)
    lookup = np.repeat([classes.index(name) for name in INSTANCES], list(INSTANCES.values()))
    return look_up(numbers, [NO_LABEL, *lookup])


def decode_normals(data: bytes, pose: bytes) -> NDArray[np.float32]:
    """Decode normals in the frame of the world and rotate them to the camera's.

    Args:
        data: The image.
        pose: The JSON file with `camera_rt_matrix`.

    Raises:
        InputError: If the image is not RGB, or the pose has no rotation.
    """
    turn = _world_to_camera(pose)
    normals = decode_vectors(data, middle=127.5, scale=127.5)
    rows, columns = normals.shape[:2]
    step = max(1, rows // 64)
    longitude, latitude = (angles[::step].numpy() for angles in erp_angles(rows, columns))
    latitude = latitude[:, None]
    rays = np.stack(
        np.broadcast_arrays(
            np.cos(latitude) * np.sin(longitude), -np.sin(latitude), np.cos(latitude) * np.cos(longitude)
        ),
        -1,
    )
    some = normals[::step, ::step]
    frames = [turn @ np.array(frame) for frame in NORMALS_TO_WORLD]
    # Of the two readings of the blue channel, choose the one whose surfaces face the camera.
    facing = [np.count_nonzero(((some @ frame.T) * rays).sum(-1) < 0) for frame in frames]
    turned: NDArray[np.float32] = normals @ frames[int(np.argmax(facing))].T.astype(np.float32)
    return turned


def _world_to_camera(pose: bytes) -> NDArray[np.float64]:
    """Return the rotation (3, 3) from the world, z up, to x right, y down, z forward."""
    try:
        matrix = np.array(parse_json(pose, "its pose")["camera_rt_matrix"], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("its pose is not a JSON object with a matrix `camera_rt_matrix`") from error
    if matrix.shape not in ((3, 4), (4, 4)):
        raise InputError(f"its pose has a camera_rt_matrix of shape {matrix.shape}, not 3 or 4 rows of 4")
    turn = matrix[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise InputError("its pose has a camera_rt_matrix that is not a rotation")
    return turn


def mask_black(maps: dict[str, NDArray[Any]]) -> None:
    """Remove the labels where the image is black, because nothing was photographed there.

    Example:
        >>> maps = {"image": np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8), "depth": np.ones((1, 2), np.float32)}
        >>> mask_black(maps)
        >>> maps["depth"].tolist()
        [[0.0, 1.0]]
    """
    black = ~maps["image"].any(-1)
    for role in maps.keys() - {"image"}:
        maps[role][black] = NO_LABEL if role == "semseg" else 0


class Stanford2D3DDataModule(PanoramaDataModule):
    """Stanford2D3D, also 2D-3D-S (Armeni et al., 2017): 1,413 panoramas of 4096 x 2048 from offices of three buildings.

    Semantic classes (13), depth and normals are rendered from the scanned mesh. The areas 1 to 6, of which 5 comes in
    two parts, have 190, 299, 85, 258, 143 + 230 and 208 panoramas.

    Get it: fill in the licence form of the owner (github.com/alexsax/2D-3D-Semantics), which leads to one archive per
    area, with or without `global_xyz` (766 or 110 GB; it is not read). Unpack the archives: a panorama cannot be taken
    out of a `.tar.gz` without unpacking all before it.

    Expected below the root::

        area_1/pano/rgb/camera_<32 hex>_office_6_frame_equirectangular_domain_rgb.png    8-bit colour, some with alpha
                    semantic/..._semantic.png    24-bit number of an instance in R, G, B; #0D0D0D none
                    depth/..._depth.png          16-bit, 1/512 m along the ray, 65535 none
                    normal/..._normals.png       127.5 (1 + n) in the frame of the world; #808080 none
                    pose/..._pose.json           camera_rt_matrix, from the world (z up) to x right, y down, z forward

    or, with ``layout: unifuse``, without the folder `pano`: images in `rgb_`, where UniFuse's authors filled in what is
    black, and depth; nothing else is read then.

    The images are black above and below, where the camera saw nothing, though depth and classes were rendered there:
    black pixels have no labels. The table of instances (`assets/semantic_labels.json` of the owner's repository) is
    sorted by class, and its numbers per class are built in.

    That (R, G) of the normals are the world's (x, -z) is inferred from a published picture and the owner's words ("as
    NYU RGB-D": right, down, towards the camera). Neither says whether B is y or -y: each panorama uses the reading in
    which more pixels face the camera.

    Fold 1, 2 and 3 test on the areas 5, 2 + 4 and 1 + 3 + 6 (373, 557 and 483 panoramas) and train on the others.
    There is no validation set: published results select no checkpoint or select it on the test areas. Validation here
    is on the test areas too, unless `val_areas` are held out of the training areas.

    Args:
        root: Folder that holds `area_1` and the others, or some of them.
        fold: Which of the three.
        class_order: ``s3dis`` (ceiling, floor, wall, ...), as MTPano counts, or ``alphabetical`` (beam, board,
            bookcase, ...), as HoHoNet and Trans4PASS do.
        val_areas: Training areas to validate on, among 1, 2, 3, 4, 5a, 5b and 6.
        layout: Which of the two folders.
        options: See `PanoramaDataModule`.

    Cite: I. Armeni, S. Sax, A. R. Zamir, S. Savarese, "Joint 2D-3D-Semantic Data for Indoor Scene Understanding",
    arXiv:1702.01105, 2017.
    """

    id_pattern = "camera_{camera}_{room}"
    complete = 1413
    mask = staticmethod(mask_black)
    saturated = None  # in the release, 65535 means missing
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("area_{area}/pano/rgb/camera_{camera}_{room}_frame_equirectangular_domain_rgb.png",),
        "semseg": ("area_{area}/pano/semantic/camera_{camera}_{room}_frame_equirectangular_domain_semantic.png",),
        "depth": ("area_{area}/pano/depth/camera_{camera}_{room}_frame_equirectangular_domain_depth.png",),
        "normals": (
            "area_{area}/pano/normal/camera_{camera}_{room}_frame_equirectangular_domain_normals.png",
            "area_{area}/pano/pose/camera_{camera}_{room}_frame_equirectangular_domain_pose.json",
        ),
    }
    expressions: Mapping[str, str] = {"area": "|".join(AREAS), "camera": "[0-9a-f]{32}", "room": "[A-Za-z]+_[0-9]+"}

    def __init__(
        self,
        root: str | Path,
        *,
        fold: Literal[1, 2, 3] = 1,
        class_order: ClassOrder = "s3dis",
        val_areas: Sequence[str] = (),
        layout: Layout = "release",
        **options: Any,
    ) -> None:
        if fold not in TEST_AREAS or class_order not in get_args(ClassOrder):
            raise InputError(
                f"fold is 1, 2 or 3 and class_order s3dis or alphabetical, not {fold!r} and {class_order!r}"
            )
        if layout not in get_args(Layout):
            raise InputError(f"layout is release or unifuse, not {layout!r}")
        training = sorted(set(AREAS) - set(TEST_AREAS[fold]))
        if not set(val_areas) < set(training):
            raise InputError(f"val_areas are some, but not all, of {', '.join(training)} in fold {fold}: {val_areas!r}")
        order = np.arange(13) if class_order == "s3dis" else np.argsort(S3DIS_CLASSES)
        classes = tuple(S3DIS_CLASSES[i] for i in order)
        if layout == "release":
            self.classes, self.palette = classes, S3DIS_PALETTE[order]
        else:
            self.files = UNIFUSE_FILES
        self.decoders: Mapping[str, Decoder] = {
            "image": decode_rgb,
            "semseg": partial(decode_semantic, classes=classes),
            "depth": partial(decode_depth, unit=1 / 512, missing=(65535,)),
            "normals": decode_normals,
        }
        super().__init__(root, **options)
        self.fold = fold
        self.val_areas = frozenset(val_areas)

    def find(self) -> Index:
        """Find the panoramas; refuse archives that are still packed."""
        packed = sorted(path.name for path in self.root.glob("*.tar*")) if self.root.is_dir() else [self.root.name]
        if not any(self.root.glob("area_*/")) and any(".tar" in name for name in packed):
            raise FileNotFoundError(f"{self.root} holds {packed[0]}, which cannot be read as it is: unpack it first")
        return super().find()

    def split_of(self, fields: Mapping[str, str]) -> Split:
        """Return the split of the area."""
        if fields["area"] in TEST_AREAS[self.fold]:
            return "test"
        return "val" if fields["area"] in self.val_areas else "train"

    def belongs(self, i: int, fields: Mapping[str, str], split: str) -> bool:
        """Return whether a sample is in a split; validation is on the test areas unless others are held out."""
        return super().belongs(i, fields, "test" if split == "val" and not self.val_areas else split)
