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


@pytest.mark.parametrize("degenerate", ["empty", "constant label", "constant prediction", "one pixel"])
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
    elif degenerate == "constant prediction":
        prediction[1] = 2.5
    else:
        valid[1] = False
        valid[1, 3, 4] = True
    prediction.requires_grad_()
    loss = affine_invariant_l1(prediction, target, valid)
    loss.backward()
    assert_close(loss, alone)
    assert prediction.grad[0].abs().sum() > 0
    assert (prediction.grad[1] == 0).all()


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
