"""Fingerprints of panoramas of any data set, to see whether one has changed since it was labelled, see `origin`."""

import hashlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from mtpano_zoo.data.panoramas import PanoramaDataset
from mtpano_zoo.labeling.origin import digest_of_files, stamp_of_file

__all__ = ("digest_of", "digest_of_pixels", "stamp_of")


def stamp_of(samples: Any, i: int) -> str:
    """Return sizes and times of a panorama's files, or checksums of members of zip files; empty without files.

    Any other data set may have a method `stamp` for it.

    Raises:
        OSError: If a file does not exist.
    """
    if hasattr(samples, "stamp"):
        return str(samples.stamp(i))
    return " ".join(_stamps(samples, i)) if isinstance(samples, PanoramaDataset) else ""


def digest_of(samples: Any, i: int) -> str:
    """Return the digest of a panorama without decoding it; empty if that is not possible.

    Any other data set may have a method `fingerprint` for it.

    Raises:
        OSError: If a file cannot be read.
        InputError: If an archive is damaged.
    """
    if hasattr(samples, "fingerprint"):
        return str(samples.fingerprint(i))
    if isinstance(samples, PanoramaDataset):
        return f"{digest_of_files(samples.index.read('image', i))}, in {samples.height} x {samples.width}"
    return ""


def digest_of_pixels(image: Tensor) -> str:
    """Return the digest of an image (3, H, W) that is in memory.

    Example:
        >>> import torch
        >>> black, white = torch.zeros(3, 2, 4), torch.ones(3, 2, 4)
        >>> digest_of_pixels(black) == digest_of_pixels(black.clone()) != digest_of_pixels(white)
        True
    """
    content = image.contiguous().cpu().numpy()
    return f"sha256 of pixels {hashlib.sha256(content.tobytes()).hexdigest()}, {content.dtype}, {content.shape}"


def _stamps(samples: PanoramaDataset, i: int) -> Iterator[str]:
    yield f"{samples.height}x{samples.width}"
    index, fields = samples.index, samples.index.fields_of(i)
    for pattern in index.files["image"]:
        archive, _, size, _, _, crc = index.places[pattern][i].tolist()
        yield stamp_of_file(index.source.folder / pattern.format(**fields)) if archive < 0 else f"{size}:{crc}"
