"""SynPASS: panoramas of a simulated city in four kinds of weather."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.data.panoramas import PanoramaDataModule, Split
from mtpano_zoo.data.reading import Decoder, decode_labels, decode_rgb
from mtpano_zoo.errors import InputError
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("SynPASSDataModule",)

Weather = Literal["cloud", "fog", "rain", "sun"]

SYNPASS_CLASSES = (
    *("building", "fence", "other", "pedestrian", "pole", "road line", "road", "sidewalk", "vegetation", "vehicles"),
    *("wall", "traffic sign", "sky", "ground", "bridge", "rail track", "guard rail", "traffic light", "static"),
    *("dynamic", "water", "terrain"),
)

# The colours of CARLA.
SYNPASS_PALETTE: NDArray[np.uint8] = np.array(
    [
        *((70, 70, 70), (100, 40, 40), (55, 90, 80), (220, 20, 60), (153, 153, 153), (157, 234, 50), (128, 64, 128)),
        *((244, 35, 232), (107, 142, 35), (0, 0, 142), (102, 102, 156), (220, 220, 0), (70, 130, 180), (81, 0, 81)),
        *((159, 100, 100), (130, 150, 140), (180, 165, 180), (250, 170, 30), (110, 190, 160), (170, 120, 50)),
        *((45, 60, 150), (145, 170, 100)),
    ],
    np.uint8,
)
SYNPASS_PALETTE.flags.writeable = False


class SynPASSDataModule(PanoramaDataModule):
    """SynPASS (Zhang et al., 2022): 9,080 panoramas of 2048 x 1024 from streets simulated by CARLA, with 22 classes.

    Get it: the zip file that the owner's repository links (github.com/jamycheung/Trans4PASS), which can be read as it
    is. No licence is stated.

    Expected, unpacked or in the zip file, below the root or below `root/SynPASS`::

        img/cloud/train/MAP_1_point2/000000.jpg                8-bit RGB; cloud, fog, rain, sun; train, val, test
        semantic/cloud/train/MAP_1_point2/000000_trainID.png   8-bit grey, class 1 to 22, 0 none

    The splits are the folders: 5,700 panoramas for training, and for validation and test 1,690 each by the owner's
    table or 2,180 and 1,200 by the owner's lists; only the data show which of the two the folders follow.

    Args:
        root: Folder that holds `SynPASS`, or `img` and `semantic`, or the zip file; or the zip file.
        weathers: Which kinds of weather.
        options: See `PanoramaDataModule`.

    Cite: J. Zhang, K. Yang, H. Shi, S. Reiß, K. Peng, C. Ma, H. Fu, P. H. S. Torr, K. Wang, R. Stiefelhagen, "Behind
    Every Domain There is a Shift: Adapting Distortion-Aware Vision Transformers for Panoramic Semantic Segmentation",
    arXiv:2207.11860, 2022.
    """

    classes = SYNPASS_CLASSES
    palette = SYNPASS_PALETTE
    prefix = "SynPASS/"
    id_pattern = "{weather}_{split}_{point}_{frame}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("img/{weather}/{split}/{point}/{frame}.jpg",),
        "semseg": ("semantic/{weather}/{split}/{point}/{frame}_trainID.png",),
    }
    decoders: Mapping[str, Decoder] = {
        "image": decode_rgb,
        "semseg": partial(decode_labels, lookup=[NO_LABEL, *range(22)]),
    }

    def __init__(
        self,
        root: str | Path,
        *,
        weathers: Sequence[Weather] = ("cloud", "fog", "rain", "sun"),
        **options: Any,
    ) -> None:
        if not weathers or not set(weathers) <= set(get_args(Weather)):
            raise InputError(f"weathers are some of {', '.join(get_args(Weather))}, not {weathers!r}")
        super().__init__(root, **options)
        self.expressions = {"weather": "|".join(sorted(set(weathers))), "split": "train|val|test", "frame": r"\d+"}
        self.complete = 9080 if set(weathers) == set(get_args(Weather)) else None

    def split_of(self, fields: Mapping[str, str]) -> Split:
        """Return the split that the folder names."""
        return cast(Split, fields["split"])
