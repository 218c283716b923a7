"""Batches of labelled and unlabelled panoramas: their order, their draw, and the clean image."""

import numpy as np
import pytest
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.data import Augmentation, SemiSupervisedDataModule
from mtpano_zoo.data.semi_supervised import SemiSupervisedDataset, collate_in_order
from mtpano_zoo.errors import InputError


class Numbered(Dataset):
    height, width = 8, 16

    def __init__(self, count, augmentation=None):
        self.count, self.augmentation = count, augmentation

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        sample = {"image": torch.rand(3, 8, 16), "depth": torch.full((8, 16), 1.0 + i), "id": str(i)}
        return sample if self.augmentation is None else self.augmentation(sample)


class Numbers(LightningDataModule):
    height, width = 8, 16

    def __init__(self, count, augmentation=None, classes=()):
        super().__init__()
        self.samples, self.classes = Numbered(count, augmentation), classes

    def train_dataloader(self):
        return DataLoader(self.samples)

    val_dataloader = train_dataloader


def batches(data, epochs=1):
    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        yield list(loader)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_every_batch_has_its_labelled_panoramas_first(ratio):
    data = SemiSupervisedDataModule(Numbers(7), Numbers(50), ratio=ratio, batch_size=3)
    (epoch,) = batches(data)
    assert len(epoch) == 2  # the seventh waits
    for batch in epoch:
        assert batch["labelled"] == 3
        assert [name.split("/")[0] for name in batch["id"]] == ["labelled"] * 3 + ["unlabelled"] * 3 * ratio


def test_an_epoch_continues_with_the_same_batch_size_only():
    begun, same, larger = (
        SemiSupervisedDataModule(Numbers(8), Numbers(20), batch_size=size).train_dataloader() for size in (2, 2, 4)
    )
    batches = iter(begun)
    next(batches)
    for loader in (same, larger):
        loader.load_state_dict(begun.state_dict())
    assert [batch["id"] for batch in same] == [batch["id"] for batch in batches]
    with pytest.raises(InputError, match="in another order with batch_size 4 than with 2: use 2, or"):
        next(iter(larger))


def test_no_panorama_comes_again_before_all_others():
    data = SemiSupervisedDataModule(Numbers(6), Numbers(9), ratio=2, batch_size=3)
    epochs = [[name for batch in epoch for name in batch["id"]] for epoch in batches(data, 6)]
    for name, count in (("labelled", 6), ("unlabelled", 9)):
        order = [one for epoch in epochs for one in epoch if one.startswith(name + "/")]
        for start in range(0, len(order) - count + 1, count):
            if name == "labelled":
                assert len(set(order[start : start + count])) == count
        counts = np.unique(order, return_counts=True)[1]
        assert counts.max() - counts.min() <= (0 if name == "labelled" else 1)
    assert epochs[0] != epochs[1]
    again = SemiSupervisedDataModule(Numbers(6), Numbers(9), ratio=2, batch_size=3)
    assert epochs[0] == [name for batch in next(iter(batches(again))) for name in batch["id"]]


def test_processes_share_the_batches(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda *_, rank=rank: rank)
        data = SemiSupervisedDataModule(Numbers(8), Numbers(8), batch_size=2)
        loader = data.train_dataloader()
        names = [[loader.dataset._place(i)[:2] for i in batch] for batch in loader.batch_sampler]
        assert len(names) == 2
        assert all([name for name, _ in batch] == ["labelled"] * 2 + ["unlabelled"] * 2 for batch in names)
        seen += [one for batch in names for one in batch]
    assert len(set(seen)) == 16


def test_the_clean_image_is_turned_but_keeps_its_colours():
    augmentation = Augmentation(yaw=1, mirror=1, photometric=1, strength=2)
    data = SemiSupervisedDataModule(Numbers(4), Numbers(4, augmentation), batch_size=2)
    plain = SemiSupervisedDataModule(Numbers(4), Numbers(4), batch_size=2)
    torch.manual_seed(0)
    batch = next(iter(data.train_dataloader()))
    assert (batch["clean"][:2] == 0).all()  # the labelled ones have none
    assert not torch.equal(batch["clean"][2:], batch["image"][2:])
    assert "clean" not in next(iter(plain.train_dataloader()))
    colours = batch["clean"][2:].permute(0, 2, 3, 1).flatten(0, 2)
    assert len(colours.unique(dim=0)) == 2 * 8 * 16  # noise as it was, moved by whole columns


def test_evaluation_and_classes_are_those_of_the_labelled_set():
    data = SemiSupervisedDataModule(Numbers(4, classes=("a", "b")), Numbers(5, classes=("b", "c")), batch_size=2)
    assert data.classes == ("a", "b")
    assert len(data.val_dataloader().dataset) == 4


def test_what_cannot_be_is_said():
    with pytest.raises(InputError, match="ratio"):
        SemiSupervisedDataModule(Numbers(4), Numbers(4), ratio=0)
    with pytest.raises(InputError, match="make batch_size smaller"):
        SemiSupervisedDataModule(Numbers(4), Numbers(4), batch_size=5).train_dataloader()


@pytest.mark.parametrize("lost", ["labelled", "unlabelled"])
def test_a_batch_has_both_parts_even_if_none_of_one_can_be_read(lost):
    """Else this process would skip a loss that the others wait for; what stands for them counts nowhere."""
    augmentation = Augmentation(photometric=1, strength=2)
    data = SemiSupervisedDataModule(Numbers(4, augmentation), Numbers(4, augmentation), batch_size=2)
    samples = data.training_set(["labelled", "unlabelled"], SemiSupervisedDataset)
    part = samples.parts[lost]
    part.__class__ = type("Lost", (Numbered,), {"__getitems__": lambda self, rows: [black(row) for row in rows]})
    batch = collate_in_order(samples.__getitems__([0, 1, 4, 5]))
    there = slice(0, 1) if lost == "labelled" else slice(2, 3)
    assert batch["labelled"] == (1 if lost == "labelled" else 2) and len(batch["image"]) == 3
    assert not batch["image"][there].any() and not batch["depth"][there].any()
    assert batch["ignored"].flatten(1).all(1).tolist() == [(i == there.start) for i in range(3)]
    assert not batch["disparity_valid"].any()
    assert batch["image"].flatten(1).any(1).sum() == 2


def black(i):
    return {"image": torch.zeros(3, 8, 16), "id": str(i), "unreadable": True}
