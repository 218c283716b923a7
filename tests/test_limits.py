import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import VARIABLE, check_pixels, max_bytes, max_pixels


def test_the_largest_usual_panorama_passes_and_twice_its_sides_do_not():
    check_pixels(8192, 16384, "it")
    with pytest.raises(InputError, match=rf"it is 32768 x 16384 pixels, more than 179 million.*{VARIABLE}"):
        check_pixels(16384, 32768, "it")


def test_the_variable_moves_every_limit(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1000")
    assert (max_pixels(), max_bytes()) == (1000, 4000)
    check_pixels(20, 50, "it")
    with pytest.raises(InputError):
        check_pixels(20, 51, "it")
    check_pixels(20, 51, "it", limit=1020)


@pytest.mark.parametrize("given", ("0", "-1", "1e9", "many", "٣", "1" * 30))
def test_a_limit_that_is_no_number_is_refused(monkeypatch, given):
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(InputError, match=f"{VARIABLE} is a number of pixels"):
        max_pixels()
