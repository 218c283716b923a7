"""A panorama and its labels, without any file."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mtpano_zoo.data import S3DIS_CLASSES, RoomsDataset
from mtpano_zoo.labeling.module import Labeler
from mtpano_zoo.labeling.teachers.base import ViewLabels
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import CubeViews, RandomViews

HEIGHT, WIDTH = 64, 128
VIEWS = RandomViews(count=8, size=64)


@pytest.fixture(scope="module")
def rooms():
    dataset = RoomsDataset("train", 3, HEIGHT, WIDTH)
    return [dataset[i] for i in range(len(dataset))]


def labeler(teachers=None, views=VIEWS, **options):
    return Labeler(views, teachers or [OracleTeacher(scale=0.2, noise=0.05)], height=HEIGHT, width=WIDTH, **options)


def same(one, other):
    for task in ("semseg", "depth", "normals"):
        assert torch.equal(getattr(one, task), getattr(other, task))
        assert torch.equal(one.confidence[task], other.confidence[task])
    for mine, theirs in zip(one.views, other.views, strict=True):
        assert torch.equal(mine.depth, theirs.depth)


def test_the_truth_comes_back(rooms):
    """From a teacher without defects, on views that see everything."""
    labels = labeler([OracleTeacher()], CubeViews(size=96)).label("room", rooms[0])
    assert (labels.semseg == rooms[0]["semseg"]).float().mean() > 0.95
    error = (labels.depth / rooms[0]["depth"] - 1).abs()
    assert error.median() < 0.01
    cosine = (labels.normals * rooms[0]["normals"]).sum(0)
    assert (cosine > 0.99).float().mean() > 0.95
    assert len(labels.views) == 6


def test_labels_are_a_function_of_name_and_panorama(rooms):
    first, second = labeler(), labeler()
    before = first.label("a", rooms[0])
    first.label("b", rooms[1])
    same(before, first.label("a", rooms[0]))
    second.label("c", rooms[2])
    same(before, second.label("a", rooms[0]))
    other = second.label("d", rooms[0])
    assert not torch.equal(before.depth, other.depth)


def test_bytes_are_the_same_as_floats(rooms):
    """Views are cut from the panorama at its own size."""
    seen = []

    class Looks(OracleTeacher):
        def __call__(self, views):
            seen.append(views)
            return super().__call__(views)

    stored = (rooms[0]["image"] * 255).round().byte()
    bright = stored.repeat_interleave(4, 1).repeat_interleave(4, 2)
    subject = labeler([Looks()])
    subject.label("a", rooms[0] | {"image": stored})
    subject.label("a", rooms[0] | {"image": stored.float() / 255})
    assert torch.equal(seen[0].images, seen[1].images)
    assert seen[0].images.shape == (8, 3, 64, 64)
    assert seen[0].images.max() <= 1
    subject.label("a", rooms[0] | {"image": bright})
    assert seen[2].sample["image"].shape == (3, 4 * HEIGHT, 4 * WIDTH)


def test_invalid_areas(rooms, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mask = np.zeros((256, 512, 3), np.uint8)
    mask[-20:] = 255
    Image.fromarray(mask).save(tmp_path / "tripod.png")
    labels = labeler(invalid_mask="~/tripod.png", no_depth_classes=["ceiling"]).label("a", rooms[0])
    for task, empty in (("semseg", 255), ("depth", 0), ("normals", 0)):
        assert (getattr(labels, task)[..., -5:, :] == empty).all()
        assert (labels.confidence[task][-5:] == 0).all()
    sky = labels.semseg == S3DIS_CLASSES.index("ceiling")
    assert sky.any()
    assert (labels.depth[sky] == 0).all()
    assert (labels.normals[:, sky] == 0).all()
    without = (sky | (labels.semseg == 255)).flatten()
    assert all((view.depth[without[view.pixels]] == 0).all() for view in labels.views)
    assert (labels.depth.flatten()[~without] > 0).float().mean() > 0.95


def test_only_the_teacher_is_in_mixed_precision(rooms):
    class Half:
        classes = ()
        provenance = {}  # noqa: RUF012

        def __call__(self, seen):
            assert torch.is_autocast_enabled("cpu")
            assert seen.images.dtype == torch.float32
            depth = seen.images.mean(1) + 1
            return ViewLabels(depth=(depth[..., None] @ depth.new_ones(1, 1))[..., 0])

    class Whole(Half):
        def __call__(self, seen):
            return ViewLabels(depth=(seen.images.mean(1) + 1).bfloat16().float())

    whole = labeler([Whole()]).label("a", rooms[0])
    with torch.autocast("cpu", torch.bfloat16):
        half = labeler([Half()]).label("a", rooms[0])
    assert half.depth.dtype == torch.float32
    assert torch.equal(half.depth, whole.depth)


def test_whether_depth_is_metric(rooms):
    for kind, metric in (("metric", True), ("disparity", False), ("scale_invariant", False)):
        subject = labeler([OracleTeacher(depth_kind=kind)])
        assert subject.metric is None
        subject.label("a", rooms[0])
        assert subject.metric is metric
    subject = labeler([OracleTeacher(tasks=["semseg"])])
    subject.label("a", rooms[0])
    assert subject.metric is None


class Fails(OracleTeacher):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __call__(self, seen):
        if seen.sample["id"] == "train-000001":
            raise self.error
        return super().__call__(seen)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("shape '[3]' is invalid\nmore"), "RuntimeError: shape '[3]' is invalid"),
        (torch.OutOfMemoryError("CUDA out of memory"), "smaller batch_size"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_teacher_that_fails_on_one_panorama(error, sentence, rooms):
    subject = labeler([Fails(error)])
    told = [subject.predict_step({"name": room["id"], "sample": room, "jpeg": b""}, 0) for room in rooms]
    assert sentence in told[1]
    assert "\n" not in told[1]
    same(subject.finish(told[2]), labeler([OracleTeacher()]).label(rooms[2]["id"], rooms[2]))


def test_steps_without_a_panorama(rooms):
    subject = labeler()
    assert subject.predict_step({"name": "a", "failure": "a.jpg is damaged"}, 0) == "a.jpg is damaged"
    subject.ledger = SimpleNamespace(wants=lambda item: item["name"] != "b")
    assert subject.predict_step({"name": "b", "sample": rooms[0], "jpeg": b""}, 0) is None
    assert "the oracle needs the truth" in subject.predict_step(
        {"name": "c", "sample": {"image": rooms[0]["image"], "id": "c"}, "jpeg": b""}, 0
    )


def test_several_teachers(rooms):
    apart = [OracleTeacher(tasks=["semseg"]), OracleTeacher(tasks=["depth", "normals"])]
    same(labeler(apart).label("a", rooms[0]), labeler([OracleTeacher()]).label("a", rooms[0]))


def test_networks_move_and_are_not_in_training():
    class Network(torch.nn.Module):
        classes = ("wall", "floor")
        provenance = {}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.dropout, self.head = torch.nn.Dropout(), torch.nn.Linear(1, 1)

    subject = labeler([Network()])
    assert not subject.teachers[0].training
    assert len(list(subject.parameters())) == 2
    assert subject.classes == ("wall", "floor")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"height": 64, "width": 64}, "twice as wide as high"),
        ({"teachers": []}, "at least one teacher"),
        ({"teachers": [OracleTeacher(), torch.nn.ReLU()]}, "ReLU is not a teacher"),
        ({"teachers": [OracleTeacher(), OracleTeacher(["sky", "sea"])]}, "different classes"),
        ({"no_depth_classes": ["sky", "wall"]}, "no teacher knows sky"),
        ({"invalid_mask": "no_such.png"}, "no_such.png does not exist"),
    ],
)
def test_arguments(options, sentence):
    arguments = {"views": VIEWS, "teachers": [OracleTeacher()]} | options
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        Labeler(**arguments)
