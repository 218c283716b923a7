import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mtpano_zoo.sphere import (
    cube_rays,
    depth_to_points,
    distance_to_z,
    erp_rays,
    from_cubemap,
    from_perspective,
    icosahedron_rotations,
    intrinsics_from_fov,
    perspective_rays,
    rays_to_pixels,
    rotate,
    rotate_rays,
    rotation_matrix,
    sample,
    to_cubemap,
    to_perspective,
    turn_vectors,
    unit,
    z_to_distance,
)

HEIGHT, WIDTH = 256, 512
TURNS = rotation_matrix(
    torch.tensor([0.0, 33.0, 180.0, -100.0, 10.0]),
    torch.tensor([0.0, 20.0, 10.0, 85.0, -90.0]),
    torch.tensor([0.0, 10.0, 0.0, 40.0, 0.0]),
)
angle = st.floats(-180, 180)


def some_vectors(rays):
    """A smooth field of unit vectors (..., 3, H, W) with a value in every direction (..., H, W, 3)."""
    x, y, z = rays.unbind(-1)
    return unit(torch.stack((x + 0.3 * y, y * z - 0.2, 1.5 + x * y), -3), dim=-3)


# Rotation


@settings(max_examples=8, deadline=None)
@given(angle, st.floats(-90, 90), angle)
def test_rotate_shows_what_the_new_camera_sees(scene, relative_error, yaw, pitch, roll):
    turn = rotation_matrix(yaw, pitch, roll)
    rays = erp_rays(HEIGHT, WIDTH)
    turned = rotate(scene(rays)[None], turn)
    mean, largest = relative_error(turned[0], scene(rotate_rays(rays, turn)))
    assert mean <= 1e-5 and largest <= 1e-4
    mean, largest = relative_error(rotate(turned, turn.mT)[0], scene(rays))
    assert mean <= 2e-5 and largest <= 2e-4


def test_identity_changes_nothing(scene):
    noise = torch.rand(2, 3, 32, 64)
    assert (rotate(noise, torch.eye(3)) == noise).all()
    smooth = scene(erp_rays(HEIGHT, WIDTH))[None]
    sampled = sample(smooth, erp_rays(HEIGHT, WIDTH)[None])  # without the short cut
    assert (sampled - smooth).abs().mean() / (smooth.max() - smooth.min()) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_yaw_by_whole_columns_is_a_roll(dtype):
    noise = torch.rand(2, 1, 32, 64)
    for columns in (-40, -1, 1, 17, 32, 64):
        turn = rotation_matrix(columns * 360 / 64, dtype=dtype)
        assert (rotate(noise, turn) == noise.roll(-columns, -1)).all()
    turns = rotation_matrix(torch.tensor([2, -3]) * 360 / 64, dtype=dtype)
    assert_close(rotate(noise, turns), torch.cat((noise[:1].roll(-2, -1), noise[1:].roll(3, -1))), atol=0, rtol=0)


def test_the_short_cut_is_taken_for_nothing_else():
    noise = torch.rand(1, 3, 16, 32, dtype=torch.float64)
    for turn in (rotation_matrix(360 / 64), rotation_matrix(360 / 32, 1.0), rotation_matrix(0.0, 180.0, 180.0)):
        want = sample(noise, rotate_rays(erp_rays(16, 32, dtype=torch.float64), turn)[None])
        assert_close(rotate(noise, turn), want)


def test_vectors_turn_with_the_camera():
    rays = erp_rays(64, 128)
    turns = torch.stack((TURNS[1], rotation_matrix(90.0)))
    turned = rotate(some_vectors(rays).expand(2, -1, -1, -1), turns, "vectors")
    seen = some_vectors(rotate_rays(rays, turns))
    want = (turns.mT @ seen.flatten(2)).reshape(seen.shape)
    assert_close(turned, want, atol=2e-3, rtol=0)
    # To the camera turned right, a wall ahead of the panorama is on the left, and faces right.
    wall = torch.tensor([0.0, 0.0, -1.0])[None, :, None, None].expand(1, 3, 4, 8)
    assert_close(
        rotate(wall, rotation_matrix(90.0), "vectors")[0, :, 0, 0], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0
    )


def test_rotate_keeps_labels_and_depths():
    labels = torch.randint(0, 255, (2, 1, 32, 64), dtype=torch.uint8)
    turned = rotate(labels, TURNS[1:3], "label")
    assert turned.dtype == torch.uint8 and set(turned.unique().tolist()) <= set(labels.unique().tolist())
    assert_close(rotate(labels.float(), TURNS[1:3], "depth"), turned.float(), atol=0, rtol=0)


def test_rotate_differentiates_by_the_rotation(scene):
    erp = scene(erp_rays(16, 32, dtype=torch.float64))[None]

    def turned(yaw):
        return rotate(erp, rotation_matrix(yaw, 11.0, 5.0))[..., ::5, ::7]

    yaw = torch.tensor(23.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(turned, yaw)


def test_rotate_compiles_in_one_graph():
    noise = torch.rand(1, 3, 8, 16)
    compiled = torch.compile(rotate, fullgraph=True, backend="eager")
    assert_close(compiled(noise, TURNS[1]), rotate(noise, TURNS[1]))


# Cubemap


def test_faces_match_the_scene(scene, relative_error):
    faces = to_cubemap(scene(erp_rays(HEIGHT, WIDTH))[None], 128)
    mean, largest = relative_error(faces[0], scene(cube_rays(128)))
    assert mean <= 1e-5 and largest <= 1e-4


def test_cubemap_becomes_the_panorama_again(scene, relative_error):
    erp = scene(erp_rays(HEIGHT, WIDTH))[None]
    mean, largest = relative_error(from_cubemap(scene(cube_rays(256))[None], HEIGHT, WIDTH), erp)
    assert mean <= 1e-5 and largest <= 1e-4  # edges and corners of the cube included
    mean, largest = relative_error(from_cubemap(to_cubemap(erp, 256), HEIGHT, WIDTH), erp)
    assert mean <= 1e-5 and largest <= 1e-4


def test_cubemap_of_labels_vectors_and_gradients():
    labels = torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1, 1, 1).expand(2, 6, 1, 8, 8)
    erp = from_cubemap(labels, 32, 64, "label")
    assert erp.dtype == torch.uint8 and erp.shape == (2, 1, 32, 64)
    assert (to_cubemap(erp, 8, "label")[:, :, :, 1:-1, 1:-1] == labels[:, :, :, 1:-1, 1:-1]).all()
    vectors = some_vectors(erp_rays(64, 128))[None]
    again = from_cubemap(to_cubemap(vectors, 64, "vectors"), 64, 128, "vectors")
    assert_close(again, vectors, atol=5e-3, rtol=0)
    faces = torch.randn(1, 6, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: from_cubemap(f, 4, 8), faces)


# Perspective views


def test_views_match_the_scene(scene, relative_error):
    views = to_perspective(scene(erp_rays(HEIGHT, WIDTH))[None], TURNS, 96, 128, fov=90.0)
    mean, largest = relative_error(views[0], scene(perspective_rays(96, 128, fov=90.0, rotation=TURNS)))
    assert mean <= 1e-5 and largest <= 1e-4


def test_views_come_back_where_they_belong(scene, relative_error):
    rays = erp_rays(HEIGHT, WIDTH)
    views = scene(perspective_rays(512, 512, fov=90.0, rotation=TURNS))[None]
    maps, valid = from_perspective(views, TURNS, HEIGHT, WIDTH, fov=90.0)
    assert maps.shape == (1, 5, 3, HEIGHT, WIDTH) and valid.shape == (1, 5, HEIGHT, WIDTH)
    seen = rotate_rays(rays, TURNS.mT)
    inside = (seen[..., 2] > 0) & (seen[..., :2].abs().amax(-1) <= seen[..., 2])
    assert (valid[0] != inside).float().mean() < 1e-4  # rounding at the very border
    assert (maps.movedim(2, -1)[~valid] == 0).all()
    got, want = maps.movedim(2, -1)[valid], scene(rays).movedim(0, -1).expand(1, 5, -1, -1, -1)[valid]
    mean, largest = relative_error(got, want)
    assert mean <= 1e-5 and largest <= 1e-3  # the outer half pixel is extrapolated


def test_cameras_may_differ_by_view_and_by_panorama():
    erp = torch.rand(2, 3, 32, 64)
    turns = rotation_matrix(torch.tensor([[0.0, 50.0, 70.0], [10.0, -20.0, 99.0]]), torch.tensor([5.0, 30.0, -80.0]))
    fov = torch.tensor([80.0, 100.0, 120.0])
    views = to_perspective(erp, turns, 6, 8, fov=fov)
    back, valid = from_perspective(views, turns, 32, 64, fov=fov)
    for b in range(2):
        for v in range(3):
            alone = to_perspective(
                erp[b : b + 1], turns[b, v], 6, 8, intrinsics=intrinsics_from_fov(float(fov[v]), 6, 8)
            )
            assert_close(views[b : b + 1, v], alone[:, 0])
            map_alone, valid_alone = from_perspective(alone, turns[b, v], 32, 64, fov=fov[v])
            assert_close(back[b : b + 1, v], map_alone[:, 0], atol=1e-5, rtol=0)
            assert (valid[b, v] == valid_alone[0, 0]).float().mean() > 0.999


def test_many_views_are_cut_in_chunks(monkeypatch):
    erp = torch.rand(1, 1, 16, 32)
    want = to_perspective(erp, TURNS, 8, 8, fov=90.0)
    monkeypatch.setattr("mtpano_zoo.sphere.projection.CHUNK", 128)
    assert_close(to_perspective(erp, TURNS, 8, 8, fov=90.0), want)


@pytest.mark.parametrize("mode", ["image", "depth", "vectors"])
def test_views_fill_the_memory_that_is_given(mode):
    erp = torch.rand(2, 3, 16, 32)
    kept = torch.full((2, len(TURNS), 3, 8, 8), torch.nan)
    views = to_perspective(erp, TURNS, 8, 8, fov=90.0, mode=mode, out=kept)
    assert views is kept
    assert_close(views, to_perspective(erp, TURNS, 8, 8, fov=90.0, mode=mode), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["image", "label", "depth", "vectors"])
def test_a_batch_may_be_empty(mode):
    none = torch.zeros(0, 3, 16, 32)
    assert rotate(none, TURNS[1], mode).shape == rotate(none, TURNS[:0], mode).shape == none.shape
    assert sample(none, TURNS[None], mode).shape == (0, 3, 5, 3)
    faces = to_cubemap(none, 8, mode)
    assert faces.shape == (0, 6, 3, 8, 8) and from_cubemap(faces, 16, 32, mode).shape == none.shape
    views = to_perspective(none, TURNS, 8, 8, fov=90.0, mode=mode)
    assert views.shape == (0, 5, 3, 8, 8)
    assert from_perspective(views, TURNS, 16, 32, fov=90.0, mode=mode)[0].shape == (0, 5, 3, 16, 32)


@pytest.mark.parametrize(
    "kept", [torch.empty(1, 1, 3, 8, 9), torch.empty(1, 1, 3, 8, 8).half(), torch.empty(1, 1, 3, 8, 16)[..., ::2]]
)
def test_refuses_memory_that_does_not_fit(kept):
    with pytest.raises(ValueError, match="out must be contiguous"):
        to_perspective(torch.rand(1, 3, 16, 32), torch.eye(3), 8, 8, fov=90.0, out=kept)


def test_vectors_turn_into_the_view_and_back():
    vectors = some_vectors(erp_rays(64, 128))[None]
    views = to_perspective(vectors, TURNS, 48, 48, fov=90.0, mode="vectors")
    want = turn_vectors(some_vectors(perspective_rays(48, 48, fov=90.0, rotation=TURNS)), TURNS.mT)
    assert_close(views[0], want, atol=3e-3, rtol=0)
    back, valid = from_perspective(views, TURNS, 64, 128, fov=90.0, mode="vectors")
    error = (back - vectors[:, None]).norm(dim=2)
    assert error[valid].max() < 0.06 and error[valid].mean() < 3e-3
    assert (back.movedim(2, -1)[~valid] == 0).all()


def test_labels_of_views_come_back():
    labels = torch.randint(0, 9, (1, 1, 16, 32)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    views = to_perspective(labels, TURNS, 256, 256, fov=90.0, mode="label")
    assert views.dtype == torch.int64
    back, valid = from_perspective(views, TURNS, 128, 256, fov=90.0, mode="label")
    assert (back[:, :, 0] == labels)[valid].float().mean() > 0.95
    assert (back[:, :, 0][~valid] == 255).all()


def test_z_depth_of_a_wall_is_constant():
    rays = erp_rays(512, 1024)
    distance = (2.0 / rays[..., 2].clamp(min=0.05))[None, None]  # a wall 2 m ahead
    matrix = intrinsics_from_fov(90.0, 32, 48)
    view = to_perspective(distance, torch.eye(3), 32, 48, intrinsics=matrix, mode="depth")
    assert_close(distance_to_z(view, matrix), torch.full_like(view, 2.0), atol=0.02, rtol=0)
    corner = z_to_distance(torch.full((1, 1, 32, 48), 2.0), matrix[None])[0, 0, 0, 0]
    assert_close(corner, torch.tensor(2 * math.sqrt(1 + (23.5 / 24) ** 2 + (15.5 / 24) ** 2)))


def test_z_conversion_inverts_and_matches_leading_dimensions():
    z = torch.rand(2, 3, 1, 6, 8, dtype=torch.float64)
    z[..., 0, 0] = 0
    matrices = intrinsics_from_fov(torch.tensor([[60.0, 70.0, 80.0], [90.0, 100.0, 110.0]], dtype=torch.float64), 6, 8)
    distance = z_to_distance(z, matrices.double())
    assert_close(distance_to_z(distance, matrices.double()), z)
    assert_close(distance[1, 2], z_to_distance(z[1, 2], matrices[1, 2].double()))
    assert (distance[..., 0, 0] == 0).all()


def test_points_of_a_view_and_of_the_panorama_are_the_same():
    """Depth of a box, cut into a view and turned to z, gives points on the walls of that box."""
    rays = erp_rays(256, 512)
    distance = (torch.tensor([2.0, 1.5, 3.0]) / rays.abs()).amin(-1)[None, None]
    assert_close(depth_to_points(distance).abs().amax((2, 3))[0], torch.tensor([2.0, 1.5, 3.0]))
    matrix = intrinsics_from_fov(80.0, 64, 64)
    view = to_perspective(distance, TURNS[1], 64, 64, intrinsics=matrix, mode="depth")[:, 0]
    local = perspective_rays(64, 64, intrinsics=matrix, normalize=False) * distance_to_z(view, matrix)[0, 0, ..., None]
    reach = (rotate_rays(local, TURNS[1]).abs() / torch.tensor([2.0, 1.5, 3.0])).amax(-1)
    assert_close(reach, torch.ones(64, 64), atol=0.03, rtol=0)


def test_views_differentiate(scene):
    erp = torch.randn(1, 1, 4, 8, dtype=torch.float64, requires_grad=True)
    turns = TURNS[1:3].double()
    assert torch.autograd.gradcheck(lambda e: to_perspective(e, turns, 3, 4, fov=100.0), erp)
    smooth = scene(erp_rays(16, 32, dtype=torch.float64))[None]
    fov = torch.tensor([77.0, 90.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: to_perspective(smooth, turns, 3, 4, fov=f), fov)
    views = torch.randn(1, 2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: from_perspective(v, turns, 4, 8, fov=100.0)[0], views)


def test_icosahedron_views_cover_the_sphere():
    turns = icosahedron_rotations(dtype=torch.float64)
    axes = turns[:, :, 2]
    closest = (axes @ axes.mT - 2 * torch.eye(12)).amax(-1)
    assert_close(closest, torch.full((12,), 1 / math.sqrt(5), dtype=torch.float64))  # all neighbours equally far
    assert (turns[:, 1, 0].abs() < 1e-12).all()  # no view is tilted: its right axis is level
    _, valid = from_perspective(torch.ones(1, 12, 1, 8, 8), turns.float(), 64, 128, fov=90.0)
    assert valid.any(1).all()


# Other libraries, where their conventions allow


def corner_rays(size, turn):
    """The views of py360convert: the outermost pixels lie on the border of the field of view."""
    side = torch.linspace(-1, 1, size)
    rays = torch.stack((side.expand(size, size), side[:, None].expand(size, size), torch.ones(size, size)), -1)
    return rotate_rays(rays, turn)[None]


def test_views_and_faces_agree_with_py360convert(scene, relative_error):
    py360convert = pytest.importorskip("py360convert")
    erp = scene(erp_rays(HEIGHT, WIDTH))[None]
    image = erp[0].movedim(0, -1).contiguous().numpy()
    for yaw, pitch, roll in ((0.0, 0.0, 0.0), (30.0, 20.0, 0.0), (170.0, -60.0, 15.0), (0.0, 90.0, 0.0)):
        theirs = py360convert.e2p(image, 90, yaw, pitch, (129, 129), in_rot_deg=roll)
        ours = sample(erp, corner_rays(129, rotation_matrix(yaw, pitch, roll)))
        mean, largest = relative_error(torch.from_numpy(theirs).movedim(-1, 0), ours[0])
        assert mean < 1e-4 and largest < 5e-4  # they interpolate in steps of 1/32 pixel
    theirs = py360convert.e2c(image, face_w=64, cube_format="dict")
    for name, turn in zip("FRBL", (0.0, 90.0, 180.0, -90.0), strict=True):
        ours = sample(erp, corner_rays(64, rotation_matrix(turn)))
        assert relative_error(torch.from_numpy(theirs[name]).movedim(-1, 0), ours[0])[0] < 1e-4
    for name, turn in zip("UD", (90.0, -90.0), strict=True):
        ours = sample(erp, corner_rays(64, rotation_matrix(0.0, turn)))
        assert relative_error(torch.from_numpy(theirs[name]).movedim(-1, 0), ours[0])[0] < 1e-4


def half_a_pixel_on(rays):
    """pyequilib looks half a pixel further right and down than asked."""
    u, v = (rays_to_pixels(rays, HEIGHT, WIDTH) + 0.5).unbind(-1)
    longitude, latitude = ((u + 0.5) / WIDTH - 0.5) * 2 * math.pi, (0.5 - (v + 0.5) / HEIGHT) * math.pi
    return torch.stack((latitude.cos() * longitude.sin(), -latitude.sin(), latitude.cos() * longitude.cos()), -1)[None]


def test_panorama_and_views_agree_with_pyequilib(scene, relative_error):
    equilib = pytest.importorskip("equilib")
    erp = scene(erp_rays(HEIGHT, WIDTH))[None]
    theirs = equilib.equi2equi(erp[0].clone(), {"yaw": 0.0, "pitch": 0.0, "roll": 0.0})
    assert relative_error(theirs, sample(erp, half_a_pixel_on(erp_rays(HEIGHT, WIDTH)))[0])[0] < 1e-4
    for yaw, pitch, roll in ((30.0, 0.0, 0.0), (30.0, 20.0, 15.0), (-150.0, -50.0, 5.0)):
        # Their yaw and pitch run the other way; what remains is the width of a pixel of the view.
        angles = {"yaw": -math.radians(yaw), "pitch": -math.radians(pitch), "roll": math.radians(roll)}
        theirs = equilib.equi2pers(erp[0].clone(), angles, 129, 129, 90.0)
        rays = perspective_rays(129, 129, fov=90.0, rotation=rotation_matrix(yaw, pitch, roll))
        assert relative_error(theirs, sample(erp, half_a_pixel_on(rays))[0])[0] < 1.5e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rotate(torch.rand(3, 4, 8), torch.eye(3)), "expected a map"),
        (lambda: rotate(torch.rand(2, 3, 4, 8), torch.eye(3).expand(3, 3, 3)), "rotation"),
        (lambda: rotate(torch.rand(1, 2, 4, 8), torch.eye(3), "vectors"), "3 floating-point channels"),
        (lambda: rotate(torch.rand(1, 3, 4, 8), torch.eye(3), "rgb"), "unknown mode"),
        (lambda: to_cubemap(torch.rand(1, 3, 4, 8), 0), "at least 1 pixel"),
        (lambda: from_cubemap(torch.rand(1, 5, 3, 4, 4), 8, 16), "expected faces"),
        (lambda: to_perspective(torch.rand(3, 4, 8), torch.eye(3), 4, 4, fov=90.0), "expected a map"),
        (lambda: to_perspective(torch.rand(1, 3, 4, 8), torch.eye(3), 4, 4), "exactly one"),
        (lambda: to_perspective(torch.rand(1, 3, 4, 8), torch.eye(2), 4, 4, fov=90.0), "rotation must be"),
        (lambda: to_perspective(torch.rand(1, 3, 4, 8), TURNS[None].expand(2, -1, -1, -1), 4, 4, fov=90.0), "fit"),
        (lambda: to_perspective(torch.rand(1, 3, 4, 8), TURNS, 4, 4, fov=torch.ones(3)), "do not fit"),
        (lambda: to_perspective(torch.rand(1, 3, 4, 8), TURNS, 4, 4, intrinsics=torch.eye(2)), "intrinsics must be"),
        (lambda: from_perspective(torch.rand(1, 3, 4, 4), torch.eye(3), 8, 16, fov=90.0), "expected views"),
        (lambda: from_perspective(torch.rand(1, 2, 3, 4, 4), TURNS, 8, 16, fov=90.0), "2 views"),
        (lambda: z_to_distance(torch.rand(4, 4), torch.eye(3)[None]), "do not fit"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
