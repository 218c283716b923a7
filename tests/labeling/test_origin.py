"""How to tell whether a panorama is the one that was labelled."""

import hashlib
import os

import pytest

from mtpano_zoo.labeling.origin import Origin, digest_of_files, stamp_of_file


@pytest.mark.parametrize("origin", [Origin("sha256 0f"), Origin("room 3 of train, seed 0", "12:34:56 7:8:9")])
def test_records_are_read_back(origin):
    assert Origin.from_bytes(origin.to_bytes()) == origin


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\n"])
def test_an_empty_record_is_of_no_image(content):
    assert Origin.from_bytes(content) == Origin("")


def test_the_digest_of_a_file_is_the_one_that_everybody_computes():
    assert digest_of_files([b"abc"]) == f"sha256 {hashlib.sha256(b'abc').hexdigest()}"
    assert digest_of_files([b"ab", b"c"]) != digest_of_files([b"a", b"bc"])


def test_a_replaced_file_has_another_stamp_whatever_is_done_to_its_times(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    before, stat = stamp_of_file(path), path.stat()
    assert stamp_of_file(path) == before
    (tmp_path / "b.jpg").write_bytes(b"two")
    os.utime(tmp_path / "b.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "b.jpg").rename(path)
    assert path.stat().st_mtime_ns == stat.st_mtime_ns and path.stat().st_size == stat.st_size
    assert stamp_of_file(path) != before
