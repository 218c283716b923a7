"""Captions of rendered rooms: how bright it is, its windows and doors, and its furniture."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ("DARK", "LIGHT", "WORDS", "count_regions", "describe_room")

NUMBERS = ("", "a", "two", "three", "four", "five", "six")
FURNITURE = ("sofa", "bookcase", "table", "chair", "board")
DARK, LIGHT = 0.46, 0.52  # mean of the image; about a third of the rooms is on either side
WORDS = (
    "dark",
    "bright",
    "room",
    "with",
    "and",
    "many",
    "window",
    "windows",
    "door",
    "doors",
    *NUMBERS[1:],
    *FURNITURE,
)
SMALLEST = 0.002  # of the image; smaller regions are not spoken of


def describe_room(image: Tensor, semseg: Tensor, classes: Sequence[str]) -> str:
    """Describe what a room shows: "a dark room with two windows, a door, a sofa and a table".

    Args:
        image: (3, H, W) in [0, 1].
        semseg: Classes (H, W).
        classes: Their names, those of S3DIS.

    Example:
        >>> semseg = torch.zeros(8, 16, dtype=torch.int64)
        >>> semseg[2:4, 1:3], semseg[2:4, 6:8], semseg[5:8, 15], semseg[5:8, 0] = 1, 1, 2, 2
        >>> describe_room(torch.full((3, 8, 16), 0.2), semseg, ["wall", "window", "sofa"])
        'a dark room with two windows and a sofa'
    """
    brightness = float(image.mean())
    kind = "dark room" if brightness < DARK else "bright room" if brightness > LIGHT else "room"
    things = []
    for name in ("window", "door"):
        count = count_regions(semseg == classes.index(name)) if name in classes else 0
        if count:
            number = NUMBERS[count] if count < len(NUMBERS) else "many"
            things.append(f"{number} {name}{'s' * (count > 1)}")
    for name in FURNITURE:
        if name in classes and float((semseg == classes.index(name)).float().mean()) > SMALLEST:
            things.append(f"a {name}")
    if not things:
        return f"a {kind}"
    return f"a {kind} with {' and '.join([', '.join(things[:-1]), things[-1]] if things[1:] else things)}"


def count_regions(mask: Tensor) -> int:
    """Count the connected regions of a mask (H, W), across the seam, that are not tiny.

    Example:
        >>> count_regions(torch.tensor([[1, 0, 1, 0, 1]]))
        2
    """
    found, labels, stats, _ = cv2.connectedComponentsWithStats(mask.to(torch.uint8).numpy(), connectivity=8)
    owner = list(range(found))
    for left, right in zip(labels[:, 0], labels[:, -1], strict=True):
        if left and right:  # the region goes on at the other side
            first, second = sorted((_root(owner, int(left)), _root(owner, int(right))))
            owner[second] = first
    area = np.zeros(found)
    for label in range(1, found):
        area[_root(owner, label)] += stats[label, cv2.CC_STAT_AREA]
    return int((area[1:] > SMALLEST * mask.numel()).sum())


def _root(owner: list[int], label: int) -> int:
    while owner[label] != label:
        label = owner[label]
    return label
