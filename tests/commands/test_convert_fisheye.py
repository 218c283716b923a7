"""A room is rendered, shown to two lenses by an equidistant model that is written here again, and converted back."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import avg_pool2d

from mtpano_zoo.cli import main
from mtpano_zoo.commands.convert_fisheye import read_calibration
from mtpano_zoo.image_io import load_panorama
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.sphere import Lens, erp_rays, fisheye_points, from_fisheyes, rotation_matrix, sample

RADIUS, FOV = 150, 200
SIZE = (640, 320)
BACK = np.diag([-1.0, 1.0, -1.0])  # yaw by 180 degrees
ROLLED = BACK @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # and the camera's right side down
CENTRES = ((158.5, 161.0), (480.0, 158.0))
CALIBRATION = {
    "size": list(SIZE),
    "lenses": [
        {"centre": list(CENTRES[0]), "radius": RADIUS, "fov": FOV, "rotation": [0, 0, 0]},
        {"centre": list(CENTRES[1]), "radius": RADIUS, "fov": FOV, "rotation": [180, 0, 90]},
    ],
}


def rays_of(centre, rotation, size=SIZE, radius=RADIUS, fov=FOV):
    """Rays (height, width, 3) of an equidistant lens, and which pixels are in its circle."""
    u, v = np.meshgrid(np.arange(size[0]) - centre[0], np.arange(size[1]) - centre[1])
    angle = np.hypot(u, v) / radius * np.radians(fov / 2)
    around = np.arctan2(v, u)
    rays = np.stack((np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)), -1)
    return torch.from_numpy(rays @ rotation.T).float(), torch.from_numpy(np.hypot(u, v) <= radius)


def photographed(panorama):
    """Return what both lenses see of a panorama (3, H, W), in one image (3, 320, 640)."""
    image = torch.zeros(3, SIZE[1], SIZE[0])
    for centre, rotation in zip(CENTRES, (np.eye(3), ROLLED), strict=True):
        rays, inside = rays_of(centre, rotation)
        image = torch.where(inside, sample(panorama[None], rays[None])[0], image)
    return image


@pytest.fixture(scope="module")
def room():
    return avg_pool2d(render([sample_room(0, "test", 1)], 256, 512)["image"][0] * 255, 2)  # with less noise


@pytest.fixture
def calibration(tmp_path):
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(CALIBRATION))
    return path


def save(path, image):
    Image.fromarray(image.round().byte().permute(1, 2, 0).numpy()).save(path)
    return path


def test_a_room_comes_back(tmp_path, room, calibration, capsys):
    pair, out = save(tmp_path / "pair.png", photographed(room)), tmp_path / "pano.png"
    command = ["convert", "fisheye", str(pair), "--calibration", str(calibration), "--out", str(out)]
    assert main([*command, "--height", "128"]) == 0
    assert capsys.readouterr().out == f"The panorama is {out}\n"
    with Image.open(out) as image:
        found = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    assert found.shape == room.shape
    error = (found - room).abs().mean(0)
    assert error.mean() < 1.5  # of 255: bilinear twice
    # The seam of the panorama lies on the axis of one lens; the lenses meet at longitudes of 90 degrees.
    for columns in ([0, -1], range(60, 68), range(188, 196)):
        assert error[:, list(columns)].mean() < 3
    step = (found[..., 0] - found[..., -1]).abs().mean() - (room[..., 0] - room[..., -1]).abs().mean()
    assert step < 1
    assert load_panorama(out).seen is None
    assert main([*command, "--height", "128"]) == 1 and "already exists" in capsys.readouterr().err
    assert main([*command, "--height", "16", "--overwrite"]) == 0
    with Image.open(out) as image:
        assert image.size == (32, 16)


def test_a_smooth_panorama_comes_back_exactly_at_every_size(tmp_path, calibration):
    directions = erp_rays(256, 512).permute(2, 0, 1)
    lenses = read_calibration(calibration).lenses
    found, seen = from_fisheyes(photographed(directions), lenses, 64, 128)
    assert seen.all()
    error = torch.rad2deg((found - erp_rays(64, 128).permute(2, 0, 1)).norm(dim=0))
    assert error.max() < 0.5 and error.mean() < 0.1  # degrees, a fifth of a pixel; rims beside black pixels included


def test_lenses_that_only_touch_leave_no_dark_line():
    lenses = [Lens((centre, 63.5), 64.0, 180.0, rotation_matrix(yaw)) for centre, yaw in ((63.5, 0), (191.5, 180))]
    image = torch.zeros(1, 128, 256)
    for lens in lenses:
        image[:, rays_of(lens.centre, np.eye(3), (256, 128), lens.radius)[1]] = 200
    found, seen = from_fisheyes(image, lenses, 64, 128)
    assert seen.all() and found.min() > 199


def test_what_the_sensor_cuts_off_of_a_circle_is_not_seen():
    """The lower quarter of the circle is missing: 45 degrees below the axis, nothing was photographed."""
    lens = Lens((63.5, 63.5), 64.0, 180.0, torch.eye(3))
    rays, _ = rays_of(lens.centre, np.eye(3), (128, 96), lens.radius, lens.fov)
    found, seen = from_fisheyes(rays.permute(2, 0, 1), [lens], 64, 128)
    x, y, z = erp_rays(64, 128).unbind(-1)
    below = torch.rad2deg(torch.atan2(torch.hypot(x, y), z)) * y / torch.hypot(x, y)
    assert torch.equal(seen[z > 0.01], (below < 45)[z > 0.01]) and not seen[z < 0].any()
    directions = erp_rays(64, 128).permute(2, 0, 1)
    assert torch.rad2deg((found - directions).norm(dim=0))[seen & (z > 0.1)].max() < 1.5  # a pixel of the image


def test_points_follow_the_model(calibration):
    for lens, centre, rotation in zip(read_calibration(calibration).lenses, CENTRES, (np.eye(3), ROLLED), strict=True):
        rays, inside = rays_of(centre, rotation)
        points, angle = fisheye_points(rays, lens)
        u, v = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
        np.testing.assert_allclose(points.numpy()[inside], np.stack((u, v), -1)[inside], atol=1e-2)
        assert angle.numpy()[inside].max() <= np.radians(FOV / 2) + 1e-5


def test_what_no_lens_sees_has_no_value(tmp_path, room, calibration, capsys):
    narrow = {
        "size": [64, 32],
        "lenses": [CALIBRATION["lenses"][0] | {"centre": [15.5, 15.5], "radius": 15, "fov": 180}],
    }
    calibration.write_text(yaml.safe_dump(narrow))
    pair = save(tmp_path / "pair.png", torch.full((3, 64, 128), 200.0))  # twice as large as its calibration
    command = ["convert", "fisheye", str(pair), "--calibration", str(calibration)]
    assert main([*command, "--out", str(tmp_path / "a.png")]) == 0
    assert "no lens sees 50.0 % of the sphere" in capsys.readouterr().out
    seen = load_panorama(tmp_path / "a.png", force=True).seen
    height, width = seen.shape
    assert (height, width) == (64, 128)  # 180 degrees are 60 pixels, rounded to a multiple of 16
    assert seen[:, width // 4 : 3 * width // 4].all() and not seen[:, : width // 4].any()
    assert main([*command, "--out", str(tmp_path / "a.jpg")]) == 0
    assert load_panorama(tmp_path / "a.jpg", force=True).pixels[:, 2].max() < 10


@pytest.mark.parametrize(("change", "sentence"), [
    ({"size": [640]}, "size is 2 numbers"),
    ({"size": [0, 320]}, "size is the width and height"),
    ({"size": [640.5, 320]}, "size is the width and height"),
    ({"radius": 10**400}, "radius is 1 number"),
    ({"lenses": []}, "lenses is a list"),
    ({"lens": []}, "must have the keys `size` and `lenses`"),
    ({"lenses": [{"centre": [1, 1]}]}, "lens 1 must have the keys centre, radius, fov, rotation"),
    ({"radius": -3}, "lens 2: radius is a number of pixels above 0"),
    ({"radius": "wide"}, "lens 2: radius is 1 number"),
    ({"radius": float("nan")}, "lens 2: radius is 1 number"),
    ({"fov": 400}, "lens 2: fov is the field of view"),
    ({"rotation": 180}, "lens 2: rotation is 3 numbers"),
    ({"centre": [700, 10]}, "lens 2: centre 700, 10 is outside"),
])  # fmt: skip
def test_a_wrong_calibration_is_named_by_file_and_key(tmp_path, calibration, capsys, change, sentence):
    content = CALIBRATION | {"lenses": [dict(lens) for lens in CALIBRATION["lenses"]]}
    if set(change) <= {"size", "lenses", "lens"}:
        content |= change
    else:
        content["lenses"][1] |= change
    calibration.write_text(yaml.safe_dump(content))
    pair = save(tmp_path / "pair.png", torch.zeros(3, 320, 640))
    command = ["convert", "fisheye", str(pair), "--calibration", str(calibration), "--out", str(tmp_path / "a.png")]
    assert main(command) == 1 and not (tmp_path / "a.png").exists()
    said = capsys.readouterr().err
    assert f"{calibration}" in said and sentence in said and said.count("\n") == 1


def test_wrong_files_are_refused(tmp_path, calibration, capsys):
    square = save(tmp_path / "square.png", torch.zeros(3, 64, 64))
    out = str(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(square)
    before = square.read_bytes(), calibration.read_bytes()
    for image, yaml_file, target, sentence in (
        (square, calibration, out, "is 64 x 64 pixels, but its calibration is for 640 x 320"),
        (tmp_path / "none.png", calibration, out, "none.png does not exist"),
        (square, tmp_path / "none.yaml", out, "none.yaml does not exist"),
        (square, calibration, str(tmp_path / "a.gif"), "must end in one of"),
        (square, calibration, str(square), "square.png is an input of this command"),
        (square, calibration, str(tmp_path / "link.png"), "link.png is an input of this command"),
        (square, calibration, str(calibration), "camera.yaml is an input of this command"),
        (calibration, calibration, out, "camera.yaml is truncated or not an image"),
    ):
        command = ["convert", "fisheye", str(image), "--calibration", str(yaml_file), "--out", target]
        assert main([*command, "--overwrite"]) == 1
        assert sentence in capsys.readouterr().err
    assert (square.read_bytes(), calibration.read_bytes()) == before
