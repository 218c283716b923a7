from collections import Counter

import fake_matterport3d as fake
import numpy as np
import pytest
from fake_files import png, write

from mtpano_zoo.classes import MPCAT40_CLASSES, MPCAT40_PALETTE, NYU40_CLASSES
from mtpano_zoo.data import Matterport3DDataModule, matterport3d
from mtpano_zoo.data.panoramas import UnreadableSampleError

# Half a millimetre, half a step of 8 bits, and JPEG of the best quality.
DEPTH_STEP, NORMALS_STEP, IMAGE_STEP = 0.00051, 0.0045, 4
SPLITS = {"train": ["17DRP5sb8fy", "1LXtFkjw3qL"], "val": ["zsNo4HB9uLZ"], "test": ["2t7WUuJeko7"]}

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no")


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "data", fake.files())
    return tmp_path / "data"


def module(root, **options):
    return Matterport3DDataModule(root, height=32, width=64, **options)


@pytest.mark.parametrize("labels", ["nyu40", "mpcat40"])
def test_samples_are_the_rooms(tmp_path, labels, check_sample):
    write(tmp_path / "data", fake.files(labels))
    for root in (tmp_path / "data", tmp_path / "data" / "Matterport3D_Processed"):
        for split, scans in SPLITS.items():
            samples = module(root, labels=labels).dataset(split)
            panoramas = [(scan, *panorama) for scan in scans for panorama in fake.PANORAMAS[scan].items()]
            assert len(samples) == len(panoramas)
            for i, (scan, name, number) in enumerate(panoramas):
                truth = fake.ground_truth(number, labels)
                if name == fake.WITHOUT_VIEWS:
                    truth = {"image": truth["image"]}
                check_sample(samples[i], truth, DEPTH_STEP, NORMALS_STEP, IMAGE_STEP)
                assert samples[i]["id"] == f"{scan}_{name}"


def test_the_layout_of_unifuse_has_quarters_of_millimetres(tmp_path, check_sample):
    write(tmp_path, fake.unifuse_files())
    data = module(tmp_path, layout="unifuse")
    assert data.tasks == ("depth",) and not data.classes
    for split, scans in SPLITS.items():
        numbers = [n for scan in scans for name, n in fake.PANORAMAS[scan].items() if name != fake.WITHOUT_VIEWS]
        for sample, number in zip(data.dataset(split), numbers, strict=True):
            truth = fake.ground_truth(number)
            check_sample(sample, {key: truth[key] for key in ("image", "depth")}, DEPTH_STEP / 4, None, IMAGE_STEP)
    with pytest.raises(ValueError, match="layout is mtpano or unifuse, not 'bifuse'"):
        module(tmp_path, layout="bifuse")


def test_training(tmp_path, fit):
    write(tmp_path / "data", fake.files("mpcat40"))
    (tmp_path / "without.txt").write_text(f"17DRP5sb8fy_{fake.WITHOUT_VIEWS}\n")
    fit("Matterport3DDataModule", tmp_path / "data", labels="mpcat40", exclude=str(tmp_path / "without.txt"))


def test_far_depth_does_not_count(root):
    near, truth = module(root, max_depth=2.0).dataset("test")[0], module(root).dataset("test")[0]
    far = truth["depth"] > 2
    assert 0 < far.sum() < far.numel()
    assert (near["depth"][far] == 0).all() and (near["depth"][~far] == truth["depth"][~far]).all()


def test_predict_is_test_without_labels(root):
    samples = module(root).dataset("predict")
    assert [set(sample) for sample in (samples[0], samples[1])] == [{"image", "id"}] * 2


def test_every_building_has_the_split_of_the_owner():
    # From the facts that every published list repeats: 61, 11 and 18 buildings, and who they are.
    test = """2t7WUuJeko7 5ZKStnWn8Zo ARNzJeq3xxb fzynW3qQPVF jtcxE69GiFV pa4otMbVnkk q9vSo1VnCiC rqfALeAoiTq
    UwV83HsGsw3 wc2JMjhGNzB WYY7iVyf5p8 YFuZgdQ5vWj yqstnuAEVhm YVUC4YcDtcY gxdoqLR6rwA gYvKGZ5eRqb RPmz2sHmrrY
    Vt2qJdWjCF2"""
    val = """2azQ1b91cZZ 8194nk5LbLH EU6Fwq7SyZv oLBMNvg9in8 QUCTc6BB5sX TbHJrupSAjP X7HyMhZNoso pLe4wQe7qrG
    x8F5xyUWy9e Z6MFQCViBuw zsNo4HB9uLZ"""
    splits = matterport3d.scan_splits()
    assert Counter(splits.values()) == {"train": 61, "val": 11, "test": 18}
    assert {scan for scan, split in splits.items() if split == "test"} == set(test.split())
    assert {scan for scan, split in splits.items() if split == "val"} == set(val.split())
    assert all(len(scan) == 11 and scan.isalnum() for scan in splits)


@pytest.mark.filterwarnings("ignore:.*files have no image")
def test_a_foreign_building_is_left_out(root):
    folder = root / "Matterport3D_Processed" / "mp3d_results_panoramas"
    (folder / "2t7WUuJeko7").rename(folder / "AAAAAAAAAAA")
    data = module(root)
    assert len(data.index) == 5
    with pytest.raises(ValueError, match="none for test"):
        data.dataset("test")


def test_class_sets(root):
    assert module(root).classes == NYU40_CLASSES and module(root, labels="mpcat40").classes == MPCAT40_CLASSES
    assert len(set(MPCAT40_CLASSES)) == len({*map(tuple, MPCAT40_PALETTE.tolist())}) == 40
    # mpcat40.tsv: 1 wall #aec7e8, 16 stairs #9edae5, 18 toilet #e7969c, 40 misc #7f7f7f; NYU's toilet is 33.
    for number, name, colour in ((1, "wall", "aec7e8"), (16, "stairs", "9edae5"), (18, "toilet", "e7969c")):
        assert MPCAT40_CLASSES[number - 1] == name and bytes(MPCAT40_PALETTE[number - 1]).hex() == colour
    assert MPCAT40_CLASSES[39] == "misc" and NYU40_CLASSES[32] == "toilet"


def test_labels_of_the_other_class_set(root):
    name = "mp3d_aligned_labels/2t7WUuJeko7/semantic/" + "0a" * 16 + "_semantic.png"
    path = root / "Matterport3D_Processed" / name
    path.write_bytes(png(np.full((32, 64), 41, np.uint8)))
    with pytest.raises(UnreadableSampleError, match=r"semantic.png cannot be used: it holds the labels \[41\]"):
        module(root).dataset("test")[0]
    assert (module(root, labels="mpcat40").dataset("test")[0]["semseg"] == 255).all()


@pytest.mark.parametrize("options", [{"labels": "ade20k"}, {"max_depth": 0}, {"max_depth": float("nan")}])
def test_bad_options(root, options):
    with pytest.raises(ValueError, match="labels is nyu40 or mpcat40 and max_depth a positive number"):
        module(root, **options)
