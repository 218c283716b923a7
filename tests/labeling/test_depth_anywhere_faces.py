"""The published geometry of Depth Anywhere on its own numbers, and how far ours is from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtpano_zoo.labeling.depth_anywhere_faces import (
    FACES,
    depth_anywhere_cube,
    published_face_disparity,
    published_rotate,
)
from mtpano_zoo.sphere import cube_rotations, intrinsics_from_fov, rotation_matrix
from mtpano_zoo.training.distillation import face_disparity


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "depth_anywhere_faces.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize(("mode", "atol"), [("bilinear", 1e-5), ("nearest", 0)])
def test_rotation_and_faces_are_the_published_ones(golden, mode, atol):
    turned = published_rotate(golden["rotate_equi"], golden["rotate_rotation_matrix"], mode)
    assert_close(turned, golden[f"rotate_{mode}"], rtol=0, atol=atol)
    faces = depth_anywhere_cube(golden["e2c_equi"], 16, mode)
    assert_close(faces.flatten(0, 1), golden[f"e2c_fov90.0_{mode}"], rtol=0, atol=atol)


def test_wider_faces_are_the_published_ones(golden):
    faces = depth_anywhere_cube(golden["e2c_equi"], 16, "nearest", fov=100)
    assert torch.equal(faces.flatten(0, 1), golden["e2c_fov100.0_nearest"])


def test_disparity_of_faces_is_the_published_one(golden):
    predicted = golden["pred_disparity"][1:].clone()  # the first panorama of the batch is labelled
    faces = published_face_disparity(predicted, golden["euler_matrix_RxRyRz"][0], 16)
    assert_close(faces.flatten(0, 1)[:, None], golden["pred_depth_cube_disparity"], rtol=1e-5, atol=1e-5)
    assert torch.equal(predicted, golden["pred_disparity"][1:])
    # A value below zero lifts all maps of the batch by as much; the stored ones have none.
    lowered = predicted - predicted.min() - 0.25
    lifted = published_face_disparity(lowered + 0.25, golden["euler_matrix_RxRyRz"][0], 16)
    assert_close(published_face_disparity(lowered, golden["euler_matrix_RxRyRz"][0], 16), lifted)


def test_the_smallest_value_has_a_gradient(golden):
    """Values below zero are lifted until the smallest is zero, whose inverse would have none."""
    predicted = (golden["pred_disparity"] - 1).requires_grad_()
    published_face_disparity(predicted, golden["euler_matrix_RxRyRz"][0], 64).square().sum().backward()
    assert predicted.min() < 0
    assert predicted.grad.isfinite().all()
    assert predicted.grad.flatten(1).any(1).all()


def test_its_angles_are_those_of_our_random_rotations(golden):
    x, y, z = golden["rot_vec_degrees"].double()
    turn = rotation_matrix(pitch=x) @ rotation_matrix(yaw=y) @ rotation_matrix(roll=z)
    assert_close(turn.float(), golden["euler_matrix_RxRyRz"][0], rtol=0, atol=1e-6)


def test_ours_is_the_same_up_to_its_half_pixel():
    """On a smooth positive map, large enough that half a pixel is little."""
    torch.manual_seed(0)
    coarse = torch.rand(1, 1, 4, 8) + 0.5
    smooth = torch.nn.functional.interpolate(coarse, (256, 512), mode="bicubic").clamp(min=0.2)
    turn = rotation_matrix(20.0, -15.0, 30.0)
    published = published_face_disparity(smooth, turn, 32)
    rotations = turn.mT @ cube_rotations()[list(FACES)]
    intrinsics = intrinsics_from_fov(90.0, 32, 32).expand(1, 6, 3, 3)
    ours = face_disparity(smooth, rotations[None], intrinsics, 32, 32)
    error = (ours / published - 1).abs()
    assert error.median() < 0.01
    plain = face_disparity(smooth, (turn @ cube_rotations()[list(FACES)])[None], intrinsics, 32, 32)
    assert (plain / published - 1).abs().median() > 0.05  # turning the other way is visibly different
