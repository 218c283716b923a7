"""The list of classes for indoors and outdoors, and its tables to other lists."""

import numpy as np
import pytest

from mtpano_zoo.classes import ADE20K_CLASSES, NYU40_CLASSES, S3DIS_CLASSES
from mtpano_zoo.scene_classes import (
    ADE20K_TO_SCENE,
    NYU40_TO_SCENE,
    SCENE_CLASSES,
    SCENE_PALETTE,
    SCENE_TO_ADE20K,
    SCENE_TO_NYU40,
    SCENE_TO_S3DIS,
    lookup,
)

OTHERS = {
    "NYU40": (NYU40_CLASSES, NYU40_TO_SCENE, SCENE_TO_NYU40),
    "ADE20K": (ADE20K_CLASSES, ADE20K_TO_SCENE, SCENE_TO_ADE20K),
}


def test_the_list_begins_with_s3dis_and_names_nothing_twice():
    assert SCENE_CLASSES[:13] == S3DIS_CLASSES
    assert len(set(SCENE_CLASSES)) == len(SCENE_CLASSES)


def test_every_class_has_a_colour_of_its_own():
    assert SCENE_PALETTE.shape == (len(SCENE_CLASSES), 3) and SCENE_PALETTE.dtype == np.uint8
    distance = np.abs(SCENE_PALETTE[:, None].astype(int) - SCENE_PALETTE[None].astype(int)).sum(-1)
    assert (distance + 1000 * np.eye(len(SCENE_CLASSES), dtype=int)).min() > 55


@pytest.mark.parametrize("name", OTHERS)
def test_tables_are_complete_and_name_what_there_is(name):
    theirs, to_ours, from_ours = OTHERS[name]
    assert list(to_ours) == list(theirs) and list(from_ours) == list(SCENE_CLASSES)
    assert set(to_ours.values()) <= {*SCENE_CLASSES, None}
    assert set(from_ours.values()) <= {*theirs, None}


@pytest.mark.parametrize("name", OTHERS)
def test_there_and_back_is_the_same_class_or_none(name):
    theirs, to_ours, from_ours = OTHERS[name]
    for ours in SCENE_CLASSES:
        if from_ours[ours] is not None:
            assert to_ours[from_ours[ours]] in (ours, None)
    for other in theirs:
        ours = to_ours[other]
        # Things that we have no name for come back as no label.
        if ours is not None and from_ours[ours] is not None and ours != "clutter":
            assert to_ours[from_ours[ours]] == ours
        if ours is not None and ours not in ("clutter",):
            assert from_ours[ours] is not None


@pytest.mark.parametrize("name", OTHERS)
def test_equal_names_are_one_class(name):
    theirs, to_ours, from_ours = OTHERS[name]
    for shared in set(theirs) & set(SCENE_CLASSES) - {"clutter"}:
        assert to_ours[shared] == shared
        # A screen of ADE20K is what a projector shines on; ours are mostly televisions.
        assert from_ours[shared] == shared or (name, shared) == ("ADE20K", "screen")


def test_s3dis_comes_back_as_it_was():
    assert list(SCENE_TO_S3DIS) == list(SCENE_CLASSES)
    assert set(SCENE_TO_S3DIS.values()) <= {*S3DIS_CLASSES, None}
    assert all(SCENE_TO_S3DIS[name] == name for name in S3DIS_CLASSES)
    assert [SCENE_TO_S3DIS[name] for name in ("bed", "rug", "person", "sky", "road")] == [
        "clutter",
        "floor",
        "clutter",
        None,
        None,
    ]


def test_lookup_gives_numbers():
    numbers = lookup(SCENE_TO_ADE20K, SCENE_CLASSES, ADE20K_CLASSES)
    assert numbers.shape == (len(SCENE_CLASSES),) and numbers.dtype == np.int64
    assert ADE20K_CLASSES[numbers[SCENE_CLASSES.index("vehicle")]] == "car"
    assert ADE20K_CLASSES[numbers[SCENE_CLASSES.index("vegetation")]] == "tree"
    assert numbers[SCENE_CLASSES.index("beam")] == 255
    back = lookup(ADE20K_TO_SCENE, ADE20K_CLASSES, SCENE_CLASSES)
    assert SCENE_CLASSES[back[ADE20K_CLASSES.index("truck")]] == "vehicle"
    assert back[ADE20K_CLASSES.index("toilet")] == 255
