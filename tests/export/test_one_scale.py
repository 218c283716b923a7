import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from mtpano_zoo.export.one_scale import common_scales
from mtpano_zoo.export.poses import Pose
from mtpano_zoo.scenes import Room, render, sample_room
from mtpano_zoo.sphere import erp_rays, rotation_matrix


def pose_of(room: Room) -> Pose:
    """From the frame of the room, which is the world, to the camera."""
    rotation = rotation_matrix(yaw=float(np.degrees(room.yaw)), dtype=torch.float64).numpy()
    return Pose(rotation, -rotation @ room.camera)


def seen_from(room: Room, right: float, ahead: float, yaw: float) -> Room:
    return dataclasses.replace(room, camera=room.camera + np.array([right, 0.1, ahead]), yaw=yaw)


@pytest.mark.parametrize("index", [2, 3])
def test_scales_of_a_room_become_one(index: int) -> None:
    room = sample_room(0, "train", index)
    middle = (room.lower.min(0) + room.upper.max(0)) / 2 - room.camera
    rooms = [room, seen_from(room, *middle[[0, 2]] * 0.4, 1.0), seen_from(room, *middle[[0, 2]] * 0.8, -2.0)]
    wrong = (0.7, 1.3, 1.0)
    true = render(rooms, 64, 128)["depth"].numpy()
    depths = [depth * np.float32(factor) for depth, factor in zip(true, wrong, strict=True)]
    poses = [pose_of(room) for room in rooms]
    found = common_scales(depths, poses)
    assert np.abs(found * wrong - 1).max() < 0.01
    rays = erp_rays(64, 128).numpy()
    first, second = (
        pose.to_world((rays * (depth * scale)[..., None])[4:-4].reshape(-1, 3))
        for pose, depth, scale in zip(poses[:2], depths, found, strict=False)
    )
    gaps, _ = cKDTree(first).query(second)
    apart = np.linalg.norm(second - poses[1].to_world(np.zeros((1, 3))), axis=1)
    # The points of a grid are up to a few percent of their distance apart in any case: compare with the truth.
    exact, _ = cKDTree(poses[0].to_world((rays * true[0][..., None])[4:-4].reshape(-1, 3))).query(
        poses[1].to_world((rays * true[1][..., None])[4:-4].reshape(-1, 3))
    )
    assert abs(np.median(gaps / apart) - np.median(exact / apart)) < 0.005


def test_what_tells_no_scale_is_refused() -> None:
    rooms = [sample_room(0, "train", 2), sample_room(0, "train", 3)]
    depths = list(render(rooms, 32, 64)["depth"].numpy())
    with pytest.raises(ValueError, match="needs two panoramas or more, each with a pose, not 1"):
        common_scales(depths[:1], [pose_of(rooms[0])])
    with pytest.raises(
        ValueError, match="panorama 1 and panorama 2 are at the same place, so there is no scale to find"
    ):
        common_scales(depths, [pose_of(rooms[0])] * 2)
    away = pose_of(rooms[1])._replace(translation=np.array([500.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"surfaces of (here|there) agree with those of no other panorama"):
        common_scales(depths, [pose_of(rooms[0]), away], ["here", "there"])
    with pytest.raises(ValueError, match="agree with those of no other"):
        common_scales([depths[0], np.zeros_like(depths[0])], [pose_of(rooms[0]), pose_of(rooms[1])])
