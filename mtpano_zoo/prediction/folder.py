"""A folder of predictions that records what made them and from which images."""

import json
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import Reading, write_bytes
from mtpano_zoo.manifest import MANIFEST, check_settings, read_manifest, write_manifest

__all__ = (
    "FORMAT",
    "RECORDS",
    "PredictionFolder",
    "check_finished",
    "classes_and_reading",
    "manifest_of",
    "read_facts",
    "read_records",
    "root_of",
    "video_and_frame",
)

FORMAT = "mtpano predictions, 1"
RECORDS = "manifest.images.jsonl"
VIDEO_OPTIONS = ("smooth",)  # do not change the results of images
_VIDEO = re.compile(r".+/(\d{6,})?", re.DOTALL)  # a video, or a frame: earlier versions record these first
ADVICE = "choose another folder with --out, or replace the results with --overwrite"


def manifest_of(command: str, model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of predictions.

    Args:
        command: The command that makes them. Results of different commands do not mix, because they name images
            differently.
        model: See `mtpano_zoo.manifest.describe_model`.
        options: Those that change results, as plain data.
    """
    return {"format": FORMAT, "command": command, "model": dict(model), "options": dict(options)}


class PredictionFolder:
    """Results of images below a folder, all made with the same settings.

    `manifest.json` holds the settings. `manifest.images.jsonl` holds the names of the results, each with the hash of
    its image. A name is recorded without a hash before its first file is written, and with it after the last one. This
    tells leftovers of a stopped run, which are redone, from the user's own files, which are never replaced unasked.
    When `overwrite` changes the settings of the folder, all names lose their hash.

    Several processes may write to the folder.

    Args:
        root: The folder.
        manifest: See `manifest_of`.
        overwrite: Replace results, including those of other settings.
        advice: Ends error messages, see `mtpano_zoo.manifest.check_settings`.
        videos: Whether there are videos to predict for. Options that only these have are compared only if the folder
            holds results of others.
    """

    def __init__(
        self,
        root: Path,
        manifest: Mapping[str, Any],
        overwrite: bool = False,
        advice: str = ADVICE,
        videos: bool = True,
    ) -> None:
        self.root = root
        self.videos = videos
        self.manifest = manifest
        self.overwrite = overwrite
        self.advice = advice
        self.records: dict[str, str | None] = {}

    def claim(self, files: Iterable[Path] = ()) -> None:
        """Create the folder and its manifest, or continue in a folder with the same manifest.

        Args:
            files: The files to write; in a folder without a manifest none of them may exist.

        Raises:
            InputError: If it holds results of other or unknown settings and `overwrite` is false, or its manifest is
                unusable.
            OSError: If it cannot be written to.
        """
        known = read_manifest(self.root, FORMAT)
        if known is None and not self.overwrite and (found := next(filter(_exists, files), None)):
            raise InputError(f"{found} already exists, and no {MANIFEST} says what made it: {self.advice}.")
        self.root.mkdir(parents=True, exist_ok=True)
        self.records = read_records(self.root / RECORDS)
        if known is None:
            if write_manifest(self.root, self.manifest):
                self._forget()
                return
            known = read_manifest(self.root, FORMAT)  # another process was faster
        merged = known = known or {}
        if not self.videos:
            self.manifest = _with_video_options(self.manifest, known)
        elif not any(map(_VIDEO.fullmatch, self.records)):
            merged = _with_video_options(known, self.manifest)
        try:
            check_settings(self.root, merged, self.manifest, self.advice)
        except InputError:
            if self.records and not self.overwrite:
                raise
            self._forget()
            write_manifest(self.root, self.manifest, replace=True)
        else:
            if merged != known:
                write_manifest(self.root, merged, replace=True)

    def finished(self, name: str, files: Mapping[str, Path], wanted: set[str], digest: Callable[[], str]) -> bool:
        """Return whether all wanted results of an image exist; False means that they have to be made.

        Args:
            name: Name of the image.
            files: Its results by kind.
            wanted: The kinds that are needed.
            digest: Returns the hash of the image; called only if results exist.

        Raises:
            InputError: If existing files are not results of this image.
            OSError: If the image cannot be read.
        """
        existing = {kind: path for kind, path in files.items() if _exists(path)}
        if self.overwrite or not existing:
            return False
        path = next(iter(existing.values()))
        if name not in self.records:
            raise InputError(f"{path} already exists, but {self.root / RECORDS} does not list it: {self.advice}.")
        if (recorded := self.records[name]) is None:
            return False
        if recorded != digest():
            raise InputError(f"{path} is the result of another image with the same name: {self.advice}.")
        return wanted <= existing.keys()

    def begin(self, name: str) -> None:
        """Record that results of this name are about to be written.

        Raises:
            OSError: If the record cannot be written.
        """
        self._record(name, None)

    def complete(self, name: str, digest: str, **facts: Any) -> None:
        """Record that all results of an image with this hash have been written, and facts about them as plain data.

        Raises:
            OSError: If the record cannot be written.
        """
        self._record(name, digest, facts)

    def _record(self, name: str, digest: str | None, facts: Mapping[str, Any] | None = None) -> None:
        # A single append keeps the lines of several processes whole. The newline comes first, so that a line cut off
        # by a full disk does not spoil the next one.
        line = "\n" + json.dumps({"name": name, "sha256": digest, **(facts or {})})
        descriptor = os.open(self.root / RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        self.records[name] = digest

    def _forget(self) -> None:
        """Keep the names, whose files may be replaced, but drop the hashes of their images."""
        if self.records:
            self.records = dict.fromkeys(self.records)
            lines = [json.dumps({"name": name, "sha256": None}) for name in self.records]
            write_bytes(self.root / RECORDS, "\n".join(lines).encode())


def _with_video_options(manifest: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the options of videos of another one."""
    found = (one.get("options") for one in (manifest, other))
    own, others = (options if isinstance(options, dict) else {} for options in found)
    options = {key: value for key, value in own.items() if key not in VIDEO_OPTIONS}
    return {**manifest, "options": options | {key: others[key] for key in VIDEO_OPTIONS if key in others}}


def _exists(path: Path) -> bool:
    """Return whether a name is taken, even by a dangling link."""
    return path.exists() or path.is_symlink()


def classes_and_reading(root: Path) -> tuple[tuple[str, ...], Reading]:
    """Return the classes of the network that made the predictions of a folder, and the options that read its images.

    Both are empty if the folder has no manifest.

    Raises:
        InputError: If the manifest is damaged, or not one of predictions.
    """
    manifest = read_manifest(root, FORMAT, "model", "options")
    if manifest is None:
        return (), {}
    recorded = {"model.classes": manifest["model"].get("classes")}
    recorded |= {f"options.{key}": manifest["options"].get(key) for key in Reading.__annotations__}
    recorded = {key: value for key, value in recorded.items() if value is not None}
    for key, value in recorded.items():
        if not _is_sound(key, value):
            raise InputError(f"{root / MANIFEST} is damaged: {key} cannot be {value!r}. Choose another folder.")
    classes = tuple(recorded.pop("model.classes", ()))
    reading = {key.removeprefix("options."): value for key, value in recorded.items()}
    reading |= {"fov": tuple(reading["fov"])} if "fov" in reading else {}
    return classes, cast("Reading", reading)


def _is_sound(key: str, value: Any) -> bool:
    if key == "model.classes":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key == "options.fov":
        return isinstance(value, list) and len(value) == 2 and all(isinstance(angle, int | float) for angle in value)
    if key == "options.eye":
        return value in ("left", "right")
    return isinstance(value, int | float)


def check_finished(root: Path, name: str, records: Mapping[str, str | None]) -> None:
    """Refuse results that a run has not completed, or that are older than the settings in the manifest.

    Raises:
        InputError: If the records list them without a hash.
    """
    if records.get(name, "") is None:
        raise InputError(
            f"the results of {root / name} are unfinished, or older than {root / MANIFEST}: make them again with "
            "`mtpano run`, or remove them"
        )


def video_and_frame(name: str, records: Container[str]) -> tuple[str, int] | None:
    """Return the name of the video and the number of the frame that a result belongs to; None if it is of an image.

    Example:
        >>> video_and_frame("tour/000007", ["tour/", "tour/000007"]), video_and_frame("photos/000007", ["tour/"])
        (('tour', 7), None)
    """
    video, _, number = name.rpartition("/")
    return (video, int(number)) if number.isdecimal() and f"{video}/" in records else None


def root_of(folder: Path, names: Iterable[str]) -> tuple[Path, str, dict[str, str | None]]:
    """Return the folder whose records list results, what their names begin with there, such as `sub/`, and the records.

    It is the folder that holds them or one above it; the former if no record lists one of them.

    Args:
        folder: holds the results.
        names: their names below it.
    """
    names = list(names)
    for root in (folder, *folder.absolute().parents):
        start = "" if root == folder else f"{folder.absolute().relative_to(root).as_posix()}/"
        records = read_records(root / RECORDS)
        if any(start + name in records for name in names):
            return root, start, records
    return folder, "", {}


def read_records(path: Path) -> dict[str, str | None]:
    """Return the hashes of the images by the name of their results."""
    return {str(record["name"]): record["sha256"] for record in read_facts(path)}


def read_facts(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of results, oldest first: `name`, `sha256` and the facts of `PredictionFolder.complete`.

    Incomplete lines are ignored, so that their files are not touched.
    """
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and record.keys() >= {"name", "sha256"}:
            yield record
