"""Weights made by a rule from the name of a key, as the golden files state them: "splitmix-uniform v1"."""

import zlib

import numpy as np
import torch
from torch import Tensor


def filled(key: str, shape: list[int], seed: int, a: float, b: float) -> Tensor:
    """The float32 tensor of a key; every element is `a + b s` with `s` in [-1, 1)."""
    with np.errstate(over="ignore"):
        state = np.uint64((zlib.crc32(key.encode()) << 32) | seed)
        z = state + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    s = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
    return torch.from_numpy((a + b * s).astype(np.float32).reshape(shape))
