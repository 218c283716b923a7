import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mtpano_zoo.losses import (
    distance_transform,
    edge_distance,
    image_gradient,
    masked_l1,
    point_map,
    published,
    sobel,
)
from mtpano_zoo.sphere import erp_angles, erp_rays

GOLDEN = Path(__file__).parent / "golden"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "published.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _image(golden):
    return golden["image"] * STD + MEAN


def test_sobel_agrees_with_scipy():
    maps = torch.rand(2, 1, 9, 14, dtype=torch.float64)
    gx, gy = sobel(maps)
    for axis, ours in ((3, gx), (2, gy)):
        other = 5 - axis
        smooth = ndimage.correlate1d(maps.numpy(), [1, 2, 1], axis=other)
        expected = ndimage.correlate1d(smooth, [-1, 0, 1], axis=axis)[..., 1:-1, 1:-1]
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_gradient_of_a_smooth_function_on_the_sphere_has_no_seam_and_no_pole():
    # The luma is a linear function of the ray: smooth everywhere, the seam and both poles included.
    height, width = 64, 128
    slope = torch.tensor([0.3, -0.2, 0.25])
    luma = 0.5 + erp_rays(height, width) @ slope
    gradient = image_gradient(luma.expand(1, 3, height, width))[0]
    longitude, latitude = erp_angles(height, width)
    lon, lat = longitude[None, :], latitude[:, None]
    by_longitude = lat.cos() * (slope[0] * lon.cos() - slope[2] * lon.sin())
    down = -lat.sin()
    by_row = -(down * (slope[0] * lon.sin() + slope[2] * lon.cos()) - slope[1] * lat.cos())
    # Eight times the derivative by one pixel, to second order in the size of a pixel.
    expected = 8 * torch.stack((by_longitude * 2 * torch.pi / width, by_row * torch.pi / height))
    torch.testing.assert_close(gradient, expected, atol=3e-4, rtol=0)


def test_gradient_agrees_with_the_published_labels(golden):
    gradient = published.image_gradient(_image(golden))
    torch.testing.assert_close(gradient, golden["aux_gradient"].float(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(image_gradient(_image(golden))[..., 1:-1, :], gradient[..., 1:-1, :])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 12),
    half_width=st.integers(1, 14),
    density=st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]),
    limit=st.sampled_from([1, 3, 7, 64]),
    wrap=st.booleans(),
)
def test_distances_agree_with_scipy(seed, height, half_width, density, limit, wrap):
    width = 2 * half_width
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)) < density
    result = distance_transform(mask, limit, wrap)
    for image, ours in zip(mask.numpy(), result.numpy(), strict=True):
        if not image.any():
            expected = np.full(image.shape, limit)
        else:
            tiled = np.tile(image, (1, 3)) if wrap else image
            expected = ndimage.distance_transform_edt(~tiled)
            expected = expected[:, width : 2 * width] if wrap else expected
        np.testing.assert_allclose(ours, np.minimum(expected, limit), rtol=1e-6)


def test_distances_are_exact_on_a_large_image():
    mask = torch.rand(1, 128, 256, generator=torch.Generator().manual_seed(0)) < 2e-3
    expected = ndimage.distance_transform_edt(~np.tile(mask[0].numpy(), (1, 3)))[:, 256:512]
    assert expected.max() > 20
    np.testing.assert_allclose(distance_transform(mask, 64)[0].numpy(), np.minimum(expected, 64), rtol=1e-6)


def test_an_image_without_edges_has_a_finite_label():
    assert torch.all(edge_distance(torch.full((1, 3, 32, 64), 0.5)) == torch.log1p(torch.tensor(64.0)))


def test_edge_distance_agrees_with_the_published_labels(golden):
    ours, theirs = published.edge_distance(_image(golden)), golden["aux_sdf"].float()
    difference = (ours - theirs).abs()
    # Jump flooding misses the nearest edge in 4 of 16384 pixels; ours is exact, hence never farther.
    assert (difference > 2e-3).sum() <= 4
    assert torch.all(ours <= theirs + 2e-3)
    assert difference.max() < 0.04


@pytest.mark.parametrize("label", [image_gradient, edge_distance])
def test_labels_turn_with_the_image(label, golden):
    image = _image(golden)
    torch.testing.assert_close(label(image.roll(37, -1)), label(image).roll(37, -1))


def test_point_map_is_depth_times_ray():
    depth = torch.tensor([[[2.0, torch.nan, 0.0, 3.0], [1.0, 1.0, 1.0, 1.0]]])
    valid = torch.tensor([[[True, False, False, True], [True] * 4]])
    points = point_map(depth, valid)
    expected = torch.where(valid, depth, 0)[:, None] * erp_rays(2, 4).permute(2, 0, 1)
    torch.testing.assert_close(points, expected)
    # Left of the centre in the upper half: x left, y up, z forward or back.
    assert torch.equal(points[0, :, 0, 0].sign(), torch.tensor([-1.0, -1.0, -1.0]))


def test_point_map_maps_to_the_published_frame(golden):
    """Published: right, down, back, on a grid that includes both ends. Ours: right, down, forward, pixel centres."""
    depth = golden["target_depth"]
    valid = depth[:, 0] != 255
    height, width = depth.shape[-2:]
    longitude = torch.pi * torch.linspace(-1, 1, width)[None, :].expand(height, width)
    latitude_down = torch.pi / 2 * torch.linspace(-1, 1, height)[:, None].expand(height, width)
    across = latitude_down.cos() * longitude.sin()
    rays = torch.stack((across, latitude_down.sin(), -latitude_down.cos() * longitude.cos()))
    expected = json.loads((GOLDEN / "expected.json").read_text())["multi_task"]["ext_point"]
    value = masked_l1(golden["ext_pred_point"].float(), depth * rays, valid)
    assert value.item() == pytest.approx(expected, rel=1e-4)

    turned = rays * torch.tensor([1.0, 1.0, -1.0])[:, None, None]
    label = published.point_map(depth[:, 0], valid)
    torch.testing.assert_close(label, torch.where(valid[:, None], depth * turned, 0), atol=1e-5, rtol=0)
    ours = point_map(torch.ones(1, height, width), torch.ones(1, height, width, dtype=torch.bool))[0]
    angle = torch.rad2deg((ours * turned).sum(0).clamp(max=1).acos())
    # Half a pixel in both directions, at 2.8 degrees per pixel.
    assert angle.max() < 2.1
