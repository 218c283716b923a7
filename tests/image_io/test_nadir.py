from functools import cache

import numpy as np
import pytest

from mtpano_zoo.image_io.nadir import nadir_disc
from mtpano_zoo.scenes import render, sample_home, sample_room, sample_street


@cache
def panoramas() -> list[np.ndarray]:
    """Three each of rooms, homes and streets."""
    samplers = (sample_room, sample_home, sample_street)
    batches = [render([sample(3, "test", i) for i in range(3)], 128, 256)["image"] for sample in samplers]
    return [(image * 255).byte().permute(1, 2, 0).numpy() for batch in batches for image in batch]


def test_nothing_is_found_where_nothing_is() -> None:
    assert [nadir_disc(image) for image in panoramas()] == [None] * 9
    assert nadir_disc(np.zeros((16, 32, 3), np.uint8)) is None


@pytest.mark.parametrize("degrees", [9, 22, 34])
def test_discs_end_where_they_were_planted(degrees: float) -> None:
    """Of one colour, or of sectors of two: their borders are found in every scene."""
    below = (128 - np.arange(128) - 0.5) / 128 * 180 < degrees
    sectors = (np.arange(256) // 20 % 2 == 0)[:, None]
    for image in panoramas():
        for fill in (np.zeros(3), np.where(sectors, (250, 120, 20), (20, 60, 200))):
            covered = image.copy()
            covered[below] = fill
            assert nadir_disc(covered) == pytest.approx(degrees, abs=1.5)


@pytest.mark.parametrize("unseen", [5, 15, 24])
def test_the_edge_of_an_unseen_area_is_no_disc(unseen: float) -> None:
    """A crop is black above and below; a transparent patch, too, and it may have any shape."""
    angle = (128 - np.arange(128) - 0.5) / 128 * 180
    seen = np.repeat((angle > unseen)[:, None] & (angle < 150)[:, None], 256, 1)
    ragged = seen.copy()
    ragged[100:112, 40:60] = False
    for image in panoramas():
        covered = image.copy()
        covered[angle < 34] = (20, 60, 200)
        for mask in (seen, ragged):
            assert nadir_disc(image * mask[..., None], mask) is None
            assert nadir_disc(covered * mask[..., None], mask) == pytest.approx(34, abs=1.5)
    below = np.repeat((angle < 60)[:, None], 256, 1)  # a crop of hardly more than the disc
    assert nadir_disc(covered * below[..., None], below) == pytest.approx(34, abs=1.5)
    assert nadir_disc(covered * np.False_, np.zeros_like(seen)) is None


def test_tripods_and_smooth_patches_have_no_border() -> None:
    """What the documentation says: they need an angle."""
    fade = np.clip((np.arange(128) - 96) / 24, 0, 1)[:, None, None]
    for image in panoramas():
        legged = image.copy()
        legged[104:, [20, 21, 105, 106, 190, 191]] = 20
        assert nadir_disc(legged) is None
        assert nadir_disc((image * (1 - fade) + 128 * fade).astype(np.uint8)) is None
