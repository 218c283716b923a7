"""Captions of rendered scenes: brightness, windows, doors and furniture of a room, what stands on a street, and light.

The light is read from the scene, as an image does not tell evening from a dark room.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from mtpano_zoo.scenes import Room
from mtpano_zoo.scenes.materials import CHANNEL

__all__ = ("DARK", "LIGHT", "LIGHTS", "WORDS", "brightness_of", "count_regions", "describe", "light_of")

NUMBERS = ("", "a", "two", "three", "four", "five", "six")
FURNITURE = ("sofa", "bookcase", "table", "chair", "board")
OUTDOORS = {"building": ("buildings", 0.05), "vegetation": ("trees", 0.02), "vehicle": ("cars", 0.002)}
"""Word and least share of the image of what a street is said to have."""
NARROW, WIDE = 0.3, 0.42  # share of the sky; about a third of the streets is on either side
DARK, LIGHT = 0.46, 0.52  # mean of the image; about a third of the rooms is on either side
LIGHTS = ("daylight", "lamplight", "sunset", "evening", "sunny", "overcast")
"""What `light_of` says."""
WORDS = (
    "dark",
    "bright",
    "room",
    "street",
    "square",
    "meadow",
    "with",
    "and",
    "many",
    "window",
    "windows",
    "door",
    "doors",
    *NUMBERS[1:],
    *FURNITURE,
    *(word for word, _ in OUTDOORS.values()),
    "under",
    "narrow",
    "wide",
    "sky",
    *LIGHTS,
)
LOW_SUN = 12.0  # degrees; the sun of an evening is below, that of a day above
DARK_SKY = 0.3  # emission of what windows show; by day it is twice as much at least
SMALLEST = 0.002  # of the image; smaller regions are not spoken of


def describe(image: Tensor, semseg: Tensor, classes: Sequence[str], light: str = "") -> str:
    """Describe what a scene shows: "a dark room with two windows and a table", "a street with cars under a wide sky".

    Args:
        image: (3, H, W) in [0, 1].
        semseg: Classes (H, W).
        classes: Their names, those of S3DIS or `SCENE_CLASSES`.
        light: See `light_of`; said at the end.

    Example:
        >>> semseg = torch.zeros(8, 16, dtype=torch.int64)
        >>> semseg[2:4, 1:3], semseg[2:4, 6:8], semseg[5:8, 15], semseg[5:8, 0] = 1, 1, 2, 2
        >>> describe(torch.full((3, 8, 16), 0.2), semseg, ["wall", "window", "sofa"], "evening")
        'a dark room with two windows and a sofa, evening'
        >>> describe(torch.full((3, 8, 16), 0.6), semseg, ["sky", "vehicle", "road"])
        'a bright street with cars under a wide sky'
    """
    share = {name: float((semseg == number).float().mean()) for number, name in enumerate(classes)}
    outdoors = share.get("sky", 0.0) > SMALLEST
    things = _outdoors(share) if outdoors else _indoors(semseg, classes, share)
    text = f"a {brightness_of(image)} {_place(share) if outdoors else 'room'}".replace("  ", " ")
    if things:
        text += f" with {' and '.join([', '.join(things[:-1]), things[-1]] if things[1:] else things)}"
    if outdoors and not NARROW <= share["sky"] <= WIDE:
        text += f" under a {'wide' if share['sky'] > WIDE else 'narrow'} sky"
    return f"{text}, {light}" if light else text


def light_of(scene: Room) -> str:
    """Return the light of a scene by its own numbers, one of `LIGHTS`, or nothing where it does not follow from them.

    Outdoors it is "evening" under a low sun or none, "overcast" where clouds hide the sun, and else "sunny". Indoors,
    windows show a dark sky ("evening"), a red horizon ("sunset") or neither ("daylight"). Without windows to look out
    of, the time is not known, only that lamps are on ("lamplight").

    Example:
        >>> from mtpano_zoo.scenes import sample_room, sample_street
        >>> [light_of(sample_room(0, "val", i)) for i in (0, 1, 4)]
        ['evening', 'daylight', 'sunset']
        >>> [light_of(sample_street(0, "val", i)) for i in (0, 4, 7)]
        ['sunny', 'evening', 'overcast']
    """
    if scene.sky is not None:
        if scene.sky.sun[1] > -np.sin(np.radians(LOW_SUN)):  # y points down
            return "evening"
        return "sunny" if any(scene.sky.sunlight) else "overcast"
    panes = scene.materials[scene.materials[:, CHANNEL["sky"]] == 1]
    if not len(panes):
        return "lamplight" if len(scene.lights) else ""
    red, blue, emission = (float(panes[0, CHANNEL[name]]) for name in ("red", "blue", "emission"))
    if emission < DARK_SKY:
        return "evening"
    return "sunset" if red > blue else "daylight"


def brightness_of(image: Tensor) -> str:
    """Return "dark", "bright", or nothing for what lies between, of an image (3, H, W) in [0, 1]."""
    mean = float(image.mean())
    return "dark" if mean < DARK else "bright" if mean > LIGHT else ""


def _place(share: Mapping[str, float]) -> str:
    ground = {"street": "road", "square": "pavement", "meadow": "ground"}
    return "street" if share.get("road", 0) > SMALLEST else max(ground, key=lambda word: share.get(ground[word], 0))


def _outdoors(share: Mapping[str, float]) -> list[str]:
    return [word for name, (word, least) in OUTDOORS.items() if share.get(name, 0) > least]


def _indoors(semseg: Tensor, classes: Sequence[str], share: Mapping[str, float]) -> list[str]:
    things = []
    for name in ("window", "door"):
        count = count_regions(semseg == classes.index(name)) if name in classes else 0
        if count:
            number = NUMBERS[count] if count < len(NUMBERS) else "many"
            things.append(f"{number} {name}{'s' * (count > 1)}")
    return things + [f"a {name}" for name in FURNITURE if share.get(name, 0) > SMALLEST]


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
