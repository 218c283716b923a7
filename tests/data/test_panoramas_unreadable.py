"""Files of a data set that cannot be read are named, or left out."""

import struct
import tarfile
import zipfile
import zlib
from functools import partial

import cv2
import numpy as np
import pytest
from fake_files import claiming, damage, png, write, write_zip
from fake_houses import HousesDataModule, files, module
from torch.utils.data import DataLoader

from mtpano_zoo.data.panoramas import UnreadableSampleError, collate
from mtpano_zoo.data.reading import decode_rgb


class TwoImagesDataModule(HousesDataModule):
    files = HousesDataModule.files | {"image": ("{home}/{room}/rgb.png", "{home}/{room}/semantic.png")}
    decoders = HousesDataModule.decoders | {"image": partial(lambda first, second: decode_rgb(first))}


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "data", files())
    return tmp_path / "data"


WRONG = {
    "no image": (b"nothing", "it is truncated or not an image: no known image format"),
    "truncated": (None, "it is truncated or not an image: .+"),
    "other size": (png(np.zeros((16, 32), np.uint16)), "it is 32 x 16 pixels, but its panorama is 64 x 32"),
    "8 bits": (png(np.zeros((32, 64), np.uint8)), "its depth is 8-bit or colour .*"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_unreadable_label_is_named(root, kind):
    name = "Homes/train/b/depth.png"
    data, reason = WRONG[kind]
    write(root, {name: files()[name][:200] if data is None else data})
    samples = module(root).dataset("train")
    with pytest.raises(UnreadableSampleError, match=f"^{root / name} cannot be used: {reason}$"):
        samples[1]
    assert samples[0]["id"] == "train_a"
    kept = module(root, on_error="skip").dataset("train")
    with pytest.warns(UserWarning, match=f"left out: {root / name} cannot be used") as caught:
        assert [set(sample) for sample in kept.__getitems__([1, 1])] == [{"image", "semseg", "normals", "id"}] * 2
    assert len(caught) == 1 and kept.unreadable == 1


def test_classes_that_the_set_does_not_have(root):
    write(root, {"Homes/val/a/semantic.png": png(np.full((32, 64), 13, np.uint8))})
    with pytest.raises(UnreadableSampleError, match=r"semantic.png cannot be used: it holds the labels \[13\], which"):
        module(root).dataset("val")[0]


@pytest.mark.parametrize("size", [(32, 63), (32, 32), (64, 32)])
def test_images_that_are_no_panoramas(root, size):
    write(root, {"Homes/val/a/rgb.png": png(np.zeros((*size, 3), np.uint8))})
    with pytest.raises(
        UnreadableSampleError, match=rf"rgb.png cannot be used: it is {size[1]} x {size[0]} pixels, but"
    ):
        module(root).dataset("val")[0]


def test_a_panorama_of_which_one_file_is_missing(root):
    (root / "Homes/train/b/semantic.png").unlink()
    data = module(root, TwoImagesDataModule, tasks=["depth"])
    with pytest.warns(UserWarning, match="1 of 7 panoramas have no (image|semseg)"):
        samples = data.dataset("train")
    with pytest.raises(
        UnreadableSampleError, match=r"rgb\.png cannot be used: another file of the panorama is missing"
    ):
        samples[1]
    assert set(samples[0]) == {"image", "depth", "id"}


def test_a_file_that_went_away(root):
    samples = module(root).dataset("val")
    (root / "Homes/val/a/normals.png").unlink()
    with pytest.raises(UnreadableSampleError, match=r"normals.png cannot be used: No such file or directory$"):
        samples[0]


@pytest.mark.parametrize("compression", [0, 8], ids=["stored", "deflated"])
def test_a_damaged_member_names_archive_and_member(tmp_path, compression):
    archive = tmp_path / "homes.zip"
    write_zip(archive, files(), compression)
    samples = module(archive).dataset("train")
    assert set(samples[2]) == {"image", "semseg", "depth", "normals", "id"}
    name = "Homes/train/c/rgb.png"
    stored = archive.read_bytes()
    start = stored.index(name.encode()) + len(name)
    damage(archive, stored[start : start + 400])
    data = module(archive)
    with pytest.raises(
        UnreadableSampleError, match=rf"^{archive}, member train/c/rgb.png cannot be used: its .*(CRC|dam)"
    ):
        data.dataset("train")[2]
    assert data.dataset("train")[1]["id"] == "train_b"


SPAWNED = {"num_workers": 1, "multiprocessing_context": "spawn"}  # starting a process takes seconds
WORKERS = [{}, {"num_workers": 2}, pytest.param(SPAWNED, marks=pytest.mark.slow)]
WORKER_NAMES = ["here", "forked", "spawned"]


def loader(data, **options):
    return DataLoader(data.dataset("train"), batch_size=2, collate_fn=collate, **options)


@pytest.mark.parametrize("workers", WORKERS[:2], ids=WORKER_NAMES[:2])
def test_an_epoch_stops_at_what_cannot_be_read(root, workers):
    write(root, {"Homes/train/c/rgb.png": b"nothing"})
    batches = iter(loader(module(root), **workers))
    assert next(batches)["id"] == ["train_a", "train_b"]
    message = None
    try:  # pytest.raises would keep the frames, and in them the workers, until they are collected as garbage
        next(batches)
    except UnreadableSampleError as error:
        message = str(error)
    path = root / "Homes/train/c/rgb.png"
    assert message == f"{path} cannot be used: it is truncated or not an image: no known image format"


@pytest.mark.parametrize("workers", WORKERS, ids=WORKER_NAMES)
@pytest.mark.filterwarnings("ignore:left out")
def test_an_epoch_goes_on_without_what_cannot_be_read(root, workers):
    write(root, {"Homes/train/b/rgb.png": b"nothing", "Homes/train/a/depth.png": b"nothing"})
    write(root, {f"Homes/train/{room}/rgb.png": b"nothing" for room in "cd"})
    data = module(root, on_error="skip")
    for _ in range(1 if "multiprocessing_context" in workers else 2):
        first, second = loader(data, **workers)
        assert first["id"] == ["train_a"] and set(first) == {"image", "semseg", "normals", "id"}
        assert second["id"] == ["train_c"] and set(second) == {"image", "id", "unreadable"}
        assert not second["image"].any()
        assert data.dataset("train").unreadable == 4
    with pytest.warns(UserWarning, match="train: 4 of 4 samples could not be read"):
        data.teardown("fit")


def raising(error):
    raise error


ERRORS = [
    *(MemoryError(), RecursionError("maximum recursion depth exceeded"), ValueError("odd"), KeyError("arr_0")),
    *(IndexError("out of range"), OverflowError("too large"), EOFError(), SyntaxError("broken PNG file")),
    *(
        OSError(5, "Input/output error"),
        NotImplementedError("compression type 9"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
    ),
    *(struct.error("unpack requires 4 bytes"), zlib.error("invalid block"), zipfile.BadZipFile("bad magic number")),
    *(tarfile.ReadError("unexpected end"), cv2.error("too large")),
]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_damaged_file_raises_is_skipped_or_named(root, error, monkeypatch):
    data = module(root, on_error="skip")
    monkeypatch.setattr(data, "decoders", {**data.decoders, "depth": lambda _: raising(error)})
    samples = data.dataset("train")
    assert all(set(sample) == {"image", "semseg", "normals", "id"} for sample in samples.__getitems__(range(4)))
    monkeypatch.setattr(samples, "decoders", {**data.decoders, "image": lambda _: raising(error)})
    (left,) = samples.__getitems__(range(4))
    assert not left["image"].any() and samples.unreadable == 4
    monkeypatch.setattr(samples, "on_error", "raise")
    with pytest.raises(UnreadableSampleError, match=r"^/.*train/a/rgb\.png cannot be used: .*\w'?$"):
        samples[0]


@pytest.mark.parametrize("fault", [TypeError("no argument"), AttributeError("no attribute"), NameError("no name")])
def test_a_fault_of_the_program_is_not_skipped(root, fault, monkeypatch):
    data = module(root, on_error="skip")
    monkeypatch.setattr(data, "decoders", {**data.decoders, "image": lambda _: raising(fault)})
    with pytest.raises(type(fault)):
        data.dataset("train").__getitems__([0])


@pytest.mark.parametrize("packed", [False, True], ids=["tree", "zip"])
def test_a_panorama_that_claims_gigabytes_is_named_or_left_out(tmp_path, packed, monkeypatch):
    claimed = files() | {"Homes/train/a/rgb.png": claiming(32768, 16384)}
    (tmp_path / "data").mkdir()
    write_zip(tmp_path / "data/homes.zip", claimed) if packed else write(tmp_path / "data", claimed)
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decode(data, flags) if len(data) > 200 else 1 / 0)
    with pytest.raises(
        UnreadableSampleError, match=r"a/rgb\.png cannot be used: it is 32768 x 16384 pixels, more than"
    ):
        module(tmp_path / "data").dataset("train")[0]
    with pytest.warns(UserWarning, match="left out: .*32768 x 16384"):
        (left,) = module(tmp_path / "data", on_error="skip").dataset("train").__getitems__([0, 1])
    assert left["id"] == "train_b"
