"""The list of samples to leave out of training, as `mtpano data verify` writes it."""

from pathlib import Path

from lightning import LightningDataModule

from mtpano_zoo.data.inspection import Verification
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.output_paths import printable
from mtpano_zoo.text_files import read_lines

__all__ = ("check_skip_list", "write_skip_list")


def check_skip_list(path: str | Path, data: LightningDataModule) -> None:
    """Check that a skip list may be written here: it may only replace a file whose ids it will contain.

    Raises:
        InputError: If the data is a mixture, or the file exists and has other content.
        OSError: If the file cannot be read.
    """
    if hasattr(data, "modules"):
        raise InputError(f"{path} would hold ids of several data sets: verify the sets of a mixture one by one")
    if Path(path).exists() and {line.strip() for line in read_lines(path)} - {""} - _left_out(data):
        raise InputError(f"{path} exists: choose another name for the list, or pass exclude={path} to add to it.")


def write_skip_list(path: str | Path, report: Verification, data: LightningDataModule) -> int:
    """Write the ids with errors, and those that the data module already leaves out, for its argument `exclude`.

    Returns:
        The number of ids.

    Raises:
        InputError: If `check_skip_list` would raise it, or an id cannot be a line: it is not UTF-8, or has a line break
            or blanks at an end.
    """
    check_skip_list(path, data)
    names = sorted(_left_out(data).union(report.faulty))
    for name in names:
        if (shown := printable(name)) != name:
            raise InputError(f"{shown} is not UTF-8, which a list of names has to be: rename the file")
        if name != name.strip() or "\n" in name:
            raise InputError(
                f"{name!r} has blanks at an end or a line break, which a list of names loses: rename the file"
            )
    write_bytes(path, "".join(f"{name}\n" for name in names).encode())
    return len(names)


def _left_out(data: LightningDataModule) -> frozenset[str]:
    names: frozenset[str] = getattr(data, "excluded", frozenset())
    return names
