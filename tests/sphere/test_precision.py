"""No number is cut off on its way in: integers are promoted, plain numbers are worked out in double precision."""

import math

import pytest
import torch
from torch.testing import assert_close

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere import (
    cube_rays,
    cube_rotations,
    depth_to_points,
    distance_to_z,
    erp_angles,
    erp_rays,
    icosahedron_rotations,
    intrinsics_from_fov,
    latitude_weights,
    perspective_rays,
    points_to_normals,
    rays_to_angles,
    rays_to_pixels,
    rotate_rays,
    rotation_matrix,
    sample,
    solid_angles,
    to_perspective,
    turn_vectors,
    unit,
    z_to_distance,
)

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
TURN = rotation_matrix(30.0, 20.0, 10.0)
CAMERA = intrinsics_from_fov(77.7, 6, 8)


def maps(*shape):
    return torch.randint(1, 100, shape, generator=torch.Generator().manual_seed(0))


TAKE_INTEGERS = {
    "depth_to_points": lambda x: depth_to_points(x(maps(1, 1, 6, 8))),
    "points_to_normals": lambda x: points_to_normals(x(maps(1, 3, 6, 8))),
    "z_to_distance": lambda x: z_to_distance(x(maps(1, 6, 8)), CAMERA),
    "distance_to_z": lambda x: distance_to_z(x(maps(1, 6, 8)), CAMERA),
    "rotate_rays": lambda x: rotate_rays(x(maps(6, 8, 3)), TURN),
    "turn_vectors": lambda x: turn_vectors(x(maps(3, 6, 8)), TURN),
    "unit": lambda x: unit(x(maps(6, 3))),
    "rays_to_pixels": lambda x: rays_to_pixels(x(maps(6, 3)), 64, 128),
    "rays_to_angles": lambda x: torch.stack(rays_to_angles(x(maps(6, 3)))),
    "rays of a sample": lambda x: sample(torch.rand(1, 1, 6, 8, generator=torch.manual_seed(0)), x(maps(1, 6, 3))),
    "angles": lambda x: rotation_matrix(x(maps(6)), 11.1),
    "fields of view": lambda x: intrinsics_from_fov(x(maps(6)), 6, 8),
    "intrinsics": lambda x: perspective_rays(6, 8, intrinsics=x(CAMERA.round()), rotation=TURN),
    "rotation": lambda x: rotate_rays(erp_rays(6, 8), x(cube_rotations()[5].abs())),
}


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("function", TAKE_INTEGERS.values(), ids=TAKE_INTEGERS)
def test_integers_count_as_the_numbers_that_they_are(function, dtype):
    assert_close(function(lambda x: x.to(dtype)), function(lambda x: x.float()), atol=0, rtol=0)


def test_integer_depth_has_points_and_keeps_the_camera():
    assert_close(
        depth_to_points(torch.full((1, 1, 16, 32), 3, dtype=torch.int32)).norm(dim=1), torch.full((1, 16, 32), 3.0)
    )
    z = torch.ones(480, 640, dtype=torch.int32)
    camera = torch.tensor([[525.7, 0, 319.9], [0, 525.3, 239.4], [0, 0, 1]], dtype=torch.float64)
    v, u = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    exact = (1 + ((u - 319.9) / 525.7).double().square() + ((v - 239.4) / 525.3).double().square()).sqrt()
    assert_close(z_to_distance(z, camera).double(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda dtype: erp_angles(4, 8, dtype=dtype),
        lambda dtype: erp_rays(4, 8, dtype=dtype),
        lambda dtype: intrinsics_from_fov(90.0, 4, 8, dtype=dtype),
        lambda dtype: perspective_rays(4, 8, fov=90.0, dtype=dtype),
        lambda dtype: cube_rays(4, dtype=dtype),
        lambda dtype: rotation_matrix(30.0, dtype=dtype),
        lambda dtype: icosahedron_rotations(dtype=dtype),
        lambda dtype: solid_angles(4, 8, dtype=dtype),
        lambda dtype: latitude_weights(4, dtype=dtype),
    ],
)
def test_results_in_integers_are_refused(call):
    for dtype in (torch.int32, torch.bool):
        with pytest.raises(InputError, match=f"need a floating-point type, not {dtype}"):
            call(dtype)


@pytest.mark.parametrize("degrees", [-200.1, 95.3, 12.34567, 359.9])
def test_rotations_by_plain_numbers_are_exact(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    yaw = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    pitch = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
    roll = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    exact = {"dtype": torch.float64}
    for got, want in zip(
        (
            rotation_matrix(yaw=degrees, **exact),
            rotation_matrix(pitch=degrees, **exact),
            rotation_matrix(roll=degrees, **exact),
        ),
        (yaw, pitch, roll),
        strict=True,
    ):
        assert_close(got, want, atol=1e-15, rtol=0)
    # Beside a tensor too, and a tensor in single precision loses no more than its own rounding.
    assert_close(rotation_matrix(torch.zeros((), **exact), degrees), pitch, atol=1e-15, rtol=0)
    single = torch.tensor(degrees)
    assert_close(rotation_matrix(single, **exact), rotation_matrix(single.item(), **exact), atol=1e-15, rtol=0)
    assert_close(rotation_matrix(degrees), yaw.float(), atol=0, rtol=0)


@pytest.mark.parametrize("fov", [95.3, 60.1, 33.3])
def test_fields_of_view_in_plain_numbers_are_exact(fov):
    focal = 512 / math.tan(math.radians(fov) / 2)
    for given in (fov, torch.tensor(fov, dtype=torch.float64)):
        assert intrinsics_from_fov(given, 512, 1024, dtype=torch.float64)[0, 0].item() == pytest.approx(
            focal, abs=1e-12
        )
    single = intrinsics_from_fov(fov, 512, 1024)
    assert torch.equal(single[0, 0], torch.tensor(focal))
    rays = perspective_rays(512, 1024, fov=fov, normalize=False, dtype=torch.float64)
    assert rays[0, 0, 0].item() == pytest.approx(-511.5 / focal, abs=1e-14)
    # A camera by its field of view is the camera by its matrix, whatever it looks at.
    erp = torch.rand(1, 1, 16, 32, generator=torch.manual_seed(0), dtype=torch.float64)
    matrix = torch.tensor([[focal / 128, 0, 3.5], [0, focal / 128, 3.5], [0, 0, 1]], dtype=torch.float64)
    views = (to_perspective(erp, TURN, 8, 8, fov=fov), to_perspective(erp, TURN, 8, 8, intrinsics=matrix))
    assert_close(*views, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_the_type_of_the_result(dtype):
    eps = torch.finfo(dtype).eps
    short = perspective_rays(3, 4096, fov=100.0, dtype=dtype)
    assert short.dtype == dtype
    exact = perspective_rays(3, 4096, fov=100.0, dtype=torch.float64)
    assert_close(short.double(), exact, atol=eps, rtol=0)
    z = torch.full((4, 4096), 2.0)
    camera = intrinsics_from_fov(100.0, 4, 4096)
    distance = z_to_distance(z.to(dtype), camera)
    assert distance.dtype == distance_to_z(distance, camera).dtype == dtype
    assert_close(distance.float(), z_to_distance(z, camera), atol=0, rtol=eps)
    pixels = rays_to_pixels(erp_rays(4, 1024, dtype=dtype), 4, 1024)
    assert (pixels[1, :, 0] - torch.arange(1024)).abs().max() < 1024 * eps
