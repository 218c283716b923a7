"""Weights made by a rule from the name of a key, as the golden files state them: "splitmix-uniform v1"."""

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STEP = 2**15  # numbers at a time, which stay in the processor's cache


def filled(key: str, shape: Sequence[int], seed: int, a: float, b: float) -> Tensor:
    """The float32 tensor of a key; every element is `a + b s` with `s` in [-1, 1)."""
    count = math.prod(shape)
    values = np.empty(count, dtype=np.float32)
    start = np.uint64(zlib.crc32(key.encode()) << 32 | seed)
    for first in range(0, count, STEP):
        places = np.arange(first + 1, min(first + STEP, count) + 1, dtype=np.uint64)
        z = start + places * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        s = (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
        values[first : first + STEP] = a + b * s
    return torch.from_numpy(values.reshape(tuple(shape)))
