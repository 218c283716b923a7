"""State dicts with the names of the published students of Depth Anywhere, whose weights follow from a rule."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from splitmix import filled
from torch import Tensor

from mtpano_zoo import sphere

GOLDEN = Path(__file__).parents[1] / "reference" / "golden" / "depth_anywhere"


def key_table(name: str) -> dict[str, Any]:
    """Read the published keys of a student, with shape, mean and scale each, the seed and a checksum of the weights."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def fill(table: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a table of keys."""
    return {
        key: filled(key, shape, table["seed"], *numbers) for key, (shape, *numbers) in table["keys"].items() if numbers
    }


@cache
def weights(name: str) -> dict[str, Tensor]:
    """Return the weights of a student by their published names; nobody may change them."""
    return fill(key_table(name))


def published_student(name: str) -> dict[str, Tensor]:
    """Return the whole state dict of a student, with what the published file stores beside the weights."""
    return dict(weights(name)) | constants(name, key_table(name))


def drawn_student(name: str) -> dict[str, Tensor]:
    """Return the same names and shapes with weights that are drawn, which takes a fraction of the time of the rule."""
    table, draw = key_table(name), torch.Generator().manual_seed(0)
    entries = {key: entry for key, entry in table["keys"].items() if len(entry) == 3}
    drawn = {key: a + b * torch.empty(shape).uniform_(-1, 1, generator=draw) for key, (shape, a, b) in entries.items()}
    return drawn | constants(name, table)


def constants(name: str, table: dict[str, Any]) -> dict[str, Tensor]:
    """Return what the published file stores beside the weights."""
    shapes = {key: entry[0] for key, entry in table["keys"].items() if len(entry) == 1}
    return {key: torch.zeros(shape, dtype=torch.int64) for key, shape in shapes.items()} | CONSTANTS[name](shapes)


def unifuse_constants(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Return the largest output and the sampling grids."""
    constants = {"max_depth": torch.tensor(10.0)}
    for key, shape in shapes.items():
        if key.startswith("projectors."):
            height, width = shape[2:4]
            face, pixels = sphere.pixels_of_erp(height, width, height // 2, "unifuse")
            grid = torch.cat((pixels * 2 / (height // 2 - 1) - 1, face[..., None] / 2.5 - 1), dim=-1)
            constants[key] = grid[None, None].float()
    return constants


def bifuse_constants(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Return the coordinates of all heights that are listed, under each of the five modules that store them."""
    constants = {}
    listed = {int(number) for key in shapes for number in re.findall(r"e2c\.\((\d+),", key)}
    for height in sorted(listed) or (4, 8, 16, 32, 64, 128):  # the table of the small case lists none
        size, width = height // 2, 2 * height
        scale = torch.tensor((width - 1, height - 1), dtype=torch.float64)
        grids = (sphere.pixels_of_faces(size, height, width, "bifuse") * 2 / scale - 1).float()
        face, pixels = sphere.pixels_of_erp(height, width, size, "bifuse")
        for store in ("dnet.ce", *(f"dnet.f{i}.CE" for i in range(1, 5))):
            for i in range(6):
                constants[f"{store}.e2c.({height},{width}).grid_{i}"] = grids[i][None]
                constants[f"{store}.c2e.({size}).mask_{i}"] = face == i
                constants[f"{store}.c2e.({size}).XY_{i}"] = pixels[face == i].float()
    return constants


def hohonet_constants(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Return the statistics of ImageNet, the cosines of a column and the code of the positions."""
    components, height = shapes["modalities.0.basis"]
    rows = (torch.arange(height) + 0.5) / height * np.pi
    _, width, count = shapes["horizon_refine.pos"]
    rates = torch.exp(torch.arange(0, width, 2) * (-np.log(10000.0) / width))
    position = torch.zeros(width, count)
    position[0::2] = (rates[:, None] * torch.arange(count)).sin()
    position[1::2] = (rates[:, None] * torch.arange(count)).cos()
    return {
        "x_mean": torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
        "x_std": torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
        "modalities.0.basis": (torch.arange(components)[:, None] * rows).cos(),
        "horizon_refine.pos": position[None],
    }


CONSTANTS = {
    "unifuse": unifuse_constants,
    "bifuse": bifuse_constants,
    "hohonet": hohonet_constants,
    "egformer": lambda shapes: {},
}
