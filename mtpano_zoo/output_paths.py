"""Paths: those that users name, and those of outputs, which never leave the user's folder nor replace other files."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mtpano_zoo.errors import InputError

__all__ = (
    "MAX_NAME_BYTES",
    "check_destination",
    "check_id",
    "check_no_input",
    "left_out",
    "may_become_report",
    "path_below",
    "printable",
    "user_path",
)

# The longest file name that ext4, APFS and NTFS all accept.
MAX_NAME_BYTES = 255
SHOWN = 10


def check_id(sample_id: str, suffix: str = "") -> str:
    """Return the id if it can name a file below a folder.

    Slashes separate sub-folders. Every part must be a name that Linux, macOS and Windows all accept.

    Args:
        sample_id: Id of a sample, such as `scene_01/room_3`.
        suffix: The longest text to append for a file name; it counts towards the length of the name.

    Raises:
        InputError: If the id is empty or absolute, holds a drive, a backslash or a NUL, has a part that is empty, `.`,
            `..` or ends in a dot or a space, or makes a file name longer than 255 bytes.

    Example:
        >>> check_id("house/room 1")
        'house/room 1'
    """
    shown = repr(sample_id if len(sample_id) <= 80 else f"{sample_id[:77]}...")
    if not sample_id.strip():
        raise InputError(f"The id {shown} is empty: it cannot name a file.")
    if PurePosixPath(sample_id).is_absolute() or "\\" in sample_id or "\0" in sample_id:
        raise InputError(f"The id {shown} cannot name a file: it must be relative, without backslash and NUL.")
    parts = sample_id.split("/")
    for part in parts:
        if part in ("", ".", "..") or part[-1] in ". " or part[1:2] == ":":
            raise InputError(
                f"The id {shown} cannot name a file: {part!r} is empty, '.', '..', a drive, or ends in a dot or space."
            )
        length = len(part.encode("utf-8", "surrogateescape")) + (len(suffix.encode()) if part is parts[-1] else 0)
        if length > MAX_NAME_BYTES:
            raise InputError(f"The id {shown} makes a file name of {length} bytes: at most {MAX_NAME_BYTES} fit.")
    return sample_id


def path_below(folder: str | Path, sample_id: str, suffix: str = "") -> Path:
    """Return the path below `folder` for the id of a sample, with `suffix` appended.

    Raises:
        InputError: If the id cannot name a file, see `check_id`.

    Example:
        >>> path_below("results", "house/room", "_depth.png").as_posix()
        'results/house/room_depth.png'
    """
    return Path(folder) / f"{check_id(sample_id, suffix)}{suffix}"


def user_path(text: str | Path) -> Path:
    """Return a path, with the home folder for a `~` that the shell has left, as in `--out=~/results`.

    Example:
        >>> user_path("results/room").parts
        ('results', 'room')
    """
    return Path(os.path.expanduser(text))  # noqa: PTH111 - `Path.expanduser` fails for a file such as `~notes`


def printable(text: str) -> str:
    r"""Return text with escapes for the undecodable bytes that a file name may hold.

    Example:
        >>> printable("a\udcff.png")
        'a\\udcff.png'
    """
    return text.encode(errors="backslashreplace").decode()


def check_no_input(path: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write a file that the same command reads, even under another name or through a link.

    Raises:
        InputError: If the path is one of the inputs.
    """
    if path.exists() and any(Path(file).exists() and path.samefile(file) for file in inputs):
        raise InputError(f"{path} is an input of this command, which would replace it: choose another name")


def may_become_report(path: Path, is_report: Callable[[dict[str, Any]], bool]) -> bool:
    """Return whether a JSON report may be written here: nothing is there, an empty file, or an earlier report.

    Args:
        path: Where to write.
        is_report: Whether the content of a JSON file is such a report.
    """
    from mtpano_zoo.text_files import read_json

    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return True
    try:
        found = read_json(path) if path.is_file() else None
    except ValueError:
        return False
    return isinstance(found, dict) and is_report(found)


def check_destination(path: Path, format: str, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse a folder, an input or an existing file before `mtpano export` starts any slow work.

    Raises:
        FileExistsError: If a file exists and `overwrite` is false.
        InputError: If a file is one of the inputs.
        IsADirectoryError: If the path is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write")
    files = [path, path.with_name(f"{path.name}.data")] if format == "onnx" else [path]
    for file in files:
        check_no_input(file, inputs)
    if not overwrite and (existing := [str(file) for file in files if file.exists()]):
        raise FileExistsError(f"{existing[0]} already exists: choose another name, or replace it with --overwrite")


def left_out(sentences: Sequence[str], total: int, folder: str | Path) -> InputError:
    """Return the error of a command that wrote all but some samples.

    Args:
        sentences: Why each sample was left out; the first ten are shown.
        total: Number of samples.
        folder: Where the other results are.

    Example:
        >>> print(left_out(["b.jpg is truncated"], 3, "results"))
        1 of 3 samples were left out; the others are in results:
          b.jpg is truncated
    """
    lines = [f"{len(sentences)} of {total} samples were left out; the others are in {folder}:"]
    lines += [f"  {sentence}" for sentence in sentences[:SHOWN]]
    lines += [f"  and {len(sentences) - SHOWN} more"] if len(sentences) > SHOWN else []
    return InputError(printable("\n".join(lines)))
