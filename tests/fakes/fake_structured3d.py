"""Structured3D in miniature: rooms in the encodings, frames and quirks of the release."""

import numpy as np
from fake_files import made_once, png, room_maps

from mtpano_zoo.classes import NYU40_PALETTE

ROOMS = {"00000/485142": 0, "00001/171": 1, "02999/7": 2, "03000/20": 3, "03250/859972": 4, "03398/12": 5}

# NYUv2-40 ids of the S3DIS classes: ceiling, floor, wall, beam, column, window, door, table, chair, sofa, bookcase,
# board, clutter.
NYU_OF_S3DIS = np.array([22, 2, 1, 38, 38, 9, 8, 7, 5, 6, 10, 30, 40], np.uint8)

# ScanNet's 41 colours: 0 is black.
PALETTE = np.vstack((np.zeros((1, 3), np.uint8), NYU40_PALETTE))


@made_once
def ground_truth(number):
    """What a reader must give for a room: two holes in every label; class 0 to 39 or 255."""
    maps = room_maps(number)
    maps["semseg"] = NYU_OF_S3DIS[maps["semseg"]] - 1
    maps["semseg"][3, 4:6] = 255
    maps["depth"][5, 6:8] = 0
    maps["normals"][7, 8:10] = 0
    return maps


@made_once
def files(furnishings=("full", "empty"), lights=("raw", "warm")):
    """Contents by name, below `Structured3D/`."""
    content = {}
    for room, number in ROOMS.items():
        scene, name = room.split("/")
        maps = ground_truth(number)
        right, down, forward = np.moveaxis(maps["normals"].astype(np.float64), -1, 0)
        normals = np.stack((forward, -down, -right), -1)  # R forward, G up, B left
        labels = np.where(maps["semseg"] == 255, 0, maps["semseg"] + 1).astype(np.uint8)
        folder = f"scene_{scene}/2D_rendering/{name}/panorama"
        content[f"{folder}/camera_xyz.txt"] = b"-1234.5 678.9 1500.0\n"
        for furnishing in furnishings:
            here = f"{folder}/{furnishing}"
            for light in lights:
                pixels = maps["image"] if light == "raw" else maps["image"] // 2
                alpha = np.full((*pixels.shape[:2], 1), 200, np.uint8)  # some files have a fourth channel
                content[f"{here}/rgb_{light}light.png"] = png(np.dstack((pixels, alpha)) if number % 2 else pixels)
            content[f"{here}/semantic.png"] = png(labels, PALETTE)
            content[f"{here}/depth.png"] = png(np.rint(maps["depth"] * 1000).astype(np.uint16))
            content[f"{here}/normal.png"] = png(np.clip(np.rint(128 * (1 + normals)), 0, 255).astype(np.uint8))
            content[f"{here}/albedo.png"] = png(maps["image"])
            if furnishing == "full":
                content[f"{here}/instance.png"] = png(np.full(labels.shape, 65535, np.uint16))
        content[f"scene_{scene}/annotation_3d.json"] = b"{}"
    return {f"Structured3D/{name}": data for name, data in content.items()}
