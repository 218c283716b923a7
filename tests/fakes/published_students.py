"""State dicts with the names of the published students of Depth Anywhere, whose weights follow from a rule.

The rule: a number per element from the CRC-32 of its key, a seed and its place, scaled by two numbers per key.
"""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtpano_zoo import sphere

GOLDEN = Path(__file__).parents[1] / "reference" / "golden" / "depth_anywhere"
STEP = 2**15  # numbers at a time, which stay in the processor's cache


def rule(key: str, shape: list[int], seed: int, mean: float, scale: float) -> Tensor:
    """Fill a tensor: splitmix64 of (CRC-32 of the key, seed, place), uniform from mean - scale to mean + scale."""
    count = int(np.prod(shape))
    values = np.empty(count, dtype=np.float32)
    start = np.uint64(zlib.crc32(key.encode()) << 32 | seed)
    for first in range(0, count, STEP):
        places = np.arange(first + 1, min(first + STEP, count) + 1, dtype=np.uint64)
        z = start + places * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        uniform = (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
        values[first : first + STEP] = mean + scale * uniform
    return torch.from_numpy(values.reshape(shape))


def key_table(name: str) -> dict[str, Any]:
    """Read the published keys of a student, with shape, mean and scale each, the seed and a checksum of the weights."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


@cache
def weights(name: str) -> dict[str, Tensor]:
    """Return the weights of a student by their published names; nobody may change them."""
    table = key_table(name)
    return {
        key: rule(key, shape, table["seed"], *numbers) for key, (shape, *numbers) in table["keys"].items() if numbers
    }


def published_student(name: str) -> dict[str, Tensor]:
    """Return the whole state dict of a student, with what the published file stores beside the weights."""
    shapes = {key: entry[0] for key, entry in key_table(name)["keys"].items() if len(entry) == 1}
    state = dict(weights(name)) | {key: torch.zeros(shape, dtype=torch.int64) for key, shape in shapes.items()}
    return state | CONSTANTS[name](shapes)


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
    """Return the coordinates of all heights from 4 to 128, under each of the five modules that store them."""
    constants = {}
    for height in (4, 8, 16, 32, 64, 128):
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
