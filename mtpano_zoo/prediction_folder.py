"""A folder of predictions that knows what made them and of which images they are."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.manifest import MANIFEST, check_settings, read_manifest, write_manifest

__all__ = ("RECORDS", "PredictionFolder", "manifest_of")

FORMAT = "mtpano predictions, 1"
RECORDS = "manifest.images.jsonl"
ADVICE = "choose another folder by --out, or replace the results by --overwrite"


def manifest_of(command: str, model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of predictions.

    Args:
        command: what makes them: results of different commands do not mix, since they name images differently.
        model: see `mtpano_zoo.manifest.describe_model`.
        options: those that change results, as plain data.
    """
    return {"format": FORMAT, "command": command, "model": dict(model), "options": dict(options)}


class PredictionFolder:
    """Results of images below a folder, all made with the same settings.

    `manifest.json` holds the settings, `manifest.images.jsonl` the names that results are written under, each with the
    hash of its image. A name is recorded without a hash before its first file is written, and with it after the last
    one: so the rest of a stopped run, which is made again, is told from files of the user's own, which are never
    replaced unasked. Where the settings of the folder change, by `overwrite`, all names lose their hash.

    Several processes may write to the folder.

    Args:
        root: the folder.
        manifest: see `manifest_of`.
        overwrite: replace results, those of other settings too.
        advice: ends the sentence that refuses, see `mtpano_zoo.manifest.check_settings`.
    """

    def __init__(self, root: Path, manifest: Mapping[str, Any], overwrite: bool = False, advice: str = ADVICE) -> None:
        self.root, self.manifest, self.overwrite, self.advice = root, manifest, overwrite, advice
        self.records: dict[str, str | None] = {}

    def claim(self, files: Iterable[Path] = ()) -> None:
        """Make the folder and its manifest, or go on in one that has the same.

        Args:
            files: what is to be written; none of it may be in a folder without manifest.

        Raises:
            InputError: If, without `overwrite`, it holds results of other settings or of nobody knows which, or if its
                manifest is unusable.
            OSError: If it cannot be written to.
        """
        known = read_manifest(self.root, FORMAT)
        if known is None and not self.overwrite and (found := next(filter(_exists, files), None)):
            raise InputError(f"{found} is there already, and no {MANIFEST} says what made it: {self.advice}.")
        self.root.mkdir(parents=True, exist_ok=True)
        self.records = _read_records(self.root / RECORDS)
        if known is None:
            if write_manifest(self.root, self.manifest):
                self._forget()
                return
            known = read_manifest(self.root, FORMAT)  # another process was faster
        try:
            check_settings(self.root, known or {}, self.manifest, self.advice)
        except InputError:
            if self.records and not self.overwrite:
                raise
            self._forget()
            write_manifest(self.root, self.manifest, replace=True)

    def finished(self, name: str, files: Mapping[str, Path], wanted: set[str], digest: Callable[[], str]) -> bool:
        """Whether all wanted results of an image are there; False if they are to be made, or made again.

        Args:
            name: of the image.
            files: its results by kind.
            wanted: the kinds that are needed.
            digest: gives the hash of the image; asked only where there are results.

        Raises:
            InputError: If files are there that are not results of this image.
            OSError: If the image cannot be read.
        """
        existing = {kind: path for kind, path in files.items() if _exists(path)}
        if self.overwrite or not existing:
            return False
        path = next(iter(existing.values()))
        if name not in self.records:
            raise InputError(f"{path} is there already, but {self.root / RECORDS} does not say of what: {self.advice}.")
        if (recorded := self.records[name]) is None:
            return False
        if recorded != digest():
            raise InputError(f"{path} is the result of another image of the same name: {self.advice}.")
        return wanted <= existing.keys()

    def begin(self, name: str) -> None:
        """Record that results of this name are about to be written.

        Raises:
            OSError: If that cannot be written.
        """
        self._record(name, None)

    def complete(self, name: str, digest: str) -> None:
        """Record that all results of an image with this hash have been written.

        Raises:
            OSError: If that cannot be written.
        """
        self._record(name, digest)

    def _record(self, name: str, digest: str | None) -> None:
        # One write at the end of the file: lines of several processes stay whole. It begins a line, so that one that
        # was cut off when the disk was full costs no other.
        line = "\n" + json.dumps({"name": name, "sha256": digest})
        descriptor = os.open(self.root / RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        self.records[name] = digest

    def _forget(self) -> None:
        """Keep the names, whose files may be replaced, but not of which images the results were."""
        if self.records:
            self.records = dict.fromkeys(self.records)
            lines = [json.dumps({"name": name, "sha256": None}) for name in self.records]
            write_bytes(self.root / RECORDS, "\n".join(lines).encode())


def _exists(path: Path) -> bool:
    """Whether a name is taken, by a link to nothing too."""
    return path.exists() or path.is_symlink()


def _read_records(path: Path) -> dict[str, str | None]:
    """Return the hash by name; a line that is not whole counts as absent, so that its files are not touched."""
    records: dict[str, str | None] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            records[str(record["name"])] = record["sha256"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return records
