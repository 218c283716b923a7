"""Detection of similar panoramas: a hash of 64 bits that is invariant to rotation about the vertical.

Rows of the small grey panorama are Fourier-transformed; the magnitudes do not depend on where the panorama begins. A
bit says whether a magnitude, divided by its usual value at that frequency, exceeds the median of all. Pictures of the
same scene differ in a few bits after a change of brightness, compression or resizing; other scenes in about half.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtpano_zoo.resize import resize

__all__ = ("BITS", "different", "perceptual_hash")

BITS = 64
ROWS, FREQUENCIES = 8, 8
SMALL = (ROWS, 64)


def perceptual_hash(image: Tensor) -> int:
    """Return the hash of a panorama (3, H, W) in [0, 1].

    Example:
        >>> image = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(0))
        >>> perceptual_hash(image) == perceptual_hash(image.roll(20, -1))
        True
    """
    # The poles show little and are stretched: the rows reach from 60 degrees above the horizon to 60 below.
    height = image.shape[-2]
    border = height // 6
    grey = resize(image.double().mean(0)[border : height - border], *SMALL)
    spectrum = torch.fft.rfft(grey, dim=1).abs()[:, 1 : FREQUENCIES + 1]
    usual = torch.arange(1, FREQUENCIES + 1, dtype=spectrum.dtype, device=spectrum.device)
    relative = (spectrum * usual).flatten()
    bits = relative > relative.median()
    return sum(1 << i for i, bit in enumerate(bits.tolist()) if bit)


def different(hashes: Sequence[int], distance: int) -> Iterable[int]:
    """Yield in order the indices of hashes that differ from all yielded before in more than `distance` bits.

    Hashes that differ in at most d bits agree in at least one of d + 1 parts, so only hashes with a common part are
    compared: the time does not grow with the square of their number.

    Example:
        >>> list(different([0b0000, 0b0001, 0b0111], 1))
        [0, 2]
    """
    parts = distance + 1
    edges = [BITS * part // parts for part in range(parts + 1)]
    kept = np.zeros(len(hashes), np.uint64)
    tables: list[dict[int, list[int]]] = [{} for _ in range(parts)]
    count = 0
    for i, number in enumerate(hashes):
        keys = [(number >> low) & ((1 << (high - low)) - 1) for low, high in pairwise(edges)]
        near = any(
            _any_near(kept[table[key]], number, distance)
            for table, key in zip(tables, keys, strict=True)
            if key in table
        )
        if near:
            continue
        kept[count] = number
        for table, key in zip(tables, keys, strict=True):
            table.setdefault(key, []).append(count)
        count += 1
        yield i


def _any_near(hashes: NDArray[np.uint64], number: int, distance: int) -> bool:
    return bool((np.bitwise_count(hashes ^ np.uint64(number)) <= distance).any())
