"""Stanford2D3D in miniature: rooms in the encodings, frames and quirks of the release."""

import json

import numpy as np
from fake_files import made_once, png, room_maps

# Area, room and number of the rendered room; the camera's id is made from the number.
ROOMS = {
    ("1", "office_6"): 0,
    ("2", "conferenceRoom_1"): 1,
    ("3", "WC_2"): 2,
    ("4", "hallway_14"): 3,
    ("5a", "office_11"): 4,
    ("5b", "openspace_1"): 5,
    ("6", "copyRoom_1"): 6,
}

# Entries of semantic_labels.json, class by class in the order of the rendered rooms (ceiling, floor, wall, beam,
# column, window, door, table, chair, sofa, bookcase, board, clutter): the first and the last of each.
FIRST = [881, 7308, 8102, 1, 6511, 9648, 6765, 7647, 1266, 7592, 297, 160, 2629]
LAST = [1265, 7591, 9647, 159, 6764, 9815, 7307, 8101, 2628, 7646, 880, 296, 6510]
MISSING = 0x0D0D0D


def camera(number):
    return f"{0x4591BFDC749A88DB196A5D8B345CB + number:032x}"


@made_once
def ground_truth(number):
    """What a reader must give for a room: black bands, and two holes in every label."""
    maps = room_maps(number)
    bands = np.zeros(maps["semseg"].shape, bool)
    bands[:5], bands[-5:], bands[5, ::3] = True, True, True  # about 15 %, with a ragged edge
    bands[12, 30] = True  # a black pixel within the picture
    maps["image"][~bands & ~maps["image"].any(-1)] = 1  # what the camera saw is not black
    maps["image"][14, 20] = (200, 0, 0)  # nor is what lacks one or two of the colours
    maps["image"][bands] = 0
    maps["semseg"][bands], maps["depth"][bands], maps["normals"][bands] = 255, 0, 0
    maps["semseg"][8, 4:6] = 255
    maps["depth"][9, 6:8] = 0
    maps["normals"][10, 8:10] = 0
    return maps


@made_once
def files(blue=1):
    """Contents by name, below the root; `blue` is the direction, along the world's y, of the third channel."""
    content = {}
    for (area, room), number in ROOMS.items():
        truth, rendered = ground_truth(number), room_maps(number)  # labels are rendered under the bands too
        name = f"camera_{camera(number)}_{room}_frame_equirectangular_domain"
        folder = f"area_{area}/pano"
        pixels = truth["image"]
        alpha = np.where(pixels.any(-1), 255, 0).astype(np.uint8)
        content[f"{folder}/rgb/{name}_rgb.png"] = png(np.dstack((pixels, alpha)) if number % 2 else pixels)

        numbers = np.array(FIRST if number % 2 else LAST)[rendered["semseg"]]
        numbers[8, 4], numbers[8, 5] = 0, MISSING
        content[f"{folder}/semantic/{name}_semantic.png"] = png(
            np.stack((numbers >> 16, numbers >> 8 & 255, numbers & 255), -1).astype(np.uint8)
        )

        steps = np.rint(rendered["depth"].astype(np.float64) * 512).astype(np.uint16)
        steps[9, 6], steps[9, 7] = 65535, 0
        content[f"{folder}/depth/{name}_depth.png"] = png(steps)

        # The camera is nearly upright: yaw by number, and a degree of tilt as real poses have.
        forward, right = _turned(0.7 + number, np.radians(1.0))
        down = np.cross(forward, right)
        world_to_camera = np.stack((right, down, forward))
        x, y, z = np.moveaxis(rendered["normals"].astype(np.float64) @ world_to_camera, -1, 0)
        colours = np.rint(127.5 * (1 + np.stack((x, -z, blue * y), -1))).astype(np.uint8)
        colours[10, 8:10] = 128
        content[f"{folder}/normal/{name}_normals.png"] = png(colours)

        place = np.array([1.5, -20.25, 1.25])
        matrix = np.column_stack((world_to_camera, -world_to_camera @ place)).tolist()
        if number == 2:
            matrix.append([0.0, 0.0, 0.0, 1.0])  # the owner's text says 4 x 4
        content[f"{folder}/pose/{name}_pose.json"] = json.dumps(
            {
                "camera_uuid": camera(number),
                "camera_location": place.tolist(),
                "camera_rt_matrix": matrix,
                "camera_k_matrix": [[2048, 0, 2048], [0, 2048, 1024], [0, 0, 1]],
                "field_of_view_rads": np.pi / 2,
                "frame_num": "equirectangular",
                "room": f"{room}_{area[0]}",
            }
        ).encode()

        content[f"{folder}/semantic_pretty/{name}_semantic_pretty.png"] = png(pixels)
        view = f"camera_{camera(number)}_{room}_frame_3_domain"
        content[f"area_{area}/data/rgb/{view}_rgb.png"] = png(pixels[:8, :8])
        # The owner's text has two underscores where the release has one.
        content[f"{folder}/rgb/{name}__rgb.png"] = b"no such file is in the release"
    return content


def unifuse_files(release):
    """Contents by name in the layout of UniFuse, images and depth only, of what `files` gave."""
    folders = {"pano/rgb/": "rgb_/", "pano/depth/": "depth/"}
    content = {}
    for name, data in release.items():
        for folder, other in folders.items():
            if folder in name:
                content[name.replace(folder, other)] = data
    return content


def _turned(yaw, tilt):
    """Forward and right of a camera in a world with z up, turned to the left by `yaw` from y and upwards by `tilt`."""
    level = np.array([-np.sin(yaw), np.cos(yaw), 0])
    right = np.array([np.cos(yaw), np.sin(yaw), 0])
    return np.cos(tilt) * level + np.array([0, 0, np.sin(tilt)]), right
