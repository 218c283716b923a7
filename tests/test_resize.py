import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mtpano_zoo import resize as module
from mtpano_zoo.resize import resize, resize_argmax, resize_bands, resize_pixels

SIZES = [
    ((40, 80), (16, 32)),  # smaller
    ((16, 32), (37, 75)),  # larger, no common factor
    ((59, 118), (32, 64)),
    ((32, 64), (32, 64)),
    ((8, 16), (64, 128)),
    ((30, 60), (45, 20)),  # larger in one direction, smaller in the other
]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_agrees_with_torch_on_three_copies_side_by_side(old, new):
    maps = torch.rand(2, 3, *old, dtype=torch.float64)
    copies = functional.interpolate(maps.repeat(1, 1, 1, 3), (new[0], 3 * new[1]), mode="bilinear", antialias=True)
    torch.testing.assert_close(resize(maps, *new), copies[..., new[1] : 2 * new[1]], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bytes_are_read_as_numbers(old, new):
    maps = torch.randint(0, 256, (3, *old), dtype=torch.uint8)
    resized = resize(maps, *new)
    assert resized.dtype == torch.float32
    torch.testing.assert_close(resized, resize(maps.float(), *new))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_rolling_and_constants(columns, new_columns, height, new_height, periods):
    # Whole columns of the input that are whole columns of the output: a `periods`-th of the circle.
    maps = torch.rand(2, height, periods * columns)
    resized = resize(maps, new_height, periods * new_columns)
    assert torch.equal(resize(maps.roll(columns, -1), new_height, periods * new_columns), resized.roll(new_columns, -1))
    ones = resize(torch.ones(1, height, columns), new_height, new_columns)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    assert resized.min() >= maps.min() - 1e-6 and resized.max() <= maps.max() + 1e-6


@pytest.mark.parametrize("chunk", [1, 500, 1 << 22])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_argmax_in_bands_is_the_argmax_of_all(monkeypatch, chunk, old, new):
    monkeypatch.setattr(module, "CHUNK", chunk)
    logits = torch.randn(5, *old)
    logits[3, : old[0] // 2] += 9  # clear of the others there: not computed pixel by pixel
    logits[1:, -2:] = logits[:1, -2:]  # all the same: the first counts, but for rounding
    labels = resize_argmax(logits, *new)
    assert labels.dtype == torch.uint8 and labels.shape == new
    resized = resize(logits, *new)
    # Ties within rounding may fall either way.
    chosen = resized.gather(0, labels[None].long())[0]
    torch.testing.assert_close(chosen, resized.amax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_pixels_are_resized_as_maps_are(old, new):
    pixels = torch.randint(0, 256, (*old, 3), dtype=torch.uint8)
    resized = resize_pixels(pixels, *new)
    torch.testing.assert_close(resized, resize(pixels.permute(2, 0, 1), *new), atol=1e-4, rtol=0)


def test_more_classes_than_a_byte_holds():
    assert int(resize_argmax(torch.arange(300.0).view(-1, 1, 1).expand(-1, 2, 4), 3, 6).min()) == 299


@pytest.mark.parametrize("chunk", [1, 500, 1 << 22])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bands_are_the_rows_of_the_whole(monkeypatch, chunk, old, new):
    monkeypatch.setattr(module, "CHUNK", chunk)
    maps = torch.randn(3, *old)
    places, bands = zip(*resize_bands(maps, *new), strict=True)
    assert [row for place in places for row in range(new[0])[place]] == list(range(new[0]))
    torch.testing.assert_close(torch.cat(bands, 1), resize(maps, *new), atol=1e-6, rtol=0)
