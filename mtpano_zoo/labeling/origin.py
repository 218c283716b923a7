"""The image that a panorama was labelled from, to detect another one of the same name.

Images are compared by digest: of the panorama's files, of what its data set knows of it, or of its pixels. Sizes and
times of the files are compared first, and a file is read only if they differ: nobody wants to read 400,000 images to
find that nothing is left to do.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ("Origin", "digest_of_files", "stamp_of_file")


@dataclass(frozen=True)
class Origin:
    """The image that a panorama was labelled from.

    Args:
        digest: Digest of its content.
        stamp: Sizes and times of its files, to see quickly that nothing has changed; empty without files.
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


def digest_of_files(contents: Sequence[bytes]) -> str:
    """Return the digest of a file, or for several files the digest of their digests.

    Example:
        >>> digest_of_files([b"a panorama"])[:15]
        'sha256 50c4217f'
    """
    digests = [hashlib.sha256(content) for content in contents]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(one.digest() for one in digests))
    return f"sha256 {whole.hexdigest()}"


def stamp_of_file(path: Path) -> str:
    """Return size, modification time and change time of a file; programs cannot set the last one.

    Raises:
        OSError: If there is no such file.
    """
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
