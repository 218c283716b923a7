"""One view with NaN or infinite values: the labels are those of all the other views."""

import math

import pytest
import torch

from mtpano_zoo.data.rooms import RoomsDataset
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.back_projection import cut
from mtpano_zoo.labeling.finite import leave_out_broken_views
from mtpano_zoo.labeling.fusion import fuse
from mtpano_zoo.labeling.teachers.base import ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import RandomViews, Views

HEIGHT, WIDTH = 64, 128
BROKEN = 5  # of 16 views


@pytest.fixture(scope="module")
def sample():
    return RoomsDataset("test", 1, HEIGHT, WIDTH)[0]


@pytest.fixture(scope="module")
def views():
    return RandomViews(16, size=48)("a")


@pytest.fixture(scope="module")
def labels(sample, views):
    given = OracleTeacher(scale=0.1)(ViewImages(cut(sample["image"], views), views, sample))
    return {
        "probabilities": given.probabilities,
        "depth": given.depth,
        "normals": given.normals,
        "confidence": torch.ones_like(given.depth),
    }


@pytest.fixture(scope="module")
def alone(labels, views):
    """The other 15 views, fused."""
    others = [i for i in range(16) if i != BROKEN]
    fewer = Views(views.rotations[others], views.intrinsics[others], views.height, views.width)
    return fuse([ViewLabels(**{name: one[others] for name, one in labels.items()})], fewer, HEIGHT, WIDTH)


def spoiled(labels, key, value, views=(BROKEN,), part=...):
    changed = labels[key].clone()
    for view in views:
        changed[view][part] = value
    return ViewLabels(**labels | {key: changed})


def scores(merged, sample):
    known = merged.depth > 0
    angle = torch.rad2deg((merged.normals * sample["normals"]).sum(0).clamp(-1, 1).acos())
    return {
        "accuracy": float((merged.semseg == sample["semseg"]).float().mean()),
        "depth": float((merged.depth / sample["depth"])[known].log().abs().mean()),
        "normals": float(angle[known].mean()),
        "known": float(known.float().mean()),
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", [..., (..., 3, 7)], ids=["everywhere", "one pixel"])
@pytest.mark.parametrize("key", ["probabilities", "depth", "normals", "confidence"])
def test_a_broken_view_does_not_touch_what_the_others_say(key, part, value, labels, views, sample, alone):
    """The right labels are those of the other 15 views alone."""
    merged = fuse([spoiled(labels, key, value, part=part)], views, HEIGHT, WIDTH)
    if key == "depth" and math.isinf(value) and part is not ...:
        assert merged.broken_views == 0  # one far pixel
        return
    assert merged.broken_views == 1
    assert (merged.semseg == alone.semseg).float().mean() > 0.999
    assert torch.allclose(merged.depth, alone.depth, rtol=1e-3)
    assert torch.allclose(merged.normals, alone.normals, atol=1e-4)
    for task in merged.confidence:
        assert merged.confidence[task].isfinite().all()
    for view, known in zip(merged.views, [i != BROKEN for i in range(16)], strict=True):
        assert bool((view.semseg != 255).any()) is bool(view.depth.any()) is bool(view.normals.any()) is known
    found = scores(merged, sample)
    assert found["accuracy"] > 0.97 and found["depth"] < 0.06 and found["normals"] < 2 and found["known"] > 0.99


def test_what_is_sure_without_the_view_is_as_sure(labels, views):
    """Where the broken view does not look, it does not affect the confidence."""
    whole = fuse([ViewLabels(**labels)], views, HEIGHT, WIDTH)
    merged = fuse([spoiled(labels, "confidence", math.nan)], views, HEIGHT, WIDTH)
    elsewhere = torch.ones(HEIGHT * WIDTH, dtype=torch.bool)
    elsewhere[whole.views[BROKEN].pixels] = False
    for task in ("semseg", "normals"):
        assert torch.equal(whole.confidence[task].flatten()[elsewhere], merged.confidence[task].flatten()[elsewhere])
        assert (merged.confidence[task].flatten()[~elsewhere] <= whole.confidence[task].flatten()[~elsewhere]).all()


@pytest.mark.parametrize("given", [["depth"], ["probabilities"], ["normals"]])
def test_a_teacher_without_confidence(given, labels, views):
    merged = fuse([spoiled({key: labels[key] for key in given}, given[0], math.nan)], views, HEIGHT, WIDTH)
    assert merged.broken_views == 1
    (confidence,) = merged.confidence.values()
    assert confidence.isfinite().all() and confidence.any()


def test_teachers_are_broken_each_for_itself(labels, views):
    """A teacher's labels of a view count, even if another teacher failed on it."""
    spoiled_depth = spoiled({"depth": labels["depth"]}, "depth", math.nan, views=[0, 1])
    classes = spoiled({"probabilities": labels["probabilities"]}, "probabilities", math.inf, views=[1, 2])
    merged = fuse([spoiled_depth, classes], views, HEIGHT, WIDTH)
    assert merged.broken_views == 3
    assert [bool(view.depth.any()) for view in merged.views[:4]] == [False, False, True, True]
    assert [bool((view.semseg != 255).any()) for view in merged.views[:4]] == [True, False, False, True]


def test_too_little_remains(labels, views):
    half = fuse([spoiled(labels, "depth", math.nan, views=range(8))], views, HEIGHT, WIDTH)
    assert half.broken_views == 8
    with pytest.raises(InputError, match="depth of teacher 1 are NaN or infinite in 9 of 16 views"):
        fuse([spoiled(labels, "depth", math.nan, views=range(9))], views, HEIGHT, WIDTH)


def test_sound_labels_are_as_before(labels, views):
    assert fuse([ViewLabels(**labels)], views, HEIGHT, WIDTH).broken_views == 0
    nothing = fuse([ViewLabels(depth=torch.zeros_like(labels["depth"]))], views, HEIGHT, WIDTH)
    assert nothing.broken_views == 0 and not nothing.depth.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_finite_values_whose_sum_overflows_are_not_broken(dtype):
    maps = torch.full((2, 3, 8, 8), torch.finfo(dtype).max, dtype=dtype)
    kept, broken = leave_out_broken_views([ViewLabels(probabilities=maps, depth=maps[:, 0])], 8, 8)
    assert broken == 0 and kept[0].probabilities is maps
    maps = maps.clone()
    maps[1, 2, 3, 4] = -math.inf
    assert leave_out_broken_views([ViewLabels(probabilities=maps)], 8, 8)[1] == 1
