import pytest
import torch
from torch import nn
from torch.nn import functional

from mtpano_zoo.data import StreetsDataset
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE


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
    found = benchmark.score(Oracle(sample), [sample], level=False)
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
    found = benchmark.score(oracle, [sample | {"far": torch.zeros_like(sample["far"])}], level=False)
    assert found["AbsRel"] == pytest.approx(0.1, abs=1e-4) and found["delta1"] == 1
    assert found["no depth"] == pytest.approx(64 / known)


def test_a_tilt_turns_image_and_labels_alike(benchmark, tmp_path, monkeypatch):
    """Seen by a camera that looks up by 90 degrees, what was overhead is in the middle."""
    image = torch.zeros(1, 3, 16, 32)
    image[:, :, 0] = 1
    batch = {"image": image, "depth": 1 + 4 * image[:, 0], "id": ["a"]}
    monkeypatch.setattr(benchmark, "threed60", lambda *_: [batch])
    (sample,) = benchmark.real("", [], 90)()
    assert sample["image"][:, 7:9, 15:17].min() > 0.4 and sample["image"][:, 0].max() == 0
    assert sample["depth"][7:9, 15:17].min() == 5 and sample["depth"][0].max() == 1
