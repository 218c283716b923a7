import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mtpano_zoo.sphere import erp_rays, rays_to_pixels, rotate_rays, rotation_matrix, sample, to_perspective, unit


def random_rays(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_hand(erp, ray):
    """Bilinear value of a map (C, H, W) in one direction, from the definition."""
    height, width = erp.shape[-2:]
    u, v = rays_to_pixels(ray, height, width).tolist()
    value = torch.zeros_like(erp[:, 0, 0])
    for row in (math.floor(v), math.floor(v) + 1):
        for column in (math.floor(u), math.floor(u) + 1):
            weight = (1 - abs(v - row)) * (1 - abs(u - column))
            inside, shift = min(max(row, 0), height - 1), 0
            if row != inside:
                shift = width // 2
            value += weight * erp[:, inside, (column + shift) % width]
    return value


def test_bilinear_is_its_definition_everywhere():
    erp = torch.rand(1, 2, 6, 12, dtype=torch.float64)
    pole = torch.tensor([[1e-3, 1.0, 2e-3], [1e-3, -1.0, -2e-3], [0, 1, 0], [1e-6, 0.2, -1], [-1e-6, 0.2, -1]])
    rays = torch.cat((random_rays(300), pole.double()))
    want = torch.stack([by_hand(erp[0], ray) for ray in rays], -1)
    assert_close(sample(erp, rays[None])[0], want, atol=1e-12, rtol=0)


def test_pixel_centres_give_the_pixels_back():
    erp = torch.rand(2, 3, 8, 16, dtype=torch.float64)
    rays = erp_rays(8, 16, dtype=torch.float64)[None]
    assert_close(sample(erp, rays), erp)
    for mode in ("label", "depth"):
        assert_close(sample(erp, rays, mode), erp, atol=0, rtol=0)


def test_seam_is_no_edge():
    """Right behind the camera a column index becomes a smooth ramp only if first and last column are neighbours."""
    columns = torch.zeros(1, 1, 8, 16, dtype=torch.float64)
    columns[..., 0] = 1
    longitude = math.pi - 2 * math.pi / 16 / 2 + torch.linspace(0, 2 * math.pi / 16, 5, dtype=torch.float64)
    rays = torch.stack((longitude.sin(), torch.zeros(5, dtype=torch.float64), longitude.cos()), -1)
    want = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    assert_close(sample(columns, rays[None])[0, 0], want)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("ray_batch", [1, 2])
@pytest.mark.parametrize("places", [(5,), (3, 5), (2, 3, 5), (3, 128), (2, 3, 64)])
def test_shapes_batches_and_gradients_take_the_same_path(batch, ray_batch, places):
    erp, rays = torch.rand(batch, 3, 6, 12), random_rays(ray_batch, *places, dtype=torch.float32)
    if ray_batch > batch:
        with pytest.raises(ValueError, match="rays"):
            sample(erp, rays)
        return
    got = sample(erp, rays)
    assert got.shape == (batch, 3, *places)
    for i in range(batch):
        alone = sample(erp[i : i + 1], rays[i % ray_batch][None])
        assert_close(got[i : i + 1], alone)
    assert_close(sample(erp.clone().requires_grad_(), rays).detach(), got)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool, torch.bfloat16, torch.float64])
def test_labels_keep_type_and_values(dtype):
    labels = torch.randint(0, 2 if dtype == torch.bool else 200, (1, 1, 6, 12)).to(dtype)
    rays = random_rays(1, 500)
    got = sample(labels, rays, "label")
    pixels = rays_to_pixels(rays[0], 6, 12)
    row, column = pixels[:, 1].round().long().clamp(0, 5), pixels[:, 0].round().long() % 12
    assert_close(got[0, 0], labels[0, 0, row, column], atol=0, rtol=0)


@pytest.mark.parametrize("width", [15, 16])
@pytest.mark.parametrize("mode", ["label", "depth"])
def test_depth_is_not_mixed_over_a_pole(mode, width):
    # A ray into the pole itself is as far from the rows on either side; beyond an odd width lies a mean of two columns.
    depth = 1 + torch.arange(8.0 * width).view(1, 1, 8, width)
    depth[..., 0, ::2] = 0
    rays = torch.randn(1, 500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-8, 1, 1e-8])
    assert torch.isin(sample(depth, rays, mode), depth).all()
    up = to_perspective(depth, rotation_matrix(torch.arange(0.0, 360, 20), 90.0), 5, 5, fov=90.0, mode=mode)
    assert torch.isin(up, depth).all()


def test_large_labels_survive():
    labels = torch.full((1, 1, 4, 8), 2**53 + 1)
    assert (sample(labels, random_rays(1, 9), "label") == 2**53 + 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_images_of_short_types(dtype):
    exact = torch.rand(1, 3, 32, 64, dtype=torch.float64) * (200 if dtype == torch.uint8 else 1)
    image, rays = exact.to(dtype), random_rays(1, 200)
    got = sample(image, rays)
    assert got.dtype == dtype
    tolerance = 0.51 if dtype == torch.uint8 else torch.finfo(dtype).eps
    assert_close(got.double(), sample(image.double(), rays), atol=tolerance, rtol=0)
    assert_close(sample(image, rays.to(torch.float16)).double(), got.double(), atol=100, rtol=0)


def test_vectors_stay_unit_and_holes_stay_holes():
    rays = erp_rays(8, 16, dtype=torch.float64)
    field = -rays.movedim(-1, 0)[None].clone()
    field[..., 3, 5] = 0
    u = torch.tensor([4.0, 4.4, 4.6, 5.0, 5.4, 5.6, 6.0], dtype=torch.float64)
    longitude, latitude = ((u + 0.5) / 16 - 0.5) * 2 * math.pi, (0.5 - 3.5 / 8) * math.pi
    row = torch.stack(
        (math.cos(latitude) * longitude.sin(), 0 * u - math.sin(latitude), math.cos(latitude) * longitude.cos()), -1
    )
    got = sample(field, row[None], "vectors")[0].mT
    assert_close(got.norm(dim=-1), torch.tensor([1.0, 1, 0, 0, 0, 1, 1], dtype=torch.float64))
    assert_close(got[1], field[0, :, 3, 4])  # the hole beside it has no weight
    assert_close(got[5], field[0, :, 3, 6])


def test_vectors_are_bilinear_then_normalised():
    field = unit(torch.randn(1, 3, 6, 12, dtype=torch.float64), dim=1)
    rays = random_rays(1, 50)
    assert_close(sample(field, rays, "vectors"), unit(sample(field, rays), dim=1))


@pytest.mark.parametrize("mode", ["image", "vectors"])
def test_gradients_of_map_and_rays(mode):
    erp = torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    rays = random_rays(1, 6, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda e, r: sample(e, r, mode), (erp, rays))


def test_gradient_of_rays_in_strips():
    erp, rays = torch.randn(1, 2, 8, 16, dtype=torch.float64), random_rays(1, 4, 128)
    gradients = []
    for source in (erp, erp.clone().requires_grad_()):  # the second is not cut into strips
        turned = rays.clone().requires_grad_()
        gradients.append(torch.autograd.grad(sample(source, turned).square().sum(), turned)[0])
    assert_close(*gradients)


@pytest.mark.parametrize("mode", ["label", "depth"])
def test_gradient_of_nearest_reaches_the_pixel(mode):
    erp = torch.randn(1, 1, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: sample(e, random_rays(1, 6), mode), erp)


def test_gradient_at_the_poles_is_finite():
    rays = torch.tensor([[[0.0, 1, 0], [0, -1, 0]]], requires_grad=True)
    sample(torch.rand(1, 1, 4, 8), rays).sum().backward()
    assert rays.grad is not None and rays.grad.isfinite().all()


@settings(max_examples=10, deadline=None)
@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180), st.floats(0.1, 10))
def test_smooth_functions_are_met_in_any_direction(scene, relative_error, yaw, pitch, roll, length):
    erp = scene(erp_rays(256, 512))[None]
    rays = rotate_rays(erp_rays(96, 192), rotation_matrix(yaw, pitch, roll))
    mean, largest = relative_error(sample(erp, length * rays[None])[0], scene(rays))
    assert mean <= 1e-5 and largest <= 1e-4


def test_compiles_in_one_graph_and_exports():
    class Module(torch.nn.Module):
        def forward(self, erp, rays):
            return sample(erp, rays), sample(erp, rays, "label"), sample(erp, rays, "vectors")

    arguments = torch.rand(1, 3, 6, 12), random_rays(1, 4, 5, dtype=torch.float32)
    want = Module()(*arguments)
    assert_close(torch.compile(Module(), fullgraph=True, backend="eager")(*arguments), want)
    assert_close(torch.export.export(Module(), arguments).module()(*arguments), want)


@pytest.mark.parametrize(
    ("erp", "rays", "mode", "message"),
    [
        (torch.rand(3, 4, 8), torch.rand(1, 5, 3), "image", "expected a map"),
        (torch.rand(1, 3, 4, 8), torch.rand(3), "image", "expected a map"),
        (torch.rand(2, 3, 4, 8), torch.rand(3, 5, 3), "image", "expected a map"),
        (torch.rand(1, 3, 4, 8), torch.rand(1, 5, 2), "image", "expected a map"),
        (torch.rand(1, 3, 4, 8), torch.rand(1, 5, 3), "normals", "unknown mode 'normals'"),
        (torch.rand(1, 1, 4, 8), torch.rand(1, 5, 3), "vectors", "3 floating-point channels"),
    ],
)
def test_bad_input(erp, rays, mode, message):
    with pytest.raises(ValueError, match=message):
        sample(erp, rays, mode)
