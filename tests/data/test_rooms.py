import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from mtpano_zoo.data import S3DIS_CLASSES, Augmentation, RoomsDataModule, RoomsDataset
from mtpano_zoo.scenes import render, sample_room

MAPS = ("image", "semseg", "depth", "normals")


def same(a, b):
    return a["id"] == b["id"] and all(torch.equal(a[key], b[key]) for key in MAPS)


def test_a_sample_is_the_rendered_room():
    rooms = RoomsDataset("test", 3, 24, 48, seed=9)
    assert len(rooms) == 3 and rooms.classes == S3DIS_CLASSES and rooms.palette.shape == (13, 3)
    sample, batch = rooms[2], render([sample_room(9, "test", 2)], 24, 48)
    assert rooms.name(2) == sample["id"] == "test-000002"
    assert sample["image"].shape == (3, 24, 48) and sample["depth"].shape == (24, 48)
    assert all(torch.equal(sample[key], batch[key][0]) for key in MAPS)
    assert same(rooms[-1], sample)
    with pytest.raises(IndexError):
        rooms[3]


def test_the_cache_returns_what_was_rendered():
    plain, cached = RoomsDataset("train", 3, 24, 48), RoomsDataset("train", 3, 24, 48, cache=True)
    for _ in range(2):
        assert all(same(plain[i], cached[i]) for i in range(3))
    cached[1]["depth"].zero_()
    assert same(plain[1], cached[1])
    assert same(pickle.loads(pickle.dumps(cached))[1], plain[1])  # noqa: S301


def test_workers_fill_the_cache_of_the_main_process(monkeypatch):
    rooms = RoomsDataset("train", 6, 24, 48, cache=True)
    direct = [RoomsDataset("train", 6, 24, 48)[i] for i in range(6)]
    loader = DataLoader(rooms, None, num_workers=2, multiprocessing_context="fork")
    assert all(same(a, b) for a, b in zip(loader, direct, strict=True))
    monkeypatch.setattr("mtpano_zoo.data.rooms.sample_room", None)  # nothing may be rendered any more
    assert all(same(rooms[i], direct[i]) for i in range(6))


def test_batches_of_all_stages():
    data = RoomsDataModule(24, 48, train_count=5, val_count=3, test_count=2, batch_size=2)
    train, val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch["id"]) for batch in train] == [2, 2]
    assert [name for batch in val for name in batch["id"]] == ["val-000000", "val-000001", "val-000002"]
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        assert next(iter(loader))["id"] == ["test-000000", "test-000001"]
    assert train[0]["image"].shape == (2, 3, 24, 48) and train[0]["semseg"].dtype == torch.int64


def test_the_augmentation_is_for_training_samples_only():
    plain = RoomsDataModule(24, 48, 4, 2, 2, batch_size=4, cache=True, seed=5)
    data = RoomsDataModule(24, 48, 4, 2, 2, batch_size=4, cache=True, seed=5, augmentation=Augmentation(mirror=0.0))
    loaders = zip(plain.val_dataloader(), data.val_dataloader(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in loaders for key in MAPS)
    assert same(plain.test_set[1], data.test_set[1])
    (before,), (after,) = list(plain.train_dataloader()), list(data.train_dataloader())
    assert before["id"] == after["id"] != sorted(after["id"])
    for a, b in zip(before["depth"], after["depth"], strict=True):
        assert any(torch.equal(torch.roll(a, n, -1), b) for n in range(48))
    assert not torch.equal(before["depth"], after["depth"])
    (again,) = list(data.train_dataloader())  # from the cache, which has the samples as they were rendered
    assert all(torch.equal(after[key], again[key]) for key in MAPS)


@pytest.mark.parametrize(
    "arguments",
    [("dev", 3, 24, 48), ("val", 0, 24, 48), ("val", 3, 24, 50), ("val", 3, 4, 8), ("val", 3, 24, 48, -1)],
)
def test_the_data_set_refuses_bad_arguments(arguments):
    with pytest.raises(ValueError):
        RoomsDataset(*arguments)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"num_workers": -1}, {"train_count": 0}, {"width": 500}])
def test_the_datamodule_refuses_bad_arguments(arguments):
    with pytest.raises(ValueError):
        RoomsDataModule(**arguments)


def test_black_poles_hide_the_image_and_nothing_else():
    plain = RoomsDataset("train", 24, 32, 64)
    dark = RoomsDataset("train", 24, 32, 64, black_poles=0.5, cache=True)
    assert same(dark[3], dark[3])  # from the cache too
    changed = 0
    for i in range(24):
        a, b = plain[i], dark[i]
        assert all(torch.equal(a[key], b[key]) for key in ("semseg", "depth", "normals"))
        rows = (b["image"] == 0).all(0).all(1)
        seen = rows.logical_not().nonzero().flatten()
        top, bottom = int(seen[0]), 31 - int(seen[-1])
        assert top <= 0.18 * 32 and bottom <= 0.18 * 32
        assert torch.equal(a["image"][:, top : 32 - bottom], b["image"][:, top : 32 - bottom])
        changed += not torch.equal(a["image"], b["image"])
    assert 6 <= changed <= 18
    data = RoomsDataModule(24, 48, 4, 2, 2, black_poles=1.0)
    assert (data.train_set.black_poles, data.val_set.black_poles, data.test_set.black_poles) == (1, 0, 0)
    with pytest.raises(ValueError, match="black_poles is a share"):
        RoomsDataset("train", 1, 24, 48, black_poles=2)
