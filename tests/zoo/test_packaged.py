"""The weights that the package brings: there, loadable without any network, and as good as their card says."""

import hashlib
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.data import RoomsDataset
from mtpano_zoo.files.card import model_card
from mtpano_zoo.metrics import DepthMetrics, NormalsMetrics, SemsegMetrics
from mtpano_zoo.resources import shipped
from mtpano_zoo.zoo import entries

NAME = "mtpano-tiny.rooms"
PACKAGED = [name for name, entry in entries().items() if entry.packaged]


@pytest.fixture(autouse=True)
def offline(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a cache nor a connection."""

    def refuse(*args: object) -> None:
        raise AssertionError("something asked for a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_entry_says_what_the_file_is(name: str) -> None:
    entry, path = entries()[name], shipped(entries()[name].file)
    content = path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)
    assert len(content) <= 20e6
    assert entry.limitations and any(row["dataset"].startswith("3D60") for row in entry.results)
    assert entry.recipe is None or shipped(f"configs/{entry.recipe}").is_file()


def test_those_trained_on_rooms_alone_say_by_what_and_how_well() -> None:
    entry = entries()[NAME]
    assert entry.recipe and {"rooms", "3D60"} <= {row["dataset"] for row in entry.results}


@pytest.mark.parametrize("name", PACKAGED)
def test_the_card_beside_the_weights_is_theirs(name: str) -> None:
    """But for the version of the package that it was written with."""
    written = shipped(f"weights/{name}.md").read_text(encoding="utf-8")
    made, version = model_card(load_model(name), name), r"With `mtpano_zoo` \S+ or newer"
    assert re.sub(version, "", written) == re.sub(version, "", made)
    assert len(re.findall(version, written)) == 1


def test_it_scores_on_rooms_as_its_card_says() -> None:
    """On a few of the rooms, so within wide bounds; those who know only the latitude miss each of them."""
    network = load_model(NAME)
    assert {x.dtype for x in network.state_dict().values()} == {torch.float32, torch.int64} and not network.training
    rooms = RoomsDataset("test", 8, *network.input_size)
    assert network.classes == tuple(rooms.classes)
    semseg, depth, normals = SemsegMetrics(classes=network.classes), DepthMetrics(), NormalsMetrics()
    for sample in (rooms[i] for i in range(8)):
        with torch.inference_mode():
            outputs = network(sample["image"][None])
        for task, metric in (("semseg", semseg), ("depth", depth), ("normals", normals)):
            metric.update(outputs[task], sample[task][None])
    (stated,) = [row for row in network.card["results"] if row["dataset"] == "rooms"]
    assert semseg.compute()["mIoU"] > 0.8 * stated["mIoU"] > 0.17
    assert depth.compute()["AbsRel"] < 1.3 * stated["AbsRel"] < 0.2
    assert normals.compute()["mean"] < 1.3 * stated["normals mean"] < 20


def test_the_command_works_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder, with nothing but a photograph."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 100, 3), dtype=np.uint8)).save("photo.jpg")
    assert main(["run", "photo.jpg", "--device", "cpu"]) == 0
    depth = np.load("predictions/photo_depth.npy")
    assert depth.shape == (50, 100) and np.isfinite(depth).all() and (depth >= 0).all()
