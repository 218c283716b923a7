import math

import pytest
import torch
from torch.testing import assert_close

from mtpano_zoo import sphere
from mtpano_zoo.labeling.teachers.base import ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.normals import NormalsFromDepth, normals_from_depth
from mtpano_zoo.labeling.views import Views

HEIGHT, WIDTH = 40, 56


def cameras(*fovs):
    return torch.stack([sphere.intrinsics_from_fov(fov, HEIGHT, WIDTH) for fov in fovs])


def rays(intrinsics):
    return sphere.perspective_rays(HEIGHT, WIDTH, intrinsics=intrinsics, normalize=False)


def plane(normal, offset, intrinsics):
    """Z-depth (V, h, w) of the plane n . x = -offset."""
    return -offset / (rays(intrinsics) @ normal)


class Fixed:
    """A teacher that always returns the same labels."""

    classes = ("wall", "floor")

    def __init__(self, labels):
        self.labels = labels
        self.provenance = {"name": "Fixed", "revision": "abc"}

    def __call__(self, seen):
        return self.labels


def test_planes_have_their_normal_everywhere():
    intrinsics = cameras(60.0, 90.0, 100.0)
    for vector in ([0.0, 0.0, -1.0], [0.3, -0.2, -1.0], [-0.6, -0.1, -0.9], [0.1, 0.7, -1.0]):
        normal = sphere.unit(torch.tensor(vector))
        depth = plane(normal, 2.0, intrinsics)
        depth = torch.where((depth > 0) & (depth < 1e3), depth, 0)
        normals = normals_from_depth(depth, intrinsics)
        expected = torch.where(depth[:, None] > 0, normal[None, :, None, None], 0)
        assert (depth > 0).float().mean() > 0.7
        assert_close(normals, expected.expand_as(normals), atol=2e-3, rtol=0)


def test_a_sphere_has_radial_normals_towards_the_camera():
    intrinsics = cameras(50.0)
    directions = sphere.unit(rays(intrinsics))
    centre = torch.tensor([0.2, -0.1, 4.0])
    along = directions @ centre
    inside = along**2 - centre @ centre + 1
    distance = torch.where(inside > 0, along - inside.clamp_min(0).sqrt(), 0)
    normals = normals_from_depth(distance * directions[..., 2], intrinsics)
    expected = (distance[..., None] * directions - centre).movedim(-1, 1)
    well_inside = torch.nn.functional.max_pool2d((inside < 0.05).float(), 3, 1, 1) == 0
    cosine = (normals * expected).sum(1)[well_inside]
    assert cosine.numel() > 100 and cosine.min() > math.cos(math.radians(3))
    assert ((normals == 0).all(1) == (distance == 0)).all()


def test_edges_belong_to_either_surface_and_are_not_mixed():
    intrinsics = cameras(70.0)
    near, far = (sphere.unit(torch.tensor(vector)) for vector in ([0.3, 0.0, -1.0], [-0.3, 0.1, -1.0]))
    in_front = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    in_front[10:30, 20:40] = True
    depth = torch.where(in_front, plane(near, 1.0, intrinsics), plane(far, 3.0, intrinsics))
    expected = torch.where(in_front, near[:, None, None], far[:, None, None])
    assert_close(normals_from_depth(depth, intrinsics)[0], expected, atol=2e-3, rtol=0)


def test_holes_have_none_and_their_neighbours_are_not_disturbed():
    intrinsics = cameras(70.0)
    normal = sphere.unit(torch.tensor([0.2, 0.3, -1.0]))
    depth = plane(normal, 2.0, intrinsics)
    hole = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    hole[0, 5:20, 7:30] = True
    hole[0, 25, :] = hole[0, 27, :] = True  # between them a line that has no neighbour above and below
    for nothing in (0.0, -1.0, math.inf, math.nan):
        normals = normals_from_depth(torch.where(hole, nothing, depth), intrinsics)
        without = hole.clone()
        without[0, 26] = True
        expected = torch.where(without[:, None], 0, normal[None, :, None, None])
        assert_close(normals, expected, atol=2e-3, rtol=0)


def test_scale_does_not_matter_and_noise_averages_out():
    intrinsics = cameras(60.0)
    normal = sphere.unit(torch.tensor([0.2, 0.3, -1.0]))
    depth = plane(normal, 2.0, intrinsics)
    assert_close(normals_from_depth(depth, intrinsics), normals_from_depth(depth * 100, intrinsics), atol=1e-3, rtol=0)
    noisy = depth * (1 + 1e-3 * torch.randn(depth.shape))
    angle = torch.rad2deg(torch.acos((normals_from_depth(noisy, intrinsics)[0] * normal[:, None, None]).sum(0)))
    assert angle.mean() < 5


def test_wrapper_adds_normals_and_keeps_everything_else():
    intrinsics = cameras(60.0, 90.0)
    seen = ViewImages(torch.zeros(2, 3, HEIGHT, WIDTH), Views(torch.eye(3).expand(2, 3, 3), intrinsics, HEIGHT, WIDTH))
    normal = sphere.unit(torch.tensor([0.2, 0.3, -1.0]))
    depth = plane(normal, 2.0, intrinsics)
    distance = sphere.z_to_distance(depth, intrinsics)
    confidence = torch.rand(2, HEIGHT, WIDTH)
    for labels in (
        ViewLabels(depth=depth, confidence=confidence),
        ViewLabels(depth=7 * distance, along_ray=True, depth_kind="scale_invariant", confidence=confidence),
    ):
        wrapper = NormalsFromDepth(Fixed(labels))
        result = wrapper(seen)
        assert_close(result.normals, normal[None, :, None, None].expand(2, 3, HEIGHT, WIDTH), atol=2e-3, rtol=0)
        assert result.depth is labels.depth and result.confidence is confidence
        assert (result.depth_kind, result.along_ray) == (labels.depth_kind, labels.along_ray)
    assert wrapper.classes == ("wall", "floor") and wrapper.provenance["teacher"]["revision"] == "abc"

    own = ViewLabels(depth=depth, normals=torch.ones(2, 3, HEIGHT, WIDTH))
    assert NormalsFromDepth(Fixed(own))(seen) is own
    with pytest.raises(ValueError, match="Fixed predicts disparity up to an offset"):
        NormalsFromDepth(Fixed(ViewLabels(depth=depth, depth_kind="disparity")))(seen)
    with pytest.raises(ValueError, match="Fixed predicts none"):
        NormalsFromDepth(Fixed(ViewLabels(probabilities=confidence[:, None])))(seen)
