"""Captions of rendered scenes: brightness, windows, doors and furniture of rooms, objects outdoors, and light.

The light comes from the scene's parameters, because an image cannot tell evening from a dark room.
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
"""Word for a class outdoors, and the share of the image above which a caption mentions it."""
NARROW, WIDE = 0.3, 0.42  # share of the sky; about a third of the streets is below, a third above
DARK, LIGHT = 0.46, 0.52  # mean of the image; about a third of the rooms is below, a third above
LIGHTS = ("daylight", "lamplight", "sunset", "evening", "sunny", "overcast")
"""The values that `light_of` returns."""
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
LOW_SUN = 12.0  # degrees of elevation: evening below, day above
DARK_SKY = 0.3  # emission of the sky in windows; by day it is at least twice as much
SMALLEST = 0.002  # share of the image; smaller regions are not mentioned


def describe(image: Tensor, semseg: Tensor, classes: Sequence[str], light: str = "") -> str:
    """Describe what a scene shows: "a dark room with two windows and a table", "a street with cars under a wide sky".

    Args:
        image: Panorama (3, H, W) in [0, 1].
        semseg: Class numbers (H, W).
        classes: Class names: those of S3DIS or `SCENE_CLASSES`.
        light: Light from `light_of`, added at the end. If omitted, the caption does not mention it.

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
    """Return the light of a scene from its parameters: one of `LIGHTS`, or an empty string if they do not say.

    Outdoors, the light is "evening" if the sun is low or has set, "overcast" if clouds hide it, and otherwise "sunny".
    Indoors, windows show a dark sky ("evening"), a red horizon ("sunset") or neither ("daylight"). Without windows, the
    time of day is unknown; if lamps are on, the light is "lamplight".

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
    """Return "dark" or "bright" for an image (3, H, W) in [0, 1], or an empty string in between."""
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
    """Count the connected regions of a mask (H, W) that are not tiny; a region may cross the seam.

    Example:
        >>> count_regions(torch.tensor([[1, 0, 1, 0, 1]]))
        2
    """
    found, labels, stats, _ = cv2.connectedComponentsWithStats(mask.to(torch.uint8).numpy(), connectivity=8)
    owner = list(range(found))
    for left, right in zip(labels[:, 0], labels[:, -1], strict=True):
        if left and right:  # the region continues on the other side
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
