"""A set of three homes with all labels, and its data module."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from fake_files import made_once, png, room_maps

from mtpano_zoo.data.panoramas import PanoramaDataModule
from mtpano_zoo.data.reading import Decoder, decode_depth, decode_labels, decode_rgb, decode_vectors

SAMPLES = [("train", "a"), ("train", "b"), ("train", "c"), ("train", "d"), ("val", "a"), ("test", "a"), ("spare", "a")]
CLASSES = tuple(f"class {i}" for i in range(13))


class HousesDataModule(PanoramaDataModule):
    classes = CLASSES
    prefix = "Homes/"
    complete = 7
    id_pattern = "{home}_{room}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("{home}/{room}/rgb.png",),
        "semseg": ("{home}/{room}/semantic.png",),
        "depth": ("{home}/{room}/depth.png",),
        "normals": ("{home}/{room}/normals.png",),
    }
    decoders: Mapping[str, Decoder] = {
        "image": decode_rgb,
        "semseg": partial(decode_labels, lookup=range(13)),
        "depth": partial(decode_depth, unit=0.001),
        "normals": partial(decode_vectors, middle=128, scale=127),
    }

    def split_of(self, fields):
        return None if fields["home"] == "spare" else fields["home"]


def ground_truth():
    """Maps by id."""
    return {f"{home}_{room}": room_maps(i) for i, (home, room) in enumerate(SAMPLES)}


@made_once
def files():
    """Contents by name."""
    truths = ground_truth()
    content = {}
    for home, room in SAMPLES:
        maps = truths[f"{home}_{room}"]
        encoded = {
            "rgb": maps["image"],
            "semantic": maps["semseg"],
            "depth": np.rint(maps["depth"] * 1000).astype(np.uint16),
            "normals": np.rint(128 + 127 * maps["normals"].astype(np.float64)).astype(np.uint8),
        }
        content |= {f"Homes/{home}/{room}/{role}.png": png(array) for role, array in encoded.items()}
    return content


def module(root, kind=HousesDataModule, **options):
    return kind(root, **({"height": 32, "width": 64} | options))


def ids(samples):
    return [samples.name(i) for i in range(len(samples))]
