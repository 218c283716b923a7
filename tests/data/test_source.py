"""Files by their place: the same bytes from a tree and from archives, and damage reported in one sentence."""

import contextlib
import pickle
import re
import tracemalloc
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from fake_files import damage, write, write_zip

from mtpano_zoo import limits
from mtpano_zoo.data.source import PLAIN, Source, compile_pattern, field_names, list_archive, list_tree
from mtpano_zoo.errors import InputError

ANYTHING = re.compile(".*")
CONTENT = {"a/one.bin": bytes(range(256)) * 40, "a/two.bin": b"", "b/three.txt": b"three" * 1000}


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def archive(request, tmp_path):
    write_zip(tmp_path / "files.zip", CONTENT, request.param)
    return tmp_path / "files.zip"


def test_a_pattern_is_a_path_with_fields():
    pattern = "area_{area}/{room}/{room}.v1.png"
    assert field_names(pattern) == ["area", "room", "room"]
    compiled = compile_pattern(pattern, {"area": r"\d[ab]?"})
    assert compiled.fullmatch("area_5b/hall (1)/hall (1).v1.png").groupdict() == {"area": "5b", "room": "hall (1)"}
    for name in ("area_7c/x/x.v1.png", "area_1/x/y.v1.png", "area_1/x/y/x/y.v1.png", "area_1/x/xzv1.png"):
        assert compiled.fullmatch(name) is None


def test_archives_give_what_was_packed(archive, tmp_path):
    places = list_archive(archive, 0, "", ANYTHING)
    source = Source(tmp_path / "none", [archive])
    assert {name: source.read(name, place) for name, place in places.items()} == CONTENT


def test_a_leading_folder_is_removed_and_others_are_left_out(tmp_path):
    write_zip(tmp_path / "files.zip", {"Release/a/1.png": b"1", "a/2.png": b"2", "Release/a/1.txt": b"3"})
    assert set(list_archive(tmp_path / "files.zip", 0, "Release/", re.compile(r"a/\d\.png"))) == {"a/1.png", "a/2.png"}


def test_members_with_extra_fields_and_archives_behind_other_bytes(tmp_path):
    """Lengths of names and extras are those of the local header; a self-extracting archive begins with a program."""
    path = tmp_path / "files.zip"
    with path.open("wb") as file:
        file.write(b"#!/bin/sh\n")
        with zipfile.ZipFile(file, "w") as written:
            info = zipfile.ZipInfo("a.bin")
            info.extra = b"\x01\x99\x04\x00abcd"
            written.writestr(info, b"content")
    ((name, place),) = list_archive(path, 0, "", ANYTHING).items()
    assert Source(tmp_path, [path]).read(name, place) == b"content"


def read(arguments):
    source, name, place = arguments
    return source.read(name, place)


def test_processes_read_at_the_same_time(archive, tmp_path):
    """Each has a handle of its own, whether it was forked after the first read or got the source as a message."""
    places = list_archive(archive, 0, "", ANYTHING)
    source = Source(tmp_path, [archive])
    source.read("a/one.bin", places["a/one.bin"])
    assert pickle.loads(pickle.dumps(source))._handles == {}  # noqa: S301
    jobs = [(source, name, place) for name, place in places.items()] * 20
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        assert list(pool.map(read, jobs)) == [CONTENT[name] for _, name, _ in jobs]


def test_a_file_is_named_for_a_person(tmp_path):
    source = Source(tmp_path, [tmp_path / "files.zip"])
    assert source.describe("a/1.png", PLAIN) == str(tmp_path / "a/1.png")
    assert source.describe("a/1.png", (0, 0, 0, 0, 0)) == f"{tmp_path / 'files.zip'}, member a/1.png"


def test_damaged_content_is_refused(tmp_path):
    path, content = tmp_path / "files.zip", {"a.bin": bytes(range(256))}
    write_zip(path, content, zipfile.ZIP_STORED)
    (place,) = list_archive(path, 0, "", ANYTHING).values()
    damage(path, content["a.bin"])
    with pytest.raises(ValueError, match=r"^its checksum \(CRC\) does not match"):
        Source(tmp_path, [path]).read("a.bin", place)


def test_damaged_compression_is_refused(tmp_path):
    path = tmp_path / "files.zip"
    write_zip(path, {"a.bin": b"abcdefgh" * 300})
    (place,) = list_archive(path, 0, "", ANYTHING).values()
    data = bytearray(path.read_bytes())
    for at in range(30 + len("a.bin"), 30 + len("a.bin") + place[2]):
        damaged = data.copy()
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^its (compressed data is damaged|checksum \(CRC\) does not match)"):
            Source(tmp_path, [path]).read("a.bin", place)


def test_an_archive_that_became_shorter_is_refused(archive, tmp_path):
    places = list_archive(archive, 0, "", ANYTHING)
    data = archive.read_bytes()
    for length in (0, 20, places["b/three.txt"][1] + 5, places["b/three.txt"][1] + 60):
        archive.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"damaged|checksum"):
            Source(tmp_path, [archive]).read("b/three.txt", places["b/three.txt"])


def test_truncated_archive(archive):
    data = archive.read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        archive.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"files\.zip is not a complete zip file .*: download it again"):
            list_archive(archive, 0, "", ANYTHING)


def test_rare_compression_and_encryption(tmp_path):
    path = tmp_path / "files.zip"
    write_zip(path, CONTENT, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"files\.zip: a/one\.bin is encrypted or in a rare compression"):
        list_archive(path, 0, "", ANYTHING)
    assert list_archive(path, 0, "", re.compile("other")) == {}  # it does not matter in files that are not wanted
    write_zip(path, {"a": b"1"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a is encrypted"):
        list_archive(path, 0, "", ANYTHING)


def test_only_folders_that_can_hold_files_are_looked_into(tmp_path):
    wanted = {"area_1/pano/rgb/a.png", "area_1/pano/rgb/b.png", "area_2/pano/rgb/a.png", "area_1/pano/depth/a.png"}
    others = {"area_1/data/rgb/a.png", "area_1/pano/rgb/c.txt", "area_x/pano/rgb/a.png", "a.png", "area_1/pano/x/y.png"}
    write(tmp_path, dict.fromkeys(wanted | others, b""))
    names, times = list_tree(tmp_path, ["area_{n}/pano/rgb/{i}.png", "area_{n}/pano/depth/{i}.png"], {"n": r"\d"})
    assert set(names) == wanted
    looked_into = {"", "area_1/", "area_1/pano/", "area_1/pano/rgb/", "area_1/pano/depth/", "area_2/", "area_2/pano/"}
    assert set(times) == looked_into | {"area_2/pano/rgb/"}
    assert list_tree(tmp_path / "none", ["{i}.png"], {}) == ([], {})


def test_members_that_would_grow_are_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "files.zip"
    write_zip(path, {"a.bin": bytes(20_000_000)})  # 20 MB in 20 kB
    (place,) = list_archive(path, 0, "", ANYTHING).values()
    assert len(Source(tmp_path, [path]).read("a.bin", place)) == 20_000_000
    monkeypatch.setattr(limits, "DEFAULT_MAX_PIXELS", 1_000_000)
    with measured(), pytest.raises(InputError, match=r"^it has more than 4,000,000 bytes"):
        Source(tmp_path, [path]).read("a.bin", place)
    for claimed in (0, 100, 1_000_000):  # a directory that lies
        lie = (*place[:3], claimed, *place[4:])
        with measured(3e6), pytest.raises(InputError, match=r"^its compressed data is damaged"):
            Source(tmp_path, [path]).read("a.bin", lie)


@contextlib.contextmanager
def measured(most=1e6):
    """What runs within takes no more than so many bytes of memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_what_lies_beyond_the_end_of_an_archive_reserves_no_memory(archive, tmp_path):
    with pytest.raises(InputError, match="it ends before the place that"):
        Source(tmp_path, [archive]).read("a/one.bin", (0, 0, 20_000, 20_000, zipfile.ZIP_STORED, 0))


def test_a_plain_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 33)  # without taking place on the disk
    with pytest.raises(InputError, match=r"a\.png has more than 2,147,483,640 bytes"):
        Source(tmp_path, []).read("a.png", PLAIN)


def test_members_that_leave_the_archive_stay_names(tmp_path):
    """Nothing is unpacked to the disk: a name that climbs or is absolute belongs to the bytes of the archive alone."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    write_zip(inside / "files.zip", {"../secret.png": b"own", str(tmp_path / "secret.png"): b"own"})
    source = Source(inside, [inside / "files.zip"])
    places = list_archive(inside / "files.zip", 0, "", ANYTHING)
    assert [source.read(name, place) for name, place in places.items()] == [b"own", b"own"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "secret.png"]


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_directory_is_one_sentence(tmp_path, seed):
    path = tmp_path / "files.zip"
    write_zip(path, CONTENT)
    data, random = bytearray(path.read_bytes()), np.random.default_rng(seed)
    start = data.index(b"PK\x01\x02")
    for at in random.integers(start, len(data), 3):
        data[at] = random.integers(256)
    path.write_bytes(data)
    try:
        source = Source(tmp_path, [path])
        for name, place in list_archive(path, 0, "", ANYTHING).items():
            with contextlib.suppress(InputError):
                source.read(name, place)
    except InputError as error:
        assert "files.zip" in str(error)
