"""What is read from shards is what was written, once, whichever processes share the work."""

import gzip
import io
import json
import re
import signal
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from mtpano_zoo import limits
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

COUNTS = {"train": 11, "val": 3, "test": 2}


@pytest.fixture(scope="module")
def rooms():
    return RoomsDataModule(32, 64, *COUNTS.values())


@pytest.fixture(scope="module")
def written(rooms, tmp_path_factory):
    root = tmp_path_factory.mktemp("shards") / "out"
    assert write_shards(rooms, root, shard_size=2, workers=0, progress=False) == COUNTS
    return root


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
def test_every_sample_comes_back_once(rooms, written, workers):
    data = ShardsDataModule(written, batch_size=1, num_workers=workers)
    assert (data.classes, data.height, data.width) == (rooms.classes, 32, 64)
    assert np.array_equal(data.palette, rooms.palette)
    truth = {sample["id"]: sample for sample in (rooms.val_set[i] for i in range(3))}
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


def test_the_files_are_plain_tars_of_png(rooms, written):
    """By the rule of WebDataset: what stands before the first dot is the sample, and its members are neighbours."""
    with tarfile.open(written / "train-000001.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    keys = [name.split(".", 1)[0] for name in members]
    assert keys == ["00000002"] * 5 + ["00000003"] * 5
    assert json.loads(members["00000002.json"]) == {"id": "train-000002"}
    truth = rooms.train_set[2]
    assert np.array_equal(np.array(Image.open(io.BytesIO(members["00000002.semseg.png"]))), truth["semseg"].numpy())
    image = np.array(Image.open(io.BytesIO(members["00000002.image.png"])))
    assert np.array_equal(image, (truth["image"] * 255).round().byte().permute(1, 2, 0).numpy())
    depth = np.array(Image.open(io.BytesIO(members["00000002.depth.png"])))
    assert np.array_equal(depth, np.rint(truth["depth"].numpy().astype(np.float64) * 1000))
    assert len(list(written.glob("train-*.tar"))) == 6


def test_training_is_shuffled_by_seed_and_epoch(written):
    def epochs(numbers, **options):
        loader = ShardsDataModule(written, batch_size=1, buffer=4, **options).train_dataloader()
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
def test_processes_and_workers_share_the_files(written, monkeypatch, ranks, workers):
    lengths, seen, evaluated = set(), [], []
    for rank in range(ranks):
        as_rank(monkeypatch, rank, ranks)
        data = ShardsDataModule(written, batch_size=1, num_workers=workers if workers > 1 else 0)
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
def test_training_resumes_within_an_epoch(written, workers, done):
    def loader():
        return ShardsDataModule(written, batch_size=1, num_workers=workers, buffer=3, seed=4).train_dataloader()

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


@pytest.mark.parametrize("workers", [0, 2])
def test_fewer_shards_than_processes_are_shared_by_samples(written, monkeypatch, workers):
    seen = []
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        names = ids(ShardsDataModule(written, batch_size=4, num_workers=workers).val_dataloader())
        assert names
        seen += names
        with pytest.raises(ValueError, match="3 processes cannot share the 2 samples for test"):
            ShardsDataModule(written).test_dataloader()
    assert sorted(seen) == [f"val-{i:06d}" for i in range(3)]


def test_augmentation_follows_the_epoch(written):
    data = ShardsDataModule(written, batch_size=11, augmentation=Augmentation(mirror=0))
    loader = data.train_dataloader()
    views = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        views.append(dict(zip(batch["id"], batch["image"], strict=True)))
    assert all(torch.equal(views[0][name], views[2][name]) for name in views[0])
    assert sum(not torch.equal(views[0][name], views[1][name]) for name in views[0]) > 8


@pytest.fixture
def in_time():
    """Break off what goes on for ever."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def empty_tar():
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    return buffer.getvalue()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", empty_tar(), bytes(512)], ids=["no bytes", "no member", "half an end"])
def test_a_shard_without_samples_does_not_turn_for_ever(written, tmp_path, in_time, content, workers):
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(content if path.suffix == ".tar" else path.read_bytes())
    data = ShardsDataModule(tmp_path, batch_size=1, num_workers=workers)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        message = None
        try:  # pytest.raises would keep the frames, and in them the workers
            list(loader)
        except UnreadableSampleError as error:
            message = str(error)
        assert re.fullmatch(
            rf"{tmp_path}/(train|val)-00000\d\.tar cannot be used: (empty file|it holds 0 samples, .*)", message
        )


def test_a_shard_that_lost_samples_is_told(written, tmp_path):
    """Cut off between two members it is a sound file to the package that reads it."""
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "val-000000.tar"
    with tarfile.open(shard) as archive:
        second = next(member for member in archive if member.name.startswith("00000001"))
    shard.write_bytes(shard.read_bytes()[: second.offset])
    with pytest.raises(
        UnreadableSampleError, match=r"val-000000\.tar .* it holds 1 samples, but shards\.json counts 2"
    ):
        list(ShardsDataModule(tmp_path, batch_size=1).val_dataloader())


def test_shards_that_are_counted_as_empty_do_not_turn_for_ever(written, tmp_path, in_time):
    """One of two processes has nothing but such a file."""
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in (f"train-00000{i}.tar" for i in range(5)):
        (tmp_path / name).write_bytes(empty_tar())
    contents = json.loads((written / "shards.json").read_text())
    contents["shards"]["train"] = dict.fromkeys(contents["shards"]["train"], 0) | {"train-000005.tar": 1}
    (tmp_path / "shards.json").write_text(json.dumps(contents))
    loader = ShardsDataModule(tmp_path, batch_size=1).train_dataloader()
    assert ids(loader) == ["train-000010"]
    loader.dataset.shards = {"train-000000.tar": 0}
    with pytest.raises(UnreadableSampleError, match=r"train-000000\.tar and 0 others cannot be used: they are empty"):
        list(loader)


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


def test_damage_is_told_with_the_file(written, tmp_path):
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "val-000000.tar"
    whole = shard.read_bytes()
    image = whole.index(b"\x89PNG")
    for content, sentence in (
        (whole[: image + 700], "val-000000.tar"),
        (whole[:image] + b"no PNG" + whole[image + 6 :], "sample 00000000 cannot be used: it is truncated or not"),
        (b"<html>" * 200, "val-000000.tar cannot be used"),
        (gzip.compress(whole), "val-000000.tar cannot be used"),  # compressed, a shard could grow to any size
    ):
        shard.write_bytes(content)
        with pytest.raises(UnreadableSampleError, match=sentence):
            list(ShardsDataModule(tmp_path).val_dataloader())
    shard.unlink()
    with pytest.raises(UnreadableSampleError, match="No such file"):
        list(ShardsDataModule(tmp_path).val_dataloader())


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


def test_refuses_in_one_sentence(rooms, written, tmp_path):
    with pytest.raises(FileExistsError, match="is not empty"):
        write_shards(rooms, written, progress=False)
    with pytest.raises(ValueError, match="write the sets of a mixture one by one"):
        write_shards(MixedDataModule({"rooms": rooms}), tmp_path, progress=False)
    with pytest.raises(FileNotFoundError, match=r"has no shards\.json"):
        ShardsDataModule(tmp_path)
    with pytest.raises(ValueError, match="1 processes with 7 workers cannot share 6 shards"):
        ShardsDataModule(written, batch_size=1, num_workers=7).train_dataloader()
    with pytest.raises(ValueError, match="must be positive"):
        ShardsDataModule(written, batch_size=0)
    (tmp_path / "shards.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        ShardsDataModule(tmp_path)


def test_what_is_broken_off_leaves_no_half_file(rooms, tmp_path, monkeypatch):
    def stop(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tarfile.TarFile, "addfile", stop)
    with pytest.raises(OSError, match="disk full"):
        write_shards(rooms, tmp_path / "out", progress=False)
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
    assert "yields samples in a row only" in capsys.readouterr().err


def sparse(name, size):
    """A member of 1,536 bytes in the format of GNU tar that claims to be of any size, all of it a hole."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0" % size + b"%011o\0" % 0  # a piece of no bytes at the end
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_a_sparse_member_that_claims_gigabytes_is_refused_at_once(written, tmp_path):
    copy(written, tmp_path)
    shard = tmp_path / "val-000000.tar"
    shard.write_bytes(sparse("00000000.image.png", 3 << 30) + bytes(1024))
    with tarfile.open(shard) as archive:
        assert archive.getmembers()[0].size == 3 << 30 and archive.getmembers()[0].issparse()
    tracemalloc.start()
    with pytest.raises(UnreadableSampleError, match=r"val-000000\.tar cannot be used: .*image\.png is sparse"):
        list(ShardsDataModule(tmp_path).val_dataloader())
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_member_that_is_too_large_is_refused_before_it_is_read(written, monkeypatch):
    data = ShardsDataModule(written)
    monkeypatch.setattr(limits, "DEFAULT_MAX_PIXELS", 40)
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda *_: pytest.fail("it is read"))
    with pytest.raises(UnreadableSampleError, match=r"member 0000000\d\.image\.png has more than 160 bytes"):
        list(data.val_dataloader())


def test_members_outside_of_the_folder_are_read_as_bytes_alone(written, tmp_path):
    copy(written, tmp_path / "in")
    shard = tmp_path / "in/val-000000.tar"
    with tarfile.open(written / shard.name) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}
    with tarfile.open(shard, "w") as archive:
        link = tarfile.TarInfo("../../outside.link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert sorted(ids(ShardsDataModule(tmp_path / "in").val_dataloader())) == [f"val-{i:06d}" for i in range(3)]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "change",
    [
        [],
        "deep",
        {"classes": 5},
        {"classes": "wall"},
        {"palette": "red"},
        {"palette": [[1, 2, 300]]},
        {"palette": [1, 2]},
        {"height": None},
        {"height": 1e400},
        {"shards": []},
        {"shards": {"train": 3}},
        {"shards": {"train": {"../train.tar": 3}}},
        {"shards": {"train": {"/etc/train.tar": 3}}},
        {"shards": {"train": {"train.tar": "3"}}},
        {"shards": {"train": {"train.tar": -3}}},
        {"shards": {"train": {"train.tar": True}}},
    ],
    ids=repr,
)
def test_contents_of_a_wrong_kind_are_one_sentence(written, tmp_path, change):
    contents = json.loads((written / "shards.json").read_text())
    text = "[" * 100_000 if change == "deep" else json.dumps(contents | change if isinstance(change, dict) else change)
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(InputError, match=r"shards\.json is damaged .*: write the shards again"):
        ShardsDataModule(tmp_path)


def copy(source, target):
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
