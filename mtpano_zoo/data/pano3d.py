"""Pano3D: rendered panoramas of Matterport3D and GibsonV2."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from mtpano_zoo.data.matterport3d import scan_splits
from mtpano_zoo.data.panoramas import PanoramaDataModule, Split
from mtpano_zoo.data.reading import Decoder, decode_rgb
from mtpano_zoo.data.renders import SKY, decode_exr_depth, decode_exr_normals, read_lists
from mtpano_zoo.errors import InputError
from mtpano_zoo.text_files import read_yaml

__all__ = ("Pano3DDataModule",)

Position = Literal["center", "up", "down", "left", "right"]


class Pano3DDataModule(PanoramaDataModule):
    """Pano3D (Albanis et al., OmniCV 2021): renderings of scanned buildings with depth and normals, a depth benchmark.

    The owner's lists have 7,907 panoramas of Matterport3D (train 5,636, val 744, test 1,527) and 33,364 of GibsonV2
    (full 21,203, medium 6,137, fullplus 3,284, tiny 2,740), each at 1024 x 512 and at 512 x 256.

    Get it: the form of the owner (vcl3d.github.io/Pano3D), and a request at each of its records on Zenodo. The terms of
    Matterport3D and Gibson apply. The volumes of an archive must be unpacked together, as with 7-Zip. Depth and normals
    are EXR images: install ``mtpano_zoo[exr]``.

    Expected below the root::

        q9vSo1VnCiC/0_spherical_1_emission_center_0.png      8-bit RGB; beside it up, down, left, right
                    0_spherical_1_depth_center_0.exr         float, metres along the ray, infinite none
                    0_spherical_1_normal_map_center_0.exr    float, zero or NaN none

    Values are read exactly. That (R, G, B) of the normals are (right, forward, up), towards the camera, is
    inferred from 3D60, which the same group rendered before and where it was measured: `mtpano data verify` compares
    normals with depth. What the numbers of `semantic_map` mean is not published, so it is not read, nor are the layouts
    and the `filmic` colours.

    Buildings of Matterport3D are split as by their owner. Those of GibsonV2 are in no split unless `lists` name them:
    the YAML files of the folder `splits` in the owner's repository, ``{train: GV2_full_v1.yaml, test:
    GV2_tiny_v1.yaml}``. For Matterport3D too (`M3D_v1_train.yaml`, ...) these leave out bad renderings, about a tenth,
    and are what published figures refer to.

    Args:
        root: Folder that holds the buildings.
        positions: Cameras: ``center``, and some of ``up``, ``down``, ``left``, ``right``.
        max_depth: Distances of more metres count as not measured; the owner's benchmark uses 8.
        lists: YAML files by split, absolute or relative to the root. If set, only the panoramas in them are used.
        options: See `PanoramaDataModule`.

    Cite: G. Albanis, N. Zioulis, P. Drakoulis, V. Gkitsas, V. Sterzentsenko, F. Alvarez, D. Zarpalas, P. Daras,
    "Pano3D: A Holistic Benchmark and a Solid Baseline for 360 Depth Estimation", CVPR workshop OmniCV 2021.
    """

    id_pattern = "{building}_{number}_{position}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("{building}/{number}_spherical_1_emission_{position}_0.png",),
        "depth": ("{building}/{number}_spherical_1_depth_{position}_0.exr",),
        "normals": ("{building}/{number}_spherical_1_normal_map_{position}_0.exr",),
    }

    def __init__(
        self,
        root: str | Path,
        *,
        positions: Sequence[Position] = ("center",),
        max_depth: float = SKY,
        lists: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if not positions or not set(positions) <= set(get_args(Position)) or max_depth <= 0:
            raise InputError(
                f"positions are some of {', '.join(get_args(Position))} and max_depth is positive, not {positions!r} "
                f"and {max_depth}"
            )
        self.decoders: Mapping[str, Decoder] = {
            "image": decode_rgb,
            "depth": partial(decode_exr_depth, limit=min(max_depth, SKY)),
            "normals": decode_exr_normals,
        }
        super().__init__(root, **options)
        self.expressions = {"number": r"\d+", "position": "|".join(sorted(set(positions)))}
        self.listed = read_lists(self.root, lists, _listed_numbers)

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return the listed split, else that of the building if it is in Matterport3D."""
        if self.listed is not None:
            return self.listed.get((fields["building"], fields["number"]))
        return scan_splits().get(fields["building"])


def _listed_numbers(path: Path) -> list[tuple[str, str]]:
    """Return building and number of the panoramas in a YAML file, which lists their central images by building."""
    content = read_yaml(path)
    try:
        return [(str(building), str(name).split("_")[0]) for building, names in content.items() for name in names]
    except (AttributeError, TypeError):
        return []
