import math

import pytest
import torch

from mtpano_zoo.labeling.back_projection import cut, footprints, inverse_depth, sample_inverse, sample_normals
from mtpano_zoo.labeling.views import CubeViews, RandomViews, Views
from mtpano_zoo.sphere import erp_rays, intrinsics_from_fov, perspective_rays, rotation_matrix, unit

HEIGHT, WIDTH = 32, 64


def place(view):
    """Columns and rows of a footprint's points."""
    row = view.points.corner // view.points.width
    return view.points.corner - row * view.points.width + view.points.right, row + view.points.down


def test_footprints_agree_with_a_projection_of_every_pixel():
    views = RandomViews(4, size=20)("a")
    for index, foot in enumerate(footprints(views, HEIGHT, WIDTH)):
        found = {}
        camera = views.intrinsics[index].double()
        for pixel, ray in enumerate(erp_rays(HEIGHT, WIDTH, dtype=torch.float64).flatten(0, 1)):
            x, y, z = (camera @ (views.rotations[index].double().T @ ray)).tolist()
            if z > 0 and -0.5 <= x / z <= 19.5 and -0.5 <= y / z <= 19.5:
                found[pixel] = (min(max(x / z, 0), 19), min(max(y / z, 0), 19), 1 / z)
        assert foot.pixels.tolist() == sorted(found)
        expected = torch.tensor([found[pixel] for pixel in sorted(found)])
        columns, rows = place(foot)
        assert torch.allclose(torch.stack((columns, rows, foot.stretch), 1), expected, atol=1e-3)
        assert foot.points.corner.max() < 19 * 20 and foot.points.right.max() <= 1


def test_the_weight_is_one_in_the_middle_and_falls_to_nothing_at_the_border():
    views = Views(torch.eye(3)[None], intrinsics_from_fov(90.0, 64, 64)[None], 64, 64)
    foot = footprints(views, 128, 256)[0]
    x, y = place(foot)
    inside = 1 - torch.maximum((x - 31.5).abs(), (y - 31.5).abs()) / 32  # 0 at the border
    assert foot.weight.min() > 0 and foot.weight.max() == 1
    assert (foot.weight[inside > 0.11] == 1).all()
    rings = [(low, low + 0.03) for low in (0, 0.03, 0.06)]
    means = [foot.weight[(inside > low) & (inside <= high)].mean().item() for low, high in rings]
    assert means == sorted(means) and means[0] < 0.2 and means[2] > 0.7


def test_invalid_pixels_are_not_seen():
    views = RandomViews(3, size=20)("a")
    invalid = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.5
    for foot, full in zip(
        footprints(views, HEIGHT, WIDTH, invalid=invalid), footprints(views, HEIGHT, WIDTH), strict=True
    ):
        assert foot.pixels.tolist() == [pixel for pixel in full.pixels.tolist() if not invalid.flatten()[pixel]]


@pytest.mark.parametrize("along_ray", [False, True])
def test_the_distance_of_a_plane_is_exact(along_ray):
    # A floor 1.5 m below, seen by views that look down at it from all sides.
    yaw = torch.arange(4) * 90.0 + 10
    views = Views(rotation_matrix(yaw, -60.0), intrinsics_from_fov(90.0, 24, 24).expand(4, 3, 3), 24, 24)
    rays = perspective_rays(24, 24, intrinsics=views.intrinsics, rotation=views.rotations, normalize=along_ray)
    depth = torch.where(rays[..., 1] > 0.1, 1.5 / rays[..., 1], 0)
    truth = 1.5 / erp_rays(HEIGHT, WIDTH)[..., 1].flatten()
    for index, foot in enumerate(footprints(views, HEIGHT, WIDTH)):
        columns, rows = place(foot)
        inner = (columns > 0) & (columns < 23) & (rows > 0) & (rows < 23)
        inverse = sample_inverse(inverse_depth(depth[index], views, index, along_ray), foot.points)
        steep = inner & (truth[foot.pixels] > 0) & (truth[foot.pixels] < 3)
        assert steep.sum() > 100
        assert torch.allclose((foot.stretch / inverse)[steep], truth[foot.pixels][steep], rtol=1e-4)


def test_depth_is_not_mixed_across_edges_and_holes_stay():
    views = Views(torch.eye(3)[None], intrinsics_from_fov(100.0, 40, 40)[None], 40, 40)
    depth = torch.full((40, 40), 2.0)
    depth[:, 20:] = 5.0
    depth[10:14] = 0
    depth[30] = math.nan
    depth[31] = -1
    foot = footprints(views, HEIGHT, WIDTH)[0]
    inverse = sample_inverse(inverse_depth(depth, views, 0, False), foot.points)
    assert set(inverse.tolist()) == set(torch.tensor([0.0, 0.5, 0.2]).tolist())
    columns, rows = place(foot)
    clear = ((columns - columns.floor() - 0.5).abs() > 1e-3) & ((rows - rows.floor() - 0.5).abs() > 1e-3)
    nearest = depth[(rows + 0.5).long(), (columns + 0.5).long()]
    expected = torch.where(nearest > 0, 1 / nearest, 0)
    assert torch.allclose(inverse[clear], expected[clear])


def test_normals_come_into_the_frame_of_the_panorama_and_creases_stay():
    views = Views(rotation_matrix(40.0, 25.0, 10.0)[None], intrinsics_from_fov(100.0, 40, 40)[None], 40, 40)
    wall, floor = unit(torch.tensor([0.6, 0.0, -0.8])), torch.tensor([0.0, -1.0, 0.0])  # in the panorama
    seen = torch.where(torch.arange(40)[:, None] < 25, wall[:, None, None], floor[:, None, None]).expand(3, 40, 40)
    normals = torch.einsum("ji,jhw->ihw", views.rotations[0], seen).clone()
    normals[:, 5:8] = 0
    foot = footprints(views, HEIGHT, WIDTH)[0]
    found = sample_normals(normals, foot.points, views.rotations[0])
    is_wall, is_floor, none = ((found - one[:, None]).norm(dim=0) < 1e-5 for one in (wall, floor, torch.zeros(3)))
    assert (is_wall.int() + is_floor.int() + none.int() == 1).all()
    assert min(is_wall.sum(), is_floor.sum(), none.sum()) > 20


def test_normals_are_interpolated_on_a_curved_surface():
    # On a sphere around the camera the normal is minus the ray: between two pixels it lies between theirs.
    views = Views(rotation_matrix(40.0, 25.0)[None], intrinsics_from_fov(90.0, 24, 24)[None], 24, 24)
    normals = -perspective_rays(24, 24, intrinsics=views.intrinsics[0]).permute(2, 0, 1)
    foot = footprints(views, HEIGHT, WIDTH)[0]
    columns, rows = place(foot)
    inner = (columns > 0) & (columns < 23) & (rows > 0) & (rows < 23)
    found = sample_normals(normals, foot.points, views.rotations[0]).T
    truth = -erp_rays(HEIGHT, WIDTH).flatten(0, 1)[foot.pixels]
    assert torch.allclose(found[inner], truth[inner], atol=1e-3)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)), atol=1e-5)


def test_points_in_a_coarser_map_agree_with_grid_sample():
    views = RandomViews(3, size=32)("a")
    for foot in footprints(views, HEIGHT, WIDTH):
        coarse = torch.rand(2, 8, 16, generator=torch.Generator().manual_seed(0))
        points = foot.points_in(8, 16)
        columns, rows = place(foot)
        grid = torch.stack(((columns + 0.5) / 16 - 1, (rows + 0.5) / 16 - 1), -1)[None, None]
        expected = torch.nn.functional.grid_sample(coarse[None], grid, padding_mode="border", align_corners=False)[
            0, :, 0
        ]
        assert torch.allclose(points.mixed(points.four(coarse)), expected, atol=1e-5)
        by_weights = torch.stack(points.four(coarse), -1) * points.weights()
        assert torch.allclose(by_weights.sum(-1), expected, atol=1e-5)


def test_views_of_a_turned_panorama():
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    views = CubeViews(90, 16, turn=45)("a")
    turned = Views(rotation_matrix(90.0) @ views.rotations, views.intrinsics, 16, 16)
    assert torch.allclose(cut(image, views), cut(image.roll(WIDTH // 4, -1), turned), atol=1e-4)
    assert cut(image, views).shape == (6, 3, 16, 16)
