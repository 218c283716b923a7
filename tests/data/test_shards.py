"""What is read from shards is what was written, once, whichever processes share the work."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from mtpano_zoo.cli import main
from mtpano_zoo.data import (
    Augmentation,
    MixedDataModule,
    RoomsDataModule,
    ShardsDataModule,
    shard_dataset,
    shards,
    write_shards,
)
from mtpano_zoo.data.panoramas import UnreadableSampleError
from mtpano_zoo.errors import InputError
from mtpano_zoo.training import MultiTaskModule


def as_rank(monkeypatch, rank, ranks):
    """Let shards be read as by one of several processes."""
    for module in (shards, shard_dataset):
        monkeypatch.setattr(module, "rank_and_size", lambda: (rank, ranks))


def ids(loader):
    return [name for batch in loader for name in batch["id"]]


def check(sample, truth):
    assert sample.keys() == truth.keys()
    assert sample["id"] == truth["id"]
    for key in sample.keys() & {"image", "semseg", "confidence", "depth_confidence"}:
        assert torch.equal(sample[key], truth[key])
    if "depth" in truth:
        assert (sample["depth"] - truth["depth"]).abs().max() <= 0.00051
        assert torch.equal(sample["depth"] == 0, truth["depth"] == 0)
    if "normals" in truth:
        assert (sample["normals"] - truth["normals"]).abs().max() <= 3e-5


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_every_sample_comes_back_once(small_rooms, room_shards, workers):
    data = ShardsDataModule(room_shards, batch_size=1, num_workers=workers)
    assert (data.classes, data.height, data.width) == (small_rooms.classes, 32, 64)
    assert np.array_equal(data.palette, small_rooms.palette)
    truth = {sample["id"]: sample for sample in (small_rooms.val_set[i] for i in range(3))}
    found = list(data.val_dataloader())
    assert sorted(batch["id"][0] for batch in found) == sorted(truth)
    for batch in found:
        check({key: value[0] for key, value in batch.items()}, truth[batch["id"][0]])
    assert len(ids(data.test_dataloader())) == 2


class Odd(RoomsDataModule):
    """A far one, one with holes and confidence, one without labels."""

    def __init__(self):
        super().__init__(32, 64, 3, 1, 1)
        samples = [self.train_set[i] for i in range(3)]
        samples[0]["depth"][3, 4] = 1234.5
        samples[1]["semseg"][2] = 255
        samples[1]["depth"][2] = 0
        samples[1]["normals"][:, 2] = 0
        samples[1]["confidence"] = torch.rand(32, 64)
        samples[1]["depth_confidence"] = torch.rand(32, 64)
        samples[2] = {"image": samples[2]["image"], "id": "room/with.dots and spaces"}
        self.train_set = Items(samples)


class Items(list):
    augmentation = None


def test_far_depth_holes_confidence_and_absent_labels_survive(tmp_path):
    data = Odd()
    write_shards(data, tmp_path, ["train"], progress=False)
    read = {sample["id"]: sample for sample in ShardsDataModule(tmp_path)._samples("train")}
    assert len(read) == 3
    for truth in data.train_set:
        check(read[truth["id"]], truth)


def test_masks_and_inverse_distances_survive(tmp_path):
    data = Odd()
    far, valid, ignored = torch.rand(3, 32, 64) > 0.5
    truth = data.train_set[0]
    truth |= {"far": far, "disparity": torch.rand(32, 64), "disparity_valid": valid, "ignored": ignored}
    write_shards(data, tmp_path, ["train"], progress=False)
    read = next(iter(ShardsDataModule(tmp_path)._samples("train")))
    check(read, truth)
    for key in ("far", "disparity", "disparity_valid", "ignored"):
        assert read[key].dtype == truth[key].dtype and torch.equal(read[key], truth[key])


def test_a_sample_with_another_map_is_left_out_and_named(tmp_path):
    data = Odd()
    data.train_set[1]["albedo"] = torch.rand(3, 32, 64)
    with pytest.raises(InputError, match=f"{data.train_set[1]['id']} has albedo, which shards cannot hold"):
        write_shards(data, tmp_path, ["train"], progress=False)
    assert ShardsDataModule(tmp_path).shards == {"train": {"train-000000.tar": 2}}


def test_the_files_are_plain_tars_of_png(small_rooms, room_shards):
    """By the rule of WebDataset: what stands before the first dot is the sample, and its members are neighbours."""
    with tarfile.open(room_shards / "train-000001.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    keys = [name.split(".", 1)[0] for name in members]
    assert keys == ["00000002"] * 5 + ["00000003"] * 5
    assert json.loads(members["00000002.json"]) == {"id": "train-000002"}
    truth = small_rooms.train_set[2]
    assert np.array_equal(np.array(Image.open(io.BytesIO(members["00000002.semseg.png"]))), truth["semseg"].numpy())
    image = np.array(Image.open(io.BytesIO(members["00000002.image.png"])))
    assert np.array_equal(image, (truth["image"] * 255).round().byte().permute(1, 2, 0).numpy())
    depth = np.array(Image.open(io.BytesIO(members["00000002.depth.png"])))
    assert np.array_equal(depth, np.rint(truth["depth"].numpy().astype(np.float64) * 1000))
    assert len(list(room_shards.glob("train-*.tar"))) == 6


def test_training_is_shuffled_by_seed_and_epoch(room_shards):
    def epochs(numbers, **options):
        loader = ShardsDataModule(room_shards, batch_size=1, buffer=4, **options).train_dataloader()
        found = []
        for epoch in numbers:
            loader.sampler.set_epoch(epoch)
            found.append(ids(loader))
            assert len(found[-1]) == len(loader)
        return found

    plain = epochs(range(3))
    assert all(len(set(epoch)) == 11 for epoch in plain)
    assert len({tuple(epoch) for epoch in plain}) == 3
    assert epochs([2, 0]) == [plain[2], plain[0]]
    assert epochs(range(3), seed=1) != plain
    shared = epochs(range(3), num_workers=2)
    assert epochs([1], num_workers=2) == [shared[1]]
    assert all(len(epoch) == 10 for epoch in shared)


@pytest.mark.parametrize(("ranks", "workers"), [(2, 1), (2, 3), (3, 2)])
def test_processes_and_workers_share_the_files(room_shards, monkeypatch, ranks, workers):
    lengths, seen, evaluated = set(), [], []
    for rank in range(ranks):
        as_rank(monkeypatch, rank, ranks)
        data = ShardsDataModule(room_shards, batch_size=1, num_workers=workers if workers > 1 else 0)
        loader = data.train_dataloader()
        names = ids(loader)
        assert len(names) == len(loader)
        lengths.add(len(names))
        seen += names
        evaluated += ids(data.val_dataloader())
    assert len(lengths) == 1
    assert sorted(evaluated) == [f"val-{i:06d}" for i in range(3)]
    # 11 samples in 6 files: each of 2 processes gives 5; of 6 workers 1, from its own file.
    assert len(seen) == {2: 10, 6: 6}[ranks * workers]
    assert len(set(seen)) >= {2: 9, 6: 6}[ranks * workers]


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("done", [0, 1, 2, 4])
def test_training_resumes_within_an_epoch(room_shards, workers, done):
    def loader():
        return ShardsDataModule(room_shards, batch_size=1, num_workers=workers, buffer=3, seed=4).train_dataloader()

    whole = loader()
    whole.sampler.set_epoch(2)
    batches = iter(whole)
    for _ in range(done):
        next(batches)
    state = whole.state_dict()
    rest = [name for batch in batches for name in batch["id"]]
    assert len(rest) == len(whole) - done
    resumed = loader()
    resumed.load_state_dict(state)
    assert ids(resumed) == rest
    resumed.sampler.set_epoch(3)
    assert len(ids(resumed)) == len(whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"batch_size": 2}, "batch_size 2"), ({"num_workers": 3}, "workers 3"), ({"buffer": 2}, "buffer 2")],
)
def test_an_epoch_is_not_continued_in_another_order(room_shards, change, named):
    begun = ShardsDataModule(room_shards, batch_size=1, num_workers=0, buffer=1).train_dataloader()
    next(iter(begun))
    resumed = ShardsDataModule(room_shards, **{"batch_size": 1, "buffer": 1} | change).train_dataloader()
    resumed.load_state_dict(begun.state_dict())
    with pytest.raises(InputError, match=f"in another order with (num_)?{named} than with 1: use 1"):
        next(iter(resumed))
    resumed.sampler.set_epoch(1)  # the state is at the end of epoch 0
    assert ids(resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_fewer_shards_than_processes_are_shared_by_samples(room_shards, monkeypatch, workers):
    seen = []
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        names = ids(ShardsDataModule(room_shards, batch_size=4, num_workers=workers).val_dataloader())
        assert names
        seen += names
        with pytest.raises(ValueError, match="3 processes cannot share the 2 samples for test"):
            ShardsDataModule(room_shards).test_dataloader()
    assert sorted(seen) == [f"val-{i:06d}" for i in range(3)]


def test_augmentation_follows_the_epoch(room_shards):
    data = ShardsDataModule(room_shards, batch_size=11, augmentation=Augmentation(mirror=0))
    loader = data.train_dataloader()
    views = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        views.append(dict(zip(batch["id"], batch["image"], strict=True)))
    assert all(torch.equal(views[0][name], views[2][name]) for name in views[0])
    assert sum(not torch.equal(views[0][name], views[1][name]) for name in views[0]) > 8


def test_distances_at_the_end_of_16_bits_survive(tmp_path):
    data = Odd()
    data.train_set[0]["depth"][3, :4] = torch.tensor([65.534, 65.535, 65.6, 65.5346])
    write_shards(data, tmp_path, ["train"], progress=False)
    read = next(iter(ShardsDataModule(tmp_path)._samples("train")))
    assert (read["depth"] - data.train_set[0]["depth"]).abs().max() <= 0.00051
    data = Odd()
    data.train_set[0]["depth"][3, 4] = 65.534
    write_shards(data, tmp_path / "near", ["train"], progress=False)
    read = next(iter(ShardsDataModule(tmp_path / "near")._samples("train")))
    assert (read["depth"] - data.train_set[0]["depth"]).abs().max() <= 0.00051


class Bad(RoomsDataModule):
    """Five samples for training: ids that lead elsewhere, and one that cannot be read."""

    def __init__(self, ids=("../../x", "good", "/abs", "also/good", "unreadable")):
        super().__init__(16, 32, 1, 1, 1)
        samples = [self.val_set[0] | {"id": name} for name in ids]

        class Set(Items):
            def __getitem__(self, i):
                if self.ids[i] == "unreadable":
                    raise UnreadableSampleError("images/x.png cannot be used: it is truncated")
                return super().__getitem__(i)

        self.train_set = Set(samples)
        self.train_set.ids = ids


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_packed_costs_no_other(tmp_path, workers):
    with pytest.raises(InputError) as caught:
        write_shards(Bad(), tmp_path, ["train", "val"], shard_size=2, workers=workers, progress=False)
    first, *others = str(caught.value).splitlines()
    assert first == f"3 of 6 samples were left out; the others are in {tmp_path}:"
    assert [line.split(":")[0] for line in others] == [
        "  The id '../../x' cannot name a file", "  The id '/abs' cannot name a file", "  images/x.png cannot be used",
    ]  # fmt: skip
    data = ShardsDataModule(tmp_path)
    assert data.shards == {"train": {"train-000000.tar": 2}, "val": {"val-000000.tar": 1}}
    assert [sample["id"] for sample in data._samples("train")] == ["good", "also/good"]


def test_shards_without_any_sample_are_not_taken_for_a_set(tmp_path):
    with pytest.raises(InputError, match="2 of 2 samples were left out"):
        write_shards(Bad(("..", "")), tmp_path, ["train"], progress=False)
    assert not any(tmp_path.iterdir())


def test_refuses_in_one_sentence(small_rooms, room_shards, tmp_path):
    with pytest.raises(FileExistsError, match="is not empty"):
        write_shards(small_rooms, room_shards, progress=False)
    with pytest.raises(ValueError, match="write the sets of a mixture one by one"):
        write_shards(MixedDataModule({"rooms": small_rooms}), tmp_path, progress=False)
    with pytest.raises(FileNotFoundError, match=r"has no shards\.json"):
        ShardsDataModule(tmp_path)
    with pytest.raises(ValueError, match="1 processes with 7 workers cannot share 6 shards"):
        ShardsDataModule(room_shards, batch_size=1, num_workers=7).train_dataloader()
    with pytest.raises(ValueError, match="batch_size must be positive"):
        ShardsDataModule(room_shards, batch_size=0)
    with pytest.raises(ValueError, match="buffer must be positive, not 0"):
        ShardsDataModule(room_shards, buffer=0)
    (tmp_path / "shards.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        ShardsDataModule(tmp_path)


def test_what_is_broken_off_leaves_no_half_file(small_rooms, tmp_path, monkeypatch):
    def stop(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tarfile.TarFile, "addfile", stop)
    with pytest.raises(OSError, match="disk full"):
        write_shards(small_rooms, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_command_packs_and_lightning_trains_from_it(tmp_path, tiny_network, capsys):
    out = tmp_path / "out"
    options = ["height=32", "width=64", "train_count=4", "val_count=2", "test_count=2"]
    command = ["data", "pack", "--data", "rooms", "--out", str(out), "--shard-size", "2", "--workers", "0"]
    assert main([*command, *options]) == 0
    assert "4 train, 2 val, 2 test samples are in" in capsys.readouterr().out
    data = ShardsDataModule(out, batch_size=2, augmentation=Augmentation())
    seen = []

    class Recorder(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append((trainer.current_epoch, batch["id"], batch["image"]))

    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, callbacks=[Recorder()], **quiet)
    trainer.fit(MultiTaskModule(tiny_network(classes=data.classes)), data)
    assert trainer.callback_metrics["val/loss"].isfinite()
    loader = ShardsDataModule(out, batch_size=2, augmentation=Augmentation()).train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for (when, names, images), batch in zip(seen[2 * epoch : 2 * epoch + 2], loader, strict=True):
            assert (when, names) == (epoch, batch["id"])
            assert torch.equal(images, batch["image"])
    config = tmp_path / "shards.yaml"
    config.write_text(f"data: {{class_path: ShardsDataModule, init_args: {{root: {out}}}}}")
    assert main(["data", "stats", "--config", str(config), "--workers", "0"]) == 1
    assert "only yields samples in sequence" in capsys.readouterr().err
