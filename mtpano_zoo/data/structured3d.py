"""Structured3D: rendered panoramas of designed interiors."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mtpano_zoo.classes import NYU40_CLASSES, NYU40_PALETTE
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

__all__ = ("Structured3DDataModule",)

# metadata/errata.txt of the owner: scenes that are invalid, and rooms whose layout lines cross (the images are sound).
INVALID_SCENES = frozenset({"01155", "01192", "01714", "01816", "01852", "03398"})


class Structured3DDataModule(PanoramaDataModule):
    """Structured3D (Zheng et al., ECCV 2020): 21,835 rooms of 3,500 designed homes, one panorama per room.

    Every room is rendered at 1024 x 512 in three furnishings (full, simple, empty) and three lights (raw, cold, warm),
    with semantic classes (NYUv2-40), depth and normals. Training, validation and test are the scenes 00000 to 02999,
    03000 to 03249 and 03250 to 03499: 18,362, 1,776 and 1,697 rooms.

    Get it: fill in the agreement on the project page (structured3d-dataset.org), which sends links to 18 archives
    `Structured3D_panorama_00.zip` to `_17.zip`. Terms: "Structured3D Terms of Use", research only. They can be read as
    they are; `unzip` often calls them corrupt, `7z x` unpacks them. Some members are really damaged, different ones in
    different downloads: train with `on_error: skip`, or list them in `exclude`, by ids such as
    ``scene_00212_494_full_raw``.

    Expected, unpacked or in the archives, below the root or below `root/Structured3D`::

        scene_00000/2D_rendering/485142/panorama/full/rgb_rawlight.png    8-bit colour, at times with alpha
                                                      semantic.png        palette; NYUv2-40 class 1 to 40, 0 none
                                                      depth.png           16-bit, millimetres along the ray, 0 none
                                                      normal.png          128 (1 + n), towards the camera

    The frame of the normals, (R, G, B) = (forward, up, left), is inferred from four sources that agree; the owner
    states R and G. That depth runs along the ray is what two independent readers of the set assume.

    The six scenes that the owner's errata call invalid are left out by default, among them 03398 of the test set.

    Args:
        root: Folder that holds `Structured3D/`, or the scenes, or the archives; or one archive.
        furnishing: Which of the three furnishings.
        lights: Which lights; each room occurs once for each of them.
        exclude_errata: Leave out the invalid scenes; other published lists keep them.
        train_on_all: Train on all scenes, including validation and test: as unlabelled panoramas, or to test on
            another data set.
        options: See `PanoramaDataModule`.

    Cite: J. Zheng, J. Zhang, J. Li, R. Tang, S. Gao, Z. Zhou, "Structured3D: A Large Photo-realistic Dataset for
    Structured 3D Modeling", ECCV 2020.
    """

    classes = NYU40_CLASSES
    palette = NYU40_PALETTE
    prefix = "Structured3D/"
    archives = "Structured3D_panorama_*.zip"
    id_pattern = "scene_{scene}_{room}_{furnishing}_{light}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("scene_{scene}/2D_rendering/{room}/panorama/{furnishing}/rgb_{light}light.png",),
        "semseg": ("scene_{scene}/2D_rendering/{room}/panorama/{furnishing}/semantic.png",),
        "depth": ("scene_{scene}/2D_rendering/{room}/panorama/{furnishing}/depth.png",),
        "normals": ("scene_{scene}/2D_rendering/{room}/panorama/{furnishing}/normal.png",),
    }
    decoders: Mapping[str, Decoder] = {
        "image": decode_rgb,
        "semseg": partial(decode_labels, lookup=[NO_LABEL, *range(40)]),
        "depth": partial(decode_depth, unit=0.001),
        "normals": partial(decode_vectors, middle=128, scale=128, to_camera=FORWARD_UP_LEFT),
    }

    def __init__(
        self,
        root: str | Path,
        *,
        furnishing: Literal["full", "simple", "empty"] = "full",
        lights: Sequence[Literal["raw", "cold", "warm"]] = ("raw",),
        exclude_errata: bool = True,
        train_on_all: bool = False,
        **options: Any,
    ) -> None:
        if not lights or not set(lights) <= {"raw", "cold", "warm"} or furnishing not in ("full", "simple", "empty"):
            raise InputError(
                "furnishing is full, simple or empty and lights are some of raw, cold and warm, not "
                f"{furnishing!r} and {lights!r}"
            )
        super().__init__(root, **options)
        self.exclude_errata = exclude_errata
        self.train_on_all = train_on_all
        self.complete = 21_835 * len(set(lights))
        self.expressions = {
            "scene": r"\d{5}",
            "room": r"\d+",
            "furnishing": furnishing,
            "light": "|".join(sorted(set(lights))),
        }

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return the split of the scene's number; None for the invalid scenes."""
        if self.exclude_errata and fields["scene"] in INVALID_SCENES:
            return None
        scene = int(fields["scene"])
        return "train" if scene < 3000 else "val" if scene < 3250 else "test"
