"""Requirements for every teacher; a new one needs a line in `TEACHERS`."""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
import transformers
from fake_moge import StandIn

from mtpano_zoo.labeling import teachers
from mtpano_zoo.labeling.teachers import (
    DepthEstimator,
    DepthKind,
    MoGe,
    NormalsFromDepth,
    OracleTeacher,
    Segmenter,
    Teacher,
    ViewImages,
    ViewLabels,
)

CLASSES = ("floor", "wall", "ceiling")
TINY: dict[str, Any] = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 16],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 8,
}


def segmenter(folder: Path) -> Teacher:
    names = dict(enumerate(CLASSES))
    config = transformers.SegformerConfig(**TINY, id2label=names, label2id={name: i for i, name in names.items()})
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return Segmenter(str(folder))


def depth_estimator(folder: Path) -> Teacher:
    sizes = {"depths": [1] * 4, "sr_ratios": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1, 1, 2, 2]}
    config = transformers.GLPNConfig(num_encoder_blocks=4, mlp_ratios=[2] * 4, decoder_hidden_size=8, **sizes)
    transformers.GLPNForDepthEstimation(config).save_pretrained(folder)
    transformers.GLPNImageProcessor(size_divisor=32).save_pretrained(folder)
    return DepthEstimator(str(folder))


def moge(folder: Path) -> Teacher:
    folder.mkdir()
    torch.save({"heads": ["scale_head", "normal_head"]}, folder / "model.pt")
    return MoGe(str(folder / "model.pt"))


TEACHERS: dict[type[Teacher], Callable[[Path], Teacher]] = {
    DepthEstimator: depth_estimator,
    MoGe: moge,
    NormalsFromDepth: lambda _: NormalsFromDepth(OracleTeacher(CLASSES, tasks=("semseg", "depth"))),
    OracleTeacher: lambda _: OracleTeacher(CLASSES, noise=0.1, missing=0.2),
    Segmenter: segmenter,
}
every = pytest.mark.parametrize("kind", TEACHERS, ids=lambda kind: kind.__name__)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Teacher]], Teacher]:
    for name in ("moge", "moge.model", "moge.model.v2"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["moge.model.v2"], "MoGeModel", StandIn, raising=False)
    torch.manual_seed(0)
    return lambda kind: TEACHERS[kind](tmp_path / "teacher")


@pytest.fixture
def seen(some_views: Callable[..., ViewImages]) -> ViewImages:
    """Views of a panorama whose truth is known: two metres everywhere, a wall that faces the camera."""
    height, width = 32, 64
    normals = torch.zeros(3, height, width)
    normals[2] = -1
    classes = torch.arange(width).expand(height, width) * len(CLASSES) // width
    truth = {"id": "room", "semseg": classes, "depth": torch.full((height, width), 2.0), "normals": normals}
    return replace(some_views(2, 32, 32), sample=truth)


def check_labels(teacher: Teacher, labels: ViewLabels, seen: ViewImages) -> None:
    """Check that maps have the documented size and range, and that there is at least one."""
    count, height, width = len(seen.images), seen.views.height, seen.views.width
    maps = {name: x for name, x in vars(labels).items() if isinstance(x, torch.Tensor)}
    assert maps.keys() - {"confidence"}
    for name, x in maps.items():
        assert len(x) == count and x.dtype == torch.float32 and not x.isnan().any(), name
    assert labels.depth_kind in get_args(DepthKind)
    assert (labels.probabilities is None) == (not teacher.classes)
    if labels.probabilities is not None:
        assert labels.probabilities.shape[1] == len(teacher.classes)
        total = labels.probabilities.sum(1)
        assert labels.probabilities.min() >= 0 and total.max() < 1.001
    for name in ("depth", "confidence"):
        assert name not in maps or maps[name].shape == (count, height, width)
    if labels.normals is not None:
        assert labels.normals.shape == (count, 3, height, width)
        length = labels.normals.norm(dim=1)
        assert torch.isclose(length, length.round(), atol=1e-3).all() and length.max() < 1.5
    if labels.confidence is not None:
        assert labels.confidence.min() >= 0 and labels.confidence.max() <= 1


def test_every_teacher_is_tried() -> None:
    named = {getattr(teachers, name) for name in teachers.__all__}
    kinds = {kind for kind in named if inspect.isclass(kind) and issubclass(kind, Teacher)}
    assert kinds - {Teacher} == TEACHERS.keys()


@every
def test_labels_keep_the_conventions(kind: type[Teacher], build: Any, seen: ViewImages) -> None:
    teacher = build(kind)
    check_labels(teacher, teacher(seen), seen)


@every
def test_the_same_views_get_the_same_labels(kind: type[Teacher], build: Any, seen: ViewImages) -> None:
    teacher = build(kind)
    for name, x in vars(teacher(seen)).items():
        again = vars(teacher(seen))[name]
        assert torch.equal(x, again) if isinstance(x, torch.Tensor) else x == again, name


@every
def test_its_provenance_is_plain_data(kind: type[Teacher], build: Any) -> None:
    provenance = dict(build(kind).provenance)
    assert provenance["name"] and json.loads(json.dumps(provenance)) == provenance


@every
def test_it_learns_nothing(kind: type[Teacher], build: Any, seen: ViewImages) -> None:
    teacher = build(kind)
    if isinstance(teacher, torch.nn.Module):
        assert not any(part.training for part in teacher.children())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(x.requires_grad for x in vars(teacher(seen)).values() if isinstance(x, torch.Tensor))


def test_faults_are_found(seen: ViewImages) -> None:
    oracle = OracleTeacher(CLASSES)
    good = oracle(seen)
    check_labels(oracle, good, seen)
    assert good.depth is not None and good.normals is not None
    faults: tuple[dict[str, Any], ...] = (
        {"depth": good.depth[:, :-1]},
        {"depth": good.depth * torch.nan},
        {"normals": 0.5 * good.normals},
        {"confidence": 2 * torch.ones_like(good.depth)},
        {"probabilities": None},
    )
    for fault in faults:
        with pytest.raises(AssertionError):
            check_labels(oracle, replace(good, **fault), seen)
