import multiprocessing
import re

import fake_matterport3d as fake
import numpy as np
import pytest
import torch
from fake_files import room_maps, write, write_zip
from ray_caster import rays, reference

from mtpano_zoo import sphere
from mtpano_zoo.data import matterport3d_prepare
from mtpano_zoo.data.matterport3d import Matterport3DDataModule
from mtpano_zoo.data.matterport3d_prepare import View, fuse_views, prepare, stitch_skybox
from mtpano_zoo.errors import InputError
from mtpano_zoo.machine import workers
from mtpano_zoo.scenes import sample_room

H, W = 32, 64
TEST, TRAIN = "2t7WUuJeko7", "17DRP5sb8fy"
FIRST, SECOND = fake.PANORAMAS[TEST]

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no")


@pytest.fixture(scope="module")
def releases():
    return {scan: fake.release(scan) for scan in (TEST, TRAIN)}


@pytest.fixture
def raw(tmp_path, releases):
    """The release, unpacked where it lies: the id of the building twice."""
    for scan, content in releases.items():
        write(tmp_path / "raw" / "v1" / "scans" / scan / scan, content)
    return tmp_path / "raw"


def zipped(folder, scan, content):
    (folder / scan).mkdir(parents=True)
    for kind in {name.split("/")[0] for name in content}:
        members = {f"{scan}/{name}": data for name, data in content.items() if name.startswith(f"{kind}/")}
        write_zip(folder / scan / f"{kind}.zip", members)


def samples(out, split="test"):
    return Matterport3DDataModule(out, height=H, width=W, max_depth=50.0).dataset(split)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inside_views(directions, margin):
    """Whether directions (N, 3) fall into a view, `margin` pixels from its borders and its holes."""
    intrinsics, poses = fake.views()
    found = np.zeros(len(directions), bool)
    for (camera, _), (axes, _) in poses.items():
        fx, cx, fy, cy = intrinsics[camera]
        x, y, z = (directions @ axes).T
        ahead = z > 0.1
        u, v = (np.where(ahead, f * side / np.where(ahead, z, 1) + c, -99) for f, side, c in ((fx, x, cx), (fy, y, cy)))
        low, right, bottom = -0.5 + margin, fake.COLUMNS - 0.5 - margin, fake.ROWS - 0.5 - margin
        hole = (u < 19.5 + margin) & (v < 23.5 + margin)
        found |= ahead & (u > low) & (u < right) & (v > low) & (v < bottom) & ~hole
    return found


def bundle(directions, radius, count=60):
    """Rays (count, N, 3) spread over discs of some radii (N,) in radians around directions (N, 3)."""
    across = np.cross(directions, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    down = np.cross(directions, across)
    k = np.arange(count)
    r, angle = np.sqrt(k / (count - 1))[:, None] * radius, k[:, None] * 2.39996  # a sunflower
    spread = directions + (r * np.cos(angle))[..., None] * across + (r * np.sin(angle))[..., None] * down
    return spread / np.linalg.norm(spread, axis=-1, keepdims=True)


def test_panoramas_are_the_rooms(raw, tmp_path):
    done = prepare(raw, tmp_path / "out", H, W)
    assert done == (3, 0, [])
    for i, number in enumerate(fake.PANORAMAS[TEST].values()):
        sample, room = samples(tmp_path / "out")[i], sample_room(0, "test", number)
        fine = room_maps(number, 8 * H, 8 * W)["image"].reshape(H, 8, W, 8, 3).mean((1, 3))
        error = np.abs(sample["image"].permute(1, 2, 0).numpy() * 255 - fine)
        assert error.mean() < 2.5 and error.max() < 40

        rows, columns = np.mgrid[:H, :W]
        directions = rays(rows.ravel(), columns.ravel(), H, W)
        depth, normals = sample["depth"].numpy().ravel(), sample["normals"].permute(1, 2, 0).numpy().reshape(-1, 3)
        measured = depth > 0
        assert ((normals != 0).any(-1) == measured).all()
        clear = inside_views(directions, 2)  # the views do not stand in the centre
        assert measured[clear].all() and clear.mean() > 0.6
        assert not measured[(0.5 - (rows.ravel() + 0.5) / H) * 180 > 75].any()
        assert not measured[(0.5 - (rows.ravel() + 0.5) / H) * 180 < -75].any()

        # A pixel may take a measurement within three quarters of a view's pixel, or within itself at a view's border.
        radius = np.where(clear, 0.75 / 67.25, 4 * np.pi / W)[measured]
        spread = bundle(directions[measured], radius)
        _, distance, towards = reference(room, spread.reshape(-1, 3))
        distance, towards = distance.reshape(spread.shape[:2]), towards.reshape(spread.shape)
        slack = 0.01 * depth[measured]
        assert (depth[measured] > distance.min(0) - slack).all() and (depth[measured] < distance.max(0) + slack).all()
        facing = (towards * normals[measured]).sum(-1).max(0)
        assert np.degrees(np.arccos(np.clip(facing, -1, 1))).max() < 3

        _, exact, upright = reference(room, directions[measured])
        assert np.median(np.abs(depth[measured] - exact)) < 0.01
        angle = np.degrees(np.arccos(np.clip((normals[measured] * upright).sum(-1), -1, 1)))
        assert np.median(angle) < 0.5 and (angle < 1).mean() > 0.95


def test_a_panorama_without_views_is_an_image(raw, tmp_path):
    prepare(raw, tmp_path / "out", H, W)
    assert set(samples(tmp_path / "out", "train")[0]) == {"image", "id"}


def test_tree_zips_and_workers_give_the_same(raw, tmp_path, releases, monkeypatch):
    # A fresh process needs seconds to import torch.
    monkeypatch.setattr(workers, "get_context", lambda _: multiprocessing.get_context("fork"))
    for scan, content in releases.items():
        zipped(tmp_path / "zips", scan, content)
    prepare(raw, tmp_path / "a", H, W)
    said = []
    assert prepare(tmp_path / "zips", tmp_path / "b", H, W, workers=2, report=said.append) == (3, 0, [])
    assert sorted(said) == [f"{TRAIN}: 1 panoramas written, 0 were there", f"{TEST}: 2 panoramas written, 0 were there"]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_normals_may_come_later(raw, tmp_path):
    folder = raw / "v1" / "scans" / TEST / TEST / "undistorted_normal_images"
    folder.rename(tmp_path / "later")
    prepare(raw, tmp_path / "out", H, W)
    assert set(samples(tmp_path / "out")[0]) == {"image", "depth", "id"}
    (tmp_path / "later").rename(folder)
    assert prepare(raw, tmp_path / "out", H, W) == (2, 1, [])
    assert "normals" in samples(tmp_path / "out")[0]


def test_an_interrupted_call_goes_on(raw, tmp_path, monkeypatch):
    prepare(raw, tmp_path / "whole", H, W)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(matterport3d_prepare, "_encode_jpeg", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(raw, tmp_path / "out", H, W)
    assert not list((tmp_path / "out").rglob("*.jpg"))
    assert prepare(raw, tmp_path / "out", H, W) == (3, 0, [])
    assert prepare(raw, tmp_path / "out", H, W) == (0, 3, [])
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (f"matterport_skybox_images/{FIRST}_skybox3_sami.jpg", f"{TEST} has no .*skybox3"),
        (f"undistorted_depth_images/{FIRST}_d2_5.png", f"{TEST} has no .*d2_5.png"),
        (f"undistorted_normal_images/{FIRST}_d0_0_ny.png", f"{TEST} has no .*_ny.png"),
    ],
)
def test_a_missing_file_costs_its_panorama(raw, tmp_path, file, sentence):
    (raw / "v1" / "scans" / TEST / TEST / file).unlink()
    done = prepare(raw, tmp_path / "out", H, W)
    assert done[:2] == (2, 0) and len(done.failures) == 1
    assert re.match(f"{TEST}: 1 of 2 panoramas are left out: .*{sentence}", done.failures[0])


def test_a_truncated_file_is_named(raw, tmp_path):
    path = raw / "v1" / "scans" / TEST / TEST / "undistorted_depth_images" / f"{SECOND}_d1_3.png"
    path.write_bytes(path.read_bytes()[:200])
    done = prepare(raw, tmp_path / "out", H, W)
    assert done.written == 2
    assert f"{path} cannot be used: it is truncated or not an image" in done.failures[0]


def test_a_damaged_building_costs_no_other(tmp_path, releases):
    for scan, content in releases.items():
        zipped(tmp_path / "zips", scan, content)
    archive = tmp_path / "zips" / TEST / "undistorted_depth_images.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    done = prepare(tmp_path / "zips", tmp_path / "out", H, W)
    assert done.written == 1
    assert len(done.failures) == 1 and done.failures[0].startswith(f"{TEST} is left out: {archive} is not a complete")


def test_a_building_whose_name_cannot_name_files_costs_no_other(tmp_path, releases):
    write(tmp_path / "raw" / TRAIN, releases[TRAIN])
    copied = {name.replace(f"{TEST}.conf", "C:copy.conf"): data for name, data in releases[TEST].items()}
    write(tmp_path / "raw" / "C:copy", copied)
    done = prepare(tmp_path / "raw", tmp_path / "out", H, W)
    assert done.written == 1 and len(done.failures) == 1
    assert re.match("C:copy: 2 of 2 panoramas are left out: The id '.*' cannot name a file", done.failures[0])
    assert not [path for path in (tmp_path / "out").rglob("*") if "copy" in path.name]


def test_a_building_is_called_after_its_folder_however_that_is_given(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(raw / "v1" / "scans" / TEST / TEST / "matterport_skybox_images")
    assert prepare("..", tmp_path / "out", H, W) == (2, 0, [])
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.jpg")} == {TEST}


def test_depth_without_cameras_is_refused(raw, tmp_path):
    (raw / "v1" / "scans" / TEST / TEST / "undistorted_camera_parameters" / f"{TEST}.conf").unlink()
    done = prepare(raw, tmp_path / "out", H, W)
    assert done.written == 1 and f"{TEST}.conf" in done.failures[0]


def test_level_views_are_needed(raw, tmp_path):
    path = raw / "v1" / "scans" / TEST / TEST / "undistorted_camera_parameters" / f"{TEST}.conf"
    path.write_text("".join(line for line in path.open() if f"{FIRST}_d1_2" not in line))
    done = prepare(raw, tmp_path / "out", H, W)
    assert done.written == 2 and f"lacks the level views [2] of {FIRST}" in done.failures[0]


@pytest.mark.parametrize("size", [(33, 66), (32, 32), (6, 12), (2048, 4096)])
def test_sizes_that_cannot_be(raw, tmp_path, size):
    with pytest.raises(ValueError, match="even number from 8 to 1024"):
        prepare(raw, tmp_path / "out", *size)


def test_another_folder_is_left_alone(raw, tmp_path):
    prepare(raw, tmp_path / "out", H, W)
    with pytest.raises(InputError, match="no panoramas of this size, see"):
        prepare(raw, tmp_path / "out", 2 * H, 2 * W)
    with pytest.raises(InputError, match="exists and holds no panoramas"):
        prepare(raw, raw, H, W)


def test_faces_lie_where_they_belong():
    # Up and down are halved: what touches the left face is the bottom of up and the top of down.
    faces = [np.full((16, 16, 3), 10 * i, np.uint8) for i in range(6)]
    faces[0][8:], faces[5][:8] = 200, 250
    panorama = stitch_skybox(faces, 64, 128)[..., 0]
    assert panorama[32, [4, 32, 64, 96, 124]].tolist() == [40, 10, 20, 30, 40]
    assert panorama[6, [32, 96]].tolist() == [200, 0] and panorama[57, [32, 96]].tolist() == [250, 50]


def wall_view(z_of_wall, position, yaw=0.0, size=64, mask=None):
    """A view of a wall across the direction of the panorama's centre, from a place beside the centre."""
    rotation = sphere.rotation_matrix(yaw)
    intrinsics = sphere.intrinsics_from_fov(60.0, size, size)
    forward = sphere.perspective_rays(size, size, intrinsics=intrinsics, rotation=rotation, normalize=False)[..., 2]
    z = (z_of_wall - position[2]) / forward
    z = torch.where(mask, z, 0) if mask is not None else z
    return View(z, None, intrinsics, rotation, torch.tensor(position))


def exact_wall(z_of_wall):
    return z_of_wall / sphere.erp_rays(16, 32)[..., 2].numpy()


@pytest.mark.parametrize("position", [(0.0, 0.0, 0.0), (0.1, -0.05, 0.08), (-0.2, 0.1, -0.1)])
def test_a_wall_is_where_it_is_from_wherever_it_is_seen(position):
    depth, normals = fuse_views([wall_view(2.0, position, yaw) for yaw in (0.0, 30.0)], 16, 32)
    seen = depth > 0
    assert seen[7:9, 14:20].all() and not normals.any()
    error = np.abs(depth / exact_wall(2.0) - 1)
    assert error[6:10, 14:18].max() < 0.006
    assert error[seen].max() < 0.15  # at the borders of views up to half a pixel, which has 11 degrees, away


def test_what_stands_in_front_hides_what_is_behind():
    columns = torch.arange(64).expand(64, 64)
    near, far = (wall_view(z, (0.0, 0.0, 0.0)) for z in (1.0, 3.0))
    left = wall_view(1.0, (0.0, 0.0, 0.0), mask=columns < 32)
    for views in ([near, far], [far, near]):
        depth, _ = fuse_views(views, 16, 32)
        assert np.abs(depth / exact_wall(1.0) - 1)[6:10, 14:18].max() < 0.005
    depth, _ = fuse_views([left, far], 16, 32)
    assert np.abs(depth / exact_wall(1.0) - 1)[7:9, 14:16].max() < 0.005
    assert np.abs(depth / exact_wall(3.0) - 1)[7:9, 16:18].max() < 0.005


def test_no_views_no_depth():
    depth, normals = fuse_views([], 8, 16)
    assert depth.shape == (8, 16) and normals.shape == (8, 16, 3) and not depth.any() and not normals.any()
