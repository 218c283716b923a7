import pickle

import numpy as np
import pytest
import torch

from mtpano_zoo.cli import main
from mtpano_zoo.data import (
    FolderDataModule,
    HomesDataModule,
    HomesDataset,
    MixedDataModule,
    RoomsDataset,
    StreetsDataModule,
    StreetsDataset,
    write_rooms,
)
from mtpano_zoo.errors import InputError
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE
from mtpano_zoo.scenes import render, sample_home, sample_room, sample_street

SIZE = {"height": 24, "width": 48}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a if key != "id") and a["id"] == b["id"]


@pytest.mark.parametrize(
    ("kind", "sampler"), [(StreetsDataset, sample_street), (HomesDataset, sample_home), (RoomsDataset, sample_room)]
)
def test_a_sample_is_the_rendered_scene(kind, sampler):
    scenes = kind("test", 3, 24, 48, seed=9, tilt=12.0)
    sample, batch = scenes[2], render([sampler(9, "test", 2, 12.0)], 24, 48)
    if kind is HomesDataset:
        batch["far"] = torch.zeros(1, 24, 48, dtype=torch.bool)  # known of a closed room without looking
    assert sample["id"] == "test-000002" and set(sample) == set(batch)
    assert all(torch.equal(sample[key], batch[key][0]) for key in sample if key != "id")
    assert ("far" in sample) == (kind is not RoomsDataset)
    assert same(pickle.loads(pickle.dumps(scenes))[2], sample)  # noqa: S301


@pytest.mark.parametrize("kind", [StreetsDataset, HomesDataset])
def test_the_cache_returns_what_was_rendered(kind):
    plain, cached = kind("train", 2, 24, 48), kind("train", 2, 24, 48, cache=True)
    for _ in range(2):
        assert all(same(plain[i], cached[i]) for i in range(2))


def test_what_decides_a_sample_is_in_its_fingerprint():
    kinds = (RoomsDataset, HomesDataset, StreetsDataset)
    prints = [
        kind("val", 2, 24, 48, seed, tilt=tilt).fingerprint(1)
        for kind in kinds
        for seed in (0, 1)
        for tilt in (0.0, 5.0)
    ]
    assert len(set(prints)) == 12
    assert RoomsDataset("val", 2, 24, 48).fingerprint(1) == "room 1 of val, seed 0, 24 x 48, black poles 0"


@pytest.mark.parametrize("module", [StreetsDataModule, HomesDataModule])
def test_batches_of_all_stages(module):
    data = module(**SIZE, train_count=2, val_count=1, test_count=1, batch_size=2, tilt=5.0)
    assert data.classes == SCENE_CLASSES and np.array_equal(data.palette, SCENE_PALETTE)
    (train,) = list(data.train_dataloader())
    assert train["image"].shape == (2, 3, 24, 48)
    assert next(iter(data.val_dataloader()))["id"] == ["val-000000"]
    assert next(iter(data.predict_dataloader()))["id"] == ["test-000000"]


def test_homes_and_streets_mix():
    modules = {"homes": HomesDataModule(**SIZE, train_count=3), "streets": StreetsDataModule(**SIZE, train_count=3)}
    data = MixedDataModule(modules, batch_size=6)
    assert tuple(data.classes) == SCENE_CLASSES
    (batch,) = list(data.train_dataloader())
    outdoors = torch.tensor([name.startswith("streets/") for name in batch["id"]])
    assert outdoors.sum() == 3 and batch["far"].shape == (6, 24, 48)
    assert not batch["far"][~outdoors].any()
    assert (batch["depth"][batch["far"]] == 0).all()


@pytest.mark.parametrize("tilt", [-1.0, 181.0])
def test_refuses_what_is_no_tilt(tilt):
    with pytest.raises(ValueError, match="tilt is an angle"):
        StreetsDataset("val", 1, 24, 48, tilt=tilt)
    with pytest.raises(ValueError, match="tilt is an angle"):
        sample_home(0, "val", 0, tilt)


def test_files_of_streets_come_back(tmp_path, capsys):
    arguments = ["--count", "2", "--height", "24", "--tilt", "5", "--split", "val"]
    assert main(["rooms", "--kind", "streets", "--out", str(tmp_path / "streets"), *arguments]) == 0
    assert "2 streets are in" in capsys.readouterr().out
    assert write_rooms(tmp_path / "streets", "val", 2, 24, 48, kind="streets", tilt=5.0) == 0
    data = FolderDataModule(tmp_path / "streets", **SIZE, val_fraction=0, test_fraction=0)
    truth = {sample["id"]: sample for sample in StreetsDataset("val", 2, 24, 48, tilt=5.0)}
    assert tuple(data.classes) == SCENE_CLASSES
    for sample in data.train_dataloader().dataset:
        true = truth[sample["id"]]
        assert torch.equal(torch.as_tensor(sample["semseg"]), true["semseg"])
        assert torch.equal(torch.as_tensor(sample["depth"]), true["depth"])
    with pytest.raises(InputError, match="no rooms of this seed and size"):
        write_rooms(tmp_path / "streets", "val", 1, 24, 48)
    with pytest.raises(ValueError, match="kind must be one of rooms, homes, streets"):
        write_rooms(tmp_path / "new", "val", 1, 24, 48, kind="cellars")


@pytest.mark.parametrize("version", [2, 3])
def test_a_version_of_homes_is_one_of_its_own(tmp_path, capsys, version):
    first, second = HomesDataset("val", 2, 24, 48), HomesDataset("val", 2, 24, 48, version=version)
    assert same(HomesDataset("val", 2, 24, 48, version=1)[1], first[1])
    assert second[1]["id"] == first[1]["id"] and not torch.equal(second[1]["depth"], first[1]["depth"])
    assert second.fingerprint(1) == first.fingerprint(1) + f", version {version}"
    data = HomesDataModule(**SIZE, train_count=2, val_count=1, test_count=1, version=version)
    assert same(data.test_set[0], HomesDataset("test", 1, 24, 48, version=version)[0])
    command = ["rooms", "--kind", "homes", "--count", "1", "--height", "24", "--split", "val", "--out", str(tmp_path)]
    assert main([*command, "--version", str(version)]) == 0
    assert f"version: {version}" in (tmp_path / "classes.yaml").read_text()
    assert main(command) != 0 and "choose another folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="homes have the versions 1, 2, 3"):
        HomesDataset("val", 1, 24, 48, version=4)
    with pytest.raises(ValueError, match="streets have no version"):
        write_rooms(tmp_path / "new", "val", 1, 24, 48, kind="streets", version=2)
