"""Shared by 3D60 and Pano3D: EXR files of depth and normals, and lists that name the samples of a split."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.data.panoramas import SPLITS, Split
from mtpano_zoo.data.reading import unit_or_zero
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import decode_exr
from mtpano_zoo.output_paths import user_path

__all__ = ("SKY", "decode_exr_depth", "decode_exr_normals", "read_lists")

SKY = 1000.0  # metres; both sets store 1e10 or infinity where a ray meets nothing


def decode_exr_depth(data: bytes, limit: float = SKY) -> NDArray[np.float32]:
    """Decode an EXR image of metres along the ray, the same in all channels, without loss.

    Raises:
        InputError: If `decode_exr` cannot read it, or its channels differ, as those of colours and normals do.
    """
    depth, *others = np.moveaxis(decode_exr(data), -1, 0)
    if not all(np.array_equal(depth, other, equal_nan=True) for other in others):
        raise InputError("its channels differ from one another, but depth has the same value in every channel")
    return np.where((depth > 0) & (depth <= limit), depth, np.float32(0))


def decode_exr_normals(data: bytes) -> NDArray[np.float32]:
    """Decode an EXR image of normals (R, G, B) = (right, forward, up); zero and NaN are no measurement.

    Raises:
        InputError: If `decode_exr` cannot read it, or it does not have three channels.
    """
    stored = decode_exr(data)
    if stored.shape[-1] != 3:
        raise InputError(f"it has {stored.shape[-1]} channels, but normals need three")
    return unit_or_zero(stored[..., [0, 2, 1]] * np.array((1, -1, 1), np.float32))


def read_lists(
    root: Path, lists: Mapping[str, str] | None, parse: Callable[[Path], Iterable[Any]]
) -> dict[Any, Split] | None:
    """Read which sample is in which split, from one file per split; None without lists.

    Args:
        root: Folder that relative paths of the files refer to.
        lists: Files by split.
        parse: Function that reads a file and returns keys of its samples.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If a split is not train, val or test, a file names no sample, or a sample is in two splits.
    """
    if lists is None:
        return None
    listed: dict[Any, Split] = {}
    for split, name in lists.items():
        path = root / user_path(name)
        if split not in SPLITS:
            raise InputError(f"lists can be set for train, val and test, not for {split!r}")
        if not path.is_file():
            raise FileNotFoundError(f"there is no list of samples at {path}")
        found = dict.fromkeys(parse(path), split)
        if not found or found.keys() & listed.keys():
            reason = f"samples of another list too, such as {min(found.keys() & listed.keys())}" if found else "nothing"
            raise InputError(f"{path} is no list of this data set's {split} samples: it names {reason}")
        listed |= found
    return listed
