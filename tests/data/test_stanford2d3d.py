import io
import json

import fake_stanford2d3d
import numpy as np
import pytest
from fake_files import png, write, write_zip
from PIL import Image

from mtpano_zoo.data import S3DIS_CLASSES, S3DIS_PALETTE, Stanford2D3DDataModule
from mtpano_zoo.data.stanford2d3d import decode_normals, decode_semantic

# Quantisation: half of 1/512 m; half of 1/127.5 per component, and no component of a vector errs more than its length.
DEPTH_STEP, NORMALS_STEP = 0.000977, 0.0069

POSE = {"camera_rt_matrix": [[1, 0, 0, 2], [0, 0, -1, 3], [0, 1, 0, 4]]}

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release")


@pytest.fixture(scope="module")
def content():
    return fake_stanford2d3d.files()


@pytest.fixture
def root(tmp_path, content):
    write(tmp_path / "data", content)
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["tree", "zip"])
@pytest.mark.parametrize("blue", [1, -1])
def test_samples_are_the_rooms(kind, blue, tmp_path, check_sample):
    folder = tmp_path / "data"
    if kind == "tree":
        write(folder, fake_stanford2d3d.files(blue))
    else:
        folder.mkdir()
        write_zip(folder / "areas.zip", fake_stanford2d3d.files(blue))
    data = Stanford2D3DDataModule(folder, height=32, width=64)
    numbers = {"train": [0, 1, 2, 3, 6], "test": [4, 5]}
    for split, rooms in numbers.items():
        samples = data.dataset(split)
        assert len(samples) == len(rooms)
        for sample, number in zip(samples, rooms, strict=True):
            check_sample(sample, fake_stanford2d3d.ground_truth(number), DEPTH_STEP, NORMALS_STEP)
    assert data.dataset("test")[0]["id"] == f"camera_{fake_stanford2d3d.camera(4)}_office_11"


@pytest.mark.parametrize(
    ("fold", "test", "train"), [(1, ["5a", "5b"], "12346"), (2, ["2", "4"], "1 3 5a 5b 6"), (3, "136", "2 4 5a 5b")]
)
def test_folds_are_areas(fold, test, train, root):
    data = Stanford2D3DDataModule(root, height=32, width=64, fold=fold)

    def areas(split):
        index = data.dataset(split).index
        return [index.fields_of(i)["area"] for i in range(len(index))]

    assert areas("test") == areas("val") == areas("predict") == list(test)
    assert areas("train") == (train.split() if " " in train else list(train))
    data = Stanford2D3DDataModule(root, height=32, width=64, fold=fold, val_areas=areas("train")[:1])
    assert areas("val") == [(train.split() if " " in train else list(train))[0]]
    assert areas("test") == list(test)
    assert areas("val")[0] not in areas("train")


def test_the_layout_of_unifuse_has_images_and_depth(tmp_path, content, check_sample):
    write(tmp_path, fake_stanford2d3d.unifuse_files(content))
    data = Stanford2D3DDataModule(tmp_path, height=32, width=64, layout="unifuse")
    assert data.tasks == ("depth",) and not data.classes
    for split, numbers in {"train": [0, 1, 2, 3, 6], "test": [4, 5]}.items():
        for sample, number in zip(data.dataset(split), numbers, strict=True):
            truth = fake_stanford2d3d.ground_truth(number)
            check_sample(sample, {key: truth[key] for key in ("image", "depth")}, DEPTH_STEP, None)
    with pytest.raises(ValueError, match="layout is release or unifuse"):
        Stanford2D3DDataModule(tmp_path, layout="pano")


def test_alphabetical_order_has_the_same_names_and_colours(root):
    ours = Stanford2D3DDataModule(root, height=32, width=64)
    theirs = Stanford2D3DDataModule(root, height=32, width=64, class_order="alphabetical")
    assert ours.classes == S3DIS_CLASSES
    assert theirs.classes[:4] == ("beam", "board", "bookcase", "ceiling")
    a, b = (data.dataset("train")[0]["semseg"].numpy() for data in (ours, theirs))
    assert np.array_equal(a == 255, b == 255)
    seen = a != 255
    assert np.array_equal(np.array(ours.classes)[a[seen]], np.array(theirs.classes)[b[seen]])
    assert np.array_equal(S3DIS_PALETTE[a[seen]], theirs.palette[b[seen]])


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((0, 16, 225), "clutter"),  # 4321
        ((0, 0, 1), "beam"),
        ((0, 38, 87), "window"),  # 9815, the last
        ((0, 0, 0), None),
        ((13, 13, 13), None),  # would be 3341, a clutter, without its red
    ],
)
def test_number_is_an_instance(colour, expected):
    image = png(np.full((2, 4, 3), colour, np.uint8))
    label = decode_semantic(image, S3DIS_CLASSES)[0, 0]
    assert label == (255 if expected is None else S3DIS_CLASSES.index(expected))


def test_number_beyond_the_list_is_refused():
    with pytest.raises(ValueError, match=r"labels \[9816\]"):
        decode_semantic(png(np.full((2, 4, 3), (0, 38, 88), np.uint8)), S3DIS_CLASSES)


def test_palette_image_is_refused():
    with pytest.raises(ValueError, match="24-bit"):
        decode_semantic(png(np.zeros((2, 4), np.uint8), S3DIS_PALETTE), S3DIS_CLASSES)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (b"{", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", "not a JSON object"),
        (json.dumps({"camera_rt_matrix": [[1, 0, 0]] * 3}).encode(), r"shape \(3, 3\)"),
        (json.dumps({"camera_rt_matrix": [[1, 0, 0, 0]] * 3}).encode(), "not a rotation"),
        (json.dumps({"camera_rt_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]}).encode(), "not a rotation"),
    ],
)
def test_pose_without_rotation_is_refused(pose, message):
    with pytest.raises(ValueError, match=message):
        decode_normals(png(np.full((8, 16, 3), 255, np.uint8)), pose)


def test_floor_and_ceiling_do_not_depend_on_the_yaw():
    """The camera of POSE is level and looks along the world's y: a floor (0, 0, 1) is seen as (0, -1, 0)."""
    floor = np.full((8, 16, 3), (128, 0, 128), np.uint8)
    floor[:4, :, 1] = 255
    normals = decode_normals(png(floor), json.dumps(POSE).encode())
    assert np.abs(normals[4:] - (0, -1, 0)).max() < 0.01
    assert np.abs(normals[:4] - (0, 1, 0)).max() < 0.01


def test_panorama_without_pose_has_no_normals(root):
    next(root.glob("area_5a/pano/pose/*")).unlink()
    data = Stanford2D3DDataModule(root, height=32, width=64)
    with pytest.warns(UserWarning, match="1 of 7 panoramas have no normals"):
        sample = data.dataset("test")[0]
    assert "normals" not in sample
    assert "depth" in sample


def test_packed_areas_are_to_be_unpacked(tmp_path):
    (tmp_path / "area_1_no_xyz.tar.gz").write_bytes(b"")
    for root in (tmp_path, tmp_path / "area_1_no_xyz.tar.gz"):
        with pytest.raises(FileNotFoundError, match=r"area_1_no_xyz\.tar\.gz.*unpack"):
            Stanford2D3DDataModule(root).dataset("train")


def test_archives_beside_the_tree_do_not_matter(root):
    (root / "area_1.tar.gz").write_bytes(b"")
    assert len(Stanford2D3DDataModule(root).dataset("train")) == 5


@pytest.mark.parametrize(
    "options", [{"fold": 4}, {"class_order": "nyu"}, {"val_areas": ["5a"]}, {"val_areas": ["1", "2", "3", "4", "6"]}]
)
def test_wrong_options_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match=r"fold is|val_areas are"):
        Stanford2D3DDataModule(tmp_path, **options)


def test_the_fake_has_alpha_and_bands(content):
    images = [Image.open(io.BytesIO(data)) for name, data in content.items() if name.endswith("domain_rgb.png")]
    assert {image.mode for image in images if image.size == (64, 32)} == {"RGB", "RGBA"}
