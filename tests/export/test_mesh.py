import numpy as np
import pytest

from mtpano_zoo.export.mesh import Mesh, sphere_mesh
from mtpano_zoo.sphere import erp_rays


def boundary(mesh: Mesh) -> int:
    """Edges that only one triangle has, after corners at the same place have become one."""
    _, place = np.unique(mesh.positions.round(6), axis=0, return_inverse=True)
    corners = place.reshape(-1)[mesh.triangles]
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), axis=1)
    return int((np.unique(edges, axis=0, return_counts=True)[1] == 1).sum())


def directions(mesh: Mesh) -> np.ndarray:
    """The product of the normal of every triangle and its direction from the camera, as a cosine."""
    first, second, third = (mesh.positions[mesh.triangles[:, i]].astype(np.float64) for i in range(3))
    normal, middle = np.cross(second - first, third - first), first + second + third
    return (normal * middle).sum(1) / np.linalg.norm(normal, axis=1) / np.linalg.norm(middle, axis=1)


@pytest.mark.parametrize(("height", "stride"), [(16, 1), (17, 2), (32, 3), (32, 5), (2, 1)])
def test_a_sphere_is_closed_and_seen_from_inside(height: int, stride: int) -> None:
    mesh = sphere_mesh(np.full((height, 2 * height), 2, np.float32), stride)
    rows, columns = len(range((height - 1) % stride // 2, height, stride)), len(range(0, 2 * height, stride))
    assert boundary(mesh) == 0
    assert len(mesh.triangles) == 2 * columns * rows  # two for every quad, one for every column at a pole
    assert (directions(mesh) < 0).all()
    assert np.linalg.norm(mesh.positions, axis=1).max() == pytest.approx(2)


def test_corners_are_the_points_of_their_pixels() -> None:
    depth = np.random.default_rng(0).uniform(2, 2.02, (16, 32)).astype(np.float32)
    mesh = sphere_mesh(depth)
    place = mesh.coordinates * (32, 16) - 0.5
    pixels = place[:, 1] % 1 < 1e-4  # not the poles
    column, row = place[pixels].round().astype(int).T
    assert pixels.sum() == 16 * 33 and column.max() == 32
    points = (depth[..., None] * erp_rays(16, 32).numpy())[row, column % 32]
    np.testing.assert_allclose(mesh.positions[pixels], points, atol=1e-5)
    assert np.array_equal(mesh.positions[pixels][column == 32], mesh.positions[pixels][column == 0])


def test_poles_lie_in_a_level_floor_and_ceiling() -> None:
    down = erp_rays(16, 32).numpy()[..., 1]
    depth = np.where(down > 0, 1.5, 2.5) / np.maximum(np.abs(down), 0.2)  # a round wall in between
    mesh = sphere_mesh(depth.astype(np.float32))
    for place, level in ((0.0, -2.5), (1.0, 1.5)):
        pole = mesh.positions[mesh.coordinates[:, 1] == place]
        assert len(pole) == 32
        np.testing.assert_allclose(pole, np.tile([0, level, 0], (32, 1)), atol=1e-5)
    assert boundary(mesh) == 0


def test_surfaces_at_different_distances_are_not_joined() -> None:
    depth = np.full((128, 256), 4, np.float32)
    depth[50:60, 120:140] = 2
    mesh = sphere_mesh(depth)
    near = np.linalg.norm(mesh.positions, axis=1) < 3
    assert near.sum() == 10 * 20
    corners = near[mesh.triangles]
    assert (corners.all(1) | ~corners.any(1)).all()
    # The rim of the near patch, and that of the hole, which is a pixel larger; diagonals cut two of its corners.
    assert boundary(mesh) == 2 * (9 + 19) + 2 * (11 + 21) - 2
    assert boundary(sphere_mesh(depth, max_angle=90)) == 0
    assert directions(mesh).max() < -np.cos(np.deg2rad(85))


def test_the_angle_is_that_between_the_normal_and_the_ray() -> None:
    """A floor seen from 1 m above is met at the angle that its distance says."""
    down = erp_rays(64, 128).numpy()[..., 1]
    depth = np.where(down > 0, 1 / np.maximum(down, 1e-3), 0).astype(np.float32)
    for limit in (60, 80):
        mesh = sphere_mesh(depth, max_angle=limit)
        np.testing.assert_allclose(mesh.positions[:, 1], 1, atol=1e-5)
        reach = np.hypot(mesh.positions[:, 0], mesh.positions[:, 2]).max()
        step = np.deg2rad(180 / 64)
        assert np.tan(np.deg2rad(limit) - step) < reach < np.tan(np.deg2rad(limit) + step)


def test_pixels_without_a_distance_leave_holes() -> None:
    depth = np.full((16, 32), 2, np.float32)
    depth[6, 0] = depth[9, 31] = 0  # beside the seam
    depth[4, 7], depth[11, 20] = np.nan, np.inf
    mesh = sphere_mesh(depth)
    assert np.isfinite(mesh.positions).all() and boundary(mesh) == 4 * 6  # six triangles meet in a pixel
    depth[:8] = 0
    mesh = sphere_mesh(depth)
    assert mesh.coordinates[:, 1].min() == 8.5 / 16  # no pole where its row has no distance
    mesh = sphere_mesh(np.full((16, 32), 2, np.float32), stride=3, nadir=30.0)
    assert (mesh.positions[:, 1] <= 2 * np.cos(np.deg2rad(30))).all() and (mesh.coordinates[:, 1] == 0).sum() == 11


@pytest.mark.parametrize(
    ("depth", "options", "sentence"),
    [
        (0, {}, "no pixel has a distance: depth is 0 everywhere"),
        (np.nan, {}, "no pixel has a distance"),
        (1, {"stride": 0}, "stride is a positive number"),
        (1, {"stride": 100}, "use a smaller stride"),
        (1, {"max_angle": 91.0}, "max_angle is an angle between 0 and 90 degrees, not 91.0"),
        (1, {"edge": 1.0}, "edge is a ratio"),
        (1, {"nadir": 181.0}, "nadir is an angle"),
    ],
)
def test_what_has_no_surface_is_refused(depth: float, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sphere_mesh(np.full((4, 8), depth, np.float32), **options)
