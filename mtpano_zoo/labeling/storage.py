"""A folder of labels that any number of processes write at once, and that holds no half-written panorama.

The layout is MTPano's published one, as `mtpano_zoo.data.PseudoLabelDataModule` reads it::

    img/ID.jpg                          the panorama in the size of the labels
    semseg|depth|normals/ID/merged.png  the labels of all views together; label_K.png those of view K alone
    semseg|depth|normals/ID/merged_confidence.png
    classes.yaml                        names of the classes
    db_info/panomtdu_SPLIT.json         ids of the split
    manifest.json                       what made the labels, see `mtpano_zoo.labeling.manifest`
    runs/                               a record of every run

The image is written last: a panorama is finished if its image is there.
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
from typing import IO

from mtpano_zoo.text_files import read_json

__all__ = ("IMAGES", "MANIFEST", "TASKS", "TEMPORARY", "LabelFolder")

MANIFEST = "manifest.json"
IMAGES = "img"
TASKS = ("semseg", "depth", "normals")
TEMPORARY = ".labelling-"
# Temporary folders of this process: locks do not tell a process from itself.
_OWN: set[Path] = set()


class LabelFolder:
    """Writes labelled panoramas below a folder, between `open` and `close` or as a context.

    Every file is first written to a temporary folder beside the others. Then the folders of the tasks are renamed into
    place, and at last the image, so that a process may be killed at any moment. What a killed process left, its
    temporary folder and panoramas without image, is removed and replaced by the next one; a lock on the temporary
    folder, which the system takes away with the process, tells the living from the dead on all machines that share
    the folder.

    Args:
        root: the folder, which has a manifest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._temporary: Path | None = None
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Remove what dead processes left, and make a temporary folder."""
        (self.root / IMAGES).mkdir(exist_ok=True)
        with _locked(self.root / MANIFEST):
            for folder in self.root.glob(f"{TEMPORARY}*"):
                if folder not in _OWN and not _in_use(folder / "lock"):
                    shutil.rmtree(folder, ignore_errors=True)
            self._temporary = self.root / f"{TEMPORARY}{uuid.uuid4().hex}"
            self._temporary.mkdir()
            _OWN.add(self._temporary)
            self._lock = (self._temporary / "lock").open("wb")  # kept open: it is the lock
            _try_lock(self._lock)

    def close(self) -> None:
        """Remove the temporary folder."""
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

    def finished(self) -> set[str]:
        """Return the names of all finished panoramas."""
        folder = self.root / IMAGES
        names = os.listdir(folder) if folder.is_dir() else ()  # noqa: PTH208 - half a million names, and nothing else
        return {name.removesuffix(".jpg") for name in names if name.endswith(".jpg")}

    def has(self, name: str) -> bool:
        """Whether a panorama is finished."""
        return (self.root / IMAGES / f"{name}.jpg").exists()

    def write(self, name: str, image: bytes, files: Mapping[str, bytes]) -> bool:
        """Write one panorama; False if another process has finished it in the meantime, whose files are kept.

        Args:
            name: of the panorama, without a slash.
            image: the JPEG.
            files: contents by task and file name, such as ``depth/merged.png``.

        Raises:
            OSError: it cannot be written, for instance because the disk is full; nothing of it is in place then that a
                reader would take for a finished panorama.
        """
        work = self._work / uuid.uuid4().hex
        work.mkdir()
        try:
            for path, content in files.items():
                target = work / path
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content)
            picture = work / "image"
            picture.write_bytes(image)
            for task in sorted({path.split("/")[0] for path in files}):
                (self.root / task).mkdir(exist_ok=True)
                if self.has(name):
                    return False
                _replace_folder(work / task, self.root / task / name, work)
            picture.rename(self.root / IMAGES / f"{name}.jpg")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return True

    def add_to_list(self, split: str, names: Iterable[str]) -> int:
        """Add finished panoramas to the list of a split, drop those that are gone, and return how many it has.

        Raises:
            ValueError: the list that is there is not one.
        """
        path = self.root / "db_info" / f"panomtdu_{split}.json"
        with _locked(self.root / MANIFEST):
            try:
                listed = set(read_json(path)) if path.exists() else set()
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} is not a list of ids: remove it, and start again") from error
            listed = (listed | set(names)) & self.finished()
            self.write_file(path, json.dumps(sorted(listed), indent=0).encode())
        return len(listed)

    def write_file(self, path: Path, content: bytes) -> None:
        """Write a file of the folder, completely or not at all; nothing is left of it after a kill."""
        path.parent.mkdir(exist_ok=True)
        temporary = self._work / uuid.uuid4().hex
        temporary.write_bytes(content)
        temporary.replace(path)

    @property
    def _work(self) -> Path:
        if self._temporary is None:
            raise ValueError("a LabelFolder is opened before it is written to")
        return self._temporary


def _replace_folder(source: Path, target: Path, trash: Path) -> None:
    """Rename a folder; one that is there belongs to no finished panorama and goes."""
    while True:
        try:
            source.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            target.rename(trash / f"old-{target.parent.name}-{uuid.uuid4().hex}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes that lock the same file waiting; without effect where the file system has no locks."""
    with path.open("r+b") as file:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a file, for this process and not for those that it forks; False if somebody has it or nobody can."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _in_use(lock: Path) -> bool:
    try:
        with lock.open("r+b") as file:
            return not _try_lock(file)
    except FileNotFoundError:  # killed before it had a lock, or about to be removed by its owner
        return False
