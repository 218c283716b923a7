import fake_pano3d
import pytest
from fake_files import write, write_zip

from mtpano_zoo.data import Pano3DDataModule

# Depth is taken over to the last bit; normals are scaled to length one once more.
NORMALS_STEP = 1e-6

SPLITS = {"train": ["17DRP5sb8fy_0", "17DRP5sb8fy_12"], "val": ["2azQ1b91cZZ_100"], "test": ["q9vSo1VnCiC_0"]}


@pytest.fixture(scope="module")
def content():
    return fake_pano3d.files()


@pytest.fixture
def root(tmp_path, content):
    write(tmp_path / "data", content)
    return tmp_path / "data"


def ids(data, split):
    return [data.dataset(split).name(i) for i in range(len(data.dataset(split)))]


@pytest.mark.parametrize("kind", ["tree", "zip"])
def test_samples_are_the_rooms(kind, tmp_path, content, check_sample):
    folder = tmp_path / "data"
    write(folder, content if kind == "tree" else {})
    if kind == "zip":
        folder.mkdir()
        write_zip(folder / "m3d.zip", content)
    data = Pano3DDataModule(folder, height=32, width=64)
    for split, names in SPLITS.items():
        assert ids(data, split) == [f"{name}_center" for name in names]
        for sample, name in zip(data.dataset(split), names, strict=True):
            number = fake_pano3d.ROOMS[tuple(name.split("_"))]
            check_sample(sample, fake_pano3d.ground_truth(number), 0, NORMALS_STEP)


def test_positions_and_largest_depth(root, check_sample):
    data = Pano3DDataModule(root, height=32, width=64, positions=["up"], max_depth=8.0)
    assert ids(data, "test") == ["q9vSo1VnCiC_0_up"]
    check_sample(data.dataset("test")[0], fake_pano3d.ground_truth(3, "up", 8.0), 0, NORMALS_STEP)
    data = Pano3DDataModule(root, height=32, width=64, positions=["up", "center"])
    assert len(ids(data, "train")) == 4


def test_lists_of_the_owner(root):
    (root / "GV2_tiny_v1.yaml").write_text(fake_pano3d.LIST)
    data = Pano3DDataModule(root, height=32, width=64, lists={"test": "GV2_tiny_v1.yaml"})
    assert ids(data, "test") == ["Allensville_3_center", "Beechwood_3_center"]
    with pytest.raises(ValueError, match="none for train"):
        data.dataset("train")


@pytest.mark.parametrize("text", ["", "[1, 2]", "Allensville: 3", "Allensville:"])
def test_list_of_another_kind_is_refused(root, text):
    (root / "list.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"list\.yaml is no list .* it names nothing"):
        Pano3DDataModule(root, lists={"test": "list.yaml"})


def test_list_that_is_not_yaml_is_named(root):
    (root / "list.yaml").write_text("Allensville: {")
    with pytest.raises(ValueError, match=r"list\.yaml is not YAML"):
        Pano3DDataModule(root, lists={"test": "list.yaml"})


def test_normals_may_be_missing(tmp_path, content, check_sample):
    write(tmp_path / "data", {name: data for name, data in content.items() if "normal_map" not in name})
    data = Pano3DDataModule(tmp_path / "data", height=32, width=64)
    truth = fake_pano3d.ground_truth(3)
    del truth["normals"]
    check_sample(data.dataset("test")[0], truth, 0, 0)


@pytest.mark.parametrize("options", [{"positions": ["front"]}, {"positions": []}, {"max_depth": 0}])
def test_unknown_options_are_refused(root, options):
    with pytest.raises(ValueError, match="positions are some of center, up"):
        Pano3DDataModule(root, **options)
