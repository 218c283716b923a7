import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mtpano_zoo.sphere import (
    cube_rays,
    erp_angles,
    erp_rays,
    intrinsics_from_fov,
    perspective_rays,
    rays_to_angles,
    rays_to_pixels,
    rotate_rays,
    rotation_matrix,
    unit,
)

FORWARD, RIGHT, DOWN = torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])


def test_erp_convention():
    longitude, latitude = erp_angles(4, 8)
    assert_close(longitude[0], torch.tensor(-math.pi + math.pi / 8))
    assert_close(latitude[0], torch.tensor(math.pi / 2 - math.pi / 8))
    rays = erp_rays(5, 5)  # odd: the middle pixel looks exactly ahead
    assert_close(rays[2, 2], FORWARD)
    assert rays[2, 3, 0] > 0  # a column further right looks right
    assert rays[3, 2, 1] > 0  # a row further down looks down
    assert_close(rays.norm(dim=-1), torch.ones(5, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rays_are_correctly_rounded_in_every_type(dtype):
    exact, rays = erp_rays(16, 32, dtype=torch.float64), erp_rays(16, 32, dtype=dtype)
    assert rays.dtype == dtype
    assert (rays.double() - exact).abs().max() <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("height", "width"), [(16, 32), (7, 13), (1, 1)])
def test_pixels_invert_rays(height, width):
    pixels = rays_to_pixels(3.7 * erp_rays(height, width, dtype=torch.float64), height, width)
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    assert_close(pixels, torch.stack((u, v), -1).double(), atol=1e-9, rtol=0)


def test_angles_of_the_axes():
    longitude, latitude = rays_to_angles(torch.stack((FORWARD, RIGHT, -RIGHT, DOWN, -DOWN)))
    assert_close(longitude[:3], torch.tensor([0, math.pi / 2, -math.pi / 2]))
    assert_close(latitude, torch.tensor([0, 0, 0, -math.pi / 2, math.pi / 2]))


def test_pixel_gradients_are_finite_at_the_poles():
    rays = torch.stack((DOWN, -DOWN)).requires_grad_()
    rays_to_pixels(rays, 8, 16).sum().backward()
    assert rays.grad is not None and rays.grad.isfinite().all()


def test_fov_and_intrinsics_agree_with_trigonometry():
    matrix = intrinsics_from_fov(90.0, 48, 64)
    assert_close(matrix, torch.tensor([[32.0, 0, 31.5], [0, 32, 23.5], [0, 0, 1]]))
    rays = perspective_rays(48, 64, intrinsics=matrix, normalize=False)
    assert_close(rays, perspective_rays(48, 64, fov=90.0, normalize=False))
    assert_close(rays[0, 0], torch.tensor([-31.5 / 32, -23.5 / 32, 1]))
    assert_close(perspective_rays(48, 64, fov=90.0), unit(rays))
    batch = intrinsics_from_fov(torch.tensor([60.0, 120.0]), 8, 8)
    assert_close(batch[:, 0, 0], 4 / torch.tensor([math.tan(math.pi / 6), math.tan(math.pi / 3)]))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-0.3, 0.3), min_size=5, max_size=5), st.floats(-180, 180), st.floats(-90, 90))
def test_perspective_rays_invert_the_pinhole_projection(numbers, yaw, pitch):
    fx, fy, cx, cy, skew = numbers
    matrix = torch.tensor([[9 + fx, skew, 4 + cx], [0, 7 + fy, 3 + cy], [0, 0, 1]], dtype=torch.float64)
    rotation = rotation_matrix(yaw, pitch, 12.0, dtype=torch.float64)
    rays = perspective_rays(6, 8, intrinsics=matrix, rotation=rotation)
    pixels = (rays @ rotation) @ matrix.mT
    v, u = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    assert_close(pixels[..., :2] / pixels[..., 2:], torch.stack((u, v), -1).double())
    assert_close(rotate_rays(perspective_rays(6, 8, intrinsics=matrix), rotation), rays)


def test_perspective_rays_broadcast_cameras():
    rotation = rotation_matrix(torch.tensor([0.0, 40.0, 80.0]))
    rays = perspective_rays(4, 6, fov=torch.tensor([80.0, 90.0, 100.0]), rotation=rotation)
    assert rays.shape == (3, 4, 6, 3)
    assert_close(rays[2], perspective_rays(4, 6, fov=100.0, rotation=rotation[2]))


def test_signs_of_the_angles():
    assert_close(rotation_matrix(90.0) @ FORWARD, RIGHT)  # a positive yaw looks to the right
    assert_close(rotation_matrix(0.0, 90.0) @ FORWARD, -DOWN)  # a positive pitch looks up
    assert_close(rotation_matrix(0.0, 0.0, 90.0) @ RIGHT, DOWN)  # a positive roll drops the right side
    assert_close(
        rotation_matrix(30.0, 20.0, 10.0),
        rotation_matrix(30.0) @ rotation_matrix(pitch=20.0) @ rotation_matrix(roll=10.0),
    )


@settings(max_examples=20, deadline=None)
@given(st.floats(-400, 400), st.floats(-400, 400), st.floats(-400, 400))
def test_rotation_matrices_are_rotations(yaw, pitch, roll):
    matrix = rotation_matrix(yaw, pitch, roll, dtype=torch.float64)
    assert_close(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64))
    assert_close(torch.linalg.det(matrix), torch.tensor(1.0, dtype=torch.float64))


def test_rotation_matrix_broadcasts_and_differentiates():
    yaw = torch.tensor([0.0, 10.0, 20.0], dtype=torch.float64, requires_grad=True)
    matrix = rotation_matrix(yaw, 5.0)
    assert matrix.shape == (3, 3, 3) and matrix.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda a: rotation_matrix(a, 5.0, a * 2), yaw)


def test_rotate_rays_needs_no_matrix_product():
    # Lightning users lower the precision of matrix products; directions must not follow.
    rays, rotation = erp_rays(8, 16), rotation_matrix(20.0, 30.0, 40.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        turned = rotate_rays(rays, rotation)
    assert turned.dtype == torch.float32
    assert_close(turned.double(), rays.double() @ rotation.double().mT, atol=2e-7, rtol=0)


def test_cube_faces_look_where_they_should():
    rays = cube_rays(4)
    centres = torch.nn.functional.normalize(rays.mean((1, 2)), dim=-1)
    assert_close(centres, torch.stack((FORWARD, RIGHT, -FORWARD, -RIGHT, -DOWN, DOWN)), atol=1e-6, rtol=0)
    front, right, _, _, up, down = rays
    assert_close((front[:, -1] * right[:, 0]).sum(-1) > 0.8, torch.ones(4, dtype=torch.bool))  # side by side
    assert ((front[0] * up[-1]).sum(-1) > 0.8).all()  # the bottom of the up face touches the front
    assert ((front[-1] * down[0]).sum(-1) > 0.8).all()


def test_unit_keeps_zero_and_its_gradient():
    vectors = torch.tensor([[3.0, 0, 4], [0, 0, 0]], requires_grad=True)
    out = unit(vectors)
    assert_close(out, torch.tensor([[0.6, 0, 0.8], [0, 0, 0]]))
    out.sum().backward()
    assert vectors.grad is not None and vectors.grad.isfinite().all() and (vectors.grad[1] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: erp_rays(0, 4), "at least 1 pixel"),
        (lambda: perspective_rays(4, 4), "exactly one"),
        (lambda: perspective_rays(4, 4, fov=90.0, intrinsics=torch.eye(3)), "exactly one"),
        (lambda: perspective_rays(4, 4, fov=180.0), "between 0 and 180"),
        (lambda: perspective_rays(4, 4, intrinsics=torch.eye(4)), r"\(\.\.\., 3, 3\)"),
        (lambda: perspective_rays(4, 4, fov=90.0, rotation=torch.eye(2)), "rotation"),
        (lambda: rays_to_pixels(torch.zeros(3, 2), 4, 8), "rays must be"),
        (lambda: rotate_rays(torch.zeros(3), torch.eye(3)), "rays must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
