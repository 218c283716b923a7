"""Read text, lines, tables, JSON and YAML that others wrote: UTF-8 only, limited in size and depth, never executed.

Any fault becomes one `InputError` that names the file. A byte order mark is not part of the text, and only a line feed
ends a line: captions may hold the other characters at which `str.splitlines` splits.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import VARIABLE, check_bytes, max_bytes, read_file

__all__ = (
    "check_yaml",
    "decode_text",
    "limit_configurations",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_json_lines",
    "read_lines",
    "read_table",
    "read_text",
    "read_yaml",
)

MAX_DEPTH = 64  # levels of nesting; nothing that we read has ten
# Bytes per pixel of the largest allowed image; fewer where every few bytes become an object in memory.
_BYTES_OF_TEXT, _BYTES_OF_JSON, _BYTES_OF_YAML = 1.0, 1 / 4, 1 / 32
_NODES_OF_YAML = 1 / 1024  # per such pixel: nodes are large and slow to create
_REPETITION = 10  # how often aliases may repeat a YAML file
_SMALL = 10_000  # nodes that a file of any length may have


def decode_text(data: bytes, name: str) -> str:
    """Turn the content of a file into text; `name` starts the error message.

    Raises:
        InputError: If it is not UTF-8.

    Example:
        >>> decode_text("Fuß".encode(), "notes.txt")
        'Fuß'
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text (byte {error.start + 1} is wrong): save it as UTF-8") from error


def read_text(path: str | Path) -> str:
    """Read a text file.

    Raises:
        InputError: If it is not UTF-8, or too large.
        OSError: If it cannot be read.
    """
    return decode_text(read_file(path, max_bytes(_BYTES_OF_TEXT)), str(path))


def read_lines(path: str | Path) -> list[str]:
    r"""Read the lines of a text file without their line ends; empty ones are kept, so that line numbers stay right.

    Raises:
        InputError: If it is not UTF-8, or too large.
        OSError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "list.txt")
        ...     _ = path.write_bytes(b"one\r\n\ntwo")
        ...     read_lines(path)
        ['one', '', 'two']
    """
    return [line.removesuffix("\r") for line in read_text(path).split("\n")]


def parse_json(data: bytes | str, name: str) -> Any:
    """Parse JSON; `name` starts the error message.

    Raises:
        InputError: If it is not JSON, not UTF-8, too large, or nested too deeply.

    Example:
        >>> parse_json(b'{"classes": 3}', "a.json")
        {'classes': 3}
    """
    check_bytes(len(data), max_bytes(_BYTES_OF_JSON), name)
    text = decode_text(data, name) if isinstance(data, bytes) else data
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise _too_deep(name) from error
    except ValueError as error:
        raise InputError(f"{name} is not JSON: {error}") from error
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return content
    raise _too_deep(name)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: If it is not JSON, not UTF-8, too large, or nested too deeply.
        OSError: If it cannot be read.
    """
    return parse_json(read_file(path, max_bytes(_BYTES_OF_JSON)), str(path))


def read_json_lines(path: str | Path) -> list[tuple[int, Any]]:
    """Read a file with one JSON value per line, and return the number and the value of every line that is not empty.

    Raises:
        InputError: If it is not UTF-8 or too large, or a line is not JSON or nested too deeply.
        OSError: If it cannot be read.
    """
    return [
        (number, parse_json(line, f"{path}, line {number},"))
        for number, line in enumerate(read_lines(path), start=1)
        if line.strip()
    ]


def parse_yaml(text: str, name: str, *, plain: bool = False) -> Any:
    """Parse YAML with the numbers and booleans of YAML 1.2: `yes`, `no`, `on` and `off` are text.

    Args:
        text: One document.
        name: Start of the error message.
        plain: Keep every scalar as text, so that a class may be called `true`, `null` or `1`.

    Raises:
        InputError: If it is not YAML, too large, nested too deeply, or aliases repeat its parts too often.

    Example:
        >>> parse_yaml("on: [yes, true, 1e-3]", "a.yaml")
        {'on': ['yes', True, 0.001]}
        >>> parse_yaml("[true, 1]", "a.yaml", plain=True)
        ['true', '1']
    """
    loader = _PlainLoader if plain else _Loader
    try:
        check_yaml(text, name)
        return yaml.load(text, loader)
    except RecursionError as error:
        raise _too_deep(name) from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise _not_yaml(name, error) from error


def read_yaml(path: str | Path, *, plain: bool = False) -> Any:
    """Read a YAML file, see `parse_yaml`.

    Raises:
        InputError: If `parse_yaml` refuses it, or it is not UTF-8.
        OSError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.yaml").write_text("classes: [wall, floor]")
        ...     read_yaml(Path(folder, "a.yaml"))
        {'classes': ['wall', 'floor']}
    """
    return parse_yaml(decode_text(read_file(path, max_bytes(_BYTES_OF_YAML)), str(path)), str(path), plain=plain)


def check_yaml(text: str, name: str) -> None:
    """Refuse YAML that is too large, nested too deeply, or repeated too often by aliases, before it is loaded.

    The length of a node is one plus the length of its text or of the nodes in it; an alias has the length of the node
    that it stands for.

    Args:
        text: YAML that any loader is about to load.
        name: Start of the error message.

    Raises:
        InputError: If it is too large, nested too deeply, or aliases repeat its parts too often.
        yaml.YAMLError: If it is not YAML.

    Example:
        >>> check_yaml("[" * 300 + "]" * 300, "a.yaml")
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: a.yaml is nested more than ... levels deep, as no such file needs to be
    """
    check_bytes(len(text), max_bytes(_BYTES_OF_YAML), name)
    most = _REPETITION * len(text) + _SMALL
    lengths: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for number, event in enumerate(yaml.parse(text, _Loader)):
        if number > max_bytes(_NODES_OF_YAML):
            raise InputError(f"{name} has more than {number} entries: split it, or set {VARIABLE} if you trust it")
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > MAX_DEPTH + 1:
                raise _too_deep(name)
            continue
        if isinstance(event, yaml.ScalarEvent):
            anchor, length = event.anchor, 1 + len(event.value)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, length = open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in lengths:
                raise yaml.YAMLError(f"the alias *{event.anchor} has no anchor that is complete before it")
            anchor, length = None, lengths[event.anchor]
        else:
            continue
        if anchor is not None:
            lengths[anchor] = length
        open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][1] + length)
        if open_nodes[-1][1] > most:
            raise InputError(
                f"{name} repeats itself more than {_REPETITION} times through aliases: write out what is meant"
            )


def _check_file(path: Path) -> None:
    try:
        check_yaml(decode_text(read_file(path, max_bytes(_BYTES_OF_YAML)), str(path)), str(path))
    except yaml.YAMLError as error:
        raise _not_yaml(str(path), error) from error


def limit_configurations(arguments: Sequence[str]) -> None:
    """Make jsonargparse, which reads configurations and options, refuse the YAML that `check_yaml` refuses.

    Args:
        arguments: The command line. Faults of a configuration after `--config` are reported here, because jsonargparse
            does not name the file.

    Raises:
        InputError: If a configuration is not UTF-8 or not YAML, or `check_yaml` refuses it.
        OSError: If it cannot be read.
    """
    from jsonargparse import get_loader, set_loader

    for option, value in pairwise(chain.from_iterable(argument.split("=", 1) for argument in arguments)):
        if option in ("--config", "-c") and Path(value).is_file():
            _check_file(Path(value))
    load = get_loader("yaml")
    if not hasattr(load, "limited"):

        def limited(text: str) -> Any:
            check_yaml(text, "a configuration or the value of an option")
            return load(text)

        setattr(limited, "limited", True)  # noqa: B010 - a function has no such attribute by its type
        set_loader("yaml", limited, (yaml.YAMLError,))


def read_table(path: str | Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a CSV file with the names of its columns in the first line.

    Returns:
        The names, and the number and the cells by column of every further line that is not empty. Spaces around cells
        are removed; missing cells are empty.

    Raises:
        InputError: If it is not UTF-8, too large, a column occurs twice, or a line has more cells than columns or a
            cell that is too long.
        OSError: If it cannot be read.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    columns: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = cells[: max(i for i, cell in enumerate(cells, start=1) if cell)]
                if len(set(columns)) != len(columns):
                    raise InputError(f"{path} names a column twice: {', '.join(columns)}")
            elif any(cells[len(columns) :]):
                raise InputError(
                    f"{path}, line {reader.line_num}, has more cells than there are columns: put cells with commas in "
                    "quotes"
                )
            else:
                cells += [""] * (len(columns) - len(cells))
                rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}, is not CSV ({error}): is a quote not closed?") from error
    return columns, rows


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is 20 times as fast


class _PlainLoader(_SafeLoader):  # type: ignore[misc]
    """Safe YAML whose scalars are all text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class _Loader(_PlainLoader):
    """Safe YAML without the words, dates, octal and sexagesimal numbers of YAML 1.1."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


# The first match counts; a whole number with a leading zero is a name.
for _tag, _expression, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", [*"-+."]),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_expression})\Z"), _first)


def _not_yaml(name: str, error: Exception) -> InputError:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        return InputError(f"{name} is not YAML: line {mark.line + 1}, column {mark.column + 1}: {problem}")
    return InputError(f"{name} is not YAML: {' '.join(str(error).split())}")


def _too_deep(name: str) -> InputError:
    return InputError(f"{name} is nested more than {MAX_DEPTH} levels deep, as no such file needs to be")
