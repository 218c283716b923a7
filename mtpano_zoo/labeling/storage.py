"""A folder of labels that any number of processes can write at once, without half-written panoramas.

The layout is MTPano's, as `mtpano_zoo.data.PseudoLabelDataModule` reads it::

    img/ID.jpg                          the panorama in the size of the labels
    semseg|depth|normals/ID/merged.png  the merged labels of all views; label_K.png has those of view K alone
    far/ID/merged.png                   pixels known to be too far to be measured, such as the sky
    semseg|depth|normals/ID/merged_confidence.png
    masks/ID/merged.png                 pixels without any label, if anything was masked by name; NAME.png has those of
                                        one name, such as sky
    origins/ID.txt                      which image was labelled, see `mtpano_zoo.labeling.origin`
    classes.yaml                        names of the classes
    db_info/panomtdu_SPLIT.json         ids of the split
    manifest.json                       settings of the labels, see `mtpano_zoo.labeling.manifest`
    runs/                               a record of every run

The image is written last, in one step: a panorama is finished if, and only if, its image exists. The other files of a
finished panorama stay until its image is removed. All folders are real ones: symbolic links in their place are refused,
so that nothing is written elsewhere.

A folder of scores, see `mtpano_zoo.labeling.curation.scoring`, is written in the same way: there a panorama is finished
if its file in `scores` exists.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.labeling.origin import Origin
from mtpano_zoo.machine.claims import Claims
from mtpano_zoo.manifest import MANIFEST
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.text_files import read_json, read_json_lines

__all__ = (
    "IMAGES",
    "LABELS",
    "MANIFEST",
    "PANORAMAS",
    "RUNS",
    "SCORES",
    "TEMPORARY",
    "LabelFolder",
    "Marker",
    "check_folders",
    "in_use",
)

IMAGES = "img"
SCORES = "scores"
TASKS = ("semseg", "depth", "normals", "far", "masks", "score_map")
ORIGINS = "origins"
LISTS = "db_info"
RUNS = "runs"
LABELS = (IMAGES, SCORES, *TASKS, ORIGINS, LISTS)
TEMPORARY = ".labelling-"
CLAIMS = ".claims"
# Temporary folders of this process: a process does not see its own locks.
_OWN: set[Path] = set()


class Marker(NamedTuple):
    """The file whose presence says that a panorama is finished.

    Args:
        folder: Folder below the root.
        extension: Extension, with its dot.
    """

    folder: str
    extension: str


PANORAMAS = Marker(IMAGES, ".jpg")


class LabelFolder:
    """Writer of labelled panoramas below a folder, between `open` and `close` or as a context manager.

    Every file is first written to a temporary folder beside the others. Then the folders of the tasks are renamed into
    place, and finally the image, so that a process may be killed at any moment, and others may write the same panorama.
    The next process removes what a killed one left: its temporary folder and panoramas without image. A lock on the
    temporary folder, which the system releases with the process, shows on all machines that share the folder whether
    its owner still runs. Processes share the panoramas by claims, see `Claims`.

    Args:
        root: The folder, which has a manifest.
        marker: File that marks a panorama as finished.
    """

    def __init__(self, root: Path, marker: Marker = PANORAMAS) -> None:
        self.root = root.resolve()
        self.marker = marker
        self._temporary: Path | None = None
        self._lock: IO[bytes] | None = None
        self._claims: Claims | None = None

    def open(self) -> None:
        """Remove the files that dead processes left, and create a temporary folder."""
        check_folders(self.root)
        (self.root / self.marker.folder).mkdir(exist_ok=True)
        with _locked(self.root / MANIFEST):
            for folder in self.root.glob(f"{TEMPORARY}*"):
                if folder not in _OWN and not _is_locked(folder / "lock"):
                    shutil.rmtree(folder, ignore_errors=True)
            self._claims = Claims(self.root / CLAIMS)
            self._temporary = self.root / f"{TEMPORARY}{uuid.uuid4().hex}"
            self._temporary.mkdir()
            _OWN.add(self._temporary)
            self._lock = (self._temporary / "lock").open("wb")  # kept open: it is the lock
            _try_lock(self._lock)

    def close(self) -> None:
        """Remove the temporary folder, and release all claims."""
        if self._claims is not None:
            with contextlib.suppress(OSError), _locked(self.root / MANIFEST):
                self._claims.close()
            self._claims = None
        if self._temporary is not None and self._lock is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._lock.close()
            _OWN.discard(self._temporary)
            self._temporary = self._lock = None

    def __enter__(self) -> "LabelFolder":
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def claim(self, name: str) -> bool:
        """Claim a panorama for this process; return False while another one has it.

        The claim lasts until `release` or until this process ends in any way. It only saves work: see `Claims`.
        """
        return self._claims is None or self._claims.take(name)

    def release(self, name: str) -> None:
        """Release a claim."""
        if self._claims is not None:
            self._claims.release(name)

    def finished(self) -> set[str]:
        """Return the names of all finished panoramas."""
        folder, extension = self.root / self.marker.folder, self.marker.extension
        if not folder.is_dir():
            return set()
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if entry.is_file()}
        return {name.removesuffix(extension) for name in names if name.endswith(extension)}

    def has(self, name: str) -> bool:
        """Return whether a panorama is finished."""
        try:
            return self._done(name).is_file()
        except OSError:  # a file system that only allows shorter names
            return False

    def origin(self, name: str) -> Origin | None:
        """Return the image that a panorama was labelled from; None if there is no record of it, as in older folders.

        Raises:
            OSError: If the record cannot be read.
        """
        path = path_below(self.root / ORIGINS, name, ".txt")
        origin = Origin.from_bytes(path.read_bytes()) if path.is_file() else Origin("")
        return origin if origin.digest else None

    def renew(self, name: str, origin: Origin) -> None:
        """Replace the record of an unchanged image by one with its new stamp, if the folder can be written to.

        Unlike the other writers, this needs no open folder.
        """
        with contextlib.suppress(OSError):
            write_bytes(path_below(self.root / ORIGINS, name, ".txt"), origin.to_bytes())

    def write(
        self, name: str, image: bytes, files: Mapping[str, bytes], origin: Origin | None = None, replace: bool = False
    ) -> bool:
        """Write one panorama; return False if another process has finished it, and keep its files.

        Args:
            name: Name of the panorama, without a slash.
            image: Content of the marker: the JPEG.
            files: Contents by task and file name, such as ``depth/merged.png``.
            origin: Image that it was labelled from.
            replace: Replace finished labels of another origin. Their marker is removed before the first file changes.

        Raises:
            InputError: If the name cannot name a file.
            OSError: If it cannot be written, for instance because the disk is full; readers then do not see a finished
                panorama.
        """
        done = self._done(name)
        work = self._work / uuid.uuid4().hex
        work.mkdir()
        try:
            for path, content in files.items():
                target = work / path
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content)
            picture = work / "image"
            picture.write_bytes(image)
            if self.has(name):
                known = self.origin(name)
                if not replace or known is None or origin is None or known.digest == origin.digest:
                    return False
                done.unlink(missing_ok=True)
            for task in sorted({path.split("/")[0] for path in files}):
                _make_folder(self.root / task)
                _replace_folder(work / task, path_below(self.root / task, name))
            if origin is not None:
                self.write_file(path_below(self.root / ORIGINS, name, ".txt"), origin.to_bytes())
            try:
                done.hardlink_to(picture)  # unlike a rename, it fails if another process has just been faster
            except OSError:
                if self.has(name):
                    return False
                picture.rename(done)  # the file system has no links
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return True

    def add_to_list(self, split: str, names: Iterable[str]) -> int:
        """Add finished panoramas to the list of a split, drop those that are gone, and return its length.

        Raises:
            InputError: If the existing file is not a list of ids.
        """
        path = self.root / LISTS / f"panomtdu_{split}.json"
        with _locked(self.root / MANIFEST):
            try:
                listed = set(read_json(path)) if path.exists() else set()
            except (ValueError, TypeError) as error:
                raise InputError(f"{path} is not a list of ids: remove it, and start again") from error
            listed = (listed | set(names)) & self.finished()
            self.write_file(path, json.dumps(sorted(listed), indent=0).encode())
        return len(listed)

    def add_lines(self, file: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Add entries of finished panoramas to a file of JSON lines in the folder, and drop those that are gone.

        Args:
            file: Name of the file.
            entries: Entries by name; `image` of an entry is the path of the panorama below the folder.

        Raises:
            InputError: If the existing file does not list images.
        """
        path = self.root / file
        with _locked(self.root / MANIFEST):
            lines = [entry for _, entry in read_json_lines(path)] if path.exists() else []
            try:
                listed = {Path(entry["image"]).stem: entry for entry in lines}
            except (TypeError, KeyError) as error:
                raise InputError(f"{path} does not list images: remove it, and start again") from error
            listed.update(entries)
            done = self.finished()
            kept = [json.dumps(listed[name]) for name in sorted(listed) if name in done]
            self.write_file(path, "".join(f"{line}\n" for line in kept).encode())

    def write_file(self, path: Path, content: bytes) -> None:
        """Write a file of the folder completely or not at all, even if the process is killed."""
        _make_folder(path.parent)
        temporary = self._work / uuid.uuid4().hex
        temporary.write_bytes(content)
        temporary.replace(path)

    def _done(self, name: str) -> Path:
        return path_below(self.root / self.marker.folder, name, self.marker.extension)

    @property
    def _work(self) -> Path:
        if self._temporary is None:
            raise InputError("a LabelFolder must be opened before it is written to")
        return self._temporary


def check_folders(root: Path) -> None:
    """Check that no folder of labels or records below the root is a symbolic link.

    Raises:
        InputError: If one is.
    """
    for name in (*LABELS, RUNS):
        if (root / name).is_symlink():
            raise _link_error(root / name)


def in_use(root: Path) -> bool:
    """Return whether this or another process is writing to a folder."""
    return any(folder in _OWN or _is_locked(folder / "lock") for folder in root.resolve().glob(f"{TEMPORARY}*"))


def _link_error(path: Path) -> InputError:
    return InputError(
        f"{path} is a symbolic link, and labels would be written to its target: pass the folder itself as --out, "
        "or put a real folder in its place"
    )


def _make_folder(path: Path) -> None:
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise _link_error(path)


def _replace_folder(source: Path, target: Path) -> None:
    """Rename a folder; if the target exists, move the files into it one by one.

    Another process that finishes the same panorama right now has written the same files. No file is ever missing, so it
    does not matter which of the two is faster, or killed.
    """
    if target.is_symlink() or target.is_file():
        target.unlink(missing_ok=True)  # a link is not followed
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    names = {path.name for path in source.iterdir()}
    for name in names:
        (source / name).replace(target / name)
    for rest in target.iterdir():
        if rest.name not in names:  # left by a process that was killed
            _remove(rest)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; without effect if the file system has no locks."""
    with path.open("r+b") as file:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a file for this process, not for its forks; return False if it is locked already or cannot be locked."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("r+b") as file:
            return not _try_lock(file)
    except (FileNotFoundError, NotADirectoryError):  # killed before it had a lock, or about to be removed by its owner
        return False
