import csv
import io
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtpano_zoo import limits
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import VARIABLE
from mtpano_zoo.text_files import (
    MAX_DEPTH,
    limit_configurations,
    parse_json,
    parse_yaml,
    read_json,
    read_json_lines,
    read_lines,
    read_table,
    read_text,
    read_yaml,
)

BOM = "\ufeff".encode()
LINES = "first\u2028still first\x0b\x0c\x1c\x85\u2029and here\r\nsecond\n\nfourth"
READERS = (read_text, read_lines, read_json, read_json_lines, read_yaml, read_table)


@pytest.mark.parametrize("bom", (b"", BOM))
def test_a_byte_order_mark_is_no_text_and_only_a_line_feed_ends_a_line(tmp_path, bom):
    path = tmp_path / "lines.txt"
    path.write_bytes(bom + LINES.encode())
    assert read_lines(path) == ["first\u2028still first\x0b\x0c\x1c\x85\u2029and here", "second", "", "fourth"]
    path.write_bytes(bom + json.dumps({"caption": LINES}, ensure_ascii=False).encode())
    assert read_json(path) == {"caption": LINES}
    assert read_json_lines(path) == [(1, {"caption": LINES})]
    path.write_bytes(bom + b"image: 1")
    assert read_yaml(path) == {"image": 1}
    path.write_bytes(bom + "image,caption\r\na.png,one\u2028line\r\n\r\nb.png\r\n".encode())
    assert read_table(path) == (
        ["image", "caption"],
        [(2, {"image": "a.png", "caption": "one\u2028line"}), (4, {"image": "b.png", "caption": ""})],
    )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", (b"\xff\xfei\x00m\x00a\x00g\x00e\x00", "größe".encode("latin-1")))
def test_what_is_not_utf8_is_refused_by_name(tmp_path, reader, content):
    path = tmp_path / "list.of.something"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"list\.of\.something is not UTF-8 text"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_beyond_the_limit_is_refused_by_name_and_the_variable_raises_it(tmp_path, reader, monkeypatch):
    path = tmp_path / "list.of.something"
    path.write_bytes(b'["' + b"x" * 4000 + b'"]')
    reader(path)
    monkeypatch.setattr(limits, "DEFAULT_MAX_PIXELS", 4000)
    with pytest.raises(InputError, match=rf"list\.of\.something has more than .* bytes: .* set {VARIABLE}"):
        reader(path)
    monkeypatch.setenv(VARIABLE, "200000")
    reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_a_device_without_end_is_refused(reader, monkeypatch):
    monkeypatch.setattr(limits, "DEFAULT_MAX_PIXELS", 100_000)
    with pytest.raises(InputError, match="/dev/zero has more than"):
        reader("/dev/zero")


@pytest.mark.parametrize("depth", (MAX_DEPTH + 1, 900, 100_000))
def test_what_is_nested_too_deeply_is_refused_by_name(tmp_path, depth):
    path = tmp_path / "deep"
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        path.write_text(text)
        for reader in (read_json, read_json_lines, read_yaml):
            with pytest.raises(InputError, match=r"deep.* is n(ested more than 64|ot YAML)"):
                reader(path)
    with pytest.raises(InputError, match="deep is nested more than 64"):
        parse_yaml("- " * depth, "deep")


def test_what_is_nested_as_deep_as_may_be_is_read():
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(text, "it") == parse_yaml(text, "it") == json.loads(text)


def test_aliases_of_aliases_are_refused_in_no_time():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]  # 9 ** 10 times x
    rows += ["classes: *a9"]
    start = time.perf_counter()
    with pytest.raises(InputError, match="it repeats itself more than 10 times through aliases"):
        parse_yaml("\n".join(rows), "it")
    long = "text: &a " + "x" * 50_000 + "\nmany: [" + "*a, " * 5_000 + "]"
    with pytest.raises(InputError, match="it repeats itself"):
        parse_yaml(long, "it")
    with pytest.raises(InputError, match=r"it is not YAML: the alias \*a has no anchor"):
        parse_yaml("&a [*a]", "it")
    assert time.perf_counter() - start < 1


def test_ordinary_aliases_are_followed():
    assert parse_yaml("base: &b {x: 1}\nnext: {<<: *b, y: 2}\nsame: *b", "it") == {
        "base": {"x": 1},
        "next": {"x": 1, "y": 2},
        "same": {"x": 1},
    }


def test_words_and_dates_of_old_yaml_are_text():
    text = "[yes, no, on, off, y, n, 2020-01-01, 1:30, 0123, 1_000]"
    assert parse_yaml(text, "it") == text[1:-1].split(", ")
    assert parse_yaml("[true, False, null, ~, 1, -2, 0x10, 1e-3, .5, -0.25, .inf]", "it") == [
        *(True, False, None, None, 1, -2, 16, 0.001, 0.5, -0.25, float("inf"))
    ]


def test_plain_scalars_stay_as_they_are_written():
    text = "[yes, no, true, null, ~, 1, 1.0, 0x10, =, 2020-01-01]"
    assert parse_yaml(text, "it", plain=True) == text[1:-1].split(", ")
    assert parse_yaml("{name: on, color: [1, 2, 3]}", "it", plain=True) == {"name": "on", "color": ["1", "2", "3"]}


@pytest.mark.parametrize(
    "text",
    ("{", "a: !!python/object/apply:os.system [x]", "!!int x", "!!timestamp 1", "? [a]\n: 1", "a: 1\n---\nb", "\0"),
)
def test_what_is_not_plain_yaml_is_refused_by_name(text):
    with pytest.raises(InputError, match="the file is not YAML: "):
        parse_yaml(text, "the file")


@pytest.mark.parametrize("text", ("", "{", "[1,]", "1" * 5000, "NaNs", '"\x01"'))
def test_what_is_not_json_is_refused_by_name(text):
    with pytest.raises(InputError, match="the file is not JSON: "):
        parse_json(text, "the file")


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(InputError, match=r"prompts\.jsonl, line 3, is not JSON"):
        read_json_lines(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_json_is_read_as_the_standard_library_does(value):
    assert parse_json(json.dumps(value), "it") == value


@given(st.lists(st.lists(st.text("ab ,\"\n'é;\u2028").map(str.strip), min_size=2, max_size=2), max_size=4))
def test_tables_survive_being_written_and_read(tmp_path_factory, rows):
    rows = [row for row in rows if any(row)]
    text = io.StringIO()
    csv.writer(text).writerows([["x", "y"], *rows])
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(text.getvalue().encode())
    columns, read = read_table(path)
    assert columns == ["x", "y"]
    assert [list(cells.values()) for _, cells in read] == rows


@pytest.mark.parametrize(
    ("text", "reason"),
    (
        ("image\n" + "x" * 200_000, "table.csv, line 2, is not CSV .field larger than field limit"),
        ("image,name\n\na.png,a\nb.png,b,c\n", "table.csv, line 4, has more cells than there are columns"),
        ("image,name,image\n", "table.csv names a column twice"),
    ),
)
def test_what_is_no_table_is_refused_by_file_and_line(tmp_path, text, reason):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_table(path)


def test_commas_without_cells_do_no_harm(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("image,name,,\na.png,a,,,\n,,\n")
    assert read_table(path) == (["image", "name"], [(2, {"image": "a.png", "name": "a"})])


def test_configurations_are_refused_by_name_before_they_are_loaded(tmp_path):
    for content, reason in (
        (b"data: caf\xe9", "is not UTF-8"),
        (b"data: " + b"[" * 200 + b"]" * 200, "is nested more than 64"),
        (b"a: &a [" + b"x," * 5000 + b"]\nb: [" + b"*a," * 50 + b"]", "repeats itself"),
        (b"data: {", "is not YAML"),
    ):
        (tmp_path / "run.yaml").write_bytes(content)
        for arguments in (["fit", "--config", f"{tmp_path}/run.yaml"], [f"--config={tmp_path}/run.yaml"]):
            with pytest.raises(InputError, match=rf"run\.yaml {reason}"):
                limit_configurations(arguments)


def test_options_are_limited_too_and_stay_what_they_were(monkeypatch):
    from jsonargparse import ArgumentParser, _loaders_dumpers

    for registry in (_loaders_dumpers.loaders, _loaders_dumpers.loader_exceptions):
        monkeypatch.setitem(registry, "yaml", registry.get("yaml"))
    monkeypatch.setitem(_loaders_dumpers.loaders, "yaml", _loaders_dumpers.yaml_load)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sizes", type=dict[str, list[int]])
    parser.add_argument("--pattern", type=str)
    for _ in range(2):  # asked for twice, it is in place once
        limit_configurations([])
    loader = _loaders_dumpers.loaders["yaml"]
    limit_configurations([])
    assert _loaders_dumpers.loaders["yaml"] is loader
    parsed = parser.parse_args(["--sizes", "{a: [1, 2]}", "--pattern", "*.png"])
    assert (parsed.sizes, parsed.pattern) == ({"a": [1, 2]}, "*.png")
    with pytest.raises(InputError, match="the value of an option is nested more than 64"):
        loader("[" * 65 + "]" * 65)
