"""What the published code computes, against the numbers that it computed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mtpano_zoo.losses import MultiTaskLoss, PublishedLoss, masked_l1, published
from mtpano_zoo.reference.mtpano import OUTPUT_FRAMES

GOLDEN = Path(__file__).parent / "golden"
TASKS = ("semseg", "depth", "normals")


def _converted(points):
    """What a converted network predicts where the published one predicts these points."""
    turn = OUTPUT_FRAMES["auxiliary_heads.point_map.predictor"]
    return torch.stack([sign * points[:, channel] for channel, sign in turn], dim=1)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "published.npz") as arrays:
        t = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    t = {name: value.float() if value.is_floating_point() else value for name, value in t.items()}
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    batch = {
        "image": t["image"] * std + mean,
        "semseg": t["target_semseg"][:, 0].long(),
        "depth": torch.where(t["target_depth"] == 255, 0, t["target_depth"])[:, 0],
        "normals": torch.where(t["target_normals"] == 255, 0, t["target_normals"]),
    }
    outputs = {
        "semseg": t["logits"],
        "depth": t["pred_depth"],
        "normals": t["pred_normals"],
        "aux": {task: t[f"aux_pred_{task}"] for task in TASKS},
        "ext": {
            "gradient": t["ext_pred_grad"],
            "edge_distance": t["ext_pred_sdf"],
            "point_map": _converted(t["ext_pred_point"]),
        },
    }
    return outputs, batch, json.loads((GOLDEN / "expected.json").read_text())


def test_published_terms_are_reproduced(golden):
    outputs, batch, expected = golden
    losses = PublishedLoss()(outputs, batch)
    parts = expected["multi_task"]
    for name in (*TASKS, *(f"aux_{task}" for task in TASKS)):
        assert losses[name].item() == pytest.approx(parts[name], rel=1e-5), name
    assert losses["ext_gradient"].item() == pytest.approx(parts["ext_grad"], rel=1e-4)
    # The published label is 4 pixels off the exact distance (see test_auxiliary).
    assert losses["ext_edge_distance"].item() == pytest.approx(parts["ext_sdf"], rel=1e-4)
    assert losses["ext_point_map"].item() == pytest.approx(parts["ext_point"], rel=1e-4)
    assert losses["total"].item() == pytest.approx(parts["total"], rel=1e-5)
    assert losses["semseg"].item() == pytest.approx(expected["semseg_dice_ce"], rel=1e-5)


def test_published_terms_of_depth_and_normals_are_reproduced(golden):
    outputs, batch, expected = golden
    depth, valid = batch["depth"][:, None], batch["depth"] > 0
    largest = depth.amax((1, 2, 3), keepdim=True)
    relative = (outputs["depth"] / largest, depth / largest, valid)
    assert masked_l1(outputs["depth"], depth, valid).item() == pytest.approx(expected["depth_l1_only"], rel=1e-5)
    edge, frequency = published.edge_weighted_l1(*relative), published.frequency_l1(*relative)
    assert edge.item() == pytest.approx(expected["depth_edge_only"], rel=1e-5)
    assert frequency.item() == pytest.approx(expected["depth_freq_only"], rel=1e-5)

    maps = (F.normalize(outputs["normals"], dim=1), batch["normals"], batch["normals"].any(1))
    assert masked_l1(*maps).item() == pytest.approx(expected["normals_l1_only"], rel=1e-5)
    edge, frequency = published.edge_weighted_l1(*maps), published.frequency_l1(*maps)
    assert edge.item() == pytest.approx(expected["normals_edge_only"], rel=1e-5)
    assert frequency.item() == pytest.approx(expected["normals_freq_only"], rel=1e-5)


def test_default_departs_from_the_published_numbers_where_they_are_unsound(golden):
    outputs, batch, expected = golden
    losses = MultiTaskLoss()(outputs, batch)
    # Every class is in both images, so Dice has nothing to leave out.
    assert losses["semseg"].item() == pytest.approx(expected["semseg_dice_ce"], rel=1e-5)
    for name, theirs in {"depth": "depth", "normals": "normals", "ext_point_map": "ext_point"}.items():
        assert losses[name].item() == pytest.approx(expected["multi_task"][theirs], rel=0.02)
        assert losses[name].item() != pytest.approx(expected["multi_task"][theirs], rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_a_perfect_point_map_of_the_published_network_costs_nothing_and_learns_at_any_distance(golden, scale):
    """Where the frames differ, its error is twice the distance, and the clamp takes the gradient away."""
    _, batch, _ = golden
    depth = scale * batch["depth"]
    height, width = depth.shape[-2:]
    u, v = torch.meshgrid(torch.linspace(-1, 1, width), torch.linspace(-1, 1, height), indexing="xy")
    level = (v * torch.pi / 2).cos()
    back = torch.stack((level * (u * torch.pi).sin(), (v * torch.pi / 2).sin(), -level * (u * torch.pi).cos()))
    points = _converted(depth[:, None] * back)
    label = {"image": batch["image"], "depth": depth}
    assert PublishedLoss()({"ext": {"point_map": points}}, label)["ext_point_map"].item() < 1e-4 * scale
    # Ours lies half a pixel beside it.
    error = MultiTaskLoss()({"ext": {"point_map": points}}, label)["ext_point_map"]
    assert error.item() < 1.5 * torch.pi / width * depth[depth > 0].mean().item()
    nearly = (points + 0.5).requires_grad_()
    PublishedLoss()({"ext": {"point_map": nearly}}, label)["total"].backward()
    assert torch.equal(nearly.grad.any(1), depth > 0)
