from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from mtpano_zoo.export.colmap import ColmapWriter, Scan, default_size
from mtpano_zoo.export.poses import Pose
from mtpano_zoo.image_io import decode_normals
from mtpano_zoo.scenes import render, sample_room

HEIGHT = 64
POSE = Pose(Rotation.from_euler("xyz", (0.3, 2.0, -0.2)).as_matrix(), np.array([1.0, -0.5, 2.0]))


@pytest.fixture(scope="module")
def scan() -> Scan:
    batch = render([sample_room(0, "train", 3)], HEIGHT, 2 * HEIGHT)
    image, normals = ((batch[key][0].permute(1, 2, 0).numpy()) for key in ("image", "normals"))
    sky = np.zeros((HEIGHT, 2 * HEIGHT), bool)
    sky[:5] = True
    return Scan("sub/room", (image * 255).round().astype(np.uint8), batch["depth"][0].numpy(), normals, sky, POSE)


def table(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]


def cameras(root: Path) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in table(root / "sparse/0/cameras.txt")}


def images(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
    """World-to-camera rotation, translation and camera of every image, by COLMAP's documentation."""
    found = {}
    for row in table(root / "sparse/0/images.txt"):
        w, x, y, z, *translation = map(float, row[1:8])
        found[row[9]] = Rotation.from_quat((x, y, z, w)).as_matrix(), np.array(translation), cameras(root)[row[8]]
    return found


def rays_of(camera: list[str]) -> np.ndarray:
    """The direction of every pixel by COLMAP's definition of its camera models, (0.5, 0.5) the first pixel's centre."""
    width, height, *numbers = map(float, camera[1:])
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    if camera[0] == "PINHOLE":
        fx, fy, cx, cy = numbers
        return np.stack(((x - cx) / fx, (y - cy) / fy, np.ones_like(x)), -1)
    assert camera[0] == "EQUIRECTANGULAR" and numbers == [width, height]
    theta, phi = 2 * np.pi * (x / width - 0.5), np.pi * (0.5 - y / height)
    return np.stack((np.cos(phi) * np.sin(theta), -np.sin(phi), np.cos(phi) * np.cos(theta)), -1)


def world_points(root: Path, name: str) -> np.ndarray:
    rotation, translation, camera = images(root)[name]
    depth = np.load(root / "depth" / f"{name.removesuffix('.png')}.npy")
    return (rays_of(camera) * depth[..., None] - translation) @ rotation


def written(scan: Scan, root: Path, **options: float) -> Path:
    writer = ColmapWriter(root, 1, **options)
    writer.write(scan)
    writer.finish()
    return root


def test_a_panorama_is_an_equirectangular_camera(scan: Scan, tmp_path: Path) -> None:
    root = written(scan, tmp_path, nadir=30.0)
    assert (root / "sparse/0/images.txt").read_text().splitlines()[2] == ""  # no key points
    points = world_points(root, "sub/room.png")
    floor = points[HEIGHT // 2 :].reshape(-1, 3)
    # In the frame of the room's camera, the floor lies at the height of the camera.
    level = (floor @ POSE.rotation.T + POSE.translation)[:, 1]
    assert np.isclose(level, 1.29517, atol=1e-3).sum() > 1000
    assert np.array_equal(np.asarray(Image.open(root / "images/sub/room.png")), scan.image)
    np.testing.assert_allclose(np.asarray(Image.open(root / "depth/sub/room.png")) / 1000, scan.depth, atol=5.1e-4)
    normals = decode_normals(np.asarray(Image.open(root / "normals/sub/room.png")))
    np.testing.assert_allclose(normals, scan.normals, atol=0.01)
    mask = np.asarray(Image.open(root / "masks/sub/room.png.png"))
    assert np.unique(mask).tolist() == [0, 255] and (mask == 0).all(1).sum() == round(HEIGHT * 30 / 180)
    assert np.array_equal(np.asarray(Image.open(root / "sky/sub/room.png")) == 255, scan.sky)


def test_the_cloud_covers_what_is_no_sky(scan: Scan, tmp_path: Path) -> None:
    root = written(scan, tmp_path)
    rows = np.array(table(root / "sparse/0/points3D.txt"), float)
    assert (rows[:, 0] == np.arange(1, len(rows) + 1)).all() and rows.shape[1] == 8
    points = world_points(root, "sub/room.png")
    distance, index = cKDTree(points.reshape(-1, 3)).query(rows[:, 1:4])
    assert distance.max() < 1e-4
    assert np.array_equal(scan.image.reshape(-1, 3)[index], rows[:, 4:7])
    assert index.min() >= 5 * 2 * HEIGHT  # below the sky
    assert len(rows) > 4000
    writer = ColmapWriter(tmp_path / "more", 100)  # a panorama's share of the points is a hundredth
    writer.write(scan)
    assert 300 < len(writer.points) < 1000


@pytest.mark.parametrize("views", [6, 12])
def test_points_of_the_views_are_those_of_the_panorama(scan: Scan, views: int, tmp_path: Path) -> None:
    root = written(scan, tmp_path, views=views, nadir=20.0)
    found = images(root)
    assert sorted(found) == [f"sub/room_{i:02d}.png" for i in range(views)]
    own = POSE.to_world(
        (rays_of(["EQUIRECTANGULAR", *map(str, (128, 64, 128, 64))]) * scan.depth[..., None]).reshape(-1, 3)
    )
    tree, seen = cKDTree(own), np.zeros(len(own), bool)
    for name, (rotation, translation, camera) in found.items():
        assert camera[:3] == ["PINHOLE", "40", "40"]  # 2 / pi of 64 rows
        points = world_points(root, name).reshape(-1, 3)
        distance, index = tree.query(points)
        reach = np.linalg.norm(points - POSE.to_world(np.zeros((1, 3))), axis=1)
        # The distance is that of the nearest pixel, whose centre is at most half a diagonal of a pixel away.
        assert (distance < reach * np.pi / HEIGHT * 0.71 + 1e-4).all()
        assert np.allclose(rotation @ POSE.to_world(np.zeros((1, 3)))[0] + translation, 0, atol=1e-6)
        seen[index] = True
        view = np.asarray(Image.open(root / "images" / name)).reshape(-1, 3).astype(float)
        assert np.median(np.abs(view - scan.image.reshape(-1, 3)[index])) <= 6
        normals = decode_normals(np.asarray(Image.open(root / "normals" / name))).reshape(-1, 3) @ rotation
        assert np.median(np.linalg.norm(normals - (scan.normals.reshape(-1, 3) @ POSE.rotation)[index], axis=1)) < 0.02
    assert seen.mean() > 0.5  # the rows at the poles are much denser than the views
    downwards = [np.asarray(Image.open(root / "masks" / f"{name}.png")) for name in found]
    assert sum((mask == 0).any() for mask in downwards) == {6: 1, 12: 6}[views]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"views": 7}, "views is 6 or 12, or left out for panoramas, not 7"),
        ({"size": 64}, "size is at least 2 pixels, and goes with views"),
        ({"views": 6, "size": 1}, "size is at least 2 pixels"),
        ({"views": 6, "size": 1_000_000}, "size is at most 6022 pixels, .* MTPANO_MAX_PIXELS allows, not 1000000"),
        ({"nadir": 180.0}, "nadir is an angle"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        ColmapWriter(tmp_path, 1, **options)


def test_a_scan_without_distances_is_refused(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sub/room has no pixel with a distance: depth is 0 everywhere; leave it out"):
        ColmapWriter(tmp_path, 1).write(scan._replace(depth=np.zeros_like(scan.depth)))
    assert default_size(512) == 326
