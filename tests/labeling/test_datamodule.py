"""Which panoramas are labelled, under which names, and by which process."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from mtpano_zoo.data import Augmentation, RoomsDataModule
from mtpano_zoo.labeling.datamodule import ImageFiles, LabelingData, samples_of


def panorama(path, shade=90, size=(64, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), shade, np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "a.png", "floor/a.png", "floor/c.jpg"):
        panorama(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_names_of_files(photos, tmp_path):
    files = ImageFiles([photos], tmp_path / "out")
    assert sorted(files.names) == ["a", "b", "floor_a", "floor_c"]
    sample = files[files.names.index("b")]
    assert sample["id"] == "b"
    assert sample["image"].dtype == torch.uint8
    assert sample["image"].shape == (3, 32, 64)
    assert ImageFiles([photos / "b.png", photos / "floor"], tmp_path / "out").names == ["b", "a", "c"]


def test_two_panoramas_of_one_name(photos, tmp_path):
    panorama(photos / "floor_a.png")
    with pytest.raises(
        ValueError, match=r"floor_a\.png and .*floor/a\.png would both be called floor_a|floor/a\.png and"
    ):
        ImageFiles([photos], tmp_path / "out")
    panorama(photos / "b.jpg")
    with pytest.raises(ValueError, match="would both be written to"):
        ImageFiles([photos / "b.png", photos / "b.jpg"], tmp_path / "out")


def items(data):
    return list(data.predict_dataloader())


def test_items_are_what_is_stored_and_what_is_labelled(photos, tmp_path):
    panorama(photos / "b.png", shade=200, size=(256, 128))
    found = {item["name"]: item for item in items(LabelingData(ImageFiles([photos], tmp_path / "out"), 32, 64))}
    assert found["b"]["sample"]["image"].shape == (3, 128, 256)
    stored = np.asarray(Image.open(io.BytesIO(found["b"]["jpeg"])))
    assert stored.shape == (32, 64, 3)
    assert np.abs(stored.astype(int) - 200).max() <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_a_sentence(workers, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG nothing more")
    panorama(photos / "video.png", size=(160, 90))
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:60])
    data = LabelingData(ImageFiles([photos], tmp_path / "out"), 32, 64, num_workers=workers)
    found = {item["name"]: item for item in items(data)}
    assert {name for name, item in found.items() if "failure" in item} == {"broken", "video", "b"}
    assert "broken.png is truncated or not an image" in found["broken"]["failure"]
    assert "is 160 x 90 pixels" in found["video"]["failure"]
    assert "\n" not in "".join(item.get("failure", "") for item in found.values())


def test_shares_of_processes_cover_everything_once(photos, tmp_path):
    """Also when one of them looks later, and more is finished by then."""
    files = ImageFiles([photos], tmp_path / "out")
    for processes in (1, 2, 3, 7):
        finished = {files.name(2)}
        seen = []
        for rank in range(processes):
            data = LabelingData(files, 32, 64, finished=lambda finished=finished: set(finished))
            data.trainer = SimpleNamespace(global_rank=rank, world_size=processes)
            mine = [item["name"] for item in items(data)]
            seen += mine + data.skipped
            finished |= set(mine)
        assert sorted(seen) == sorted(files.names)


def test_nothing_is_read_after_the_stop(photos, tmp_path):
    read = []

    class Noted(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, i):
            read.append(i)
            return {"image": torch.zeros(3, 32, 64), "id": str(i)}

    data = LabelingData(Noted(), 32, 64, stopped=lambda: len(read) >= 3)
    assert [item["name"] for item in items(data)] == ["0", "1", "2"]
    assert read == [0, 1, 2]


def test_any_data_module():
    rooms = RoomsDataModule(32, 64, train_count=3, val_count=2, test_count=1)
    for split, names in {"train": 3, "val": 2, "test": 1, "predict": 1}.items():
        found = items(LabelingData(samples_of(rooms, split), 16, 32))
        assert len(found) == names
        assert {"image", "depth", "semseg", "normals", "id"} <= found[0]["sample"].keys()
        assert found[0]["name"] == found[0]["sample"]["id"]
        stored = np.asarray(Image.open(io.BytesIO(found[0]["jpeg"])), np.float32)
        shrunk = torch.nn.functional.avg_pool2d(found[0]["sample"]["image"], 2).permute(1, 2, 0).numpy() * 255
        assert np.abs(stored - shrunk).mean() < 5  # JPEG


def test_samples_that_are_not_those_of_the_set():
    augmented = RoomsDataModule(32, 64, train_count=2, augmentation=Augmentation())
    with pytest.raises(ValueError, match="augments its samples"):
        samples_of(augmented, "train")
    assert len(samples_of(augmented, "val")) == 100

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    class StreamDataModule(RoomsDataModule):
        def train_dataloader(self):
            return SimpleNamespace(dataset=Stream())

    with pytest.raises(ValueError, match="StreamDataModule reads a stream"):
        samples_of(StreamDataModule(32, 64), "train")


def test_ids_with_folders_become_names():
    class Mixed(Dataset):
        def __len__(self):
            return 1

        def name(self, i):
            return "rooms/a/b"

        def __getitem__(self, i):
            return {"image": torch.zeros(3, 32, 64), "id": self.name(i)}

    assert [item["name"] for item in items(LabelingData(Mixed(), 32, 64))] == ["rooms_a_b"]
    data = LabelingData(Mixed(), 32, 64, finished=lambda: {"rooms_a_b"})
    assert items(data) == []
    assert data.skipped == ["rooms_a_b"]


def test_large_panoramas_are_shrunk(photos, tmp_path):
    panorama(photos / "b.png", shade=200, size=(256, 128))
    data = LabelingData(ImageFiles([photos], tmp_path / "out"), 32, 64, max_height=64)
    found = {item["name"]: item["sample"]["image"] for item in items(data)}
    assert found["b"].shape == (3, 64, 128)
    assert (found["b"] == 200).all()
    assert found["a"].shape == (3, 32, 64)


def test_arguments():
    with pytest.raises(ValueError, match="max_height must not be less than the 32 rows"):
        LabelingData(Dataset(), 32, 64, max_height=16)
    with pytest.raises(ValueError, match="num_workers"):
        LabelingData(Dataset(), 32, 64, num_workers=-1)
