"""Matterport3D in miniature: rooms in the release's skybox faces, tilted views and cameras, and in MTPano's layout."""

import dataclasses
import io

import numpy as np
from fake_files import made_once, png, room_maps
from PIL import Image
from ray_caster import reference, turned

from mtpano_zoo.scenes import sample_room

# Rooms of few pieces: the ray caster looks at every ray and every piece. The third has no views.
PANORAMAS = {
    "2t7WUuJeko7": {"0a" * 16: 2, "1b" * 16: 3},
    "17DRP5sb8fy": {"2c" * 16: 1},
    "1LXtFkjw3qL": {"4e" * 16: 4},
    "zsNo4HB9uLZ": {"3d" * 16: 0},
}
WITHOUT_VIEWS = "2c" * 16
FACE, ROWS, COLUMNS = 64, 64, 80  # a sixteenth of the release

# Class ids of the S3DIS classes: ceiling, floor, wall, beam, column, window, door, table, chair, sofa, bookcase, board,
# clutter.
IDS = {
    "nyu40": np.array([22, 2, 1, 38, 38, 9, 8, 7, 5, 6, 10, 30, 40], np.uint8),
    "mpcat40": np.array([17, 2, 1, 29, 24, 9, 4, 5, 3, 10, 31, 35, 39], np.uint8),
}


def camera_axes(yaw, pitch, roll=0.0):
    """Directions right, down and forward, as columns, of a camera turned by angles in degrees."""
    yaw, pitch, roll = np.radians((yaw, pitch, roll))
    forward = np.array([np.cos(pitch) * np.sin(yaw), -np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
    level = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    right = np.cos(roll) * level + np.sin(roll) * np.cross(forward, level)
    return np.stack((right, np.cross(forward, right), forward), axis=1)


def jpeg(array):
    """Encode with as little loss as JPEG allows."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


# --- The release ---------------------------------------------------------------------------------------------------


def faces(number):
    """Six faces (FACE, FACE, 3): up, left, centre, right, back, down; up and down are seen by one who faces left."""
    image = room_maps(number, 256, 512)["image"].astype(np.float64)
    side = (np.arange(FACE) + 0.5) / FACE * 2 - 1
    x, y = np.meshgrid(side, side)
    plane = np.stack((x, y, np.ones_like(x)), axis=-1)
    views = ((-90, 90), (-90, 0), (0, 0), (90, 0), (180, 0), (-90, -90))
    return [np.rint(_look_up(image, plane @ camera_axes(*view).T)).astype(np.uint8) for view in views]


def _look_up(image, rays):
    """Colours between the pixels of a panorama (H, W, 3)."""
    height, width = image.shape[:2]
    x, y, z = np.moveaxis(rays, -1, 0)
    u = np.arctan2(x, z) / (2 * np.pi) * width + width / 2 - 0.5
    v = np.arctan2(y, np.hypot(x, z)) / np.pi * height + height / 2 - 0.5
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    across, down = (u - left)[..., None], (v - top)[..., None]
    above, below = (np.clip(row, 0, height - 1) for row in (top, top + 1))
    here, there = left % width, (left + 1) % width
    upper = image[above, here] * (1 - across) + image[above, there] * across
    return upper * (1 - down) + (image[below, here] * (1 - across) + image[below, there] * across) * down


def views():
    """Intrinsics by camera, and (camera, yaw) -> axes and position, in the frame of the panorama."""
    intrinsics, poses = {}, {}
    for camera, (fx, cx, fy, cy, pitch, outward, down) in enumerate(
        (
            (1076.45, 631.116, 1077.19, 509.202, 42, 0.0150, 0.033),
            (1076.01, 635.509, 1076.38, 511.999, 0, 0.0035, 0.0),
            (1074.61, 630.692, 1074.93, 523.124, -42, 0.0150, -0.033),
        )
    ):
        intrinsics[camera] = (fx / 16, (cx + 0.5) / 16 - 0.5, fy / 16, (cy + 0.5) / 16 - 0.5)
        for k in range(6):
            yaw = 60 * k - 30
            exact = (camera, k) == (1, 2)  # by which the panorama is levelled
            tilt, roll = (0.0, 0.0) if exact else (0.4 * np.cos(k), 0.7 * np.sin(k + camera))
            position = outward * camera_axes(yaw, 0)[:, 2] + [0, down, 0]
            poses[camera, k] = camera_axes(yaw, pitch + tilt, roll), position
    return intrinsics, poses


def render_view(room, intrinsics, axes, position):
    """z-depth (ROWS, COLUMNS) in metres and normals in the frame x right, y up, z back."""
    fx, cx, fy, cy = intrinsics
    u, v = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS))
    rays = np.stack(((u - cx) / fx, (v - cy) / fy, np.ones_like(u)), axis=-1).reshape(-1, 3) @ axes.T
    length = np.linalg.norm(rays, axis=-1)
    moved = dataclasses.replace(room, camera=room.camera + turned(position, -room.yaw))
    _, distance, normals = reference(moved, rays / length[:, None])
    return (distance / length).reshape(ROWS, COLUMNS), (normals @ axes * [1, -1, -1]).reshape(ROWS, COLUMNS, 3)


def holes():
    """Where no view measured anything."""
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[:24, :20] = True
    return mask


@made_once
def release(scan, normals=True):
    """Contents by name, below the folder of a building, as its zip files hold them."""
    content, cameras, (intrinsics, poses) = {}, {}, views()
    tilt = np.array([[1, 0, 0], [0, np.cos(0.014), -np.sin(0.014)], [0, np.sin(0.014), np.cos(0.014)]])
    for order, (panorama, number) in enumerate(PANORAMAS[scan].items()):
        for i, face in enumerate(faces(number)):
            content[f"matterport_skybox_images/{panorama}_skybox{i}_sami.jpg"] = jpeg(face)
        if panorama == WITHOUT_VIEWS:
            continue
        angle, room = 0.9 + order, sample_room(0, "test", number)
        # Right, down and forward of the panorama in the world, whose z axis points up.
        world = np.array([[np.cos(angle), 0, -np.sin(angle)], [np.sin(angle), 0, np.cos(angle)], [0, -1, 0]])
        world = tilt @ world
        for (camera, k), (axes, position) in poses.items():
            pose = np.eye(4)
            pose[:3, :3] = world @ axes * [1, -1, -1]
            pose[:3, 3] = world @ position + [-2.99, -14.46 + order, 1.36]
            stem = f"{panorama}_d{camera}_{k}"
            numbers = " ".join(f"{value:.6g}" for value in pose.ravel())
            cameras.setdefault((order, camera), []).append(f"scan {stem}.png {panorama}_i{camera}_{k}.jpg {numbers}")
            z, vectors = render_view(room, intrinsics[camera], axes, position)
            z[holes()], vectors[holes()] = 0, -1
            content[f"undistorted_depth_images/{stem}.png"] = png(np.rint(z * 4000).astype(np.uint16))
            if not normals:
                continue
            stored = np.clip(np.rint(32768 * (1 + vectors)), 0, 65535).astype(np.uint16)
            for axis, component in zip("xyz", np.moveaxis(stored, -1, 0), strict=True):
                content[f"undistorted_normal_images/{stem}_n{axis}.png"] = png(np.ascontiguousarray(component))
            content[f"undistorted_normal_images/{stem}_radius.png"] = png(np.zeros((8, 8), np.uint16))
    lines = ["dataset matterport", f"n_images {6 * len(cameras)}", "depth_directory undistorted_depth_images"]
    lines.append("color_directory undistorted_color_images")
    for (_, camera), scans in cameras.items():
        fx, cx, fy, cy = intrinsics[camera]
        lines += ["", f"intrinsics_matrix {fx:.6g} 0 {cx:.6g}  0 {fy:.6g} {cy:.6g}  0 0 1", *scans]
    if cameras:
        content[f"undistorted_camera_parameters/{scan}.conf"] = "\n".join([*lines, ""]).encode()
    return content


# --- The layout of MTPano ------------------------------------------------------------------------------------------


@made_once
def ground_truth(number, labels="nyu40"):
    """What a reader must give for a room: two holes in every label."""
    maps = room_maps(number)
    maps["semseg"] = IDS[labels][maps["semseg"]] - 1
    maps["semseg"][3, 4:6] = 255
    maps["depth"][5, 6:8] = 0
    maps["normals"][7, 8:10] = 0
    return maps


@made_once
def files(labels="nyu40"):
    """Contents by name, below `Matterport3D_Processed/`."""
    content = {}
    for scan, panoramas in PANORAMAS.items():
        for panorama, number in panoramas.items():
            maps = ground_truth(number, labels)
            content[f"mp3d_results_panoramas/{scan}/{panorama}_panorama.jpg"] = jpeg(maps["image"])
            if panorama == WITHOUT_VIEWS:
                continue
            ids = np.where(maps["semseg"] == 255, 0, maps["semseg"] + 1).astype(np.uint8)
            if labels == "mpcat40":
                ids[3, 4] = 41  # "unlabeled"
            right, down, forward = np.moveaxis(maps["normals"].astype(np.float64), -1, 0)
            normals = np.rint(127.5 * (1 + np.stack((forward, -down, -right), -1))).astype(np.uint8)
            here = f"mp3d_aligned_labels/{scan}"
            content[f"{here}/semantic/{panorama}_semantic.png"] = png(ids)
            content[f"{here}/depth/{panorama}_depth.png"] = png(np.rint(maps["depth"] * 1000).astype(np.uint16))
            content[f"{here}/normal/{panorama}_normal.png"] = png(normals)
    return {f"Matterport3D_Processed/{name}": data for name, data in content.items()}


@made_once
def unifuse_files():
    """Contents by name in the layout of UniFuse, which has no panoramas without depth."""
    content = {}
    for scan, panoramas in PANORAMAS.items():
        for panorama, number in panoramas.items():
            if panorama != WITHOUT_VIEWS:
                maps = ground_truth(number)
                content[f"{scan}/pano_skybox_color/{panorama}.jpg"] = jpeg(maps["image"])
                content[f"{scan}/pano_depth/{panorama}.png"] = png(np.rint(maps["depth"] * 4000).astype(np.uint16))
    return content
