"""Camera poses: rotations, positions, and the text file in which COLMAP keeps them.

Format: https://colmap.github.io/format.html
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.text_files import read_lines

__all__ = ("IDENTITY", "Pose", "quaternion", "read_poses", "rotation_of")

Float64 = NDArray[np.float64]
FIELDS = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"


class Pose(NamedTuple):
    """World to camera: a point X of the world is at `rotation` X + `translation`, x right, y down, z forward.

    Attributes:
        rotation: (3, 3).
        translation: (3,), metres.
    """

    rotation: Float64
    translation: Float64

    def to_world(self, points: NDArray[np.floating]) -> Float64:
        """Transform points (N, 3) from the frame of the camera to the frame of the world.

        Example:
            >>> Pose(np.eye(3), np.array([0.0, 0.0, 2.0])).to_world(np.zeros((1, 3))).tolist()
            [[0.0, 0.0, -2.0]]
        """
        moved: Float64 = (points - self.translation) @ self.rotation
        return moved

    def seen_by(self, rotation: Float64) -> "Pose":
        """Return the pose of a view at the same place whose camera is rotated by `rotation`, view to panorama."""
        return Pose(rotation.T @ self.rotation, rotation.T @ self.translation)


IDENTITY = Pose(np.eye(3), np.zeros(3))


def quaternion(rotation: Float64) -> Float64:
    """Return the unit quaternion (w, x, y, z) of a rotation (3, 3), w not negative.

    It is the eigenvector of the largest eigenvalue of a symmetric matrix (Bar-Itzhack, 2000), which has no special
    cases and tolerates rounding errors in the rotation.

    Example:
        >>> quaternion(np.diag([1.0, -1.0, -1.0])).round(6).tolist()  # half a turn about x
        [0.0, 1.0, 0.0, 0.0]
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    found: Float64 = np.linalg.eigh(symmetric)[1][:, -1]
    leading = found[0] if abs(found[0]) > 1e-12 else found[np.abs(found).argmax()]
    return (found if leading > 0 else -found) + 0.0


def rotation_of(quaternion: Float64) -> Float64:
    """Return the rotation (3, 3) of a quaternion (w, x, y, z) of any length but zero.

    Example:
        >>> rotation_of(np.array([1.0, 0.0, 0.0, 0.0])).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def read_poses(path: str | Path) -> dict[str, Pose]:
    """Read the poses in a COLMAP `images.txt`, by the name of the image without its suffix.

    An image has the line IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME. The line of its key points, which comes next in
    files that COLMAP wrote, may be missing.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not text, a line is malformed, or two images have the same name.
    """
    path = Path(path)
    poses: dict[str, Pose] = {}
    for line in map(str.strip, read_lines(path)):
        words = line.split(maxsplit=9)
        if not line or line.startswith("#") or _is_key_points(line):
            continue
        try:
            numbers = np.array([float(word) for word in words[1:8]])
            name = words[9]
        except (ValueError, IndexError) as error:
            raise InputError(f"{path} has the line {line[:80]!r}, but the line of an image is {FIELDS}") from error
        if not np.isfinite(numbers).all() or np.linalg.norm(numbers[:4]) < 1e-6:
            raise InputError(f"{path} has a pose of {name} that is not finite, or a quaternion of length 0")
        stem = name.removesuffix(Path(name).suffix)
        if stem in poses:
            raise InputError(f"{path} has two images named {stem}: leave one out")
        poses[stem] = Pose(rotation_of(numbers[:4]), numbers[4:])
    if not poses:
        raise InputError(f"{path} has no image; the line of one is {FIELDS}")
    return poses


def _is_key_points(line: str) -> bool:
    """Return whether a line consists of X Y POINT3D_ID, repeated; the line of an image ends in a name."""
    words = line.split()
    try:
        return len(words) % 3 == 0 and bool(np.asarray(words, np.float64).size)
    except ValueError:
        return False
