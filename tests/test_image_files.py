from pathlib import Path

import pytest

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import find_images, search_images

NAMES = ("a/x.jpg", "b/x.jpg", "b/y.jpg", "c/p.bmp", "c/p.tiff", "c/q.png", "d/r.jpg", "d/r.jpg.png", "d/r.webp")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Empty files, since only their names matter."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("link").symlink_to("a")


def names_of(*sources):
    found = find_images(sources, Path("out"))
    return {image.as_posix(): target.relative_to("out").as_posix() for image, target in found.items()}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(("sources", "expected"), [
    (("b/y.jpg", "a/x.jpg"), {"b/y.jpg": "y", "a/x.jpg": "x"}),
    # Folders below what holds all sources tell two images apart,
    (("a/x.jpg", "b/x.jpg"), {"a/x.jpg": "a/x", "b/x.jpg": "b/x"}),
    (("a", "b"), {"a/x.jpg": "a/x", "b/x.jpg": "b/x", "b/y.jpg": "b/y"}),
    (("a", "c/p.bmp", "b/x.jpg"), {"a/x.jpg": "a/x", "c/p.bmp": "c/p", "b/x.jpg": "b/x"}),
    # and where they do not, the suffix.
    (("c",), {"c/p.bmp": "p.bmp", "c/p.tiff": "p.tiff", "c/q.png": "q"}),
    (("c/p.bmp", "c/p.tiff"), {"c/p.bmp": "p.bmp", "c/p.tiff": "p.tiff"}),
    (("d",), {"d/r.jpg": "r.jpg", "d/r.jpg.png": "r.jpg.png", "d/r.webp": "r.webp"}),
    (("d", "a/x.jpg", "b"), {"d/r.jpg": "d/r.jpg", "d/r.jpg.png": "d/r.jpg.png", "d/r.webp": "d/r.webp",
                             "a/x.jpg": "a/x", "b/x.jpg": "b/x", "b/y.jpg": "b/y"}),
])  # fmt: skip
def test_two_images_never_have_the_same_name(sources, expected):
    assert names_of(*sources) == expected
    assert len(set(expected.values())) == len(expected)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("first", [b"a/x.jpg", b"# tour\r\na/x.jpg"])
def test_a_byte_order_mark_is_no_part_of_a_list(first):
    Path("list.txt").write_bytes(b"\xef\xbb\xbf" + first + b"\r\nb/y.jpg\r\n")
    assert names_of("@list.txt") == {"a/x.jpg": "x", "b/y.jpg": "y"}


@pytest.mark.usefixtures("images")
def test_the_same_image_twice_is_one(tmp_path):
    absolute = tmp_path / "a" / "x.jpg"
    assert names_of("a/x.jpg", "a/x.jpg", "a", "./a/../a/x.jpg", absolute, "link/x.jpg") == {"a/x.jpg": "x"}
    assert names_of("a/x.jpg", "b/x.jpg", absolute) == {"a/x.jpg": "a/x", "b/x.jpg": "b/x"}


@pytest.mark.usefixtures("images")
def test_the_name_of_the_folder_above_everything_does_not_matter(tmp_path):
    absolute = find_images([tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"], tmp_path / "out")
    assert [target.relative_to(tmp_path / "out").as_posix() for target in absolute.values()] == ["a/x", "b/x"]


@pytest.mark.usefixtures("images")
def test_places_that_cannot_be(tmp_path):
    for sources, out, sentence in (
        ([], "out", "no image and no folder"),
        ([""], "out", "a source is empty"),  # not the working folder
        (["a", ""], "out", "a source is empty"),
        (["a"], "a/x.jpg", "x.jpg is a file"),
        (["a", "b"], "b", "b holds the images"),
    ):
        with pytest.raises(InputError, match=sentence):
            find_images(sources, Path(out))


def test_a_folder_of_videos_is_refused_with_a_hint(tmp_path):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(InputError, match=r"holds no image .*; name videos themselves, as in .*clip\.mp4"):
        find_images([tmp_path], tmp_path / "out")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("source", ["b/*", "@list.txt"])
def test_videos_that_a_pattern_matches_are_used_where_videos_are(source):
    for name in ("b/clip.mp4", "b/x.mov", "b/notes.txt", "b/raw.insv"):
        Path(name).touch()
    Path("list.txt").write_text("b/*")
    used, others = search_images([source], Path("out"), videos=True)
    # Results of an image and of a video of one name do not collide.
    names = {"clip.mp4": "clip", "x.jpg": "x", "x.mov": "x", "y.jpg": "y"}
    assert {path.name: target.name for path, target in used.items()} == names
    assert [path.name for path in others] == ["notes.txt", "raw.insv"]
    used, others = search_images([source], Path("out"))
    assert [path.name for path in used] == ["x.jpg", "y.jpg"]
    assert [path.name for path in others] == ["clip.mp4", "notes.txt", "raw.insv", "x.mov"]


@pytest.mark.usefixtures("images")
def test_other_files_are_returned_with_the_reason_but_not_hidden_ones():
    for name in ("a/clip.mp4", "a/notes.txt", "a/.hidden", "a/out/x_depth.npy"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    found = search_images(["a", "b/x.jpg"], Path("a/out"))
    assert found.images == {Path("a/x.jpg"): Path("a/out/a/x"), Path("b/x.jpg"): Path("a/out/b/x")}
    assert {path.name: reason.split()[:2] for path, reason in found.passed_over.items()} == {
        "clip.mp4": ["a", "video:"],
        "notes.txt": [".txt", "is"],
    }
