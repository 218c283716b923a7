import math

import pytest
import torch

from mtpano_zoo.labeling.views import CubeViews, IcosahedronViews, RandomViews, TangentViews, Views
from mtpano_zoo.sphere import cube_rotations, intrinsics_from_fov, rotation_matrix, unit

# Direction and field of view of a view, as this project has always drawn them: stored labels belong to it.
GOLDEN = (0.298692, -0.227538, 0.926828, 91.2766)
STRATEGIES = (
    RandomViews(8, size=32),
    CubeViews(size=32, turn=45),
    IcosahedronViews(size=32, turn=45),
    TangentViews(size=32, turn=45),
)


def fields_of_view(views):
    return torch.rad2deg(2 * torch.atan(views.width / 2 / views.intrinsics[:, 0, 0]))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda one: type(one).__name__)
def test_views_follow_from_the_name_and_the_arguments(strategy):
    first, again, other = strategy("a"), strategy("a"), strategy("b")
    assert torch.equal(first.rotations, again.rotations) and torch.equal(first.intrinsics, again.intrinsics)
    assert not torch.allclose(first.rotations, other.rotations)
    arguments = {key: value for key, value in vars(strategy).items() if key != "seed"}
    assert not torch.allclose(first.rotations, type(strategy)(**arguments, seed=1)("a").rotations)
    product = first.rotations @ first.rotations.mT
    assert torch.allclose(product, torch.eye(3).expand_as(product), atol=1e-6)
    assert (torch.linalg.det(first.rotations) > 0.99).all()
    assert first.rotations.shape == first.intrinsics.shape == (len(first), 3, 3)
    assert (first.height, first.width) == (32, 32)


def test_random_views_spread_over_their_ranges_and_do_not_roll():
    views = RandomViews(2000, fov=(80, 120), size=64)("a")
    fov = fields_of_view(views)
    assert fov.min() >= 80 and fov.max() <= 120
    axis = views.rotations[:, :, 2]
    yaw, pitch = torch.atan2(axis[:, 0], axis[:, 2]).rad2deg(), -axis[:, 1].clamp(-1, 1).asin().rad2deg()
    # Of a uniform number, a quarter lies in every quarter of its range.
    for values, low, high in ((fov, 80, 120), (yaw, -180, 180), (pitch, -90, 90)):
        quarters = torch.histc(values, 4, low, high) / len(values)
        assert (quarters - 0.25).abs().max() < 0.04
    assert views.rotations[:, 1, 0].abs().max() < 1e-6  # their own right is level


def test_random_views_are_the_same_in_every_release():
    views = RandomViews(1, size=64)("a")
    golden = torch.tensor(GOLDEN)
    assert torch.allclose(views.rotations[0, :, 2], golden[:3], atol=1e-5)
    assert fields_of_view(views)[0] == pytest.approx(golden[3].item(), abs=1e-3)


def test_coverage_is_a_solid_angle():
    for fov in (60.0, 90.0, 120.0):
        one = Views(rotation_matrix(33.0, 20.0)[None], intrinsics_from_fov(fov, 40, 40)[None], 40, 40)
        # A pyramid of half angles a has 4 asin(sin a sin a) steradian.
        expected = math.asin(math.sin(math.radians(fov / 2)) ** 2) / math.pi
        assert one.coverage() == pytest.approx(expected, abs=2e-3)


def test_seen_agrees_with_a_projection():
    torch.manual_seed(0)
    views = RandomViews(5, size=48)("x")
    rays = unit(torch.randn(4000, 3))
    for rotation, camera, seen in zip(views.rotations, views.intrinsics, views.seen(rays), strict=True):
        x, y, z = (camera @ (rotation.T @ rays.T)).unbind(0)
        expected = (z > 0) & (x / z > -0.5) & (x / z < 47.5) & (y / z > -0.5) & (y / z < 47.5)
        assert (seen == expected).float().mean() > 0.999


@pytest.mark.parametrize(
    "strategy",
    [
        CubeViews(90, 32),
        CubeViews(90, 32, turn=45),
        IcosahedronViews(90, 32, turn=45),
        TangentViews(60, 0.5),
        TangentViews(90, 0.3),
        TangentViews(40, 0.4),
    ],
)
def test_regular_views_see_everything(strategy):
    assert strategy("a").coverage() == pytest.approx(1, abs=1e-3)


def test_coverage_is_reached_by_views_of_the_unseen():
    for name in "abcdef":
        free, steered = RandomViews(6, size=32)(name), RandomViews(6, size=32, coverage=0.9)(name)
        assert steered.coverage() >= 0.9
        assert torch.equal(steered.rotations[:6], free.rotations)
        # No view more than needed.
        shorter = Views(steered.rotations[:-1], steered.intrinsics[:-1], 32, 32)
        assert len(steered) == 6 or shorter.coverage() < 0.9
        assert torch.equal(steered.rotations, RandomViews(6, size=32, coverage=0.9)(name).rotations)
    assert len(RandomViews(32, size=32, coverage=0.5)("a")) == 32


def test_coverage_out_of_reach_is_refused():
    with pytest.raises(ValueError, match=r"4 views of 80 to 80 degrees see 0\.\d+ of the sphere of 'a', not 1"):
        RandomViews(2, fov=(80, 80), size=32, coverage=1.0)("a")


def test_cube_is_turned_by_three_angles():
    still, turned = CubeViews(90, 32)("a").rotations, CubeViews(90, 32, turn=45)("a").rotations
    assert torch.allclose(still, cube_rotations())
    assert torch.allclose(turned.mT @ turned[0], still.mT @ still[0], atol=1e-6)  # still a cube
    # R_x(a) R_y(b) R_z(c) has sin b in its upper right corner, and the other two angles beside it.
    for name in map(str, range(50)):
        matrix = CubeViews(90, 32, turn=45)(name).rotations[0]
        angles = (
            torch.atan2(-matrix[1, 2], matrix[2, 2]),
            matrix[0, 2].asin(),
            torch.atan2(-matrix[0, 1], matrix[0, 0]),
        )
        assert torch.stack(angles).abs().max() <= math.radians(45) + 1e-6


def test_tangent_neighbours_overlap_as_asked():
    views = TangentViews(60, 0.5, size=32)("a")
    axes = views.rotations[:, :, 2]
    angles = (axes @ axes.T).clamp(-1, 1).acos().rad2deg() + 360 * torch.eye(len(axes))
    assert angles.amin(1).max() <= 30 + 1e-3
    assert angles.min() > 10


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RandomViews(0), "at least one view"),
        (lambda: RandomViews(fov=(100, 80)), "smallest, largest"),
        (lambda: RandomViews(fov=(80, 180)), "field of view"),
        (lambda: RandomViews(coverage=1.5), "fraction of the sphere"),
        (lambda: CubeViews(size=1), "at least 2 x 2"),
        (lambda: IcosahedronViews(turn=-1), "turn"),
        (lambda: TangentViews(overlap=1), "overlap"),
    ],
)
def test_bad_arguments_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
