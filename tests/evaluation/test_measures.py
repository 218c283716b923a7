"""Every measure against an answer that is known."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from mtpano_zoo.evaluation import agreement, measures
from mtpano_zoo.evaluation.measures import Alignment, error_of
from mtpano_zoo.evaluation.regions import away_from_border, band_names, between_poles, core, in_band
from mtpano_zoo.evaluation.scoring import matched_classes, turned_label, with_depth
from mtpano_zoo.sphere import depth_to_points, erp_rays, points_to_normals, rotate, rotation_matrix, solid_angles

H, W = 32, 64
NOTHING = Alignment(0.0, torch.eye(3))


def value(ratio):
    return ratio[0] / ratio[1]


def room():
    """Distances of a box, and the axis of its wall."""
    rays = erp_rays(H, W)
    half = torch.tensor([2.0, 1.3, 3.0])
    depth, axis = (half / rays.abs().clamp(min=1e-6)).min(-1)
    return depth, axis


def directions(seed=0):
    return normalize(torch.randn(3, H, W, generator=torch.Generator().manual_seed(seed)), dim=0)


def test_a_mean_weighs_by_the_part_of_the_sphere():
    cap = ~between_poles(180, 360)
    share = measures.mean_over(cap.float(), torch.ones(180, 360, dtype=torch.bool))
    assert value(share) == pytest.approx(1 - math.sin(math.pi / 3), rel=1e-3)  # of two caps above 60 degrees
    assert share[1] == pytest.approx(1)


def test_bands_cover_the_sphere_once():
    total = sum(in_band(H, W, i).int() for i in range(len(band_names())))
    assert (total == 1).all()
    assert (core(H, W) == (between_poles(H, W) & away_from_border(H, W))).all()
    assert away_from_border(H, W)[0].sum() == W - 8


@pytest.mark.parametrize("factor", [0.001, 0.8, 1.0, 7.0])
def test_scale_is_the_factor_and_errors_do_not_know_it(factor):
    depth, _ = room()
    assert value(measures.scale(factor * depth, depth)) == pytest.approx(factor, rel=1e-5)
    alignment = measures.align({"depth": factor * depth}, {"depth": depth})
    assert error_of("depth", factor * depth, depth, alignment)[1].max() < 1e-4


def test_holes_are_a_share_of_the_labelled_solid_angle():
    labelled = torch.ones(H, W, dtype=torch.bool)
    labelled[: H // 2] = False
    has_value = torch.ones(H, W, dtype=torch.bool)
    has_value[:, ::4] = False
    assert value(measures.holes(has_value, labelled)) == pytest.approx(0.25)


def test_a_step_at_the_border_over_a_ramp_inside():
    ramp = 0.01 * torch.arange(W).expand(1, H, W)
    border, inside = measures.border_step(ramp, torch.ones(H, W, dtype=torch.bool))
    assert value(border) == pytest.approx(0.01 * (W - 1), rel=1e-4)
    assert value(inside) == pytest.approx(0.01, rel=1e-4)


def test_a_perfect_prediction_has_no_seam_and_no_poles():
    flat, known = torch.zeros(1, H, W), torch.ones(H, W, dtype=torch.bool)
    assert value(measures.seam_jump(flat, known)) == 1
    assert value(measures.polar_excess(flat[0], known)) == 1


def test_a_seam_is_the_same_wherever_the_camera_looks_only_if_there_is_none():
    error = 0.1 * torch.randn(1, H, W, generator=torch.Generator().manual_seed(0))
    known = torch.ones(H, W, dtype=torch.bool)
    assert value(measures.seam_jump(error, known)) == pytest.approx(1, abs=0.4)
    error[..., 0] += 3
    assert value(measures.seam_jump(error, known)) > 10
    assert value(measures.seam_jump(error.roll(W // 2, -1), known)) < 1.5


def test_polar_excess_is_the_ratio_of_the_errors():
    errors = torch.where(between_poles(H, W), 0.1, 0.3)
    assert value(measures.polar_excess(errors, torch.ones(H, W, dtype=torch.bool))) == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("number", [0, 1, 7, 23, 47])
def test_every_frame_of_axes_is_found(number):
    target, frame = directions(), measures.frames()[number]
    assert torch.linalg.det(frame).abs() == 1
    theirs = torch.einsum("ij,jhw->ihw", frame.T, target)
    gain, found = measures.frame_gain(theirs, target)
    assert torch.equal(found, frame)
    assert (value(gain) > 10) == (number > 0)


def test_a_frame_is_found_beside_a_vector_that_is_not_finite():
    target, mirror = directions(), torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    theirs = torch.einsum("ij,jhw->ihw", mirror, target)
    theirs[:, 3, 5] = torch.nan
    assert torch.equal(measures.frame_gain(theirs, target)[1], mirror)


def test_frames_are_48_different_ones():
    assert len(measures.frames().flatten(1).unique(dim=0)) == 48


def test_a_swap_of_classes_is_found_and_an_absorbed_class_is_none():
    target = torch.arange(3).repeat_interleave(W // 3 + 1)[:W].expand(H, W)
    swapped = torch.tensor([1, 0, 2])[target]
    shares = measures.class_swaps(swapped, target, ["a", "b", "c"])
    assert {name: share for name, (share, _) in shares.items()} == {"a and b": 1, "a and c": 0, "b and c": 0}
    alignment = measures.align({"semseg": swapped}, {"semseg": target})
    assert alignment.swapped == ((0, 1),)
    assert error_of("semseg", swapped, target, alignment)[1].sum() == 0
    absorbed = target.clamp(min=1)  # every a is called b, no b is called a
    assert max(share for share, _ in measures.class_swaps(absorbed, target, ["a", "b", "c"]).values()) == 0


def test_rolls_that_do_not_matter_have_no_spread():
    depth, _ = room()
    assert value(agreement.roll_spread("depth", depth, [depth, depth], [16, 32])) == 0
    assert value(agreement.roll_spread("depth", depth, [1.1 * depth], [16])) == pytest.approx(math.log(1.1), rel=1e-4)


def test_boundaries_of_a_box_on_slanted_planes():
    depth, _ = room()
    assert not measures.boundaries(depth)[0].any()  # corners and grazing floors are no boundaries
    depth[12:20, 20:30] = 0.8
    found = measures.boundaries(depth)[0]
    assert found[12:20, 20].all() and found[12:20, 29].all() and found[12, 20:30].all()
    assert not found[13:19, 21:29].any()


@pytest.mark.parametrize(("shift", "score"), [(0, 1.0), (1, 1.0), (6, 0.0)])
def test_edges_allow_one_pixel(shift, score):
    target = torch.full((H, W), 4.0)
    target[12:20, 30:32] = 2.0
    found = value(measures.edges(target.roll(shift, -1), target))
    assert found == pytest.approx(score, abs=0.35 if score == 0 else 1e-6)  # the ends of a bar meet its sides


def test_walls_that_are_planes_have_no_residual_and_bent_ones_have():
    depth, axis = room()
    normals = torch.zeros(3, H, W)
    normals.scatter_(0, axis[None], -erp_rays(H, W).gather(-1, axis[..., None]).sign().movedim(-1, 0))
    walls = axis != 1
    assert value(measures.planarity(1.7 * depth, depth, normals, walls)) < 1e-6
    sphere = torch.full_like(depth, 2.0)  # a ball instead of walls
    assert value(measures.planarity(sphere, depth, normals, walls)) > 0.02
    assert measures.planarity(depth, depth, normals, torch.zeros_like(walls)) == (0, 0)


def test_cross_projection_forgives_scale_only():
    panorama = torch.full((H, W), 3.0)
    for cross in (agreement.cross_on_faces, agreement.cross_on_panorama):
        assert value(cross(panorama, torch.full((6, 8, 8), 5.0))) == pytest.approx(0, abs=1e-7)
        faces = torch.full((6, 8, 8), 3.0)
        faces[0] *= math.e
        assert value(cross(panorama, faces)) == pytest.approx(
            1 / 6, rel=1e-5 if cross is agreement.cross_on_faces else 0.1
        )


def test_away_from_boundaries_turned_labels_are_exact():
    """The label of a turned room by resampling is that of casting rays, where it is said to count."""
    depth, axis = room()
    turn = rotation_matrix(pitch=20.0, roll=10.0)
    smooth = measures.away_from_boundaries("depth", depth)
    label, where = turned_label("depth", depth, smooth, turn)
    rays = torch.einsum("ij,hwj->hwi", turn, erp_rays(H, W))
    true = (torch.tensor([2.0, 1.3, 3.0]) / rays.abs().clamp(min=1e-6)).min(-1).values
    assert where.float().mean() > 0.9
    assert ((label / true).log().abs()[where].mean()) < 0.005
    nearest = rotate(depth[None, None], turn, "depth")[0, 0]
    assert ((nearest / true).log().abs().mean()) > 0.01  # what is avoided
    seen, where = turned_label("semseg", axis, measures.away_from_boundaries("semseg", axis), turn)
    assert (seen == (torch.tensor([2.0, 1.3, 3.0]) / rays.abs().clamp(min=1e-6)).min(-1).indices)[
        where
    ].float().mean() > 0.99


def test_inverse_distances_become_the_depth_that_fits_best():
    depth, _ = room()
    labels = {"depth": depth, "disparity": 1 / depth, "disparity_valid": depth > 0}
    for shift in (0.5, 0.0, -2.0, -4 / float(depth.max())):  # the last makes the farthest 0
        disparity = 4 / depth + shift
        maps = with_depth({"disparity": disparity}, labels)
        assert torch.allclose(maps["depth"], depth, rtol=1e-3)
    disparity[3, 5:7] = torch.tensor([torch.nan, torch.inf])
    found = with_depth({"disparity": disparity}, labels)["depth"]
    holes = ~disparity.isfinite()
    assert torch.equal(found == 0, holes) and torch.allclose(found[~holes], depth[~holes], rtol=1e-3)


def test_classes_are_matched_by_name():
    assert matched_classes([], ["a", "b"]).tolist() == [0, 1]
    assert matched_classes(["b", "a", "c"], ["a", "b"]).tolist() == [1, 0, 2]
    assert matched_classes(["c"], ["a", "b"]) is None
    assert matched_classes([], []) is None  # labels without classes


def test_normals_of_a_ball_agree_with_the_labels_of_its_points():
    """The frame of normals and that of points are one: no gain on true normals."""
    depth = torch.full((1, 1, H, W), 2.0)
    normals = points_to_normals(depth_to_points(depth))[0]
    assert value(measures.frame_gain(-erp_rays(H, W).movedim(-1, 0), normals)[0]) == 0
    assert solid_angles(H, W).sum() * W == pytest.approx(4 * math.pi, rel=1e-5)
