import fake_threed60
import pytest
from fake_files import write, write_zip

from mtpano_zoo.data import ThreeD60DataModule

# Depth is taken over to the last bit; normals are scaled to length one once more.
NORMALS_STEP = 1e-6

SPLITS = {"train": [0, 3], "val": [1, 4, 5], "test": [2, 6, 7]}


@pytest.fixture(scope="module")
def content():
    return fake_threed60.files()


@pytest.fixture
def root(tmp_path, content):
    write(tmp_path / "data", content)
    return tmp_path / "data"


def numbers(data, split):
    """The rooms that a split holds."""
    index = data.dataset(split).index
    names = [index.files["image"][0].format(**index.fields_of(i)) for i in range(len(index))]
    rooms = {
        stem.format("color", p) + ".png": n
        for stem, n in fake_threed60.ROOMS.items()
        for p in data.placements.split("|")
    }
    return [rooms[name] for name in names]


@pytest.mark.parametrize("kind", ["tree", "zip"])
def test_samples_are_the_rooms(kind, tmp_path, content, check_sample):
    folder = tmp_path / "data"
    write(folder, content if kind == "tree" else {})
    if kind == "zip":
        folder.mkdir()
        write_zip(folder / "3D60.zip", content)
    data = ThreeD60DataModule(folder, height=32, width=64)
    for split, rooms in SPLITS.items():
        assert sorted(numbers(data, split)) == rooms
        for sample, number in zip(data.dataset(split), numbers(data, split), strict=True):
            check_sample(sample, fake_threed60.ground_truth(number), 0, NORMALS_STEP)
    assert data.dataset("test")[0]["id"] == "10_ed1e790a785e4b74b895e41682b2ae881_Left_Down_0.0"


def test_parts_and_placements(root, check_sample):
    data = ThreeD60DataModule(root, height=32, width=64, parts=["Matterport3D"], placements=["Up"])
    assert {split: numbers(data, split) for split in SPLITS} == {"train": [0], "val": [1], "test": [2]}
    check_sample(data.dataset("test")[0], fake_threed60.ground_truth(2, "Up"), 0, NORMALS_STEP)
    data = ThreeD60DataModule(root, height=32, width=64, placements=["Left_Down", "Right"])
    assert len(data.dataset("train")) == 4
    assert len({sample["id"] for sample in data.dataset("train")}) == 4


def test_lists_of_the_owner(root):
    (root / "3D60_test.txt").write_text(fake_threed60.TEST_LIST)
    (root / "val.txt").write_text(fake_threed60.VAL_LIST)
    data = ThreeD60DataModule(root, height=32, width=64, lists={"test": "3D60_test.txt", "val": str(root / "val.txt")})
    assert numbers(data, "test") == [2]
    assert sorted(numbers(data, "val")) == [1, 5]
    with pytest.raises(ValueError, match="none for train"):
        data.dataset("train")


def test_lists_name_every_camera(root):
    (root / "3D60_test.txt").write_text(fake_threed60.TEST_LIST)
    data = ThreeD60DataModule(root, placements=["Left_Down", "Right", "Up"], lists={"test": "3D60_test.txt"})
    assert numbers(data, "test") == [2, 2, 2]


def test_lists_may_have_blanks_in_their_folders(root):
    (root / "3D60_test.txt").write_text(fake_threed60.TEST_LIST.replace(r"D:\Data", r"D:\My Data"))
    data = ThreeD60DataModule(root, lists={"test": "3D60_test.txt"})
    assert numbers(data, "test") == [2]


def test_part_that_is_not_there_is_named(tmp_path, content):
    write(tmp_path / "data", {name: data for name, data in content.items() if name.startswith("Matterport3D")})
    data = ThreeD60DataModule(tmp_path / "data", height=32, width=64)
    with pytest.raises(FileNotFoundError, match=r"only panoramas of Matterport3D: set parts to \[Matterport3D\]"):
        data.dataset("train")
    with pytest.raises(FileNotFoundError, match=r"no panorama of the form Stanford2D3D/\{area\}"):
        ThreeD60DataModule(tmp_path / "data", parts=["Stanford2D3D"]).dataset("train")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no panorama of the form Matterport3D/.*: pass the folder"):
        ThreeD60DataModule(tmp_path / "other").dataset("train")
    assert len(ThreeD60DataModule(tmp_path / "data", parts=["Matterport3D"]).dataset("train")) == 1


@pytest.mark.parametrize("options", [{"parts": ["SunCG"]}, {"parts": []}, {"placements": ["Down"]}])
def test_unknown_options_are_refused(root, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a list with one or more of "):
        ThreeD60DataModule(root, **options)
