"""Which image a panorama was labelled from, so that another one under the same name is noticed.

What decides is the digest: of the files of the panorama, of what a data set says of itself, or of the pixels. To read
400,000 images only to find that nothing is left to do would take hours, so sizes and times of the files are looked at
first; only where they differ is a file read.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mtpano_zoo.data.panoramas import PanoramaDataset

__all__ = ("Origin", "digest_of", "digest_of_files", "digest_of_pixels", "stamp_of", "stamp_of_file")


@dataclass(frozen=True)
class Origin:
    """What a panorama was labelled from.

    Args:
        digest: what is in it.
        stamp: what tells at a glance that nothing has changed: sizes and times of its files; empty where there is none.
    """

    digest: str
    stamp: str = ""

    def to_bytes(self) -> bytes:
        """Return the content of a record."""
        return f"{self.digest}\n{self.stamp}\n".encode()

    @staticmethod
    def from_bytes(content: bytes) -> "Origin":
        """Read a record; the digest of an empty one is empty."""
        digest, stamp, *_ = [*content.decode(errors="replace").splitlines(), "", ""]
        return Origin(digest, stamp)


def stamp_of(samples: Any, i: int) -> str:
    """Return sizes and times of the files of a panorama, or of members of zip files the checksums; empty without files.

    A data set of another kind may have a method `stamp` for it.

    Raises:
        OSError: a file is not there.
    """
    if hasattr(samples, "stamp"):
        return str(samples.stamp(i))
    return " ".join(_stamps(samples, i)) if isinstance(samples, PanoramaDataset) else ""


def digest_of(samples: Any, i: int) -> str:
    """Return the digest of a panorama without decoding it; empty where that is not possible.

    A data set of another kind may have a method `fingerprint` for it.

    Raises:
        OSError: a file cannot be read.
        ValueError: an archive is damaged.
    """
    if hasattr(samples, "fingerprint"):
        return str(samples.fingerprint(i))
    if isinstance(samples, PanoramaDataset):
        return f"{digest_of_files(samples.index.read('image', i))}, in {samples.height} x {samples.width}"
    return ""


def digest_of_pixels(image: Tensor) -> str:
    """Return the digest of an image (3, H, W) that is in memory."""
    content = image.contiguous().cpu().numpy()
    return f"sha256 of pixels {hashlib.sha256(content.tobytes()).hexdigest()}, {content.dtype}, {content.shape}"


def digest_of_files(contents: Sequence[bytes]) -> str:
    """Return the digest of a file; of several, that of their digests."""
    digests = [hashlib.sha256(content) for content in contents]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(one.digest() for one in digests))
    return f"sha256 {whole.hexdigest()}"


def stamp_of_file(path: Path) -> str:
    """Return size, time of modification and time of change; the last cannot be set by whoever replaces a file.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _stamps(samples: PanoramaDataset, i: int) -> Iterator[str]:
    yield f"{samples.height}x{samples.width}"
    index, fields = samples.index, samples.index.fields_of(i)
    for pattern in index.files["image"]:
        archive, _, size, _, crc = index.places[pattern][i].tolist()
        yield stamp_of_file(index.source.folder / pattern.format(**fields)) if archive < 0 else f"{size}:{crc}"
