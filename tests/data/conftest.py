import fake_pseudo_labels
import numpy as np
import pytest
import yaml
from fake_files import write
from tiny_experiment import TINY_SIZES

import mtpano_zoo.data
from mtpano_zoo.cli import main
from mtpano_zoo.data import RoomsDataModule, write_shards


@pytest.fixture(autouse=True)
def index_cache(tmp_path, monkeypatch):
    """What is found below a root is remembered here, not in the user's folder."""
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "mtpano_cache"))
    return tmp_path / "mtpano_cache"


@pytest.fixture(scope="session")
def check_sample():
    """Compare a sample with what a fake was made from, `truth`, which has the labels that the sample must have.

    Classes and holes must agree exactly, images within `image_step` of 255, depth within `depth_step` in metres, and
    the components of normals within `normals_step`.
    """

    def check(sample, truth, depth_step, normals_step, image_step=0):
        assert set(sample) - {"id"} == set(truth)
        assert isinstance(sample["id"], str)
        image = (sample["image"] * 255).round().permute(1, 2, 0).numpy()
        assert image.shape == truth["image"].shape
        assert np.abs(image - truth["image"]).max() <= image_step
        if "semseg" in truth:
            assert np.array_equal(sample["semseg"].numpy(), truth["semseg"])
        if "depth" in truth:
            depth = sample["depth"].numpy()
            assert np.array_equal(depth == 0, truth["depth"] == 0)
            assert np.abs(depth - truth["depth"]).max() <= depth_step
        if "normals" in truth:
            normals = sample["normals"].permute(1, 2, 0).numpy()
            assert np.array_equal((normals == 0).all(-1), (truth["normals"] == 0).all(-1))
            assert np.abs(normals - truth["normals"]).max() <= normals_step

    return check


@pytest.fixture
def fit(tmp_path_factory, monkeypatch):
    """Train a tiny network by `mtpano fit` on a data module of `mtpano_zoo.data`, given by name, root and options."""

    def run(data_module, root, **options):
        options = {"root": str(root), "height": 32, "width": 64, "batch_size": 1} | options
        data = getattr(mtpano_zoo.data, data_module)(**options)
        network = {
            "tasks": ["semseg", "depth", "normals"] if data.classes else ["depth", "normals"],
            "input_size": [32, 64],
            **TINY_SIZES,
        }
        trainer = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "limit_train_batches": 2,
            "limit_val_batches": 1,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        config = {
            "model": {"network": {"class_path": "PDBridgeNet", "init_args": network}},
            "data": {"class_path": data_module, "init_args": options},
            "trainer": trainer,
        }
        folder = tmp_path_factory.mktemp("fit")
        monkeypatch.chdir(folder)
        (folder / "fit.yaml").write_text(yaml.safe_dump(config))
        assert main(["fit", "--config", "fit.yaml"]) == 0

    return run


@pytest.fixture
def pseudo_labels(tmp_path):
    """A folder of pseudo-labels in miniature."""
    write(tmp_path / "data", fake_pseudo_labels.files())
    return tmp_path / "data"


@pytest.fixture(scope="session")
def small_rooms():
    return RoomsDataModule(32, 64, train_count=11, val_count=3, test_count=2)


@pytest.fixture(scope="session")
def room_shards(small_rooms, tmp_path_factory):
    """A folder of shards with two rooms each."""
    root = tmp_path_factory.mktemp("shards") / "out"
    counts = write_shards(small_rooms, root, shard_size=2, workers=0, progress=False)
    assert counts == {"train": 11, "val": 3, "test": 2}
    return root
