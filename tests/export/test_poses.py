from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mtpano_zoo.export.poses import Pose, quaternion, read_poses, rotation_of


def test_quaternions_are_those_of_scipy() -> None:
    turns = Rotation.concatenate([Rotation.random(50, rng=0), Rotation.from_euler("xyz", np.eye(3) * np.pi)])
    for turn in turns:
        matrix, known = turn.as_matrix(), np.roll(turn.as_quat(), 1)
        found = quaternion(matrix)
        assert min(np.abs(found - known).max(), np.abs(found + known).max()) < 1e-9
        assert found[0] > -1e-9
        np.testing.assert_allclose(rotation_of(3 * found), matrix, atol=1e-9)


def test_a_pose_turns_and_moves() -> None:
    rotation, view = Rotation.random(2, rng=1).as_matrix()
    pose = Pose(rotation, np.array([1.0, 2.0, 3.0]))
    world = np.random.default_rng(0).normal(size=(5, 3))
    camera = world @ rotation.T + pose.translation
    np.testing.assert_allclose(pose.to_world(camera), world, atol=1e-12)
    # What the view has at p is at (view p) for the panorama.
    np.testing.assert_allclose(pose.seen_by(view).to_world(camera @ view), world, atol=1e-12)


FILE = """# Image list with two lines of data per image
1 0.70710678 0 0.70710678 0 1 -2 3.5 1 sub/room one.jpg
10.5 20.5 -1 3 4 7

2 1 0 0 0 0 0 0 1 hall.png

"""


@pytest.mark.parametrize("without", ["", "10.5 20.5 -1 3 4 7\n"])
def test_the_file_of_colmap_is_read(without: str, tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text(FILE.replace(without, ""))
    poses = read_poses(tmp_path / "images.txt")
    assert list(poses) == ["sub/room one", "hall"]
    np.testing.assert_allclose(poses["sub/room one"].rotation @ (0, 0, 1), (1, 0, 0), atol=1e-7)
    assert poses["sub/room one"].translation.tolist() == [1, -2, 3.5]
    assert poses["hall"].rotation.tolist() == np.eye(3).tolist()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# nothing\n", "has no image; the line of one is IMAGE_ID QW"),
        ("1 1 0 0 0 0 0 a.jpg\n", "has the line '1 1 0 0 0 0 0 a.jpg', but the line of an image is IMAGE_ID"),
        ("1 1 0 0 O 0 0 0 1 a.jpg\n", "but the line of an image is"),
        ("1 0 0 0 0 0 0 0 1 a.jpg\n", "has a pose of a.jpg that is not finite, or a quaternion of length 0"),
        ("1 1 0 0 0 nan 0 0 1 a.jpg\n", "not finite"),
        ("1 1 0 0 0 0 0 0 1 a.jpg\n2 1 0 0 0 0 0 0 1 a.png\n", "two images named a: leave one out"),
    ],
)
def test_other_files_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_poses(tmp_path / "images.txt")
