"""SynPASS in miniature: rooms whose classes are numbered as in the release."""

import io

import numpy as np
from fake_files import made_once, png, room_maps
from PIL import Image

FRAMES = {
    ("cloud", "train", "MAP_1_point2", "000000"): 0,
    ("cloud", "train", "MAP_1_point2", "000001"): 1,
    ("sun", "train", "MAP_1_point2", "000000"): 2,
    ("sun", "val", "MAP_6_point1", "000000"): 3,
    ("cloud", "test", "MAP_8_point3", "000009"): 4,
}


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@made_once
def ground_truth(number):
    """What a reader must give: the image as JPEG has made it, classes 0 to 21, two holes."""
    maps = room_maps(number)
    numbers = maps["semseg"].astype(int) + number * 2  # of 13 classes; the last frame reaches 20
    numbers[0, 0] = 21
    numbers[3, 4:6] = 255
    return {"image": np.array(Image.open(io.BytesIO(jpeg(maps["image"])))), "semseg": numbers.astype(np.uint8)}


@made_once
def files():
    """Contents by name, below `SynPASS/`."""
    content = {}
    for (weather, split, point, frame), number in FRAMES.items():
        labels = ground_truth(number)["semseg"]
        stored = np.where(labels == 255, 0, labels + 1).astype(np.uint8)
        content[f"img/{weather}/{split}/{point}/{frame}.jpg"] = jpeg(room_maps(number)["image"])
        content[f"semantic/{weather}/{split}/{point}/{frame}_trainID.png"] = png(stored)
        content[f"semantic/{weather}/{split}/{point}/{frame}_color.png"] = png(stored)
    return {f"SynPASS/{name}": data for name, data in content.items()}
