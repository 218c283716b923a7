from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtpano_zoo.errors import InputError
from mtpano_zoo.output_paths import MAX_NAME_BYTES, check_id, path_below


@pytest.mark.parametrize("sample_id", ["room", "scene_01/room.3", "ä/日本", "a" * MAX_NAME_BYTES, ".hidden", "a b"])
def test_an_ordinary_id_keeps_its_name(sample_id: str) -> None:
    assert path_below("out", sample_id) == Path("out") / sample_id


@pytest.mark.parametrize(
    "sample_id",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "/abs",
        "a/",
        "C:x",
        "C:/x",
        "a/D:",
        "a\\b",
        "a\x00b",
        "a.",
        "a ",
        "a./b",
        "a" * 256,
        "ä" * 128,
        f"{'a' * 256}/b",
    ],
)
def test_an_id_that_cannot_name_a_file_is_refused(sample_id: str) -> None:
    with pytest.raises(InputError, match=r"The id .* (cannot name a file|makes a file name)"):
        path_below("out", sample_id)


def test_the_suffix_counts_towards_the_length_of_the_last_part_only() -> None:
    assert path_below("out", f"{'d' * 255}/{'a' * 251}", ".png").name == f"{'a' * 251}.png"
    with pytest.raises(InputError, match="256 bytes"):
        path_below("out", "a" * 252, ".png")


def test_a_message_shortens_a_long_id() -> None:
    with pytest.raises(InputError) as caught:
        check_id("x" * 10_000)
    assert len(str(caught.value)) < 250


@given(st.text(max_size=40))
def test_whatever_is_accepted_lies_below_the_folder(sample_id: str) -> None:
    try:
        path = path_below("/out/folder", sample_id)
    except InputError:
        return
    assert Path("/out/folder") in path.parents
    assert ".." not in path.parts
