"""What all data sets of files have in common, on a set of three homes with all labels."""

import pickle
import warnings

import pytest
import torch
from fake_files import write, write_zip
from fake_houses import HousesDataModule, files, ground_truth, ids, module

from mtpano_zoo.data.augmentation import Augmentation
from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.errors import InputError
from mtpano_zoo.tasks import NO_LABEL


def without_top(maps):
    for role, values in maps.items():
        values[:4] = {"image": 9, "semseg": NO_LABEL}.get(role, 0)


class MaskedDataModule(HousesDataModule):
    mask = staticmethod(without_top)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "data", files())
    return tmp_path / "data"


def test_samples_by_split(root, check_sample):
    truths = ground_truth()
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
        ({"batch_size": 0}, "batch_size must be positive and num_workers not negative: 0, 0"),
        ({"num_workers": -1}, "num_workers not negative"),
        ({"on_error": "ignore"}, "on_error must be raise or skip, not 'ignore'"),
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
        FileNotFoundError, match=r"the data root .*/none does not exist: .* the help of HousesDataModule"
    ):
        module(tmp_path / "none")


def test_incomplete_release_and_empty_split(tmp_path):
    write(tmp_path / "data", {name: data for name, data in files().items() if "/val/" not in name})
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


def test_ids_to_exclude_are_lines_of_utf8(root, tmp_path):
    for content in (b"\xef\xbb\xbftrain_a\r\ntrain_b\r\n", b"train_a\ntrain_b"):
        (tmp_path / "exclude.txt").write_bytes(content)
        assert ids(module(root, exclude=tmp_path / "exclude.txt").dataset("train")) == ["train_c", "train_d"]
    (tmp_path / "exclude.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"exclude\.txt is not UTF-8 text"):
        module(root, exclude=tmp_path / "exclude.txt")
