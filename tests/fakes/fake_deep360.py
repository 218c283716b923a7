"""Deep360 in miniature: rooms, with a sky, seen in Cassini projection along rays of their own."""

import io

import numpy as np
from fake_files import made_once, png
from ray_caster import reference

from mtpano_zoo.scenes import sample_room

FRAMES = {
    "ep1_500frames/training/{}/000012": 0,
    "ep6_500frames/training/{}/016758": 1,
    "ep1_500frames/validation/{}/002004": 2,
    "ep1_500frames/testing/{}/002505": 3,
    "ep2_500frames/testing/{}/002505": 4,
}
WIDTH = 32  # of the Cassini image, the height of the panorama
SKY = 1000.0


def cassini_rays(width=WIDTH):
    """Unit rays (2 W, W, 3) through the pixel centres: x right, y down, z forward."""
    lateral = ((np.arange(width) + 0.5) / width - 0.5) * np.pi
    around = (0.5 - (np.arange(2 * width)[:, None] + 0.5) / (2 * width)) * 2 * np.pi  # from behind over the zenith
    up, forward = np.cos(lateral) * np.sin(around), np.cos(lateral) * np.cos(around)
    return np.stack((np.broadcast_to(np.sin(lateral), up.shape), -up, forward), -1)


def colours(rays):
    """A colour for every direction."""
    return np.rint(127.5 + 120 * rays).astype(np.uint8)


def seen(number, rays):
    """Image and depth along rays (H, W, 3)."""
    room = sample_room(0, "test", number)
    depth = reference(room, rays.reshape(-1, 3))[1].reshape(rays.shape[:2])
    return {"image": colours(rays), "depth": np.where(rays[..., 1] < -0.9, SKY, depth).astype(np.float32)}


@made_once
def ground_truth(number, limit=100.0):
    """What a reader must give: the colours of the panorama's rays, and the depth of the Cassini pixels around them."""
    height = WIDTH
    longitude = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * np.pi
    latitude = (0.5 - (np.arange(height)[:, None] + 0.5) / height) * np.pi
    right, up = np.cos(latitude) * np.sin(longitude), np.sin(latitude) * np.ones_like(longitude)
    forward = np.cos(latitude) * np.cos(longitude)
    rays = np.stack((right, -up, forward), -1)
    column = np.floor((np.arcsin(right) / (np.pi / 2) + 1) / 2 * WIDTH).astype(int)
    row = np.floor((1 - np.arctan2(up, forward) / np.pi) / 2 * 2 * WIDTH).astype(int)
    depth = stored_depth(number)[row, column]
    return {"image": colours(rays), "depth": np.where(depth < limit, depth, 0)}


def stored_depth(number):
    depth = seen(number, cassini_rays())["depth"]
    depth[20, 10:12] = 0
    return depth


def npz(array, name="arr_0"):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: array})
    return buffer.getvalue()


@made_once
def files(prefix="Deep360/"):
    """Contents by name."""
    content = {"README.txt": b""}
    for stem, number in FRAMES.items():
        image, depth = seen(number, cassini_rays())["image"], stored_depth(number)
        for pair in ("12", "13", "14", "23", "24", "34"):
            for camera in (1, 2):
                pixels = image if (pair, camera) == ("12", 1) else image[::-1]
                content[f"{stem.format('rgb')}_{pair}_rgb{camera}.png"] = png(pixels)
                content[f"{stem.format('rgb_soiled')}_{pair}_rgb{camera}.png"] = png(pixels // 2)
            content[f"{stem.format('disp')}_{pair}_disp.npz"] = npz(1 / depth.clip(1))
        content[f"{stem.format('depth')}_depth.npz"] = npz(depth.astype(np.float64) if number == 1 else depth)
    return {prefix + name: data for name, data in content.items()}
