import numpy as np
import pytest
import fake_structured3d
from fake_files import damage, write, write_zip

from mtpano_zoo.data import Structured3DDataModule

# Quantisation: half a millimetre, and 8 bits per component of which +1 saturates at 127/128.
DEPTH_STEP, NORMALS_STEP = 0.00051, 0.0125

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))


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


def check(sample, truth):
    assert np.array_equal((sample["image"] * 255).round().byte().permute(1, 2, 0).numpy(), truth["image"])
    assert np.array_equal(sample["semseg"].numpy(), truth["semseg"])
    assert np.abs(sample["depth"].numpy() - truth["depth"]).max() <= DEPTH_STEP
    assert ((sample["depth"].numpy() == 0) == (truth["depth"] == 0)).all()
    normals = sample["normals"].permute(1, 2, 0).numpy()
    assert np.abs(normals - truth["normals"]).max() <= NORMALS_STEP
    assert ((normals == 0).all(-1) == (truth["normals"] == 0).all(-1)).all()


def test_samples_are_the_rooms(root):
    data = Structured3DDataModule(root, height=32, width=64)
    splits = {"train": [0, 1, 2], "val": [3], "test": [4]}
    for split, numbers in splits.items():
        samples = data.dataset(split)
        assert len(samples) == len(numbers)
        for i, number in enumerate(numbers):
            check(samples[i], fake_structured3d.ground_truth(number))
    assert data.dataset("train")[0]["id"] == "scene_00000_485142_full_raw"
