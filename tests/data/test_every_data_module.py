"""What every data module has to do.

A new one needs a line in `MODULES`, and one that trains a line in `TRAINED` or a configuration in `test_configs.py`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import fake_deep360
import fake_matterport3d
import fake_pano3d
import fake_pseudo_labels
import fake_stanford2d3d
import fake_structured3d
import fake_synpass
import fake_threed60
import fake_unlabelled
import numpy as np
import pytest
import torch
from fake_files import write
from lightning import LightningDataModule

from mtpano_zoo import data
from mtpano_zoo.data.loading import TrainingLoader
from mtpano_zoo.output_paths import check_id
from mtpano_zoo.tasks import NO_LABEL, SAMPLE_MAPS

HEIGHT, WIDTH = 32, 64
SIZE: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "batch_size": 1}
ROOMS: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "train_count": 2, "val_count": 1, "test_count": 1}
Build = Callable[[Path], LightningDataModule]

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no")


def of_files(kind: type[Any], files: Callable[[], Mapping[str, bytes]], **options: Any) -> Build:
    """Write a miniature of the release and read it."""

    def build(root: Path) -> LightningDataModule:
        write(root, files())
        return kind(root, **SIZE, **options)

    return build


def folder(root: Path) -> LightningDataModule:
    for split in ("train", "val", "test"):
        data.write_rooms(root, split, 2, HEIGHT, WIDTH)
    return data.FolderDataModule(root, **SIZE)


def shards(root: Path) -> LightningDataModule:
    data.write_shards(data.RoomsDataModule(**ROOMS), root, progress=False)
    return data.ShardsDataModule(root, batch_size=1)


def video(root: Path) -> LightningDataModule:
    (root / "preproc").mkdir(parents=True)
    film = cv2.VideoWriter(str(root / "preproc" / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (WIDTH, HEIGHT))
    for grey in range(3):
        film.write(np.full((HEIGHT, WIDTH, 3), 40 * grey, np.uint8))
    film.release()
    return data.SpatialAudioGenDataModule(root, every=0.2, **SIZE)


def two_of_rooms() -> tuple[LightningDataModule, LightningDataModule]:
    return data.RoomsDataModule(**ROOMS), data.RoomsDataModule(**ROOMS, seed=1)


MODULES: dict[str, Build] = {
    "Deep360DataModule": of_files(data.Deep360DataModule, fake_deep360.files, max_depth=50.0),
    "FolderDataModule": folder,
    "GeneratedDataModule": of_files(data.GeneratedDataModule, fake_unlabelled.generated),
    "HomesDataModule": lambda _: data.HomesDataModule(**ROOMS, batch_size=1),
    "Matterport3DDataModule": of_files(data.Matterport3DDataModule, fake_matterport3d.files),
    "MixedDataModule": lambda _: data.MixedDataModule(dict(zip(("a", "b"), two_of_rooms(), strict=True)), batch_size=1),
    "Pano3DDataModule": of_files(data.Pano3DDataModule, fake_pano3d.files, max_depth=8.0),
    "PseudoLabelDataModule": of_files(data.PseudoLabelDataModule, fake_pseudo_labels.files),
    "RoomsDataModule": lambda _: data.RoomsDataModule(**ROOMS, batch_size=1),
    "SUN360DataModule": of_files(data.SUN360DataModule, fake_unlabelled.sun360),
    "SemiSupervisedDataModule": lambda _: data.SemiSupervisedDataModule(*two_of_rooms(), batch_size=1),
    "ShardsDataModule": shards,
    "SpatialAudioGenDataModule": video,
    "Stanford2D3DDataModule": of_files(data.Stanford2D3DDataModule, fake_stanford2d3d.files, fold=2),
    "StreetsDataModule": lambda _: data.StreetsDataModule(**ROOMS, batch_size=1),
    "Structured3DDataModule": of_files(data.Structured3DDataModule, fake_structured3d.files, lights=["raw", "warm"]),
    "SynPASSDataModule": of_files(data.SynPASSDataModule, fake_synpass.files, weathers=["cloud", "sun"]),
    "ThreeD60DataModule": of_files(data.ThreeD60DataModule, fake_threed60.files, placements=["Left_Down"]),
    "ZInDDataModule": of_files(data.ZInDDataModule, fake_unlabelled.zind),
}
# A network trains on each of these by its short name.
TRAINED: dict[str, tuple[Callable[[], Mapping[str, bytes]], dict[str, Any]]] = {
    "Pano3DDataModule": (fake_pano3d.files, {"max_depth": 8.0}),
    "ThreeD60DataModule": (fake_threed60.files, {"placements": ["Left_Down"]}),
}


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    built = MODULES[request.param](tmp_path / "data")
    built.prepare_data()
    built.setup("fit")
    return built


every = pytest.mark.parametrize("module", MODULES, indirect=True)


def check_batch_of(module: Any, batch: Mapping[str, Any]) -> None:
    """Maps of the documented type, size and range, and names that stay below a folder."""
    for key, values in batch.items():
        if key not in SAMPLE_MAPS:
            assert key in ("id", "caption", "labelled"), key
            continue
        kind = SAMPLE_MAPS[key]
        shape = (kind.channels, HEIGHT, WIDTH) if kind.channels else (HEIGHT, WIDTH)
        assert values.shape == (len(batch["id"]), *shape), key
        assert values.dtype == getattr(torch, kind.dtype) and values.isfinite().all(), key
    assert batch["image"].min() >= 0 and batch["image"].max() <= 1
    if "semseg" in batch:
        known = batch["semseg"][batch["semseg"] != NO_LABEL]
        assert ((known >= 0) & (known < len(module.classes))).all()
    if "depth" in batch:
        assert batch["depth"].min() >= 0
    if "normals" in batch:
        length = batch["normals"].norm(dim=1)
        assert torch.isclose(length, length.round(), atol=1e-4).all() and length.max() < 1.5
    for name in batch["id"]:
        check_id(name)


def test_every_data_module_is_tried() -> None:
    named = {name for name in data.__all__ if name.endswith("DataModule")}
    assert MODULES.keys() == named and TRAINED.keys() <= named


@every
def test_training_samples_keep_the_conventions(module: Any) -> None:
    batches = list(module.train_dataloader())
    assert batches
    for batch in batches:
        check_batch_of(module, batch)
    names = [name for batch in batches for name in batch["id"]]
    assert len(set(names)) == len(names)
    classes = tuple(getattr(module, "classes", ()))
    assert len(set(classes)) == len(classes)
    palette = getattr(module, "palette", None)
    assert palette is None or len(palette) == len(classes)


@every
def test_training_has_one_loader_that_goes_on_within_an_epoch(module: Any) -> None:
    whole = [list(batch["id"]) for batch in module.train_dataloader()]
    first = module.train_dataloader()
    assert isinstance(first, TrainingLoader)
    batches = iter(first)
    next(batches)
    state = first.state_dict()
    again = module.train_dataloader()
    again.load_state_dict(state)
    assert [list(batch["id"]) for batch in again] == whole[1:]


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_trains_on_it(name: str, tmp_path: Path, fit: Callable[..., None]) -> None:
    files, options = TRAINED[name]
    write(tmp_path / "data", files())
    fit(name, tmp_path / "data", **options)


def test_faults_are_found() -> None:
    good = {"image": torch.zeros(1, 3, HEIGHT, WIDTH), "id": ["a"], "depth": torch.zeros(1, HEIGHT, WIDTH)}
    module = data.RoomsDataModule(**ROOMS)
    check_batch_of(module, good)
    faults = (
        {"depth": torch.full((1, HEIGHT, WIDTH), -1.0)},
        {"depth": torch.zeros(1, 1, HEIGHT, WIDTH)},
        {"semseg": torch.full((1, HEIGHT, WIDTH), 99)},
        {"normals": torch.full((1, 3, HEIGHT, WIDTH), 0.3)},
        {"shading": torch.zeros(1)},
    )
    for fault in faults:
        with pytest.raises(AssertionError):
            check_batch_of(module, good | fault)
    with pytest.raises(ValueError, match="a"):
        check_batch_of(module, good | {"id": ["../a"]})


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("ThreeD60DataModule", {"exclude": "~/gone"}),
        ("ThreeD60DataModule", {"lists": {"test": "~/gone"}}),
        ("FolderDataModule", {"table": "~/gone"}),
        ("FolderDataModule", {"classes_file": "~/gone"}),
        ("GeneratedDataModule", {"table": "~/gone"}),
        ("ZInDDataModule", {"partition": "~/gone"}),
        ("SpatialAudioGenDataModule", {"subset": "~/gone"}),
        ("HomesDataModule", {"views": "~/gone"}),
    ],
)
def test_options_that_are_paths_may_begin_with_the_home_folder(name, option, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "data", {"images/a.png": b"", "semseg/a.png": b""})
    root = {} if name == "HomesDataModule" else {"root": tmp_path / "data"}
    with pytest.raises((OSError, ValueError), match=str(tmp_path / "home" / "gone")):
        getattr(data, name)(**root, **option).train_dataloader()
