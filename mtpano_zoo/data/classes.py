"""Names and colours of the class sets, each in one place."""

import numpy as np
from numpy.typing import NDArray

S3DIS_CLASSES = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)

# Far apart in hue or lightness: neighbours in a room (wall, door, board, column) must be told apart at a glance.
S3DIS_PALETTE: NDArray[np.uint8] = np.array(
    [
        (214, 224, 236),
        (139, 115, 85),
        (186, 176, 160),
        (255, 127, 14),
        (148, 103, 189),
        (90, 200, 250),
        (140, 60, 40),
        (240, 200, 40),
        (44, 160, 44),
        (227, 60, 130),
        (31, 78, 180),
        (20, 140, 140),
        (95, 95, 110),
    ],
    dtype=np.uint8,
)
S3DIS_PALETTE.flags.writeable = False
