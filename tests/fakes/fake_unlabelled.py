"""ZInD, SUN360 and generated panoramas in miniature: names and lists of the releases."""

import io
import json

import numpy as np
from fake_files import png, room_maps
from PIL import Image

ZIND = {
    ("000", "floor_01_partial_room_01_pano_14"): (0, False),
    ("000", "floor_01_partial_room_01_pano_15"): (1, True),
    ("000", "floor_02_partial_room_03_pano_2"): (2, True),
    ("919", "floor_01_partial_room_01_pano_1"): (3, True),
    ("1574", "floor_-1_partial_room_10_pano_100"): (4, False),
}
PARTITION = json.dumps({"train": ["0000", "0001"], "val": ["0919"], "test": ["0003"]})

SUN360 = {
    "indoor/bedroom/pano_aaaaaaaaaaaaaa": 0,
    "indoor/living_room/pano_aabcdefghijklm": 1,
    "outdoor/beach/pano_aaaaaaaaaaaaaa": 2,
}

GENERATED = {"images/000000.png": "A library.", "images/000001.jpg": "Ein Wald im Frühling", "more/dune.webp": ""}


def pixels(number):
    return room_maps(number)["image"]


def encoded(number, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, kind, quality=95)
    return buffer.getvalue()


def decoded(number, kind="JPEG"):
    """The image as its file has it."""
    return np.array(Image.open(io.BytesIO(encoded(number, kind))).convert("RGB"))


def zind():
    """Contents by name."""
    content, tours = {}, {}
    for (home, name), (number, primary) in ZIND.items():
        content[f"{home}/panos/{name}.jpg"] = encoded(number)
        content[f"{home}/floor_plans/floor_01.png"] = png(np.zeros((30, 20, 4), np.uint8))
        floor, room, pano = name.split("_partial_")[0], name.split("_")[4], name.rsplit("_pano_", 1)[1]
        merger = tours.setdefault(home, {"merger": {}, "scale_meters_per_coordinate": {}, "redraw": {}})
        merger["scale_meters_per_coordinate"][floor] = None if number == 2 else 3.55
        rooms = merger["merger"].setdefault(floor, {}).setdefault("complete_room_01", {})
        rooms.setdefault(f"partial_room_{room}", {})[f"pano_{pano}"] = {
            "is_primary": primary,
            "label": "kitchen",
            "camera_height": 1,
            "image_path": f"panos/{name}.jpg",
        }
    return content | {f"{home}/zind_data.json": json.dumps(tour).encode() for home, tour in tours.items()}


def sun360():
    """Contents by name; the large size has one panorama less."""
    small = {f"pano1024x512/{name}.jpg": encoded(number) for name, number in SUN360.items()}
    return small | {f"pano9104x4552/{name}.jpg": encoded(number + 5) for name, number in list(SUN360.items())[:2]}


def generated():
    """Contents by name, with texts under both names and entries that do not matter."""
    kinds = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
    content = {name: encoded(i, kinds[name.rsplit(".")[-1]]) for i, name in enumerate(GENERATED)}
    lines = [
        {"image": name, "caption" if i else "prompt": text, "mask": "x.png"}
        for i, (name, text) in enumerate(GENERATED.items())
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    return content | {"prompts.jsonl": text.encode(), "images/left_over.png": b""}
