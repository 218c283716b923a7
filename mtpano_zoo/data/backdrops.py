"""Reader of the panoramas that homes show behind their windows."""

import functools
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import IMAGE_SUFFIXES, RATIO_TOLERANCE
from mtpano_zoo.image_io.decoding import decode_image
from mtpano_zoo.image_io.floating import decode_floating
from mtpano_zoo.image_io.formats import is_exr, is_float_tiff, is_hdr
from mtpano_zoo.limits import max_pixels, read_file
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.scenes.outside import Backdrop, backdrop

__all__ = ("folder_digest", "read_backdrops")

GAMMA = 2.2  # gamma of ordinary images


def read_backdrops(folder: str | Path) -> tuple[Backdrop, ...]:
    """Read all panoramas of a folder: Radiance HDR, EXR, or ordinary images. Each keeps three megabytes.

    Raises:
        InputError: If it is not a folder or holds no image, or an image cannot be read or is not twice as wide as high.
    """
    files = _files(folder)
    return tuple(_read(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def folder_digest(folder: str | Path) -> str:
    """Return a hash of sixteen digits of the names and sizes of a folder's panoramas.

    Raises:
        InputError: If it is not a folder or holds no image.
    """
    names = "".join(f"{file.name} {file.stat().st_size}\n" for file in _files(folder))
    return f"sha256 {hashlib.sha256(names.encode()).hexdigest()[:16]}"


def _files(folder: str | Path) -> list[Path]:
    folder = user_path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one with panoramas for the windows")
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise InputError(f"{folder} holds no panorama for the windows (.hdr, .exr, .jpg, ...): put one there")
    return files


# Cached because training, validation and test sets share a folder; size and time tell whether a file changed.
@functools.lru_cache(maxsize=1024)
def _read(path: Path, size: int, changed: int) -> Backdrop:
    light = _linear(path)
    height, width = light.shape[:2]
    if height < 2 or abs(width / (2 * height) - 1) > RATIO_TOLERANCE:
        raise InputError(
            f"{path} is {width} x {height} pixels, but a view for windows must be a panorama, twice as wide as high: "
            "export it as equirectangular 2:1, or remove it from the folder"
        )
    return backdrop(light)


def _linear(path: Path) -> NDArray[np.float32]:
    """Read an image as linear RGB (H, W, 3)."""
    try:
        data = read_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if is_exr(data) or is_hdr(data) or is_float_tiff(data):
        try:
            return decode_floating(data, max_pixels())[..., :3]
        except Exception as error:  # broken data raises cv2.error and others
            reason = str(error).splitlines()[0].removeprefix("it ") if isinstance(error, InputError) else "is damaged"
            raise InputError(f"{path} {reason}") from error
    curve: NDArray[np.float32] = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)
    return curve[decode_image(data, str(path)).pixels]
