"""Shards that are damaged, empty or made to do harm are refused with their name."""

import gzip
import io
import json
import re
import signal
import tarfile
import tracemalloc

import pytest

from mtpano_zoo import limits
from mtpano_zoo.data import ShardsDataModule
from mtpano_zoo.data.panoramas import UnreadableSampleError
from mtpano_zoo.errors import InputError


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
def test_a_shard_without_samples_does_not_turn_for_ever(room_shards, tmp_path, in_time, content, workers):
    for path in room_shards.iterdir():
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


def test_a_shard_that_lost_samples_is_told(room_shards, tmp_path):
    """Cut off between two members it is a sound file to the package that reads it."""
    copy(room_shards, tmp_path)
    shard = tmp_path / "val-000000.tar"
    with tarfile.open(shard) as archive:
        second = next(member for member in archive if member.name.startswith("00000001"))
    shard.write_bytes(shard.read_bytes()[: second.offset])
    with pytest.raises(
        UnreadableSampleError, match=r"val-000000\.tar .* it holds 1 samples, but shards\.json counts 2"
    ):
        list(ShardsDataModule(tmp_path, batch_size=1).val_dataloader())


def test_shards_that_are_counted_as_empty_do_not_turn_for_ever(room_shards, tmp_path, in_time):
    """One of two processes has nothing but such a file."""
    copy(room_shards, tmp_path)
    for name in (f"train-00000{i}.tar" for i in range(5)):
        (tmp_path / name).write_bytes(empty_tar())
    contents = json.loads((room_shards / "shards.json").read_text())
    contents["shards"]["train"] = dict.fromkeys(contents["shards"]["train"], 0) | {"train-000005.tar": 1}
    (tmp_path / "shards.json").write_text(json.dumps(contents))
    loader = ShardsDataModule(tmp_path, batch_size=1).train_dataloader()
    assert [name for batch in loader for name in batch["id"]] == ["train-000010"]
    loader.dataset.shards = {"train-000000.tar": 0}
    with pytest.raises(UnreadableSampleError, match=r"train-000000\.tar and 0 others cannot be used: they are empty"):
        list(loader)


def test_damage_is_told_with_the_file(room_shards, tmp_path):
    copy(room_shards, tmp_path)
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


def test_a_sparse_member_that_claims_gigabytes_is_refused_at_once(room_shards, tmp_path):
    copy(room_shards, tmp_path)
    shard = tmp_path / "val-000000.tar"
    shard.write_bytes(sparse("00000000.image.png", 3 << 30) + bytes(1024))
    with tarfile.open(shard) as archive:
        assert archive.getmembers()[0].size == 3 << 30 and archive.getmembers()[0].issparse()
    tracemalloc.start()
    with pytest.raises(UnreadableSampleError, match=r"val-000000\.tar cannot be used: .*image\.png is sparse"):
        list(ShardsDataModule(tmp_path).val_dataloader())
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_member_that_is_too_large_is_refused_before_it_is_read(room_shards, monkeypatch):
    data = ShardsDataModule(room_shards)
    monkeypatch.setattr(limits, "DEFAULT_MAX_PIXELS", 40)
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda *_: pytest.fail("it is read"))
    with pytest.raises(UnreadableSampleError, match=r"member 0000000\d\.image\.png has more than 160 bytes"):
        list(data.val_dataloader())


def test_members_outside_of_the_folder_are_read_as_bytes_alone(room_shards, tmp_path):
    copy(room_shards, tmp_path / "in")
    shard = tmp_path / "in/val-000000.tar"
    with tarfile.open(room_shards / shard.name) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}
    with tarfile.open(shard, "w") as archive:
        link = tarfile.TarInfo("../../outside.link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    found = [name for batch in ShardsDataModule(tmp_path / "in").val_dataloader() for name in batch["id"]]
    assert sorted(found) == [f"val-{i:06d}" for i in range(3)]
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
def test_contents_of_a_wrong_kind_are_one_sentence(room_shards, tmp_path, change):
    contents = json.loads((room_shards / "shards.json").read_text())
    text = "[" * 100_000 if change == "deep" else json.dumps(contents | change if isinstance(change, dict) else change)
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(InputError, match=r"shards\.json is damaged .*: write the shards again"):
        ShardsDataModule(tmp_path)


def copy(source, target):
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
