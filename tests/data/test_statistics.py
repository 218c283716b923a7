"""Statistics against all pixels held in memory at once."""

import json

import numpy as np
import pytest

from mtpano_zoo.cli import main
from mtpano_zoo.data import S3DIS_CLASSES, RoomsDataModule
from mtpano_zoo.data.statistics import statistics


class Holes(RoomsDataModule):
    """Rooms of which some lack labels, pixels or whole maps."""

    def __init__(self, **options):
        super().__init__(32, 64, 4, 2, 2, **options)
        self.train_set = [self.train_set[i] for i in range(4)]
        self.train_set[0]["semseg"][:5] = 255
        self.train_set[1]["depth"][:, :7] = 0
        self.train_set[1]["normals"][:, 3] = 0
        del self.train_set[2]["semseg"], self.train_set[3]["normals"]
        self.train_set = Items(self.train_set)


class Items(list):
    augmentation = None


def test_equals_brute_force():
    data = Holes()
    samples = data.train_set
    found = statistics(data, progress=False)["train"]
    assert (found["samples"], found["unreadable"]) == (4, 0)
    images = np.stack([sample["image"].numpy() for sample in samples]).astype(np.float64)
    assert found["image"]["mean"] == pytest.approx(images.mean((0, 2, 3)), rel=1e-9)
    assert found["image"]["std"] == pytest.approx(images.std((0, 2, 3)), rel=1e-9)

    labels = [sample["semseg"].numpy() for sample in samples if "semseg" in sample]
    every = np.concatenate([label.ravel() for label in labels])
    known = every[every != 255]
    assert found["semseg"]["samples"] == 3
    assert found["semseg"]["coverage"] == known.size / every.size
    assert list(found["semseg"]["classes"]) == list(S3DIS_CLASSES)
    for i, name in enumerate(S3DIS_CLASSES):
        shares = found["semseg"]["classes"][name]
        assert shares["pixels"] == pytest.approx((known == i).mean())
        assert shares["samples"] == pytest.approx(sum((label == i).any() for label in labels) / 3)

    depth = np.concatenate([sample["depth"].numpy().ravel() for sample in samples]).astype(np.float64)
    metres = depth[depth > 0]
    assert found["depth"]["coverage"] == metres.size / depth.size < 1
    assert found["depth"]["mean"] == pytest.approx(metres.mean())
    assert (found["depth"]["minimum"], found["depth"]["maximum"]) == (metres.min(), metres.max())
    for percent, value in found["depth"]["percentiles"].items():
        assert value == pytest.approx(np.percentile(metres, float(percent), method="inverted_cdf"), rel=0.0021)
    assert found["normals"]["samples"] == 3
    assert found["normals"]["coverage"] == pytest.approx(1 - 64 / (3 * 32 * 64))


def test_workers_do_not_matter():
    data = RoomsDataModule(32, 64, 3, 2, 2)
    alone = statistics(data, ["train", "val"], progress=False)
    assert alone.keys() == {"train", "val"}
    assert statistics(data, ["train", "val"], workers=2, progress=False) == alone


def test_command_prints_a_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / "stats.json"
    options = ["height=32", "width=64", "val_count=2"]
    assert (
        main(["data", "stats", "--data", "rooms", "--split", "val", "--workers", "0", "--json", str(out), *options])
        == 0
    )
    printed = capsys.readouterr().out
    assert "val: 2 samples, 0 unreadable" in printed
    assert json.loads(out.read_text()) == statistics(RoomsDataModule(32, 64, 1, 2, 1), ["val"], progress=False)
    shares = json.loads(out.read_text())["val"]["semseg"]["classes"]
    for name, share in shares.items():
        assert any(line.split()[:1] == [name] for line in printed.splitlines()) == (share["pixels"] > 0)
