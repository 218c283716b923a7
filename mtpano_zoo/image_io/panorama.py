"""Read panoramas as they come: a full sphere, a crop of one, or one eye of a stereo pair."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io.decoding import Decoded, decode_image, decode_pil
from mtpano_zoo.image_io.doubts import Layout, doubt_about, stereo_layout
from mtpano_zoo.image_io.gpano import (
    GPano,
    PoseAngles,
    Window,
    fits_view,
    placed,
    read_gpano,
    read_pose,
    window_of_view,
)
from mtpano_zoo.limits import BYTES_ON_DISK, check_pixels, max_bytes, read_file

__all__ = (
    "RATIO_TOLERANCE",
    "Panorama",
    "Reading",
    "check_panorama_size",
    "decode_full_panorama",
    "decode_pixels",
    "load_panorama",
    "panorama_from_pil",
    "panorama_of_file",
    "panorama_of_pixels",
    "read_panorama",
)

RATIO_TOLERANCE = 0.01  # relative: accepts 1183 x 591, refuses 16:9 video
Eye = Literal["left", "right"]


class Reading(TypedDict, total=False):
    """The options of `load_panorama`."""

    fov: tuple[float, float] | None
    vertical_offset: float
    eye: Eye | None
    ignore_tags: bool
    force: bool
    max_pixels: int | None


@dataclass(frozen=True, eq=False)
class Panorama:
    """A full sphere, and which part of it a camera has seen.

    Attributes:
        pixels: RGB (H, W, 3) uint8; black where nothing was seen.
        seen: mask (H, W), false where nothing was seen: beside a crop, or transparent. None if everything was seen.
        window: the crop that was placed in it; None if the file was a full panorama.
        pose: how the camera was held; None if the file does not state it.
    """

    pixels: NDArray[np.uint8]
    seen: NDArray[np.bool_] | None = None
    window: Window | None = None
    pose: PoseAngles | None = None


def check_panorama_size(height: int, width: int, name: str, advice: str = "export it as equirectangular 2:1") -> None:
    """Accept sizes that are 2:1 within 1 %.

    Raises:
        InputError: If the size is not that of a full panorama; `name` starts the message, and `advice` ends it.

    Example:
        >>> check_panorama_size(512, 1024, "room.jpg")
        >>> check_panorama_size(1080, 1920, "video.png")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mtpano_zoo.errors.InputError: video.png is 1920 x 1080 pixels, but a full 360 x 180 degree panorama is ...
    """
    if height < 1 or abs(width / (2 * height) - 1) > RATIO_TOLERANCE:
        raise InputError(
            f"{name} is {width} x {height} pixels, but a full 360 x 180 degree panorama is twice as wide as high: "
            f"{advice}"
        )


def _example_view(height: int, width: int) -> str:
    """Return degrees across and down that fit the shape of an image; wide ones are assumed to go all the way round."""
    degrees = (360 if width >= 2 * height else 120) / max(height, width, 1)  # per pixel
    return f"{width * degrees:.3g}x{height * degrees:.3g}"


def load_panorama(path: str | Path, **reading: Unpack[Reading]) -> Panorama:
    """Read an image file of any common format and place it on the sphere.

    A crop is placed by its GPano tags. Sizes that are 2:1 within 1 % are kept.

    Args:
        path: the file.
        fov: degrees across and down that the image covers, centred on the forward direction; overrides its tags.
        vertical_offset: degrees by which the middle row of such an image is above the horizon.
        eye: which half of a stereo pair to use. The left eye is the upper half of a stacked pair. A half that is not
            2:1 is stretched to it, unless its shape fits `fov`. Of the tags of a pair, only the pose counts.
        ignore_tags: treat the image as a full panorama of a level camera, whatever its GPano tags say.
        force: accept a 2:1 image that does not look like a panorama.
        max_pixels: the largest number of pixels to accept, in the file and on the sphere; `limits.max_pixels()` by
            default.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not an image, truncated, too large, not a panorama, or its tags contradict each other.
    """
    return _placed_on_sphere(_read(Path(path), reading.get("max_pixels")), str(path), **reading)


def _read(path: Path, max_pixels: int | None) -> Decoded:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    limit = max(max_bytes(BYTES_ON_DISK), BYTES_ON_DISK * (max_pixels or 0))
    return decode_image(read_file(path, limit), str(path), max_pixels)


def panorama_of_pixels(
    pixels: NDArray[np.uint8], name: str, layout: Layout | None = None, **reading: Unpack[Reading]
) -> Panorama:
    """Place an image without tags, RGB (H, W, 3), on the sphere; `name` starts error messages.

    The options are those of `load_panorama`. How a stereo pair is arranged is found out if `layout` is None.

    Raises:
        InputError: If it is not a panorama, or too large on the sphere.

    Example:
        >>> panorama_of_pixels(np.zeros((32, 64, 3), np.uint8), "a frame").window is None
        True
    """
    reading["ignore_tags"] = True
    return _placed_on_sphere(Decoded(pixels, None, ""), name, layout, **reading)


def _placed_on_sphere(
    decoded: Decoded,
    name: str,
    layout: Layout | None = None,
    fov: tuple[float, float] | None = None,
    vertical_offset: float = 0.0,
    eye: Eye | None = None,
    ignore_tags: bool = False,
    force: bool = False,
    max_pixels: int | None = None,
) -> Panorama:
    if vertical_offset and fov is None:
        example = _example_view(*decoded.pixels.shape[:2])
        raise InputError(f"a vertical offset needs the field of view, as in --fov {example}")
    if eye is not None:
        layout = layout or stereo_layout(decoded.pixels)
        if layout is None:
            raise InputError(
                f"{name} is not a stereo pair: a pair is square, 4:1, or 2:1 with two equal halves; leave out --eye"
            )
        decoded = _half(decoded, eye, layout)
    unstretched = decoded.pixels.shape[:2]
    if eye is not None and (fov is None or not fits_view(fov, *unstretched)):
        decoded = _stretched(decoded)
    height, width = decoded.pixels.shape[:2]
    tags = None
    if not ignore_tags:
        # The sizes in the tags of a pair may be those of both eyes.
        of_eye = eye is not None
        tags = GPano(None, read_pose(decoded.xmp, name)) if of_eye else read_gpano(decoded.xmp, height, width, name)
    window = None if tags is None else tags.window
    if fov is not None:
        window = window_of_view(fov, vertical_offset, height, width, name)
    elif window is None:
        _check_shape(decoded.pixels, name, force, unstretched)
    return _on_sphere(decoded, GPano(window, None if tags is None else tags.pose), name, max_pixels)


def _check_shape(pixels: NDArray[np.uint8], name: str, force: bool, unstretched: tuple[int, int]) -> None:
    height, width = pixels.shape[:2]
    view = _example_view(height, width)
    if height > 1 and width in (height, 4 * height):
        side = "one above the other" if width == height else "side by side"
        raise InputError(
            f"{name} is {width} x {height} pixels, but a panorama is twice as wide as high: for a stereo pair, {side}, "
            f"choose one with --eye left or --eye right; for a part of the sphere, say which, as in --fov {view}"
        )
    advice = f"export it as equirectangular 2:1, or say which part of the sphere it shows, as in --fov {view}"
    check_panorama_size(height, width, name, advice)
    if not force and (doubt := doubt_about(pixels, unstretched)):
        raise InputError(f"{name} is 2:1 but {doubt}, or use it as it is with --force")


def _half(decoded: Decoded, eye: Eye, layout: Layout) -> Decoded:
    height, width = decoded.pixels.shape[:2]
    rows, columns = (height // 2, width) if layout == "stacked" else (height, width // 2)
    part = np.s_[:rows, :columns] if eye == "left" else np.s_[height - rows :, width - columns :]
    seen = None if decoded.seen is None or decoded.seen[part].all() else decoded.seen[part].copy()
    return Decoded(decoded.pixels[part].copy(), seen, decoded.xmp)


def _stretched(decoded: Decoded) -> Decoded:
    """Stretch the panorama of one eye to 2:1 if it was squeezed."""
    rows, columns = decoded.pixels.shape[:2]
    if abs(columns / (2 * rows) - 1) <= RATIO_TOLERANCE:
        return decoded
    size = (2 * rows, rows) if columns < 2 * rows else (columns, columns // 2)
    seen = decoded.seen
    if seen is not None:
        seen = cv2.resize(seen.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    return Decoded(np.asarray(cv2.resize(decoded.pixels, size), np.uint8), seen, decoded.xmp)


def _on_sphere(decoded: Decoded, tags: GPano, name: str, max_pixels: int | None) -> Panorama:
    window = tags.window
    if window is None:
        return Panorama(decoded.pixels, decoded.seen, None, tags.pose)
    check_pixels(window.full_height, window.full_width, f"the full panorama around {name}", max_pixels)
    seen = np.ones(decoded.pixels.shape[:2], np.bool_) if decoded.seen is None else decoded.seen
    return Panorama(placed(decoded.pixels, window), placed(seen, window), window, tags.pose)


def panorama_of_file(path: str | Path, *, max_pixels: int | None = None) -> Panorama:
    """Read an image file as `load_panorama` does.

    What a 2:1 image shows is not checked, and there are no options for other shapes: this is for data sets.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not an image, truncated, too large, not 2:1, or its tags contradict each other.
    """
    return _whole(_read(Path(path), max_pixels), str(path), max_pixels)


def read_panorama(path: str | Path, *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Return the pixels of `panorama_of_file` on the full sphere, RGB (H, W, 3); black where nothing was seen.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not an image, truncated, too large, not 2:1, or its tags contradict each other.
    """
    return panorama_of_file(path, max_pixels=max_pixels).pixels


def decode_pixels(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the content of an image file of any size, RGB (H, W, 3); `name` starts error messages.

    Raises:
        InputError: If it is truncated, not an image, or too large.
    """
    return decode_image(data, name).pixels


def decode_full_panorama(data: bytes) -> NDArray[np.uint8]:
    """Decode the content of an image file of a data set, RGB (H, W, 3), unless its tags say that it is a crop.

    Labels of a crop would be misplaced, and a crop without labels would be read as a full panorama.

    Raises:
        InputError: If it is a crop or no image, or its tags contradict each other.
    """
    decoded = decode_image(data, "it")
    height, width, _ = decoded.pixels.shape
    try:
        tags = read_gpano(decoded.xmp, height, width, "the image")
    except InputError as error:
        raise InputError(f"{str(error).partition(';')[0]}; correct or remove the tags") from error
    if tags is not None and (window := tags.window) is not None:
        raise InputError(
            f"by its GPano tags it is a crop of a panorama of {window.full_width} x {window.full_height} pixels; "
            "export the full panorama, or remove the tags if they are wrong"
        )
    return decoded.pixels


def panorama_from_pil(image: Image.Image) -> Panorama:
    """Place an open image on the sphere by the rules of `load_panorama`.

    Raises:
        InputError: If it holds 32-bit integers, is not a panorama, or its tags contradict each other.

    Example:
        >>> panorama_from_pil(Image.new("L", (64, 32), 255)).pixels.shape
        (32, 64, 3)
    """
    try:
        decoded = decode_pil(image)
    except InputError as error:
        raise InputError(f"the image {error}") from error
    return _whole(decoded, "the image", None)


def _whole(decoded: Decoded, name: str, max_pixels: int | None) -> Panorama:
    height, width = decoded.pixels.shape[:2]
    tags = read_gpano(decoded.xmp, height, width, name) or GPano(None, None)
    if tags.window is None:
        check_panorama_size(height, width, name)
    return _on_sphere(decoded, tags, name, max_pixels)
