import os
import zipfile

import pytest
import torch

from mtpano_zoo import limits
from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import read_checkpoint
from mtpano_zoo.limits import VARIABLE, check_pixels, check_stored, max_bytes, max_pixels, read_file


def test_the_largest_usual_panorama_passes_and_twice_its_sides_do_not():
    check_pixels(8192, 16384, "it")
    with pytest.raises(InputError, match=rf"it is 32768 x 16384 pixels, more than 178,956,970: .*{VARIABLE}"):
        check_pixels(16384, 32768, "it")


def test_the_variable_moves_the_limit_of_pixels_and_raises_those_of_bytes(monkeypatch):
    assert max_bytes(1) == 178_956_970
    monkeypatch.setenv(VARIABLE, "200000000")
    assert (max_pixels(), max_bytes(0.5)) == (200_000_000, 100_000_000)
    monkeypatch.setenv(VARIABLE, "1000")
    assert (max_pixels(), max_bytes(1)) == (1000, 178_956_970)
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
    monkeypatch.setattr(limits, "DEFAULT_MAX_PIXELS", 20)
    assert read_file(path) == bytes(range(240))
    path.write_bytes(bytes(241))
    with pytest.raises(InputError, match=r"a\.npy has more than 240 bytes"):
        read_file(path)
    assert len(read_file(path, 241)) == 241
    monkeypatch.setenv(VARIABLE, "21")
    assert len(read_file(path)) == 241


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, 1 << 33)  # 8 GiB that take no place on the disk
    with pytest.raises(InputError, match=r"a\.png has more than 2,147,483,640 bytes"):
        read_file(path)


def test_a_checkpoint_that_is_compressed_is_refused(tmp_path):
    plain, packed, cut = (tmp_path / name for name in ("plain.pt", "packed.pt", "cut.pt"))
    torch.save({"weight": torch.zeros(1000)}, plain)
    check_stored(plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match=r"packed\.pt has a compressed part .*data\.pkl"):
        check_stored(packed)
    with pytest.raises(InputError, match=r"packed\.pt has a compressed part"):
        read_checkpoint(packed)
    cut.write_bytes(plain.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cut\.pt is truncated or damaged"):
        check_stored(cut)
