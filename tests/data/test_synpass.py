import fake_synpass
import numpy as np
import pytest
from fake_files import png, write, write_zip

from mtpano_zoo.data import SynPASSDataModule
from mtpano_zoo.data.panoramas import UnreadableSampleError

SPLITS = {"train": [0, 1, 2], "val": [3], "test": [4]}

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release")


@pytest.fixture(scope="module")
def content():
    return fake_synpass.files()


@pytest.fixture
def root(tmp_path, content):
    write(tmp_path / "data", content)
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["tree", "folders", "zip"])
def test_samples_are_the_frames(kind, tmp_path, content, check_sample):
    folder = tmp_path / "data"
    if kind == "zip":
        folder.mkdir()
        write_zip(folder / "SynPASS.zip", content)
    else:
        write(folder, content)
    data = SynPASSDataModule(folder / "SynPASS" if kind == "folders" else folder, height=32, width=64)
    for split, numbers in SPLITS.items():
        assert len(data.dataset(split)) == len(numbers)
        for sample, number in zip(data.dataset(split), numbers, strict=True):
            check_sample(sample, fake_synpass.ground_truth(number), 0, 0)
    assert data.dataset("train")[2]["id"] == "sun_train_MAP_1_point2_000000"


def test_weathers(root):
    data = SynPASSDataModule(root, weathers=["cloud"])
    assert [len(data.dataset(split)) for split in ("train", "test")] == [2, 1]
    with pytest.raises(ValueError, match="none for val"):
        data.dataset("val")
    for weathers in ([], ["snow"]):
        with pytest.raises(ValueError, match="weathers are some of cloud, fog, rain, sun"):
            SynPASSDataModule(root, weathers=weathers)


def test_classes_have_the_colours_of_carla():
    colours = dict(zip(SynPASSDataModule.classes, SynPASSDataModule.palette.tolist(), strict=True))
    assert len(colours) == 22
    assert colours["building"] == [70, 70, 70]
    assert colours["vehicles"] == [0, 0, 142]
    assert colours["sky"] == [70, 130, 180]
    assert colours["terrain"] == [145, 170, 100]


def test_class_beyond_the_last_is_refused(root):
    path = root / "SynPASS/semantic/sun/val/MAP_6_point1/000000_trainID.png"
    path.write_bytes(png(np.full((32, 64), 23, np.uint8)))
    with pytest.raises(UnreadableSampleError, match=r"labels \[23\]"):
        SynPASSDataModule(root, height=32, width=64).dataset("val")[0]
