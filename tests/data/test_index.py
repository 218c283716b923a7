"""Samples from patterns: whatever lies where, the same list; found once, and again when something has changed."""

import os

import numpy as np
import pytest
from fake_files import write, write_zip

from mtpano_zoo.data import index
from mtpano_zoo.data.index import find_samples, index_rows

FILES = {
    "image": ("area_{area}/rgb/{name}_rgb.png",),
    "depth": ("area_{area}/depth/{name}_depth.png",),
    "normals": ("area_{area}/normals/{name}_x.png", "area_{area}/normals/{name}_y.png", "area_{area}/pose.txt"),
}
EXPRESSIONS = {"area": r"\d[ab]?"}
NAMES = [("1", "hall"), ("1", "loft"), ("5b", "été {x}")]
ROLES = [(role, pattern) for role, patterns in FILES.items() for pattern in patterns]
CONTENT = {
    f"Release/v1/{name}": name.encode()
    for area, room in NAMES
    for name in (pattern.format(area=area, name=room) for _, pattern in ROLES)
}


def find(root, **options):
    return find_samples(root, FILES, EXPRESSIONS, **({"prefix": "Release/v1/", "archives": "part_*.zip"} | options))


def part(condition):
    return {name: data for i, (name, data) in enumerate(CONTENT.items()) if condition(i)}


def lay_out(kind, folder):
    """Put the release there, and return the root."""
    folder.mkdir()
    if kind in ("tree", "inner tree"):
        write(folder, CONTENT)
        write(folder, {"Release/v1/area_9/rgb/x.png": b"", "area_1/rgb/other_rgb.png": b"", "notes.zip": b""})
    elif kind == "one zip":
        write_zip(folder / "part_1.zip", CONTENT)
        write_zip(folder / "other.zip", {"Release/v1/area_1/rgb/other_rgb.png": b"not of the release"})
    elif kind == "zip as root":
        write_zip(folder / "any.zip", CONTENT)
    elif kind == "zips":
        for number in range(3):
            write_zip(folder / f"part_{number}.zip", part(lambda i, number=number: i % 3 == number))
    elif kind == "half unpacked":  # what is unpacked is preferred
        write_zip(folder / "part_1.zip", part(lambda i: i % 2) | {"Release/v1/area_1/rgb/hall_rgb.png": b"old"})
        write(folder, part(lambda i: not i % 2))
        write(folder, {"Release/v1/area_1/rgb/hall_rgb.png": b"area_1/rgb/hall_rgb.png"})
    return {"inner tree": folder / "Release/v1", "zip as root": folder / "any.zip"}.get(kind, folder)


@pytest.mark.parametrize("place", ["tree", "archive"])
def test_hidden_files_are_no_panoramas(tmp_path, place):
    """macOS puts a file ._NAME beside every file of a drive that cannot hold its attributes."""
    hidden = ["area_1/rgb/._hall_rgb.png", "area_1/depth/._hall_depth.png", "area_1/rgb/.x_rgb.png"]
    files = CONTENT | {f"Release/v1/{name}": b"\0\5\x16\7" for name in hidden}
    if place == "tree":
        write(tmp_path / "data", files)
    else:
        write_zip(tmp_path / "data.zip", files)
    found = find(tmp_path / "data" if place == "tree" else tmp_path / "data.zip")
    assert [found.fields_of(i)["name"] for i in range(len(found))] == [name for _, name in NAMES]
    assert found.notes == []


@pytest.mark.parametrize("kind", ["tree", "inner tree", "one zip", "zip as root", "zips", "half unpacked"])
def test_the_same_samples_however_they_lie(tmp_path, kind):
    root = lay_out(kind, tmp_path / "data")
    for _ in range(2):  # searched, and remembered
        found = find(root)
        assert [found.fields_of(i) for i in range(len(found))] == [
            dict(zip(("area", "name"), n, strict=True)) for n in NAMES
        ]
        for i, (area, name) in enumerate(NAMES):
            for role, patterns in FILES.items():
                contents = [pattern.format(area=area, name=name).encode() for pattern in patterns]
                assert found.has(role, i) and found.read(role, i) == contents
        assert found.notes == []
    chosen = found.select(np.array([2, 0]))
    assert len(chosen) == 2 and chosen.fields_of(0)["area"] == "5b"
    assert chosen.read("depth", 1) == [b"area_1/depth/hall_depth.png"]


def test_wrong_root(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data root .*/nothing does not exist"):
        find(tmp_path / "nothing")
    form = r"holds no panorama of the form area_\{area\}/rgb/\{name\}_rgb.png, neither unpacked nor in part_\*.zip; it "
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=form + "holds nothing"):
        find(tmp_path / "empty")
    write(tmp_path / "other", {f"{i:02d}/x.png": b"" for i in range(9)} | {"a.txt": b""})
    with pytest.raises(FileNotFoundError, match=form + "holds 00/, 01/, .*, 07/ and 2 more: pass the folder"):
        find(tmp_path / "other")
    write_zip(tmp_path / "deeper.zip", {f"more/{name}": data for name, data in CONTENT.items()})
    with pytest.raises(FileNotFoundError, match=r"first of 14 files in deeper.zip is more/Release/v1/area_1/rgb/hall"):
        find(tmp_path / "deeper.zip")
    (tmp_path / "photo.png").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"photo\.png is not a complete zip file"):
        find(tmp_path / "photo.png")
    assert not (tmp_path / "mtpano_cache").exists()  # a mistake is not remembered


def test_what_is_missing_and_what_is_too_much_is_told(tmp_path):
    gone = ["area_1/depth/hall_depth.png", "area_1/normals/loft_y.png"]
    write(tmp_path / "data", {n: d for n, d in CONTENT.items() if n.removeprefix("Release/v1/") not in gone})
    write(tmp_path / "data/Release/v1", {"area_1/depth/attic_depth.png": b"", "area_2/pose.txt": b""})
    expected = [
        "1 of 3 panoramas have no depth, for example area_1/depth/hall_depth.png",
        "1 of 3 panoramas have no normals, for example area_1/normals/loft_x.png",
        "1 files have no image, for example area_1/depth/attic_depth.png",
    ]
    for _ in range(2):
        with pytest.warns(UserWarning) as caught:
            found = find(tmp_path / "data")
        assert [str(warning.message) for warning in caught] == [f"{tmp_path / 'data'}: {note}" for note in expected]
        assert [found.has("depth", i) for i in range(3)] == [False, True, True]
        assert [found.has("normals", i) for i in range(3)] == [True, False, True]
        assert not found.has("semseg", 0)


def test_names_that_are_not_utf8_are_found_told_and_remembered(tmp_path, monkeypatch):
    name = os.fsdecode(b"caf\xe9")
    write(tmp_path / "data", CONTENT | {f"Release/v1/area_2/rgb/{name}_rgb.png": b"here"})
    write_zip(tmp_path / f"data/part_{name}.zip", {"Release/v1/area_3/rgb/bar_rgb.png": b"there"})
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"2 of 5 panoramas have no depth, for example area_2/depth/caf\\udce9_"):
            found = find(tmp_path / "data")
        assert found.fields_of(2) == {"area": "2", "name": name}
        assert found.read("image", 2) + found.read("image", 3) == [b"here", b"there"]
        forbid(monkeypatch)


def forbid(monkeypatch):
    """Let nothing be listed any more."""

    def listed(*arguments):
        raise AssertionError("listed again")

    for name in ("list_tree", "list_archive"):
        monkeypatch.setattr(index, name, listed)


@pytest.mark.parametrize("kind", ["tree", "zips", "zip as root", "half unpacked"])
def test_nothing_is_listed_the_second_time(tmp_path, monkeypatch, kind):
    root = lay_out(kind, tmp_path / "data")
    first = find(root)
    forbid(monkeypatch)
    second = find(root)
    assert {p: c.tolist() for p, c in second.places.items()} == {p: c.tolist() for p, c in first.places.items()}
    for other in ({"prefix": "Release/"}, {"archives": "*.zip"}):  # another question has an answer of its own
        with pytest.raises(AssertionError, match="listed again"):
            find(root, **other)


def test_a_new_file_is_found(tmp_path):
    root = lay_out("tree", tmp_path / "data")
    assert len(find(root)) == 3
    for count, area in ((4, "1"), (5, "2")):  # in a known folder, in a new one
        write(root / "Release/v1", {p.format(area=area, name="new"): b"" for _, p in ROLES})
        assert len(find(root)) == count
    (root / "Release/v1/area_2/rgb/new_rgb.png").unlink()
    with pytest.warns(UserWarning, match="3 files have no image, for example area_2/depth/new_d"):
        assert len(find(root)) == 4


def test_a_changed_archive_is_read_again(tmp_path):
    root = lay_out("zips", tmp_path / "data")
    find(root)
    more = {p.format(area="3", name="new"): b"" for _, p in ROLES}
    write_zip(root / "part_9.zip", more)  # also without the leading folder
    assert len(find(root)) == 4
    (root / "part_9.zip").unlink()
    assert len(find(root)) == 3
    write_zip(root / "part_1.zip", part(lambda i: i % 3 == 1) | more)
    assert len(find(root)) == 4
    write(root, {f"Release/v1/{p.format(area='4', name='new')}": b"" for _, p in ROLES})  # unpacked beside it
    assert len(find(root)) == 5


def test_a_damaged_cache_is_ignored(tmp_path, index_cache):
    root = lay_out("half unpacked", tmp_path / "data")
    find(root)
    (cache,) = (index_cache / "index").iterdir()
    whole = cache.read_bytes()
    generator = np.random.default_rng(0)
    damaged = [b"", b"nothing", whole[:1000], whole[:-1]]
    for at in generator.integers(0, len(whole), 60):
        damaged.append(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    for data in damaged:
        cache.write_bytes(data)
        assert find(root).read("depth", 2) == ["area_5b/depth/été {x}_depth.png".encode()]


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "file" / "cache"))
    root = lay_out("tree", tmp_path / "data")
    with pytest.warns(UserWarning, match=r"cannot be cached in .*file/cache/index .*: set MTPANO_CACHE"):
        assert len(find(root)) == 3


def test_a_list_of_rows(tmp_path):
    write(tmp_path, {"a/1.png": b"one", "b/2.png": b"two"})
    rows = [{"image": "a/1.png", "depth": "", "split": "train"}, {"image": "a/é.png", "depth": "b/2.png", "split": ""}]
    found = index_rows(tmp_path, {"image": ("{image}",), "depth": ("{depth}",)}, rows)
    assert [found.fields_of(i) for i in range(2)] == rows
    assert [found.has("depth", i) for i in range(2)] == [False, True]
    assert found.read("image", 0) == [b"one"] and found.read("depth", 1) == [b"two"]
    with pytest.raises(FileNotFoundError):
        found.read("image", 1)
    assert found.describe("image", 1) == str(tmp_path / "a/é.png")
