"""Which panoramas are labelled, under which names, and by which process."""

import hashlib
import io
import os
import shutil
from types import SimpleNamespace

import fake_unlabelled
import numpy as np
import pytest
import torch
from fake_files import write, write_zip
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from mtpano_zoo.data import Augmentation, RoomsDataModule, SUN360DataModule
from mtpano_zoo.labeling.datamodule import ImageFiles, LabelingData, unaugmented_samples
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.storage import LabelFolder, Marker


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


def test_what_was_not_seen_has_the_size_of_the_labels(tmp_path, ledger):
    """A large panorama is shrunk where it is read, and so is its mask; a pixel that is seen in part is not."""
    pixels = np.full((32, 64, 4), 255, np.uint8)
    pixels[:17, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = LabelingData(ImageFiles([tmp_path / "a.png"], ledger.folder.root), 8, 16, ledger, max_height=16)
    sample = data.items[0]["sample"]
    assert sample["image"].shape == (3, 16, 32) and sample["ignored"].shape == (8, 16)
    assert sample["ignored"][:5].all() and not sample["ignored"][5:].any()


@pytest.mark.parametrize(
    ("before", "added", "names"),
    [
        (["one/a.png", "one/b.png", "two/c.png"], "two/a.png", ["a", "b", "c", "two_a"]),
        (["one/a.png", "two/b.png"], "one/a.jpg", ["a", "b", "one_a.jpg"]),
        (["one/a.png", "two/a.png", "two/b.png"], "two/b.jpg", ["one_a", "two_a", "two_b", "two_b.jpg"]),
    ],
)
def test_what_is_finished_keeps_its_name(before, added, names, tmp_path, ledger, monkeypatch):
    """Another image of one name comes and goes: neither labels anything again."""
    monkeypatch.chdir(tmp_path)
    sources = ["one", "two"]
    for shade, name in enumerate(before):
        panorama(tmp_path / name, shade=shade)
    first = ImageFiles(sources, ledger.folder.root).names
    finish_all(ImageFiles(sources, ledger.folder.root), ledger)
    panorama(tmp_path / added, shade=90)
    new = ImageFiles(sources, ledger.folder.root)
    assert sorted(new.names) == names
    (item,) = items(LabelingData(new, 32, 64, ledger))
    finish(ledger, item["name"], item["origin"])
    assert item["name"] == names[-1] and ledger.folder.finished() == set(names)
    assert sorted(ImageFiles(sources, ledger.folder.root).names) == names
    (tmp_path / added).unlink()
    assert ImageFiles(sources, ledger.folder.root).names == first


def test_an_image_has_no_name_of_another_one(tmp_path, ledger, monkeypatch):
    """One whose labels have the name that it would have alone is labelled itself."""
    monkeypatch.chdir(tmp_path)
    panorama(tmp_path / "one/a.png", shade=1)
    finish_all(ImageFiles(["one"], ledger.folder.root), ledger)
    (tmp_path / "one/a.png").rename(tmp_path / "elsewhere.png")
    for shade, name in enumerate(("one/a.png", "two/a.png", "two/one/a.png"), start=2):
        panorama(tmp_path / name, shade=shade)
    assert sorted(ImageFiles(["one", "two"], ledger.folder.root).names) == ["one_a", "two_a", "two_one_a"]


def items(data):
    return list(data.predict_dataloader())


@pytest.fixture
def ledger(tmp_path):
    return Ledger(LabelFolder(tmp_path / "labels"))


def finish(ledger, name, *origin):
    """Write the labels of a panorama, whatever they are."""
    ledger.folder.root.mkdir(exist_ok=True)
    (ledger.folder.root / "manifest.json").write_text("{}")
    with ledger.folder as folder:
        folder.write(name, b"jpeg", {"depth/merged.png": b"metres"}, *origin)


def finish_all(samples, ledger):
    for item in items(LabelingData(samples, 32, 64, ledger)):
        finish(ledger, item["name"], item["origin"])


def test_of_two_panoramas_of_one_name_the_first_is_labelled(photos, tmp_path, ledger):
    """Whichever processes have them, and also after the first is finished."""
    panorama(photos / "floor_a.png", shade=200)
    files = ImageFiles([photos], tmp_path / "out")
    for _ in range(2):
        read, failed = [], {}
        for rank in range(2):
            ledger.report.failed.clear()
            data = LabelingData(files, 32, 64, ledger)
            data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
            read += items(data)
            failed |= ledger.report.failed
        first, second = (photos / "floor/a.png", photos / "floor_a.png")
        assert failed == {
            "floor_a": f"{first} and {second} have the same name: rename one of them, or label them apart"
        }
        for item in read:
            finish(ledger, item["name"], item["origin"])
    assert sorted(item["name"] for item in read) == []
    assert ledger.folder.finished() == {"a", "b", "floor_a", "floor_c"}
    assert ledger.folder.origin("floor_a").digest == f"sha256 {hashlib.sha256(first.read_bytes()).hexdigest()}"


def test_items_are_what_is_stored_and_what_is_labelled(photos, tmp_path, ledger):
    panorama(photos / "b.png", shade=200, size=(256, 128))
    found = {item["name"]: item for item in items(LabelingData(ImageFiles([photos], tmp_path / "out"), 32, 64, ledger))}
    assert found["b"]["sample"]["image"].shape == (3, 128, 256)
    stored = np.asarray(Image.open(io.BytesIO(found["b"]["jpeg"])))
    assert stored.shape == (32, 64, 3)
    assert np.abs(stored.astype(int) - 200).max() <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_a_sentence(workers, photos, tmp_path, ledger):
    (photos / "broken.png").write_bytes(b"\x89PNG nothing more")
    panorama(photos / "video.png", size=(160, 90))
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:60])
    data = LabelingData(ImageFiles([photos], tmp_path / "out"), 32, 64, ledger, num_workers=workers)
    found = {item["name"]: item for item in items(data)}
    assert {name for name, item in found.items() if "failure" in item} == {"broken", "video", "b"}
    assert "broken.png is truncated or not an image" in found["broken"]["failure"]
    assert "is 160 x 90 pixels" in found["video"]["failure"]
    assert "\n" not in "".join(item.get("failure", "") for item in found.values())


def test_shares_of_processes_cover_everything_once(photos, tmp_path):
    """Also if a process starts later, when others have finished more panoramas."""
    files = ImageFiles([photos], tmp_path / "out")
    for processes in (1, 2, 3, 7):
        ledger = Ledger(LabelFolder(tmp_path / f"labels-{processes}"))
        finish(ledger, files.name(2))
        seen = []
        for rank in range(processes):
            data = LabelingData(files, 32, 64, ledger)
            data.trainer = SimpleNamespace(global_rank=rank, world_size=processes)
            mine = [item["name"] for item in items(data)]
            seen += mine
            for name in mine:
                finish(ledger, name)
        assert sorted(seen + ledger.report.skipped) == sorted(files.names)
        assert ledger.report.skipped == [files.name(2)]


def test_nothing_is_read_after_the_stop(ledger):
    read = []

    class Noted(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, i):
            read.append(i)
            if len(read) == 3:
                ledger.stop("it is enough")
            return {"image": torch.zeros(3, 32, 64), "id": str(i)}

    assert [item["name"] for item in items(LabelingData(Noted(), 32, 64, ledger))] == ["0", "1", "2"]
    assert read == [0, 1, 2]


def test_any_data_module(ledger):
    rooms = RoomsDataModule(32, 64, train_count=3, val_count=2, test_count=1)
    for split, names in {"train": 3, "val": 2, "test": 1, "predict": 1}.items():
        found = items(LabelingData(unaugmented_samples(rooms, split), 16, 32, ledger))
        assert len(found) == names
        assert {"image", "depth", "semseg", "normals", "id"} <= found[0]["sample"].keys()
        assert found[0]["name"] == found[0]["sample"]["id"]
        stored = np.asarray(Image.open(io.BytesIO(found[0]["jpeg"])), np.float32)
        shrunk = torch.nn.functional.avg_pool2d(found[0]["sample"]["image"], 2).permute(1, 2, 0).numpy() * 255
        assert np.abs(stored - shrunk).mean() < 5  # JPEG


def test_samples_that_are_not_those_of_the_set():
    augmented = RoomsDataModule(32, 64, train_count=2, augmentation=Augmentation())
    with pytest.raises(ValueError, match="augments its samples"):
        unaugmented_samples(augmented, "train")
    assert len(unaugmented_samples(augmented, "val")) == 100

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    class StreamDataModule(RoomsDataModule):
        def train_dataloader(self):
            return SimpleNamespace(dataset=Stream())

    with pytest.raises(ValueError, match="StreamDataModule reads a stream"):
        unaugmented_samples(StreamDataModule(32, 64), "train")


class Named(Dataset):
    """Grey panoramas with these ids; with `known`, their names are known before they are read."""

    def __init__(self, *ids, shade=0.0, known=True):
        self.ids = ids
        self.shade = shade
        self.read = []
        if known:
            self.name = lambda i: self.ids[i]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        self.read.append(i)
        return {"image": torch.full((3, 32, 64), self.shade), "id": self.ids[i]}


def test_ids_with_folders_become_names(ledger):
    assert [item["name"] for item in items(LabelingData(Named("rooms/a/b"), 32, 64, ledger))] == ["rooms_a_b"]
    finish(ledger, "rooms_a_b")
    samples = Named("rooms/a/b")
    assert items(LabelingData(samples, 32, 64, ledger)) == []
    assert ledger.report.skipped == ["rooms_a_b"] and samples.read == []


BAD = [
    "",
    " ",
    ".",
    "..",
    "../x",
    "/abs/x",
    "a/../b",
    "a//b",
    "C:x",
    "a\\b",
    "a\0b",
    "dot.",
    "x" * 252,
    "a/" + "y" * 250,
]


@pytest.mark.parametrize("known", [True, False])
def test_ids_that_cannot_be_names_fail_alone(known, ledger):
    """Whether or not the ids are known before the panorama is read, no file with such a name is accessed."""
    found = items(LabelingData(Named("good", *BAD, "z" * 251, known=known), 32, 64, ledger))
    assert [item["name"] for item in found if "sample" in item] == ["good", "z" * 251]
    failed = ledger.report.failed | {item["name"]: item["failure"] for item in found if "failure" in item}
    assert len(failed) == len(BAD)
    assert all(sentence.startswith("The id ") and "\n" not in sentence for sentence in failed.values())


def test_the_longest_name_depends_on_the_file_that_marks_a_panorama_as_finished(tmp_path):
    """Labels of a name of 251 bytes exist, as `.jpg`; their scores would be `.json`."""
    ledger = Ledger(LabelFolder(tmp_path / "scores", Marker("scores", ".json")))
    finish(ledger, "good")
    longest = "y" * 250
    found = items(LabelingData(Named("good", "z" * 251, longest), 32, 64, ledger))
    assert [item["name"] for item in found] == [longest]
    assert ledger.report.skipped == ["good"]
    assert [len(name) for name in ledger.report.failed] == [251]


def test_another_image_of_the_same_name_is_noticed(photos, tmp_path, ledger):
    files = ImageFiles([photos], tmp_path / "out")
    finish_all(files, ledger)
    path, stat = photos / "b.png", (photos / "b.png").stat()
    (photos / "a.png").touch()  # the same content, at another time
    path.write_bytes(path.read_bytes()[::-1])  # as long as before, and told to be as old
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert items(LabelingData(files, 32, 64, ledger)) == []
    assert sorted(ledger.report.skipped) == ["a", "floor_a", "floor_c"]
    assert ledger.report.failed.keys() == {"b"}
    assert "made from another image" in ledger.report.failed["b"] and "--overwrite" in ledger.report.failed["b"]
    again = Ledger(ledger.folder, overwrite=True)
    assert [item["name"] for item in items(LabelingData(files, 32, 64, again))] == ["b"]
    assert not again.report.failed


def test_nothing_is_read_to_see_that_nothing_has_changed(photos, tmp_path, ledger, monkeypatch):
    files = ImageFiles([photos], tmp_path / "out")
    finish_all(files, ledger)
    monkeypatch.setattr(files, "fingerprint", None)
    assert items(LabelingData(files, 32, 64, ledger)) == []
    assert len(ledger.report.skipped) == 4


@pytest.mark.parametrize("known", [True, False])
def test_without_files_the_pixels_decide(known, ledger):
    finish_all(Named("a", "b", shade=0.25, known=known), ledger)
    same, other = (items(LabelingData(Named("a", shade=shade, known=known), 32, 64, ledger)) for shade in (0.25, 0.75))
    assert [ledger.wants(item) for item in same] == [False]
    assert ledger.report.skipped == ["a"] and not ledger.report.failed
    again = Ledger(ledger.folder)
    assert [again.wants(item) for item in other] == [False]
    assert again.report.failed.keys() == {"a"}
    over = Ledger(ledger.folder, overwrite=True)
    assert [over.wants(item) for item in other] == [True]


def test_rooms_of_another_seed_are_other_rooms(ledger):
    """This is known without rendering them."""

    def samples(**options):
        return unaugmented_samples(RoomsDataModule(32, 64, train_count=2, **options), "train")

    finish_all(samples(), ledger)
    assert items(LabelingData(samples(), 32, 64, ledger)) == [] and len(ledger.report.skipped) == 2
    for options in ({"seed": 1}, {"black_poles": 1.0}):
        again = Ledger(ledger.folder)
        assert items(LabelingData(samples(**options), 32, 64, again)) == []
        assert len(again.report.failed) == 2 and not again.report.skipped


@pytest.mark.parametrize("packed", [False, True])
def test_files_of_a_data_set_decide(packed, tmp_path, ledger, monkeypatch):
    """Unpacked files are identified by size, time and content, zipped ones by checksum; the read size counts too."""
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))

    def data(height=32, **changed):
        root = tmp_path / "sun"
        shutil.rmtree(root, ignore_errors=True)
        content = fake_unlabelled.sun360()
        content |= {name: content[other] for name, other in changed.items()}
        root.mkdir()
        write_zip(root / "a.zip", content) if packed else write(root, content)
        return unaugmented_samples(SUN360DataModule(root, height=height, width=2 * height), "predict")

    first, second, *_ = (f"pano1024x512/{name}.jpg" for name in fake_unlabelled.SUN360)
    finish_all(data(), ledger)
    assert items(LabelingData(data(), 32, 64, ledger)) == []
    assert len(ledger.report.skipped) == 3 and not ledger.report.failed
    assert items(LabelingData(data(**{first: second}), 32, 64, again := Ledger(ledger.folder))) == []
    assert again.report.failed.keys() == {"indoor_bedroom_pano_aaaaaaaaaaaaaa"} and len(again.report.skipped) == 2
    items(LabelingData(data(height=16), 16, 32, again := Ledger(ledger.folder)))
    assert len(again.report.failed) == 3


def test_labels_from_before_there_were_records_are_kept(photos, tmp_path, ledger):
    files = ImageFiles([photos], tmp_path / "out")
    for name in files.names:
        finish(ledger, name)
    assert items(LabelingData(files, 32, 64, ledger)) == []
    assert len(ledger.report.skipped) == 4


def test_large_panoramas_are_shrunk(photos, tmp_path, ledger):
    panorama(photos / "b.png", shade=200, size=(256, 128))
    data = LabelingData(ImageFiles([photos], tmp_path / "out"), 32, 64, ledger, max_height=64)
    found = {item["name"]: item["sample"]["image"] for item in items(data)}
    assert found["b"].shape == (3, 64, 128)
    assert (found["b"] == 200).all()
    assert found["a"].shape == (3, 32, 64)


def test_arguments(ledger):
    with pytest.raises(ValueError, match="max_height must not be less than the 32 rows"):
        LabelingData(Dataset(), 32, 64, ledger, max_height=16)
    with pytest.raises(ValueError, match="num_workers"):
        LabelingData(Dataset(), 32, 64, ledger, num_workers=-1)
