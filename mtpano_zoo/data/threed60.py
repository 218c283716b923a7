"""3D60: rendered panoramas of Matterport3D and Stanford2D3D."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mtpano_zoo.data.index import Index, find_samples
from mtpano_zoo.data.panoramas import PanoramaDataModule, Split
from mtpano_zoo.data.reading import Decoder, decode_rgb
from mtpano_zoo.data.renders import decode_exr_depth, decode_exr_normals, read_lists
from mtpano_zoo.errors import InputError
from mtpano_zoo.text_files import read_lines

__all__ = ("ThreeD60DataModule",)

Part = Literal["Matterport3D", "Stanford2D3D"]
Placement = Literal["Left_Down", "Right", "Up"]

# From the owner's splits/create_splits.py: buildings and areas; all others are for training.
VAL_SCENES = (
    *("7812e14df5e746388ff6cfe8b043950a", "9266ab00ab6744348efa7afe13b3db9f", "f9aeabd92a05469badd3c6324dc35a55"),
    *("0685d2c5313948bd94e920b5b9e1a7b2", "9f2deaf4cf954d7aa43ce5dc70e7abbe", "e0166dba74ee42fd80fccc26fe3f02c8"),
    *("a2577698031844e7a5982c8ee0fecdeb", "bd8722e710f14c949259a02ae1a51dee", "eef1d4cc7acb4e2db42b22a2177e7236"),
    *("2aa12c3747f948b8bf9df281ec784627", "a641c3f4647545a2a4f5c50f5f5fbb57"),
    "area_3",
)
TEST_SCENES = (
    *("ed1e790a785e4b74b895e41682b2ae88", "2797de2c1a00404faa63b1c722809d0c", "a48996e5b4d64ddca7ebae1e8058bb75"),
    *("3086b4adcdf0410380493d08fa18185d", "0151156dd8254b07a241a2ffaf0451d4", "95d83883728b4cf089a7338117dafda0"),
    *("ef0f394cf59549f2a46b3df2a8ba4620", "d4f8bb56230e4695860deffe751adf20", "e440fec9930c40f780cc2dc1bae19799"),
    *("3e02d80e4b4048abb1befdf84ede89d6", "331000ad2a204322916c92f197fbe6cb", "3f6062eeed474a6691e1116032b09fc7"),
    *("6cbebf6c7e6647edabb53546e5200c5c", "0b724f78b3c04feeb3e744945517073d", "0b217f59904d4bdf85d35da2cab96347"),
    *("380914818d0f4dfa88035fe57f994130", "fa5f164b48f043c6b2b0bb9e8631a482", "72e0512c082d4895b68c82b35884ff98"),
    *("area_5a", "area_5b"),
)

# Folder below the root and regular expression of the scene, by part; the last digit of a scene numbers its viewpoints.
_PARTS: dict[Part, tuple[str, str]] = {
    "Matterport3D": ("Matterport3D", r"[0-9a-f]{32}\d+"),
    "Stanford2D3D": ("Stanford2D3D/{area}", r"area_\d[ab]?\d"),
}


class ThreeD60DataModule(PanoramaDataModule):
    """3D60 (Zioulis et al., 2018, 2019): panoramas of 512 x 256 of scanned buildings, with depth and normals.

    Get it: the request form of the owner (vcl3d.github.io/3D60). The terms of Matterport3D and Stanford2D3D apply. The
    owner recommends its successor, Pano3D: here a lamp at the camera lights near surfaces. Depth and normals are EXR
    images: install ``mtpano_zoo[exr]``.

    Expected below the root, unpacked or in zip files::

        Matterport3D/10_<32 hex>1_color_0_Left_Down_0.0.png    8-bit RGB
                     10_<32 hex>1_depth_0_Left_Down_0.0.exr    float, metres along the ray in each channel, 1e10 none
                     10_<32 hex>1_normal_0_Left_Down_0.0.exr   float, (R, G, B) = (right, forward, up), towards the
                                                               camera, zero none
        Stanford2D3D/area5a/139_area_5a1_color_0_Left_Down_0.0.png    and so on

    Values are read exactly. A third part, SunCG, is not read: that set was withdrawn for legal reasons.

    Without `lists` a building is in the split of the owner's script: 61 buildings of Matterport3D and the
    areas 1, 2, 4, 6 are for training, 11 and area 3 for validation, 18 and area 5 for test. Published lists leave out
    some panoramas with bad renderings; `lists` reads them (`3D60_test.txt`, `test.txt`, ...), whatever folders they
    name. There is none for training in the owner's repository.

    Args:
        root: Folder that holds `Matterport3D` and `Stanford2D3D`.
        parts: Which of the two.
        placements: Cameras: ``Left_Down`` in the middle, ``Right`` and ``Up`` at 0.26 m from it.
        lists: Files of the owner by split, absolute or relative to the root. If set, only panoramas in them are used.
        options: See `PanoramaDataModule`.

    Cite: N. Zioulis, A. Karakottas, D. Zarpalas, P. Daras, "OmniDepth: Dense Depth Estimation for Indoors Spherical
    Panoramas", ECCV 2018; N. Zioulis et al., "Spherical View Synthesis for Self-Supervised 360 Depth Estimation", 3DV
    2019.
    """

    id_pattern = "{number}_{scene}_{placement}_{yaw}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("{folder}/{number}_{scene}_color_0_{placement}_{yaw}.png",),
        "depth": ("{folder}/{number}_{scene}_depth_0_{placement}_{yaw}.exr",),
        "normals": ("{folder}/{number}_{scene}_normal_0_{placement}_{yaw}.exr",),
    }
    decoders: Mapping[str, Decoder] = {
        "image": decode_rgb,
        "depth": decode_exr_depth,
        "normals": decode_exr_normals,
    }

    def __init__(
        self,
        root: str | Path,
        *,
        parts: Sequence[Part] = ("Matterport3D", "Stanford2D3D"),
        placements: Sequence[Placement] = ("Left_Down",),
        lists: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        for name, given, known in (
            ("parts", parts, get_args(Part)),
            ("placements", placements, get_args(Placement)),
        ):
            if not given or not set(given) <= set(known):
                raise InputError(f"{name} must be a list with one or more of {', '.join(known)}, not {given!r}")
        super().__init__(root, **options)
        self.parts = tuple(dict.fromkeys(parts))
        self.placements = "|".join(sorted(set(placements)))
        self.listed = read_lists(self.root, lists, _listed_names)

    def find(self) -> Index:
        """Find the panoramas of the parts, which lie in folders of different depth.

        Raises:
            FileNotFoundError: If a part is not there.
        """
        parts: dict[Part, Index] = {}
        missing: FileNotFoundError | None = None
        for part in self.parts:
            try:
                parts[part] = self._find_part(part)
            except FileNotFoundError as error:
                missing = missing or error
        if missing is not None and not parts:
            raise missing
        if missing is not None:
            there = ", ".join(parts)
            raise FileNotFoundError(
                f"{self.root} holds only panoramas of {there}: set parts to [{there}], or add the others"
            ) from missing
        found = list(parts.values())
        return Index(
            found[0].source,
            self.files,
            {name: np.concatenate([index.fields[name] for index in found]) for name in found[0].fields},
            {pattern: np.concatenate([index.places[pattern] for index in found]) for pattern in found[0].places},
            [note for index in found for note in index.notes],
        )

    def _find_part(self, part: Part) -> Index:
        folder, scene = _PARTS[part]
        files = {role: (patterns[0].replace("{folder}", folder),) for role, patterns in self.files.items()}
        expressions = {
            "number": r"\d+",
            "scene": scene,
            "placement": self.placements,
            "yaw": r"\d+\.\d",
            "area": r"\w+",
        }
        index = find_samples(self.root, files, expressions)
        area = index.fields.pop("area", None)
        prefix = part.encode()
        index.fields["folder"] = np.full(len(index), prefix) if area is None else np.char.add(prefix + b"/", area)
        places = {self.files[role][0]: index.places[files[role][0]] for role in files}
        return Index(index.source, self.files, index.fields, places, index.notes)

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return the listed split, else that of the building or area."""
        if self.listed is not None:
            return self.listed.get(self.files["image"][0].format(**fields).rsplit("/", 1)[-1])
        scene = fields["scene"][:-1] if fields["scene"].startswith("area_") else fields["scene"][:32]
        return "val" if scene in VAL_SCENES else "test" if scene in TEST_SCENES else "train"


def _listed_names(path: Path) -> list[str]:
    """Return the colour images of every line, without folders, which are from other machines and use either slash."""
    names = [re.split(r"[/\\]", word)[-1] for line in read_lines(path) for word in line.split()]
    return [name for name in names if "_color_" in name]
