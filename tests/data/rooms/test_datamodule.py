import pickle

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from mtpano_zoo.data import S3DIS_CLASSES, RoomsDataModule, RoomsDataset
from mtpano_zoo.data.rooms import render, sample_room

MAPS = ("image", "semseg", "depth", "normals")


def same(a, b):
    return a["id"] == b["id"] and all(torch.equal(a[key], b[key]) for key in MAPS)


def test_a_sample_is_the_rendered_room():
    rooms = RoomsDataset("test", 3, 24, 48, seed=9)
    assert len(rooms) == 3 and rooms.classes == S3DIS_CLASSES and rooms.palette.shape == (13, 3)
    sample, batch = rooms[2], render([sample_room(9, "test", 2)], 24, 48)
    assert sample["id"] == "test-000002" and sample["image"].shape == (3, 24, 48) and sample["depth"].shape == (24, 48)
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
    monkeypatch.setattr("mtpano_zoo.data.rooms.datamodule.sample_room", None)  # nothing may be rendered any more
    assert all(same(rooms[i], direct[i]) for i in range(6))


def test_batches_of_all_stages():
    data = RoomsDataModule(24, 48, train_count=5, val_count=3, test_count=2, batch_size=2)
    train, val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch["id"]) for batch in train] == [2, 2]
    assert [name for batch in val for name in batch["id"]] == ["val-000000", "val-000001", "val-000002"]
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        assert next(iter(loader))["id"] == ["test-000000", "test-000001"]
    assert train[0]["image"].shape == (2, 3, 24, 48) and train[0]["semseg"].dtype == torch.int64


class _Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def training_step(self, batch):
        for i, name in enumerate(batch["id"]):
            self.seen[self.current_epoch, name] = {key: batch[key][i] for key in MAPS}
        return self.weight * 0

    def validation_step(self, batch):
        self.seen["val"] = batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def _fit(seed=0):
    data = RoomsDataModule(16, 32, 4, 1, 1, batch_size=2, random_yaw=True, cache=True, seed=seed)
    recorder = _Recorder()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recorder, data)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
def test_random_yaw_turns_training_samples_reproducibly():
    first, second = _fit(), _fit()
    rooms = RoomsDataset("train", 4, 16, 32)
    columns = set()
    for (epoch, name), sample in ((k, v) for k, v in first.items() if k != "val"):
        assert torch.equal(sample["normals"], second[epoch, name]["normals"])
        plain = rooms[int(name[-6:])]
        shifts = [n for n in range(32) if torch.equal(torch.roll(plain["depth"], n, -1), sample["depth"])]
        assert shifts
        columns.add((epoch, name, shifts[0]))
    assert len({shift for _, _, shift in columns}) > 3
    assert same({**{k: first["val"][k][0] for k in MAPS}, "id": "val-000000"}, RoomsDataset("val", 1, 16, 32)[0])


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
