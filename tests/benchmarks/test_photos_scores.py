import pytest
import torch
from torch import nn
from torch.nn import functional

from mtpano_zoo.data import RoomsDataset, StreetsDataset
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE
from mtpano_zoo.sphere import erp_rays


class Oracle(nn.Module):
    """Knows one scene, but measures it a tenth too long."""

    tasks, classes, palette = ("semseg", "depth", "normals", "valid"), SCENE_CLASSES, SCENE_PALETTE
    input_size = (32, 64)

    def __init__(self, sample):
        super().__init__()
        self.sample = sample

    def forward(self, image):
        known = {key: value[None] for key, value in self.sample.items() if key != "id"}
        return {
            "semseg": functional.one_hot(known["semseg"], len(SCENE_CLASSES)).movedim(-1, 1).float(),
            "depth": 1.1 * known["depth"][:, None],
            "normals": known["normals"],
            "valid": 1.0 - 2.0 * known["far"][:, None].float(),
        }


def test_who_knows_the_truth_has_the_scores_of_the_truth(benchmark):
    sample = StreetsDataset("test", 1, 32, 64)[0]
    found = benchmark.score(Oracle(sample), [sample], tilt=0, level=False)
    assert found["AbsRel"] == pytest.approx(0.1, abs=1e-4)
    assert found["aligned"] == pytest.approx(0, abs=1e-4)
    assert found["normals, mean"] == pytest.approx(0, abs=0.1)
    assert found["no depth"] == 0
    for column in ("delta1", "mIoU", "sky IoU", "far IoU"):
        assert found[column] == 1, column


def test_distances_count_where_they_are_given_and_the_others_are_counted(benchmark):
    sample = StreetsDataset("test", 1, 32, 64)[0]
    oracle = Oracle(sample)
    known = int((sample["depth"] > 0).sum())
    sample["far"] = sample["far"].clone()
    sample["far"][-1] = True  # it calls the lowest row, which is ground, far
    found = benchmark.score(oracle, [sample | {"far": torch.zeros_like(sample["far"])}], tilt=0, level=False)
    assert found["AbsRel"] == pytest.approx(0.1, abs=1e-4) and found["delta1"] == 1
    assert found["no depth"] == pytest.approx(64 / known)


class Upright(nn.Module):
    """Takes brightness for distance, and all surfaces for floors of an upright camera."""

    tasks, input_size = ("depth", "normals"), (64, 128)

    def forward(self, image):
        up = torch.tensor([0.0, -1.0, 0.0]).view(1, 3, 1, 1)
        return {"depth": 1 + image.mean(1, keepdim=True), "normals": up.expand(*image.shape[:1], 3, *image.shape[-2:])}


def test_predictions_of_tilted_cameras_are_turned_back(benchmark):
    directions = erp_rays(64, 128).permute(2, 0, 1)
    image = (directions + 1) / 2
    normals = torch.tensor([0.0, -1.0, 0.0]).view(3, 1, 1).expand(3, 64, 128)
    sample = {"image": image, "depth": 1 + image.mean(0), "normals": normals}
    found = benchmark.score(Upright(), [sample], tilt=20, level=False)
    assert found["AbsRel"] < 5e-3  # half a pixel
    assert found["normals, mean"] == pytest.approx(20, abs=0.2)
    assert "up, largest error" not in found


def test_the_error_of_the_up_direction_is_that_of_the_camera(benchmark, monkeypatch):
    sample = {key: RoomsDataset("test", 1, 256, 512)[0][key] for key in ("image", "depth", "normals")}
    found = benchmark.score(Upright(), [sample], tilt=20, level=True)
    assert found["up within 2 degrees"] == 1 and found["up, largest error"] < 2
    monkeypatch.setattr("mtpano_zoo.prediction.attitude.estimate_up", lambda *_: None)
    found = benchmark.score(Upright(), [sample], tilt=20, level=True)
    assert found["up within 2 degrees"] == 0 and found["up, largest error"] == 180  # unknown
