"""What all data sets of files have in common, on a set of three homes with all labels."""

import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from fake_files import claiming, damage, png, room_maps, write, write_zip
from torch.utils.data import DataLoader

from mtpano_zoo.data.augmentation import Augmentation
from mtpano_zoo.data.panoramas import PanoramaDataModule, UnreadableSampleError, collate
from mtpano_zoo.data.reading import Decoder, decode_depth, decode_labels, decode_rgb, decode_vectors
from mtpano_zoo.errors import InputError
from mtpano_zoo.tasks import NO_LABEL

SAMPLES = [("train", "a"), ("train", "b"), ("train", "c"), ("train", "d"), ("val", "a"), ("test", "a"), ("spare", "a")]
CLASSES = tuple(f"class {i}" for i in range(13))


class HousesDataModule(PanoramaDataModule):
    classes = CLASSES
    prefix = "Homes/"
    complete = 7
    id_pattern = "{home}_{room}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("{home}/{room}/rgb.png",),
        "semseg": ("{home}/{room}/semantic.png",),
        "depth": ("{home}/{room}/depth.png",),
        "normals": ("{home}/{room}/normals.png",),
    }
    decoders: Mapping[str, Decoder] = {
        "image": decode_rgb,
        "semseg": partial(decode_labels, lookup=range(13)),
        "depth": partial(decode_depth, unit=0.001),
        "normals": partial(decode_vectors, middle=128, scale=127),
    }

    def split_of(self, fields):
        return None if fields["home"] == "spare" else fields["home"]


def without_top(maps):
    for role, values in maps.items():
        values[:4] = {"image": 9, "semseg": NO_LABEL}.get(role, 0)


class TwoImagesDataModule(HousesDataModule):
    files = HousesDataModule.files | {"image": ("{home}/{room}/rgb.png", "{home}/{room}/semantic.png")}
    decoders = HousesDataModule.decoders | {"image": partial(lambda first, second: decode_rgb(first))}


class MaskedDataModule(HousesDataModule):
    mask = staticmethod(without_top)


@pytest.fixture(scope="module")
def truths():
    return {f"{home}_{room}": room_maps(i) for i, (home, room) in enumerate(SAMPLES)}


@pytest.fixture(scope="module")
def content(truths):
    files = {}
    for home, room in SAMPLES:
        maps = truths[f"{home}_{room}"]
        encoded = {
            "rgb": maps["image"],
            "semantic": maps["semseg"],
            "depth": np.rint(maps["depth"] * 1000).astype(np.uint16),
            "normals": np.rint(128 + 127 * maps["normals"].astype(np.float64)).astype(np.uint8),
        }
        files |= {f"Homes/{home}/{room}/{role}.png": png(array) for role, array in encoded.items()}
    return files


@pytest.fixture
def root(tmp_path, content):
    write(tmp_path / "data", content)
    return tmp_path / "data"


def module(root, kind=HousesDataModule, **options):
    return kind(root, **({"height": 32, "width": 64} | options))


def ids(samples):
    return [samples.name(i) for i in range(len(samples))]


def test_samples_by_split(root, truths, check_sample):
    data = module(root)
    assert data.tasks == ("semseg", "depth", "normals")
    for split, rooms in {"train": "abcd", "val": "a", "test": "a"}.items():
        samples = data.dataset(split)
        assert ids(samples) == [f"{split}_{room}" for room in rooms]
        for sample in (samples[i] for i in range(len(samples))):
            check_sample(sample, truths[sample["id"]], 0.00051, 0.0085)
    assert set(data.dataset("predict")[0]) == {"image", "id"}
    samples = data.dataset("train")
    assert samples[-1]["id"] == "train_d" and len(list(samples)) == 4
    for wrong in (4, -5):
        with pytest.raises(IndexError, match=f"sample {wrong} of a set of 4"):
            samples[wrong]
    dtypes = {key: value.dtype for key, value in samples[0].items() if key != "id"}
    assert dtypes.pop("semseg") == torch.int64 and set(dtypes.values()) == {torch.float32}
    assert all(value.is_contiguous() for value in samples[0].values() if isinstance(value, torch.Tensor))


def test_tasks_and_size(root):
    sample = module(root, height=16, tasks=["depth"], width=32).dataset("val")[0]
    assert {key: tuple(value.shape) for key, value in sample.items() if key != "id"} == {
        "image": (3, 16, 32),
        "depth": (16, 32),
    }
    assert set(module(root, tasks=[]).dataset("val")[0]) == {"image", "id"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"height": 32, "width": 32}, "twice as wide as high, and at least 8 rows: got 32 x 32"),
        ({"height": 4, "width": 8}, "at least 8 rows"),
        ({"batch_size": 0}, "batch_size must be positive, .* not 0, 0 and 'raise'"),
        ({"num_workers": -1}, "num_workers not negative"),
        ({"on_error": "ignore"}, "on_error raise or skip, not 4, 0 and 'ignore'"),
        ({"tasks": ["colour"]}, "colour"),
    ],
)
def test_options_out_of_range(root, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        module(root, **options)


def test_tasks_that_the_set_does_not_have(root):
    files = {role: patterns for role, patterns in HousesDataModule.files.items() if role != "normals"}
    kind = type("FlatDataModule", (HousesDataModule,), {"files": files})
    with pytest.raises(ValueError, match="FlatDataModule has no normals, only semseg, depth"):
        module(root, kind, tasks=["normals"])
    assert module(root, kind).tasks == ("semseg", "depth")


def test_no_such_root(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"the data root .*/none does not exist: see the help of HousesDataModule"
    ):
        module(tmp_path / "none")


def test_incomplete_release_and_empty_split(tmp_path, content):
    write(tmp_path / "data", {name: data for name, data in content.items() if "/val/" not in name})
    data = module(tmp_path / "data")
    with pytest.warns(UserWarning, match="data holds 6 of the 7 panoramas of the release"):
        data.prepare_data()
    with pytest.raises(ValueError, match=r"but none for val: see how HousesDataModule splits them \(trainer"):
        data.val_dataloader()


def test_excluded_samples(root, tmp_path):
    (tmp_path / "exclude.txt").write_text("train_b \nnobody\n\ntrain_d\nelse\n")
    data = module(root, exclude=tmp_path / "exclude.txt")
    with pytest.warns(UserWarning) as told:
        assert ids(data.dataset("train")) == ["train_a", "train_c"]
        assert ids(data.dataset("val")) == ["val_a"]
    sentences = [str(one.message) for one in told if "exclude" in str(one.message)]
    assert sentences == [f"2 of 4 ids in exclude match no sample below {root}, for example else"]
    with pytest.raises(FileNotFoundError):
        module(root, exclude=tmp_path / "none.txt")


@pytest.mark.filterwarnings("error")
def test_masks_write_into_the_maps_and_nothing_warns(root):
    sample = module(root, MaskedDataModule).dataset("val")[0]
    plain = module(root).dataset("val")[0]
    for key, value in (("image", 9 / 255), ("semseg", NO_LABEL), ("depth", 0), ("normals", 0)):
        assert (sample[key][..., :4, :] == value).all()
        assert torch.equal(sample[key][..., 4:, :], plain[key][..., 4:, :])


# --- Files that cannot be used ---------------------------------------------------------------------------------------

WRONG = {
    "no image": (b"nothing", "it is truncated or not an image: no known image format"),
    "truncated": (None, "it is truncated or not an image: .+"),
    "other size": (png(np.zeros((16, 32), np.uint16)), "it is 32 x 16 pixels, but its panorama is 64 x 32"),
    "8 bits": (png(np.zeros((32, 64), np.uint8)), "its depth is 8-bit or colour .*"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_unreadable_label_is_named(root, content, kind):
    name = "Homes/train/b/depth.png"
    data, reason = WRONG[kind]
    write(root, {name: content[name][:200] if data is None else data})
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
def test_a_damaged_member_names_archive_and_member(tmp_path, content, compression):
    archive = tmp_path / "homes.zip"
    write_zip(archive, content, compression)
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


WORKERS = [{}, {"num_workers": 2}, {"num_workers": 1, "multiprocessing_context": "spawn"}]
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
    for _ in range(1 if "multiprocessing_context" in workers else 2):  # starting a process takes seconds
        first, second = loader(data, **workers)
        assert first["id"] == ["train_a"] and set(first) == {"image", "semseg", "normals", "id"}
        assert second["id"] == ["train_c"] and set(second) == {"image", "id"} and not second["image"].any()
        assert data.dataset("train").unreadable == 4
    with pytest.warns(UserWarning, match="train: 4 of 4 samples could not be read"):
        data.teardown("fit")


# --- Batches and processes -------------------------------------------------------------------------------------------


def test_loaders_and_augmentation(root):
    augmentation = Augmentation(yaw=1.0, seed=3)
    data = module(root, augmentation=augmentation, batch_size=3, num_workers=1)
    (batch,) = data.train_dataloader()  # the incomplete last one is dropped
    plain = {sample["id"]: sample for sample in module(root).dataset("train")}
    assert len(batch["id"]) == 3
    assert any(not torch.equal(image, plain[i]["image"]) for i, image in zip(batch["id"], batch["image"], strict=True))
    assert [b["id"] for b in data.val_dataloader()] == [["val_a"]]
    assert [b["id"] for b in data.test_dataloader()] == [["test_a"]]
    (batch,) = data.predict_dataloader()
    assert set(batch) == {"image", "id"}


def test_batches_of_samples_with_different_labels():
    image = torch.rand(3, 8, 16)
    depth, semseg, normals = torch.rand(8, 16) + 1, torch.randint(0, 5, (8, 16)), torch.rand(3, 8, 16)
    batch = collate(
        [
            {"image": image, "id": "0"},
            {"image": image, "id": "1", "depth": depth, "confidence": torch.full((8, 16), 0.5)},
            {"image": image, "id": "2", "semseg": semseg, "normals": normals},
        ]
    )
    assert batch["id"] == ["0", "1", "2"] and batch["image"].shape == (3, 3, 8, 16)
    assert batch["semseg"].dtype == torch.int64 and (batch["semseg"][:2] == NO_LABEL).all()
    assert torch.equal(batch["semseg"][2], semseg)
    assert not batch["depth"][[0, 2]].any() and torch.equal(batch["depth"][1], depth)
    assert not batch["normals"][:2].any() and torch.equal(batch["normals"][2], normals)
    assert (batch["confidence"][[0, 2]] == 1).all() and (batch["confidence"][1] == 0.5).all()
    assert set(collate([{"image": image, "id": "0"}])) == {"image", "id"}


def test_a_set_takes_few_bytes_per_sample(tmp_path):
    """No Python object per sample: what a spawned worker is sent, and what a forked one shares."""
    count = 2000
    names = (
        f"Homes/train/{i:05d}/{role}.png" for i in range(count) for role in ("rgb", "semantic", "depth", "normals")
    )
    write_zip(tmp_path / "homes.zip", dict.fromkeys(names, b""), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = module(tmp_path / "homes.zip").dataset("train")
    assert len(samples) == count
    fields = sum(column.itemsize for column in samples.index.fields.values())
    places = 4 * 6 * 8  # four files, six numbers each
    sent = len(pickle.dumps(samples.index))
    assert sent <= count * (fields + places) + 4096
    columns = [*samples.index.fields.values(), *samples.index.places.values()]
    assert sum(column.nbytes for column in columns) == count * (fields + places)
    again = pickle.loads(pickle.dumps(samples.index))  # noqa: S301 - our own
    assert again.fields_of(7) == samples.index.fields_of(7) and again.describe("depth", 7) == samples.index.describe(
        "depth", 7
    )


# --- One rule for what cannot be read --------------------------------------------------------------------------------


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


def test_ids_to_exclude_are_lines_of_utf8(root, tmp_path):
    for content in (b"\xef\xbb\xbftrain_a\r\ntrain_b\r\n", b"train_a\ntrain_b"):
        (tmp_path / "exclude.txt").write_bytes(content)
        assert ids(module(root, exclude=tmp_path / "exclude.txt").dataset("train")) == ["train_c", "train_d"]
    (tmp_path / "exclude.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"exclude\.txt is not UTF-8 text"):
        module(root, exclude=tmp_path / "exclude.txt")


@pytest.mark.parametrize("packed", [False, True], ids=["tree", "zip"])
def test_a_panorama_that_claims_gigabytes_is_named_or_left_out(tmp_path, content, packed, monkeypatch):
    files = content | {"Homes/train/a/rgb.png": claiming(32768, 16384)}
    (tmp_path / "data").mkdir()
    write_zip(tmp_path / "data/homes.zip", files) if packed else write(tmp_path / "data", files)
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decode(data, flags) if len(data) > 200 else 1 / 0)
    with pytest.raises(
        UnreadableSampleError, match=r"a/rgb\.png cannot be used: it is 32768 x 16384 pixels, more than"
    ):
        module(tmp_path / "data").dataset("train")[0]
    with pytest.warns(UserWarning, match="left out: .*32768 x 16384"):
        (left,) = module(tmp_path / "data", on_error="skip").dataset("train").__getitems__([0, 1])
    assert left["id"] == "train_b"
