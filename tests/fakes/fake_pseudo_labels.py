"""Pseudo-labels of MTPano in miniature: merged maps, four views, confidence, and the holes that are usual."""

import io
import json

import numpy as np
from fake_files import made_once, png, room_maps
from PIL import Image

VIEWS = 4
SPLITS = {"train": ["room_a", "room_b", "room_c"], "val": ["room_d"]}
NUMBERS = {"room_a": 0, "room_b": 1, "room_c": 2, "room_d": 3}

# ADE20K numbers of ceiling, floor, wall, beam, column, window, door, table, chair, sofa, bookcase, board, clutter.
ADE_OF_S3DIS = np.array([5, 3, 0, 42, 42, 8, 14, 15, 19, 23, 62, 144, 149], np.uint8)


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@made_once
def ground_truth(name):
    """What a reader must give for a panorama; the image as JPEG has made it."""
    maps = room_maps(NUMBERS[name])
    maps["image"] = np.array(Image.open(io.BytesIO(jpeg(maps["image"]))))
    maps["semseg"] = ADE_OF_S3DIS[maps["semseg"]]
    maps["semseg"][3, 4:6] = 255
    maps["depth"][5, 6:8] = 0
    maps["normals"][7, 8:10] = 0
    rows, columns = maps["depth"].shape
    maps["confidence"] = (np.arange(rows * columns).reshape(rows, columns) % 256 / 255).astype(np.float32)
    return maps


@made_once
def view_truth(name, view):
    """The maps of a view: a quarter of the columns; views 0 and 2 overlap with their neighbours."""
    maps = ground_truth(name)
    width = maps["depth"].shape[1]
    seen = np.zeros(width, bool)
    seen[view * width // VIEWS : (view + 1) * width // VIEWS + 3 * (view % 2 == 0)] = True
    maps["semseg"][:, ~seen] = 255
    maps["depth"][:, ~seen] = 0
    maps["normals"][:, ~seen] = 0
    return maps


def encode(maps):
    right, down, forward = np.moveaxis(maps["normals"].astype(np.float64), -1, 0)
    outward = np.stack((-forward, down, right), -1)  # back, down, right, away from the camera; stored negated
    stored = np.clip(np.rint((-outward + 1) / 2 * 255), 0, 255).astype(np.uint8)
    stored[(maps["normals"] == 0).all(-1)] = 128
    return {
        "semseg": png(maps["semseg"]),
        "depth": png(np.rint(maps["depth"] * 1000).astype(np.uint16)),
        "normals": png(stored),
    }


@made_once
def files():
    """Contents by name; room_b has no confidence, room_c neither normals nor the depth of view 1."""
    content = {}
    for name, number in NUMBERS.items():
        maps = ground_truth(name)
        content[f"img/{name}.jpg"] = jpeg(room_maps(number)["image"])
        labels = {"merged": maps} | {f"label_{view}": view_truth(name, view) for view in range(VIEWS)}
        for label, values in labels.items():
            content |= {f"{task}/{name}/{label}.png": data for task, data in encode(values).items()}
        content[f"semseg/{name}/merged_confidence.png"] = png(np.rint(maps["confidence"] * 255).astype(np.uint8))
    del content["semseg/room_b/merged_confidence.png"]
    del content["normals/room_c/merged.png"], content["depth/room_c/label_1.png"]
    content |= {f"db_info/panomtdu_{split}.json": json.dumps(ids).encode() for split, ids in SPLITS.items()}
    return content
