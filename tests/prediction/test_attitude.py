"""Networks that notice a tilt by themselves: rooms that were tilted by a known rotation."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.data import RoomsDataset
from mtpano_zoo.evaluation.predictors import NetworkPredictor
from mtpano_zoo.image_io import Panorama, write_png
from mtpano_zoo.image_io.gpano import PoseAngles
from mtpano_zoo.losses import MultiTaskLoss
from mtpano_zoo.models import PDBridgeNet, prepare_for_inference
from mtpano_zoo.prediction import Prediction, predict
from mtpano_zoo.sphere import rotate, rotation_matrix
from mtpano_zoo.training import MultiTaskModule

UP = torch.tensor([0.0, -1.0, 0.0])


def degrees_between(one: Any, other: Tensor) -> float:
    return math.degrees(math.acos(min(1.0, float(torch.as_tensor(one) @ other))))


@pytest.fixture(scope="module")
def room() -> Tensor:
    image: Tensor = RoomsDataset("test", 4, 256, 512)[0]["image"]
    return image


class Says(nn.Module):
    """A head that says one thing after another, the last one for ever, and counts how often it is asked."""

    def __init__(self, *ups: Tensor) -> None:
        super().__init__()
        self.ups = nn.Parameter(torch.stack(ups))
        self.asked = 0

    def forward(self, levels: list[Tensor]) -> Tensor:
        self.asked += 1
        return self.ups[min(self.asked, len(self.ups)) - 1].expand(len(levels[0]), 3)


@pytest.fixture
def network(tiny_network: Any) -> PDBridgeNet:
    network: PDBridgeNet = tiny_network()
    return network.eval()


def says(network: PDBridgeNet, *ups: Tensor) -> PDBridgeNet:
    network.up_head = Says(*ups)
    return network


def up_of(network: nn.Module, source: Any, **options: Any) -> Any:
    prediction = predict(network, source, **options)
    assert isinstance(prediction, Prediction)
    return prediction.up


def test_edges_state_exactly_where_up_is_once_a_tilt_is_noticed(network: PDBridgeNet, room: Tensor) -> None:
    tilted = rotate(room[None], rotation_matrix(pitch=20.0))[0]
    truth = rotation_matrix(pitch=20.0).T @ UP
    roughly = rotation_matrix(pitch=26.0).T @ UP
    assert up_of(network, tilted) is None
    assert degrees_between(up_of(says(network, roughly), tilted), truth) < 1.5
    levelled = predict(network, tilted, level=True)
    assert np.array_equal(predict(network, tilted).depth, levelled.depth)
    assert up_of(network, tilted, level=False) is None


def test_the_head_is_believed_where_edges_say_something_else_or_nothing(network: PDBridgeNet, room: Tensor) -> None:
    claim = rotation_matrix(roll=30.0).T @ UP
    says(network, claim)
    for image in (torch.full((3, 64, 128), 0.5), room):  # without edges, and upright
        assert degrees_between(up_of(network, image), claim) < 0.01
    nearly = rotation_matrix(roll=12.0).T @ UP  # the edges say that it is level, and they are near enough
    assert degrees_between(up_of(says(network, nearly), room), UP) < 1.5


def test_edges_that_contradict_the_head_count_if_they_make_the_panorama_upright(
    network: PDBridgeNet, room: Tensor
) -> None:
    turn = rotation_matrix(pitch=30.0)
    tilted, truth = rotate(room[None], turn)[0], turn.T @ UP
    wrong = rotation_matrix(roll=20.0).T @ UP
    assert degrees_between(up_of(says(network, wrong, UP), tilted), truth) < 1.5
    assert degrees_between(up_of(says(network, wrong, wrong), tilted), wrong) < 0.01


@pytest.mark.parametrize("tilt", [0.0, 7.5])
def test_a_small_tilt_is_ignored(network: PDBridgeNet, room: Tensor, tilt: float) -> None:
    plain = predict(network, room)
    noticed = predict(says(network, rotation_matrix(pitch=tilt) @ UP), room)
    assert noticed.up is None and np.array_equal(plain.depth, noticed.depth)
    assert network.up_head.asked == 1


def test_tags_of_a_tilt_and_crops_are_left_alone(network: PDBridgeNet, room: Tensor) -> None:
    says(network, rotation_matrix(roll=30.0) @ UP)
    pixels = (room * 255).byte().permute(1, 2, 0).numpy()
    stated = PoseAngles(0.0, 15.0, 0.0)
    assert up_of(network, Panorama(pixels, None, pose=stated)) == pytest.approx(stated.up)
    seen = np.ones(pixels.shape[:2], bool)
    seen[:60] = False
    assert up_of(network, Panorama(pixels, seen)) is None
    assert up_of(network, Panorama(pixels, None, pose=PoseAngles(0.0, 0.0, 0.0))) != pytest.approx((0, -1, 0))


@pytest.mark.parametrize(("degrees", "whole"), [(0, True), (24, True), (28, False)])
def test_a_patch_below_the_camera_does_not_make_a_crop(
    network: PDBridgeNet, room: Tensor, degrees: int, whole: bool
) -> None:
    """A disc of 25.8 degrees, (1 - cos 25.8) / 2 of the sphere, is the largest patch of a whole panorama."""
    claim = rotation_matrix(roll=30.0).T @ UP
    seen = np.ones((256, 512), bool)
    seen[256 - round(degrees * 256 / 180) :] = False
    flat = Panorama(np.full((256, 512, 3), 128, np.uint8), seen)  # without edges, so the head decides
    up = up_of(says(network, claim), flat)
    assert up is None if not whole else degrees_between(up, claim) < 0.01


def test_a_field_of_view_of_the_whole_sphere_makes_no_crop(network: PDBridgeNet, tmp_path: Path) -> None:
    claim = rotation_matrix(roll=30.0).T @ UP
    image = tmp_path / "grey.png"
    write_png(image, np.full((64, 128, 3), 128, np.uint8), "")
    assert degrees_between(up_of(says(network, claim), image, fov=(360, 180)), claim) < 0.01
    assert up_of(says(network, claim), image, fov=(350, 175)) is None


def test_each_panorama_of_a_batch_is_judged_alone(room: Tensor) -> None:
    network = load_model("mtpano-small.photos")
    turn = rotation_matrix(60.0, 20.0, 10.0)
    upright, tilted = predict(network, torch.stack((room, rotate(room[None], turn)[0])))
    assert upright.up is None
    assert degrees_between(tilted.up, turn.T @ UP) < 1.5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_prepared_networks_notice_it_too(room: Tensor, precision: Any) -> None:
    network = prepare_for_inference(load_model("mtpano-small.photos"), precision)
    turn = rotation_matrix(pitch=-20.0)
    assert up_of(network, room) is None
    assert degrees_between(up_of(network, rotate(room[None], turn)[0]), turn.T @ UP) < 1.5


def test_a_network_that_is_trained_further_loses_its_head(tmp_path: Path) -> None:
    """Its encoder changes, so that the head would be wrong; and no loss reaches it."""
    network = load_model("mtpano-small.photos")
    assert network.up_head is not None
    assert MultiTaskModule(network, MultiTaskLoss()).network.up_head is None
    assert not any("up_head" in name for name in network.state_dict())
    network.save_pretrained(tmp_path)
    assert load_model(tmp_path).up_head is None


def test_the_head_is_kept_with_fewer_tasks_and_in_half_precision(room: Tensor, tmp_path: Path) -> None:
    network = load_model("mtpano-small.photos", tasks=["normals"]).half()
    network.save_pretrained(tmp_path)
    turn = rotation_matrix(roll=20.0)
    assert degrees_between(up_of(load_model(tmp_path), rotate(room[None], turn)[0]), turn.T @ UP) < 1.5


def test_a_cube_face_on_a_black_sphere_is_not_levelled(network: PDBridgeNet) -> None:
    says(network, rotation_matrix(roll=30.0) @ UP)
    predictor = NetworkPredictor(network, "it")
    assert predictor.faces is not None
    predictor.faces(torch.rand(6, 3, 16, 16))
    assert network.up_head.asked == 0


def test_the_folder_records_whether_the_network_decides(room: Tensor, tmp_path: Path) -> None:
    turn = rotation_matrix(pitch=20.0)
    image, out = tmp_path / "room.png", tmp_path / "out"
    write_png(image, (rotate(room[None], turn)[0] * 255).byte().permute(1, 2, 0).numpy(), "")
    options = [str(image), "--out", str(out), "--no-panel"]
    assert main(["run", *options]) == 0
    assert json.loads((out / "manifest.json").read_text())["options"]["level"] == "noticed"
    record = json.loads((out / "manifest.images.jsonl").read_text().splitlines()[-1])
    assert degrees_between(record["up"], turn.T @ UP) < 1.5
    assert main(["run", *options, "--no-level"]) == 1
    assert main(["run", *options, "--no-level", "--overwrite"]) == 0
    assert "up" not in json.loads((out / "manifest.images.jsonl").read_text().splitlines()[-1])
