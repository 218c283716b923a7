"""One list of classes for indoors and outdoors, and the names of these classes in other lists.

The first 13 are those of S3DIS, in its order, so that a network for rooms can be extended to the longer list.
X_TO_SCENE translates labels: it covers every class of the other list, and says `None` where we have no such class or
the class is coarser than ours (it may be finer). SCENE_TO_X translates predictions into the other list.
"""

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.classes import ADE20K_CLASSES, NYU40_CLASSES, S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("SCENE_CLASSES", "SCENE_PALETTE", "SCENE_TO_S3DIS", "lookup")

Table = MappingProxyType[str, str | None]

SCENE_CLASSES = (
    *S3DIS_CLASSES,
    "bed",
    "cabinet",
    "curtain",
    "lamp",
    "plant",
    "person",
    "screen",
    "rug",
    "picture",
    "appliance",
    "sky",
    "building",
    "road",
    "pavement",
    "ground",
    "vegetation",
    "vehicle",
    "pole",
    "fence",
    "sign",
)
"""Indoors, then outdoors. A cabinet has doors or drawers; a plant stands in a pot; ground is grass, earth, hills."""

SCENE_PALETTE: NDArray[np.uint8] = np.concatenate(
    [
        S3DIS_PALETTE,
        np.array(
            [
                (255, 150, 150),
                (170, 90, 20),
                (200, 120, 230),
                (255, 255, 120),
                (120, 220, 80),
                (230, 20, 20),
                (20, 20, 110),
                (110, 40, 90),
                (250, 90, 200),
                (160, 220, 220),
                (70, 150, 255),
                (110, 110, 170),
                (70, 60, 75),
                (225, 170, 190),
                (150, 160, 70),
                (20, 100, 30),
                (0, 0, 220),
                (255, 255, 255),
                (190, 140, 110),
                (255, 210, 0),
            ],
            dtype=np.uint8,
        ),
    ]
)
SCENE_PALETTE.flags.writeable = False

# Classes that S3DIS knows under this or another name, or as part of one of its classes.
_OURS_IN_S3DIS: dict[str, str | None] = {
    **{name: name for name in S3DIS_CLASSES},
    "cabinet": "clutter",
    "curtain": "clutter",
    "lamp": "clutter",
    "plant": "clutter",
    "person": "clutter",
    "screen": "clutter",
    "picture": "clutter",
    "appliance": "clutter",
    "bed": "clutter",
    "rug": "floor",
}
SCENE_TO_S3DIS: Table = MappingProxyType({name: _OURS_IN_S3DIS.get(name) for name in SCENE_CLASSES})
"""What S3DIS calls our classes: without a name of its own, a class is clutter indoors and `None` outdoors."""

_NYU40: dict[str, str] = {
    "wall": "wall",
    "floor": "floor",
    "cabinet": "cabinet",
    "bed": "bed",
    "chair": "chair",
    "sofa": "sofa",
    "table": "table",
    "door": "door",
    "window": "window",
    "bookshelf": "bookcase",
    "picture": "picture",
    "counter": "cabinet",
    "blinds": "curtain",
    "desk": "table",
    "shelves": "bookcase",
    "curtain": "curtain",
    "dresser": "cabinet",
    "pillow": "clutter",
    "floor mat": "rug",
    "clothes": "clutter",
    "ceiling": "ceiling",
    "books": "clutter",
    "refrigerator": "appliance",
    "television": "screen",
    "paper": "clutter",
    "towel": "clutter",
    "shower curtain": "curtain",
    "box": "clutter",
    "whiteboard": "board",
    "person": "person",
    "nightstand": "cabinet",
    "lamp": "lamp",
    "bag": "clutter",
}
NYU40_TO_SCENE: Table = MappingProxyType({name: _NYU40.get(name) for name in NYU40_CLASSES})
"""Structured3D's classes are NYU's 40. Mirrors, sinks and the three "other" classes have no class of ours."""

_ADE20K: dict[str, str] = {
    **dict.fromkeys(("building", "house", "skyscraper", "hovel", "tower"), "building"),
    **dict.fromkeys(("tree", "palm"), "vegetation"),
    **dict.fromkeys(("grass", "earth", "mountain", "field", "sand", "land", "hill", "dirt track", "rock"), "ground"),
    **dict.fromkeys(("road", "runway"), "road"),
    **dict.fromkeys(("sidewalk", "path"), "pavement"),
    **dict.fromkeys(("car", "bus", "truck", "van", "minibike", "bicycle", "boat", "ship", "airplane"), "vehicle"),
    **dict.fromkeys(("pole", "streetlight"), "pole"),
    **dict.fromkeys(("fence", "railing", "bannister"), "fence"),
    **dict.fromkeys(("signboard", "traffic light", "trade name"), "sign"),
    **dict.fromkeys(("cabinet", "wardrobe", "chest of drawers", "counter", "countertop", "kitchen island"), "cabinet"),
    **dict.fromkeys(("refrigerator", "stove", "washer", "oven", "microwave", "dishwasher", "hood"), "appliance"),
    **dict.fromkeys(("chair", "armchair", "seat", "swivel chair", "stool", "ottoman", "bench"), "chair"),
    **dict.fromkeys(("table", "desk", "coffee table", "pool table"), "table"),
    **dict.fromkeys(("shelf", "bookcase"), "bookcase"),
    **dict.fromkeys(("curtain", "blind"), "curtain"),
    **dict.fromkeys(("lamp", "light", "chandelier", "sconce"), "lamp"),
    **dict.fromkeys(("plant", "flower"), "plant"),
    **dict.fromkeys(("television receiver", "screen", "crt screen", "monitor", "computer"), "screen"),
    **dict.fromkeys(("painting", "poster"), "picture"),
    **dict.fromkeys(("door", "screen door"), "door"),
    **dict.fromkeys(
        ("box", "book", "cushion", "pillow", "bag", "bottle", "basket", "towel", "apparel", "plaything", "vase", "pot"),
        "clutter",
    ),
    **dict.fromkeys(("ball", "food", "ashcan", "tray", "plate", "glass", "clock", "fan", "radiator"), "clutter"),
    "wall": "wall",
    "sky": "sky",
    "floor": "floor",
    "ceiling": "ceiling",
    "bed": "bed",
    "windowpane": "window",
    "person": "person",
    "sofa": "sofa",
    "rug": "rug",
    "column": "column",
    "bulletin board": "board",
}
ADE20K_TO_SCENE: Table = MappingProxyType({name: _ADE20K.get(name) for name in ADE20K_CLASSES})
"""Water, stairs, bathrooms, animals and others have no class of ours."""

# If several classes of the other list are one of ours, the one that we translate back to.
SCENE_TO_NYU40: Table = MappingProxyType(
    {name: next((other for other, ours in NYU40_TO_SCENE.items() if ours == name), None) for name in SCENE_CLASSES}
    | {"bookcase": "bookshelf", "clutter": "otherprop", "plant": "otherprop", "beam": "otherstructure"}
    | {"column": "otherstructure", "curtain": "curtain", "cabinet": "cabinet"}
)

SCENE_TO_ADE20K: Table = MappingProxyType(
    {name: next((other for other, ours in ADE20K_TO_SCENE.items() if ours == name), None) for name in SCENE_CLASSES}
    | {"ground": "grass", "clutter": None, "screen": "television receiver", "bookcase": "bookcase", "pole": "pole"}
)


def lookup(table: Table, source: tuple[str, ...], target: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the index in `target` of every class of `source`, 255 for none.

    Example:
        >>> from mtpano_zoo.classes import S3DIS_CLASSES
        >>> lookup(SCENE_TO_S3DIS, SCENE_CLASSES, S3DIS_CLASSES)[[0, 13, 23]].tolist()  # ceiling, bed, sky
        [0, 12, 255]
    """
    names = [table[name] for name in source]
    return np.array([NO_LABEL if name is None else target.index(name) for name in names], dtype=np.int64)
