import cv2
import numpy as np
import pytest
from PIL import Image

from mtpano_zoo.data import S3DIS_CLASSES, S3DIS_PALETTE, FolderDataModule, RoomsDataset, write_rooms
from mtpano_zoo.errors import InputError


def test_files_hold_the_samples(tmp_path):
    assert write_rooms(tmp_path / "rooms", "val", 2, 32, 64, seed=4) == 2
    sample, name = RoomsDataset("val", 2, 32, 64, seed=4)[1], "val-000001.png"
    image = np.array(Image.open(tmp_path / "rooms/images" / name))
    assert np.array_equal(image, (sample["image"] * 255).round().byte().permute(1, 2, 0).numpy())
    semseg = Image.open(tmp_path / "rooms/semseg" / name)
    assert np.array_equal(np.array(semseg), sample["semseg"].numpy())
    assert np.array_equal(np.array(semseg.convert("RGB")), S3DIS_PALETTE[sample["semseg"].numpy()])
    depth = cv2.imread(str(tmp_path / "rooms/depth" / name), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and np.abs(depth / 1000 - sample["depth"].numpy()).max() <= 0.00051
    normals = cv2.imread(str(tmp_path / "rooms/normals" / name), cv2.IMREAD_UNCHANGED)[..., ::-1]
    decoded = (normals.astype(np.float64) - 32768) / 32767
    assert normals.dtype == np.uint16 and np.abs(decoded - sample["normals"].permute(1, 2, 0).numpy()).max() < 3e-5
    text = (tmp_path / "rooms/classes.yaml").read_text()
    assert all(f"{{name: {c}, color: {S3DIS_PALETTE[i].tolist()}}}" in text for i, c in enumerate(S3DIS_CLASSES))


def test_the_folder_is_one_that_the_data_module_for_own_panoramas_reads(tmp_path):
    write_rooms(tmp_path, "train", 3, 32, 64)
    data = FolderDataModule(tmp_path, height=32, width=64, val_fraction=0, test_fraction=0)
    assert tuple(data.classes) == tuple(S3DIS_CLASSES) and np.array_equal(data.palette, S3DIS_PALETTE)
    truth = {sample["id"]: sample for sample in RoomsDataset("train", 3, 32, 64)}
    for sample in data.train_dataloader().dataset:
        assert np.array_equal(sample["semseg"], truth[sample["id"]]["semseg"])
        assert (sample["depth"] - truth[sample["id"]]["depth"]).abs().max() <= 0.00051


def test_keeps_the_classes_of_a_folder_of_something_else(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [wall, floor]\n")
    with pytest.raises(InputError, match="no rooms of this seed and size"):
        write_rooms(tmp_path, "val", 1, 16, 32)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["classes: [wall, floor]\n"]


def test_an_interrupted_set_is_completed(tmp_path):
    assert write_rooms(tmp_path, "train", 2, 16, 32) == 2
    kept, lost = tmp_path / "images/train-000000.png", tmp_path / "depth/train-000001.png"
    before, expected = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert write_rooms(tmp_path, "train", 3, 16, 32) == 2
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == expected
    assert write_rooms(tmp_path, "val", 1, 16, 32) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.yaml", "depth", "images", "normals", "semseg"]


def test_refuses_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds no rooms"):
        write_rooms(tmp_path, "val", 1, 16, 32)
    with pytest.raises(InputError, match="holds no rooms"):
        write_rooms(tmp_path / "thesis.tex", "val", 1, 16, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("arguments", [("val", 1, 16, 32, 1), ("val", 1, 32, 64, 0)])
def test_refuses_to_mix_seeds_and_sizes(tmp_path, arguments):
    write_rooms(tmp_path, "val", 1, 16, 32, seed=0)
    with pytest.raises(InputError, match="no rooms of this seed and size"):
        write_rooms(tmp_path, *arguments)


def test_refuses_bad_arguments_before_touching_the_disk(tmp_path):
    with pytest.raises(ValueError):
        write_rooms(tmp_path / "new", "val", 0, 16, 32)
    assert not (tmp_path / "new").exists()
