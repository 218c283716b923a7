"""The list of samples to leave out of training, as `mtpano data verify` writes it."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from lightning import LightningDataModule

from mtpano_zoo.data.inspection import Verification
from mtpano_zoo.data.panoramas import SKIP_LIST, read_ids
from mtpano_zoo.data.sets import modules_of
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.output_paths import printable
from mtpano_zoo.text_files import read_text

__all__ = ("check_skip_list", "write_skip_list")


def check_skip_list(path: str | Path, data: LightningDataModule, splits: Sequence[str]) -> None:
    """Check that a skip list may be written here.

    It may replace a list that the same verification wrote, unless somebody changed it, and a file whose ids it will
    contain.

    Raises:
        InputError: If the file exists and has other content.
        OSError: If the file cannot be read.
    """
    if not Path(path).exists():
        return
    names = read_ids(path)
    if names - _left_out(data) and read_text(path) != _content(names, data, splits):
        raise InputError(
            f"{path} exists, and this verification did not write it: choose another name for the list, or pass "
            f"exclude={path} to add to it."
        )


def write_skip_list(path: str | Path, report: Verification, data: LightningDataModule, splits: Sequence[str]) -> int:
    """Write the ids with errors, and those that the data module already leaves out, for its argument `exclude`.

    Args:
        path: The file.
        report: What the verification found.
        data: The data module that was verified.
        splits: Which of its splits were to be verified.

    Returns:
        The number of ids.

    Raises:
        InputError: If the file exists and has other content, see `check_skip_list`, or an id is not UTF-8.
    """
    check_skip_list(path, data, splits)
    names = _left_out(data).union(report.faulty)
    for name in sorted(names):
        if (shown := printable(name)) != name:
            raise InputError(f"{shown} is not UTF-8, which a list of names has to be: rename the file")
    write_bytes(path, _content(names, data, splits).encode())
    return len(names)


def _content(names: Collection[str], data: LightningDataModule, splits: Sequence[str]) -> str:
    """Return the text of a list. Its first line has a hash of the ids and of what determines which files are read."""
    parts = {
        name: [type(module).__name__, str(getattr(module, "root", "")), getattr(module, "tasks", ())]
        for name, module in modules_of(data).items()
    }
    facts = json.dumps([sorted(names), sorted(splits), sorted(_left_out(data)), parts])
    digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return "".join(f"{line}\n" for line in (SKIP_LIST + digest, *sorted(names)))


def _left_out(data: LightningDataModule) -> set[str]:
    return set().union(*(getattr(module, "excluded", ()) for module in modules_of(data).values()))
