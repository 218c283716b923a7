import numpy as np
import pytest
from fake_files import png, write, write_zip

from mtpano_zoo.data.matterport3d_release import find_scans, open_scan, parse_cameras

SCAN, NAME = "1LXtFkjw3qL", "03a8325e3b054e3fad7e1e7091f9d283"

# The first lines of a real file, as its owner's users quote them: the upward camera, two neighbouring views.
CONF = f"""dataset matterport
n_images 2358
depth_directory undistorted_depth_images
color_directory undistorted_color_images

intrinsics_matrix 1076.45 0 631.116  0 1077.19 509.202  0 0 1
scan {NAME}_d0_0.png {NAME}_i0_0.jpg 0.90525 0.275848 0.323155 -2.99825 0.42464 -0.612795 -0.666455 -14.4532 \
0.0141878 0.740533 -0.67187 1.33124 0 0 0 1
scan {NAME}_d0_1.png {NAME}_i0_1.jpg 0.820534 -0.381542 -0.425615 -2.98374 -0.571596 -0.547236 -0.6114 -14.4543 \
0.000362848 0.744955 -0.667115 1.33115 0 0 0 1
"""


def test_cameras_of_a_real_file():
    cameras = parse_cameras(CONF.encode())[NAME]
    assert set(cameras) == {(0, 0), (0, 1)}
    for camera in cameras.values():
        assert np.allclose(camera.intrinsics, [[1076.45, 0, 631.116], [0, 1077.19, 509.202], [0, 0, 1]])
        right, down, forward = camera.rotation.T
        assert np.allclose(np.cross(right, down), forward, atol=1e-4)
        assert down[2] < -0.7 and forward[2] > 0.66  # the world's z axis points up, and camera 0 looks up
        assert abs(right[2]) < 0.02
    assert np.allclose(cameras[0, 0].position, [-2.99825, -14.4532, 1.33124])
    heading = [np.degrees(np.arctan2(*cameras[0, yaw].rotation[1::-1, 0])) for yaw in (0, 1)]
    assert heading[0] - heading[1] == pytest.approx(60, abs=0.1)  # the next view is to the right: clockwise from above


LINE = f"scan {NAME}_d1_0.png {NAME}_i1_0.jpg 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (CONF.replace("631.116", "wide"), "line 6 is not as documented"),
        (CONF.replace("631.116", "nan"), "line 6 is not"),
        (CONF.replace("1076.45", "0"), "line 6 is not"),
        (CONF.replace(" 0 0 0 1\nscan", " 0 0 0\nscan"), "line 7 is not"),
        (CONF.replace("0.90525", "1.90525"), "line 7 is not"),
        (CONF.replace("0.275848", "nan"), "line 7 is not"),
        (CONF.replace(f"{NAME}_d0_1.png", "room.png"), "line 8 is not"),
        (LINE, "line 1 is not"),
        ("dataset matterport\n", "it holds no camera"),
        ("", "it holds no camera"),
        ("\x00\xff\xfe", "it holds no camera"),
    ],
)
def test_damaged_cameras(content, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_cameras(content.encode("latin-1"))


def grey(value, size=4):
    return png(np.full((size, size), value, np.uint16))


def colour(size=4):
    return png(np.full((size, size, 3), 7, np.uint8))


def content():
    files = {f"matterport_skybox_images/{NAME}_skybox{i}_sami.jpg": colour() for i in range(6)}
    for axis, value in {"x": 32768, "y": 49152, "z": 61146}.items():
        files[f"undistorted_normal_images/{NAME}_d0_0_n{axis}.png"] = grey(value)
    files[f"undistorted_depth_images/{NAME}_d0_0.png"] = grey(6000)
    files[f"undistorted_camera_parameters/{SCAN}.conf"] = CONF.encode()
    files["matterport_skybox_images/notes.txt"] = b"not a face"
    return files


@pytest.fixture(params=["flat", "nested", "zips", "mixed"])
def folder(request, tmp_path):
    folder, files = tmp_path / "data" / SCAN, content()
    kinds = sorted({name.split("/")[0] for name in files})
    for i, kind in enumerate(kinds):
        part = {name: data for name, data in files.items() if name.startswith(f"{kind}/")}
        if request.param == "zips" or (request.param == "mixed" and i % 2):
            folder.mkdir(parents=True, exist_ok=True)
            write_zip(folder / f"{kind}.zip", {f"{SCAN}/{name}": data for name, data in part.items()})
        else:
            write(folder if request.param == "flat" else folder / SCAN, part)
    return folder


def test_files_wherever_they_lie(folder):
    assert find_scans(folder) == find_scans(folder.parent) == [folder]
    scan = open_scan(folder)
    assert scan.name == SCAN and scan.panoramas() == [NAME]
    assert set(scan.cameras()[NAME]) == {(0, 0), (0, 1)}
    assert np.array_equal(scan.faces(NAME), np.full((6, 4, 4, 3), 7))
    assert np.array_equal(scan.z_depth(NAME, 0, 0), np.full((4, 4), 1.5, np.float32))  # 0.25 mm
    # 32768 (1 + n) of (0, 0.5, 0.866) in x right, y up, z back.
    assert np.allclose(scan.normals(NAME, 0, 0), [0, -0.5, -np.sqrt(0.75)], atol=1e-4)


def test_normals_that_are_none(tmp_path):
    folder = tmp_path / SCAN
    write(folder, content() | {f"undistorted_normal_images/{NAME}_d0_0_n{a}.png": grey(0) for a in "xyz"})
    assert not open_scan(folder).normals(NAME, 0, 0).any()


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        (f"matterport_skybox_images/{NAME}_skybox2_sami.jpg", colour(5), "six squares of one size"),
        (f"matterport_skybox_images/{NAME}_skybox2_sami.jpg", b"no image", "skybox2.* cannot be used: .*not an image"),
        (f"undistorted_depth_images/{NAME}_d0_0.png", colour(), "d0_0.png cannot be used: .*16-bit grey"),
        (f"undistorted_normal_images/{NAME}_d0_0_ny.png", colour(), "ny.png cannot be used: .*16-bit grey"),
        (f"undistorted_normal_images/{NAME}_d0_0_nz.png", grey(0, 5), "differ in size"),
        (f"undistorted_camera_parameters/{SCAN}.conf", b"x", "conf cannot be used: it holds no camera"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, data, sentence):
    write(tmp_path / SCAN, content() | {name: data})
    scan = open_scan(tmp_path / SCAN)
    with pytest.raises(ValueError, match=sentence):
        scan.cameras(), scan.faces(NAME), scan.z_depth(NAME, 0, 0), scan.normals(NAME, 0, 0)


def test_buildings_are_found_where_the_script_puts_them(tmp_path):
    for scan in ("bbbbbbbbbbb", "aaaaaaaaaaa"):
        write(tmp_path / "v1" / "scans" / scan, content())
    write(tmp_path / "v1" / "tasks", {"readme.txt": b""})
    expected = [tmp_path / "v1" / "scans" / scan for scan in ("aaaaaaaaaaa", "bbbbbbbbbbb")]
    assert find_scans(tmp_path) == find_scans(tmp_path / "v1") == find_scans(tmp_path / "v1" / "scans") == expected


def test_a_root_without_buildings(tmp_path):
    write(tmp_path / "photos", {"a.jpg": b""})
    with pytest.raises(FileNotFoundError, match="holds no building of Matterport3D"):
        find_scans(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_scans(tmp_path / "nowhere")
