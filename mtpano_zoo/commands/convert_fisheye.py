"""`mtpano convert fisheye`: turn the image of a calibrated fisheye camera into a panorama."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import gpano_xmp, write_bytes
from mtpano_zoo.image_io.decoding import decode_image
from mtpano_zoo.limits import check_pixels, read_file
from mtpano_zoo.output_paths import check_no_input
from mtpano_zoo.sphere import Lens, from_fisheyes, latitude_weights, rotation_matrix
from mtpano_zoo.text_files import read_yaml

__all__ = ("OUTPUTS", "Calibration", "convert_fisheye", "read_calibration")

OUTPUTS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
QUALITY = 95
KEYS = ("centre", "radius", "fov", "rotation")


class Calibration(NamedTuple):
    """The lenses of a camera, in pixels of an image of width x height."""

    width: int
    height: int
    lenses: tuple[Lens, ...]

    @property
    def rows(self) -> int:
        """Rows of a panorama that is as dense as the sharpest lens, a multiple of 16."""
        return max(16, 16 * round(max(180 * lens.radius / (lens.fov / 2) for lens in self.lenses) / 16))


def read_calibration(path: str | Path) -> Calibration:
    """Read `size` (width, height) and `lenses`, each with `centre`, `radius`, `fov` and `rotation`, from YAML.

    Centre and radius are in pixels, field of view and rotation (yaw, pitch, roll) in degrees.

    Raises:
        InputError: If a key is missing or unknown, or a value has the wrong type or is out of range.
        OSError: If the file cannot be read.
    """
    found = read_yaml(path)
    if not isinstance(found, dict) or found.keys() != {"size", "lenses"}:
        raise InputError(f"{path} must have the keys `size` and `lenses`, and no others")
    sides = _numbers(found["size"], 2, f"{path}: size", "width and height")
    if not all(side >= 1 and side.is_integer() for side in sides):
        raise InputError(f"{path}: size is the width and height of the image in pixels, not {found['size']}")
    width, height = map(int, sides)
    if not isinstance(found["lenses"], list) or not found["lenses"]:
        raise InputError(f"{path}: lenses is a list with an entry for each lens")
    lenses = (_lens(entry, f"{path}: lens {i}", width, height) for i, entry in enumerate(found["lenses"], start=1))
    return Calibration(width, height, tuple(lenses))


def _lens(entry: Any, name: str, width: int, height: int) -> Lens:
    if not isinstance(entry, Mapping) or set(entry) != set(KEYS):
        raise InputError(f"{name} must have the keys {', '.join(KEYS)}, and no others")
    column, row = _numbers(entry["centre"], 2, f"{name}: centre", "column and row")
    (radius,) = _numbers([entry["radius"]], 1, f"{name}: radius", "pixels")
    (fov,) = _numbers([entry["fov"]], 1, f"{name}: fov", "degrees")
    yaw, pitch, roll = _numbers(entry["rotation"], 3, f"{name}: rotation", "yaw, pitch and roll in degrees")
    if not (-0.5 <= column <= width - 0.5 and -0.5 <= row <= height - 0.5):
        raise InputError(f"{name}: centre {column:g}, {row:g} is outside an image of {width} x {height} pixels")
    if radius <= 0:
        raise InputError(f"{name}: radius is a number of pixels above 0, not {radius:g}")
    if not 0 < fov <= 360:
        raise InputError(f"{name}: fov is the field of view across the circle, above 0 and up to 360, not {fov:g}")
    return Lens((column, row), radius, fov, rotation_matrix(yaw, pitch, roll))


def _numbers(values: Any, count: int, name: str, what: str) -> list[float]:
    kinds = isinstance(values, list) and all(type(value) in (int, float) and abs(value) < 1e9 for value in values)
    if not kinds or len(values) != count:
        raise InputError(f"{name} is {count} number{'s' * (count > 1)} ({what}), not {values!r}")
    return [float(value) for value in values]


def convert_fisheye(
    image: str | Path,
    calibration: Calibration,
    out: str | Path,
    *,
    rows: int | None = None,
    overwrite: bool = False,
    max_pixels: int | None = None,
) -> float:
    """Convert a fisheye image to a panorama, and return the share of the sphere that no lens sees.

    An image whose size differs from the calibration's is assumed to be scaled. Areas that no lens sees are transparent
    in PNG, WebP and TIFF, and black in JPEG. Only JPEG files get GPano tags that mark them as panoramas.

    Args:
        image: Image file that shows all lenses.
        calibration: See `read_calibration`.
        out: File to write; its suffix sets the format.
        rows: Rows of the panorama. If omitted, it is as dense as the image.
        overwrite: Replace the file if it exists.
        max_pixels: Largest allowed number of pixels of image and panorama; `limits.max_pixels()` by default.

    Raises:
        FileExistsError: If the file exists and `overwrite` is false.
        InputError: If the image has another aspect ratio than the calibration, the suffix is unknown, `rows` is below
            2, or `out` is the image.
        OSError: If a file cannot be read or written.
    """
    out = Path(out)
    if out.suffix.lower() not in OUTPUTS:
        raise InputError(f"{out} must end in one of {', '.join(OUTPUTS)}")
    check_no_input(out, [image])
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} already exists: choose another name, or replace it with --overwrite")
    pixels = decode_image(read_file(image), str(image), max_pixels).pixels
    height, width = pixels.shape[:2]
    scale = width / calibration.width
    if abs(height - scale * calibration.height) > 1:
        wanted = f"{calibration.width} x {calibration.height}"
        raise InputError(f"{image} is {width} x {height} pixels, but its calibration is for {wanted} or the same shape")
    lenses = [_scaled(lens, scale) for lens in calibration.lenses]
    rows = Calibration(width, height, tuple(lenses)).rows if rows is None else rows
    if rows < 2:
        raise InputError(f"a panorama has at least 2 rows, not {rows}")
    check_pixels(rows, 2 * rows, str(out), max_pixels)
    values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float()
    panorama, seen = from_fisheyes(values, lenses, rows, 2 * rows)
    rgb = panorama.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    _write(out, rgb, seen.numpy())
    return float((latitude_weights(rows) * ~seen).mean())


def _scaled(lens: Lens, scale: float) -> Lens:
    column, row = ((place + 0.5) * scale - 0.5 for place in lens.centre)  # the corner of the image stays in place
    return lens._replace(centre=(column, row), radius=lens.radius * scale)


def _write(out: Path, rgb: Any, seen: Any) -> None:
    kind = OUTPUTS[out.suffix.lower()]
    data = io.BytesIO()
    if kind == "JPEG":
        height, width = rgb.shape[:2]
        xmp = gpano_xmp(height, width, None, None).encode()
        Image.fromarray(rgb).save(data, kind, quality=QUALITY, subsampling=0, xmp=xmp)
    else:
        shown = rgb if seen.all() else np.dstack((rgb, np.where(seen, np.uint8(255), np.uint8(0))))
        Image.fromarray(shown).save(data, kind, **({"lossless": True} if kind == "WEBP" else {}))
    write_bytes(out, data.getvalue())
