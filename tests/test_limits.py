import os

import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import BYTES_ON_DISK, VARIABLE, check_pixels, max_pixels, read_file


def test_the_largest_usual_panorama_passes_and_twice_its_sides_do_not():
    check_pixels(8192, 16384, "it")
    with pytest.raises(InputError, match=rf"it is 32768 x 16384 pixels, more than 178,956,970: .*{VARIABLE}"):
        check_pixels(16384, 32768, "it")


def test_the_variable_moves_every_limit(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1000")
    assert max_pixels() == 1000
    check_pixels(20, 50, "it")
    with pytest.raises(InputError):
        check_pixels(20, 51, "it")
    check_pixels(20, 51, "it", limit=1020)


@pytest.mark.parametrize("given", ("0", "-1", "1e9", "many", "٣", "1" * 30))
def test_a_limit_that_is_no_number_is_refused(monkeypatch, given):
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(InputError, match=f"{VARIABLE} is a number of pixels"):
        max_pixels()


def test_a_file_is_read_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    path.write_bytes(bytes(range(240)))
    monkeypatch.setenv(VARIABLE, "20")
    assert read_file(path) == bytes(range(240))
    path.write_bytes(bytes(241))
    with pytest.raises(InputError, match=r"a\.npy has more than 240 bytes"):
        read_file(path)
    assert len(read_file(path, BYTES_ON_DISK + 1)) == 241


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, 1 << 33)  # 8 GiB that take no place on the disk
    with pytest.raises(InputError, match=r"a\.png has more than 2,147,483,640 bytes"):
        read_file(path)
