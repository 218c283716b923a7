"""Whether the distances of pseudo-labels are metres, or known only up to scale."""

import json

import fake_pseudo_labels
import numpy as np
import pytest
import torch
from fake_files import write

from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas have no")

SIZE = {"height": 32, "width": 64}


def test_relative_depth_is_disparity(pseudo_labels):
    depth = next(iter(PseudoLabelDataModule(pseudo_labels, **SIZE, tasks=["depth"]).train_dataloader()))
    data = PseudoLabelDataModule(pseudo_labels, **SIZE, relative=True)
    assert data.tasks == ("semseg", "normals", "disparity")
    assert data.labels == (*data.tasks, "disparity_valid", "confidence", "normals_confidence", "ignored")
    batch = next(iter(data.train_dataloader()))
    assert "depth" not in batch and batch["id"] == depth["id"]
    assert torch.equal(batch["disparity_valid"], depth["depth"] > 0)
    known = batch["disparity_valid"]
    torch.testing.assert_close(batch["disparity"][known], 1 / depth["depth"][known])
    assert (batch["disparity"][~known] == 0).all()


def test_disparity_may_be_of_one_view(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE, relative=True, view_tasks=["semseg", "disparity"])
    samples = data.dataset("train")
    for epoch in range(fake_pseudo_labels.VIEWS):
        samples.set_epoch(epoch)
        for i in range(2):
            truth = fake_pseudo_labels.view_truth(samples.name(i), samples.index.view_of(i))
            known = truth["depth"] > 0
            assert np.array_equal(samples[i]["disparity_valid"], known)
            assert not samples[i]["disparity"][~known].any()
            assert np.allclose(samples[i]["disparity"][known], 1 / truth["depth"][known], rtol=0.001)
            assert np.array_equal(samples[i]["semseg"], truth["semseg"])
    for path in pseudo_labels.glob("depth/*/label_*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"depth/room_a has no labels of views, .*take disparity out of"):
        PseudoLabelDataModule(pseudo_labels, relative=True, view_tasks=["disparity"]).dataset("train")


ORACLE = {"name": "oracle", "options": {"tasks": ["semseg", "depth", "normals"], "depth_kind": "metric"}}
CLASSES_ONLY = {"name": "oracle", "options": {"tasks": ["semseg"], "depth_kind": "metric"}}
SEGMENTER = {"name": "Segmenter", "options": {"size": None}}
MOGE = {"name": "MoGe", "options": {"resolution_level": 9}}


def estimator(kind):
    return {"name": "DepthEstimator", "options": {"size": None, "kind": kind}}


def manifest_of(*teachers):
    content = {"format": "mtpano pseudo-labels, 1", "settings": {"teachers": [{"provenance": one} for one in teachers]}}
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("teachers", "metric"),
    [
        ([ORACLE], True),
        ([SEGMENTER, estimator("metric")], True),
        ([SEGMENTER, estimator("disparity")], False),
        ([SEGMENTER, {"name": "NormalsFromDepth", "teacher": estimator("scale_invariant")}], False),
        ([CLASSES_ONLY, estimator("disparity")], False),
        ([MOGE, estimator("disparity")], True),
        ([SEGMENTER, {"name": "my own"}], True),
    ],
)
def test_depth_is_in_metres_if_a_teacher_knows_them(pseudo_labels, teachers, metric):
    write(pseudo_labels, {"manifest.json": manifest_of(*teachers)})
    if metric:
        assert PseudoLabelDataModule(pseudo_labels, **SIZE).dataset("train")[0]["depth"].any()
        return
    with pytest.raises(
        ValueError, match=rf"{pseudo_labels} .* only up to scale.* option tasks=\[semseg, normals\], or label"
    ):
        PseudoLabelDataModule(pseudo_labels, **SIZE)
    assert "depth" not in PseudoLabelDataModule(pseudo_labels, **SIZE, tasks=["semseg", "normals"]).dataset("train")[0]


@pytest.mark.parametrize("recorded", [True, False])
def test_what_a_run_has_recorded_of_its_depth_decides(pseudo_labels, recorded):
    """Teachers of one's own may give anything, and a run without depth records nothing."""
    write(
        pseudo_labels,
        {
            "manifest.json": manifest_of({"name": "my own"} if not recorded else estimator("disparity")),
            "runs/1.json": json.dumps({"metric_depth": None}).encode(),
            "runs/2.json": json.dumps({"metric_depth": recorded}).encode(),
        },
    )
    if recorded:
        assert PseudoLabelDataModule(pseudo_labels, **SIZE).tasks == ("semseg", "depth", "normals")
    else:
        with pytest.raises(ValueError, match="only up to scale"):
            PseudoLabelDataModule(pseudo_labels, **SIZE)


def test_manifests_of_others_and_damaged_ones(pseudo_labels):
    ours = b'{"format": "mtpano pseudo-labels, 1", "settings": {"labels": "truth"}}'
    for foreign in (b'{"name": "a web page"}', ours):
        write(pseudo_labels, {"manifest.json": foreign})
        assert PseudoLabelDataModule(pseudo_labels, **SIZE).tasks == ("semseg", "depth", "normals")
    write(pseudo_labels, {"manifest.json": b'{"format": "mtpano pseudo-labels, 1", "settings": []}'})
    with pytest.raises(ValueError, match=r"manifest\.json or a record in .*runs is damaged"):
        PseudoLabelDataModule(pseudo_labels, **SIZE)


LABEL = """
views: {class_path: RandomViews, init_args: {count: 5, size: 32}}
teachers: [{class_path: OracleTeacher, init_args: {depth_kind: DEPTH_KIND}}]
data: {class_path: RoomsDataModule, init_args: {height: 32, width: 64, train_count: 1}}
split: train
height: 32
width: 64
num_workers: 0
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}
"""


@pytest.mark.parametrize("kind", ["metric", "disparity"])
def test_labels_of_a_relative_teacher_are_never_trained_on_as_metres(kind, tmp_path, capsys):
    (tmp_path / "label.yaml").write_text(LABEL.replace("DEPTH_KIND", kind))
    out = tmp_path / "labels"
    assert main(["label", "--config", str(tmp_path / "label.yaml"), "--out", str(out)]) == 0
    verification = ["data", "verify", "--data", "pseudolabel", "--root", str(out), "--workers", "0"]
    options = ["height=32", "width=64"]
    assert main([*verification, *options]) == (kind == "disparity")
    assert ("known only up to scale" in capsys.readouterr().err) == (kind == "disparity")
    assert main([*verification, *options, "tasks=[semseg,normals]"]) == 0
