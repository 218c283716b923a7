"""The losses of Depth Anywhere: their published numbers and gradients, and what degenerate maps do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses import AffineInvariantLoss, affine_invariant_l1, disparity_of


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "depth_anywhere_losses.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_loss_and_gradient_of_panoramas_are_the_published_ones(golden):
    prediction = golden["pred"].clone().requires_grad_()
    target, mask = golden["gt"].clone(), golden["mask"].clone()
    loss = affine_invariant_l1(prediction, target, mask)
    loss.backward()
    assert_close(loss, golden["with_mask"], rtol=1e-5, atol=0)
    assert_close(prediction.grad, golden["grad_pred"], rtol=1e-5, atol=1e-7)
    # The published functions multiply their arguments by the mask in place.
    assert torch.equal(prediction, golden["pred"]) and torch.equal(target, golden["gt"])
    wide = affine_invariant_l1(golden["pred"].double(), target.double(), mask)
    assert_close(wide, golden["with_mask_float64"], rtol=1e-7, atol=0)  # of inputs in float32


def test_without_a_mask_it_is_where_there_is_a_label(golden):
    loss = affine_invariant_l1(golden["pred"], golden["gt"], golden["gt"] > 0)
    assert_close(loss, golden["mask_none"], rtol=1e-5, atol=0)


def test_loss_of_faces_is_the_published_one(golden):
    loss = affine_invariant_l1(golden["pred_cube"], golden["pseudo"], golden["pseudo_mask"])
    assert_close(loss, golden["cube"], rtol=1e-5, atol=0)


def test_labels_in_metres_give_the_published_loss(golden):
    # Its labels were inverted before: distances whose inverses they are, without those beyond 10 m.
    depth = torch.where(golden["mask"] & (golden["gt"] > 0), 1 / golden["gt"], 0)
    near = golden["mask"] & (golden["gt"] >= 0.1)
    loss = AffineInvariantLoss()({"disparity": golden["pred"][:, None]}, {"depth": depth})["total"]
    assert_close(loss, affine_invariant_l1(golden["pred"], golden["gt"], near), rtol=1e-5, atol=0)
    assert not torch.equal(near, golden["mask"])


def test_scale_and_shift_do_not_matter():
    depth = torch.rand(2, 16, 32) * 8 + 1
    scaled = 1 / depth * torch.tensor([3.0, 0.2]).view(2, 1, 1) - torch.tensor([0.5, -4.0]).view(2, 1, 1)
    terms = AffineInvariantLoss()({"disparity": scaled[:, None]}, {"depth": depth})
    assert terms["total"] < 1e-5
    assert AffineInvariantLoss()({"depth": 7 * depth[:, None]}, {"depth": depth})["total"] < 1e-5


@pytest.mark.parametrize("degenerate", ["empty", "constant label", "one pixel"])
def test_degenerate_maps_contribute_nothing(degenerate):
    torch.manual_seed(0)
    prediction, target = torch.rand(2, 2, 8, 16)
    valid = torch.rand(2, 8, 16) > 0.3
    alone = affine_invariant_l1(prediction[:1], target[:1], valid[:1])
    prediction = prediction.clone()
    if degenerate == "empty":
        valid[1] = False
        target[1] = float("nan")
    elif degenerate == "constant label":
        target[1] = 2.5
    else:
        valid[1] = False
        valid[1, 3, 4] = True
    prediction.requires_grad_()
    loss = affine_invariant_l1(prediction, target, valid)
    loss.backward()
    assert_close(loss, alone)
    assert prediction.grad[0].abs().sum() > 0
    assert (prediction.grad[1] == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 20.0, 1e-5])
def test_a_collapsed_prediction_is_no_success(value):
    """After the normalisation a target's mean absolute value is 1, which is what a prediction of zeros costs."""
    torch.manual_seed(0)
    target, valid = 0.05 + torch.rand(2, 8, 16), torch.rand(2, 8, 16) > 0.3
    rounding = 1 + 1e-7 * torch.randn(2, 8, 16)
    prediction = (value * rounding).requires_grad_()
    loss = affine_invariant_l1(prediction, target, valid)
    loss.backward()
    assert_close(loss, torch.tensor(1.0))
    assert not prediction.grad.any()


def test_the_unit_of_either_map_does_not_matter():
    torch.manual_seed(0)
    prediction, target, valid = torch.rand(2, 8, 16), torch.rand(2, 8, 16), torch.rand(2, 8, 16) > 0.3
    expected = affine_invariant_l1(prediction, target, valid)
    for scale in (1e-8, 1e8):
        assert_close(affine_invariant_l1(scale * prediction, target, valid), expected)
        assert_close(affine_invariant_l1(prediction, scale * target, valid), expected)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_prediction_that_is_not_finite_shows(broken):
    prediction, target = torch.rand(1, 8, 16), torch.rand(1, 8, 16)
    prediction[0, 2, 3] = broken
    assert affine_invariant_l1(prediction, target, target > 0).isnan()


def test_labels_without_confidence_do_not_count():
    torch.manual_seed(0)
    depth = 1 + torch.rand(2, 8, 16)
    confidence = torch.rand(2, 8, 16).where(torch.rand(2, 8, 16) > 0.4, 0)
    wrong = {"depth": torch.where(confidence > 0, depth, 5.0), "depth_confidence": confidence}
    loss = AffineInvariantLoss()({"depth": depth[:, None]}, wrong)["total"]
    assert loss < 1e-5
    halved = {"depth": depth, "depth_confidence": torch.full_like(depth, 0.5)}
    outputs = {"depth": 1 + torch.rand(2, 1, 8, 16)}
    assert_close(AffineInvariantLoss()(outputs, halved), AffineInvariantLoss()(outputs, {"depth": depth}))


def test_depths_at_and_below_zero_keep_a_gradient():
    depth = torch.tensor([0.05, 0.1, 0.10001, 3.0, -1.0]).view(1, 1, 1, 5).requires_grad_()
    disparity = disparity_of({"depth": depth})
    disparity.sum().backward()
    assert disparity.isfinite().all() and (depth.grad < 0).all()
    assert_close(disparity[..., 1], disparity[..., 2], rtol=1e-3, atol=0)


def test_a_network_without_distances_is_named():
    with pytest.raises(InputError, match="task disparity or depth; this one has semseg"):
        disparity_of({"semseg": torch.zeros(1, 2, 8, 16)})
    with pytest.raises(InputError, match="resize one"):
        AffineInvariantLoss()({"disparity": torch.rand(1, 1, 8, 16)}, {"depth": torch.rand(1, 16, 32)})
