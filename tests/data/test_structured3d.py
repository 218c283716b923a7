import fake_structured3d
import pytest
from fake_files import write, write_zip

from mtpano_zoo.data import Structured3DDataModule

# Quantisation: half a millimetre, and 8 bits per component of which +1 saturates at 127/128.
DEPTH_STEP, NORMALS_STEP = 0.00051, 0.0125

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release")


@pytest.fixture(scope="module")
def content():
    return fake_structured3d.files()


@pytest.fixture(params=["tree", "scenes", "zip", "zips"])
def root(request, tmp_path, content):
    folder = tmp_path / "data"
    folder.mkdir()
    if request.param in ("tree", "scenes"):
        write(folder, content)
        return folder / "Structured3D" if request.param == "scenes" else folder
    if request.param == "zip":
        write_zip(folder / "Structured3D_panorama_00.zip", content)
        return folder / "Structured3D_panorama_00.zip"
    for number in range(2):
        part = {name: data for name, data in content.items() if ("/scene_03" in name) == bool(number)}
        write_zip(folder / f"Structured3D_panorama_{number:02d}.zip", part)
    write_zip(folder / "Structured3D_bbox.zip", {"Structured3D/scene_00000/bbox_3d.json": b"[]"})
    return folder


@pytest.fixture
def tree(tmp_path, content):
    write(tmp_path / "data", content)
    return tmp_path / "data"


def module(root, **options):
    return Structured3DDataModule(root, height=32, width=64, **options)


def names(data, split):
    return [data.dataset(split).name(i) for i in range(len(data.dataset(split)))]


def test_training_on_all_scenes_without_labels(tree):
    samples = module(tree, train_on_all=True, tasks=[]).dataset("train")
    assert len(samples) == 5 and set(samples[4]) == {"image", "id"}  # the sixth scene is invalid


def test_samples_are_the_rooms(root, check_sample):
    data = module(root)
    splits = {"train": [0, 1, 2], "val": [3], "test": [4]}
    for split, numbers in splits.items():
        samples = data.dataset(split)
        assert len(samples) == len(numbers)
        for i, number in enumerate(numbers):
            check_sample(samples[i], fake_structured3d.ground_truth(number), DEPTH_STEP, NORMALS_STEP)
    assert data.dataset("train")[0]["id"] == "scene_00000_485142_full_raw"
    assert set(data.dataset("predict")[0]) == {"image", "id"}


def test_lights_and_furnishing(tree, check_sample):
    data = module(tree, furnishing="empty", lights=["warm", "raw"])
    assert names(data, "val") == ["scene_03000_20_empty_raw", "scene_03000_20_empty_warm"]
    truth = fake_structured3d.ground_truth(3)
    check_sample(data.dataset("val")[0], truth, DEPTH_STEP, NORMALS_STEP)
    check_sample(data.dataset("val")[1], truth | {"image": truth["image"] // 2}, DEPTH_STEP, NORMALS_STEP)
    with pytest.raises(FileNotFoundError, match=r"panorama/simple/rgb_rawlight\.png"):
        module(tree, furnishing="simple").prepare_data()


@pytest.mark.parametrize("options", [{"furnishing": "bare"}, {"lights": []}, {"lights": ["raw", "blue"]}])
def test_unknown_options(tree, options):
    with pytest.raises(ValueError, match="furnishing is full, simple or empty and lights are some of"):
        module(tree, **options)


def test_invalid_scenes_are_left_out_unless_wanted(tree):
    assert names(module(tree), "test") == ["scene_03250_859972_full_raw"]
    kept = names(module(tree, exclude_errata=False), "test")
    assert kept == ["scene_03250_859972_full_raw", "scene_03398_12_full_raw"]


def test_the_invalid_scenes_are_those_of_the_owner():
    split_of = Structured3DDataModule.split_of
    options = type("Options", (), {"exclude_errata": True})()
    left_out = [i for i in range(3500) if split_of(options, {"scene": f"{i:05d}"}) is None]
    assert left_out == [1155, 1192, 1714, 1816, 1852, 3398]


@pytest.mark.parametrize(
    ("scene", "split"),
    [("00000", "train"), ("02999", "train"), ("03000", "val"), ("03249", "val"), ("03250", "test"), ("03499", "test")],
)
def test_ranges_of_the_splits(tree, scene, split):
    assert module(tree).split_of({"scene": scene}) == split


def test_incomplete_release_is_told(tree):
    with pytest.warns(UserWarning, match="holds 12 of the 43670 panoramas of the release"):
        module(tree, lights=["raw", "warm"]).prepare_data()


def test_labels_without_their_image_are_told(tree):
    (tree / "Structured3D/scene_00000/2D_rendering/485142/panorama/full/rgb_rawlight.png").unlink()
    with pytest.warns(UserWarning, match="3 files have no image, for example .*scene_00000/.*/full/depth.png"):
        assert len(module(tree).index) == 5
