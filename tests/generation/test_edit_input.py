"""Input to edit or extend: hints in messages fit the picture, and its pixels end up in the right place."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.edit_input import read_task
from mtpano_zoo.verbs.generate import edit_parser


def saved(folder: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(folder / "a.png", **options)
    return folder / "a.png"


@pytest.mark.parametrize("mask", [None, "mask.png"])
@pytest.mark.parametrize(("rows", "columns", "angle"), [(30, 40, 67), (40, 30, 53), (24, 36, 69), (30, 30, 61)])
def test_a_photograph_is_extended_by_the_hint(
    tmp_path: Path, rows: int, columns: int, angle: int, mask: str | None
) -> None:
    """A 26 mm lens on 36 x 24 mm sees 2 atan(18 / 26) = 69 degrees across; other formats have the same diagonal."""
    path = saved(tmp_path, np.full((rows, columns, 3), 255, np.uint8))
    hint = f"to extend it, pass --fov instead of --mask; .* --fov {angle} with a phone's 26 mm lens"
    with pytest.raises(InputError, match=hint):
        read_task(path, mask, None, 64)
    _, kept = read_task(path, None, angle, 64)
    across = kept[32].sum() / 128 * 360
    assert across == pytest.approx(angle, abs=360 / 128 + 1e-6)


def test_a_strip_is_extended_by_the_hint(tmp_path: Path) -> None:
    path = saved(tmp_path, np.full((30, 120, 3), 255, np.uint8))
    with pytest.raises(InputError, match="that goes all the way round, --fov 360x90") as caught:
        read_task(path, None, None, 32)
    options = edit_parser().parse_args(
        [str(path), *str(caught.value).rsplit(" ", 2)[1:], "--prompt", "", "--out", "b.png"]
    )
    image, kept = read_task(path, None, options.fov, 32)
    assert kept[9:23].all() and not kept[:8].any() and not kept[24:].any()
    assert image.shape == (3, 32, 64) and image[:, kept].min() > 0.99


def test_photographs_are_upright_and_not_coarsened_to_single_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.where(rng.random((400, 300, 3)) < 0.5, 0, 255).astype(np.uint8)
    pixels[:50] //= 2
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the file holds the picture on its side
    path = saved(tmp_path, np.ascontiguousarray(np.rot90(pixels)), exif=exif)
    image, kept = read_task(path, None, 60, 32)
    rows, columns = kept.any(1).nonzero().flatten(), kept.any(0).nonzero().flatten()
    assert len(rows) > len(columns)
    centre = 16
    down = math.degrees(2 * math.atan(400 / 300 * math.tan(math.radians(30)))) / 180 * 32
    assert abs(int(rows[-1] - rows[0] + 1) - down) <= 1
    assert image[:, rows[0], columns].mean() < 0.35 < image[:, centre, columns].mean()
    assert image[:, 12:20, columns[1:-1]].std() < 0.1  # white noise of 0.5, averaged over about 5 x 5 pixels and more
    torch.testing.assert_close(image[:, ~kept], torch.zeros_like(image[:, ~kept]))
