import math

import pytest
import torch
from torch.testing import assert_close

from mtpano_zoo.sphere import (
    depth_to_points,
    erp_rays,
    latitude_weights,
    pad,
    points_to_normals,
    rotate,
    rotation_matrix,
    solid_angles,
)

LOW, HIGH = torch.tensor([-2.0, -1.3, -1.1]), torch.tensor([1.5, 1.6, 3.0])


def box_room(height, width, dtype=torch.float64):
    """Depth (1, 1, H, W), wall index (1, 1, H, W) and normal towards the camera (1, 3, H, W) of a box around us."""
    rays = erp_rays(height, width, dtype=dtype)
    walls = torch.where(rays > 0, HIGH.to(dtype), LOW.to(dtype))
    depth, axis = torch.where(rays == 0, torch.inf, walls / rays).min(-1)
    sign = rays.gather(-1, axis[..., None])[..., 0].sign()
    normals = torch.nn.functional.one_hot(axis, 3) * -sign[..., None]
    return depth[None, None], (axis * 2 + (sign > 0))[None, None], normals.to(dtype).movedim(-1, 0)[None]


def same_wall_around(wall):
    around = pad(wall, (1, 1, 1, 1))
    return (
        (around[..., :-2, 1:-1] == wall)
        & (around[..., 2:, 1:-1] == wall)
        & (around[..., 1:-1, :-2] == wall)
        & (around[..., 1:-1, 2:] == wall)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-3)])
def test_normals_of_a_box_room(dtype, tolerance):
    depth, wall, normals = box_room(64, 128, dtype)
    got = points_to_normals(depth_to_points(depth))
    inside = same_wall_around(wall)
    assert inside[..., 0].any() and inside[..., -1].any()  # the seam lies on a wall
    assert inside[..., 0, :].all() and inside[..., -1, :].all()  # the poles on ceiling and floor
    assert inside.float().mean() > 0.85
    assert_close(torch.where(inside, got, 0), torch.where(inside, normals, 0), atol=tolerance, rtol=0)
    assert_close(got.norm(dim=1), torch.ones(1, 64, 128, dtype=dtype))
    assert ((got * erp_rays(64, 128, dtype=dtype).movedim(-1, 0)).sum(1) < 0).all()


def test_normals_turn_with_the_panorama():
    depth, _, _ = box_room(64, 128)
    turn = rotation_matrix(360 * 37 / 128, dtype=torch.float64)
    got = points_to_normals(depth_to_points(rotate(depth, turn, "depth")))
    want = rotate(points_to_normals(depth_to_points(depth)), turn, "vectors")
    assert_close(got, want, atol=1e-9, rtol=0)


def test_normals_of_a_sphere_are_minus_the_rays():
    normals = points_to_normals(depth_to_points(torch.full((2, 1, 32, 64), 2.5)))
    assert_close(normals, -erp_rays(32, 64).movedim(-1, 0).expand(2, -1, -1, -1), atol=1e-5, rtol=0)


def test_holes_stay_holes_and_do_not_bend_their_neighbours():
    depth, wall, normals = box_room(64, 128)
    hole = torch.zeros_like(depth, dtype=torch.bool)
    hole[..., 30:34, 60:70] = True
    hole[..., 20, 0] = True  # at the seam
    inside = same_wall_around(wall) & ~hole
    for got in (
        points_to_normals(depth_to_points(depth.masked_fill(hole, 0))),
        points_to_normals(depth_to_points(depth.masked_fill(hole, math.nan))),
        points_to_normals(depth_to_points(depth), ~hole),
    ):
        assert (got[hole.expand_as(got)] == 0).all()
        assert_close(torch.where(inside, got, 0), torch.where(inside, normals, 0), atol=1e-9, rtol=0)
    lonely = torch.zeros(1, 1, 8, 16)
    lonely[..., 4, 8] = 1
    assert (points_to_normals(depth_to_points(lonely)) == 0).all()


@pytest.mark.parametrize("width", [127, 128])
@pytest.mark.parametrize("pole", [0, -1])
def test_holes_at_a_pole_do_not_bend_what_lies_beyond_it(width, pole):
    # With an odd width the neighbour over the pole lies between two columns, one of which may be a hole.
    depth, wall, normals = box_room(64, width)
    for column in (3, 64):
        hole = torch.zeros_like(depth, dtype=torch.bool)
        hole[..., pole, column] = True
        inside = same_wall_around(wall) & ~hole
        assert inside[..., pole, :].sum() == width - 1
        for got in (
            points_to_normals(depth_to_points(depth.masked_fill(hole, 0))),
            points_to_normals(depth_to_points(depth), ~hole),
        ):
            assert_close(torch.where(inside, got, 0), torch.where(inside, normals, 0), atol=1e-9, rtol=0)


def test_gradients_are_finite_beside_holes():
    depth = 1 + torch.rand(1, 1, 8, 16, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: points_to_normals(depth_to_points(d)), depth.requires_grad_())
    depth = torch.zeros(1, 1, 8, 16)
    depth[..., 3:5, 3:6] = 1.0
    depth[..., 6, 9] = math.nan
    depth.requires_grad_()
    points_to_normals(depth_to_points(depth)).sum().backward()
    assert depth.grad is not None and depth.grad.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(256, 512), (1024, 2048), (3, 5)])
def test_solid_angles_cover_the_sphere(height, width):
    assert solid_angles(height, width).shape == (height, 1)
    for dtype in (torch.float32, torch.float64):
        angles = solid_angles(height, width, dtype=dtype)
        assert abs((angles.double() * width).sum().item() - 4 * math.pi) < 1e-6
        assert abs(angles.expand(height, width).sum().item() / (4 * math.pi) - 1) < 1e-6
    edges = torch.linspace(math.pi / 2, -math.pi / 2, height + 1, dtype=torch.float64).sin()
    exact = (edges[:-1] - edges[1:]) * 2 * math.pi / width
    assert_close(solid_angles(height, width, dtype=torch.float64)[:, 0], exact, atol=1e-12, rtol=1e-8)


def test_latitude_weights():
    weights = latitude_weights(64, dtype=torch.float64)
    assert weights.shape == (64, 1)
    assert_close(weights.mean(), torch.tensor(1.0, dtype=torch.float64))
    angles = solid_angles(64, 128, dtype=torch.float64)
    assert_close(weights / weights.max(), angles / angles.max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: depth_to_points(torch.ones(1, 8, 16)), "depth must be"),
        (lambda: points_to_normals(torch.ones(1, 1, 8, 16)), "points must be"),
        (lambda: points_to_normals(torch.ones(1, 3, 8, 16), torch.ones(1, 8, 16)), "valid must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
