"""The example of training on pseudo-labels runs through, at tiny size."""

import json

import pytest
import torch

from mtpano_zoo.data import RoomsDataModule
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import IcosahedronViews
from mtpano_zoo.metrics import NormalsMetrics

TINY = ["--rooms", "2", "--test-rooms", "2", "--steps", "2", "--views", "6", "--view-size", "32", "--threads", "1"]


def test_the_plain_average_of_a_perfect_teacher_is_the_truth_and_of_an_erring_one_errs(benchmark):
    sample = RoomsDataModule(64, 128).train_set[2]

    def average(**defects):
        labeler = benchmark.PlainAverage(IcosahedronViews(size=128), [OracleTeacher(**defects)], height=64, width=128)
        return labeler.label("a", sample)

    perfect, erring = average(), average(scale=0.5)
    assert (perfect.semseg == sample["semseg"]).float().mean() > 0.95
    assert (perfect.depth / sample["depth"] - 1).abs().median() < 0.01
    normals = NormalsMetrics()
    normals.update(perfect.normals[None], sample["normals"][None])
    assert normals.compute()["median"] < 1
    # Every pixel has the mean of the factors of the views that see it, which is not what fusion would do.
    assert (erring.depth / sample["depth"] - 1).abs().median() > 0.1
    assert torch.equal(erring.semseg, perfect.semseg)


def test_it_labels_trains_and_scores_and_goes_on_where_it_was(benchmark, tmp_path, capsys, monkeypatch):
    benchmark.main(["--out", str(tmp_path), *TINY])
    printed = capsys.readouterr().out
    assert "2 rooms of 64 x 128, 6 views of 32 x 32" in printed
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ") and " | " in line]
    named = {
        row[0].removeprefix("| "): [float(cell.split(" ")[0]) for cell in row[1:]] for row in rows if row[1] != "mIoU"
    }
    assert list(named) == [*benchmark.LABELERS, *benchmark.RUNS]
    assert named["truth"] == pytest.approx([1, 0, 0], abs=0.5)
    assert named["truth"][0] == 1 and named["truth"][1] < 0.001 < named["fused"][1] < named["average"][1]
    finished = json.loads((tmp_path / "results.json").read_text())
    assert [list(runs) for runs in finished.values()] == [[f"{name}, seed 0" for name in benchmark.RUNS]]
    monkeypatch.delattr(benchmark, "train")
    benchmark.main(["--out", str(tmp_path), *TINY])
    assert capsys.readouterr().out.splitlines()[-5:] == printed.splitlines()[-5:]
