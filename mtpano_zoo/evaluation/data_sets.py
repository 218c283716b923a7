"""Data to score on: rendered scenes, or a folder of panoramas with labels."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mtpano_zoo.data.folder import LABELLED, FolderDataModule
from mtpano_zoo.data.panoramas import PanoramaDataset
from mtpano_zoo.data.rooms_writer import KINDS
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import check_panorama_size, decode_pixels
from mtpano_zoo.limits import check_pixels
from mtpano_zoo.spelling import did_you_mean, nearest

__all__ = ("EvaluationSet", "Samples", "open_data")

SCENES = 20


class Samples(Protocol):
    """Samples by index, as in `mtpano_zoo.data.scenes.SceneDataset`."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Return one sample."""

    def name(self, index: int, /) -> str:
        """Return its id."""


@dataclass(frozen=True)
class EvaluationSet:
    """A set of labelled panoramas.

    Attributes:
        samples: the panoramas; `name(i)` is the id of panorama i.
        classes: names of their semantic classes.
        words: description in one sentence.
        facts: settings that determine the panoramas, as plain data.
        contents: hash of the files of panorama i; empty where the facts determine it.
    """

    samples: Samples
    classes: tuple[str, ...]
    words: str
    facts: dict[str, Any]
    contents: Callable[[int], str] = lambda _: ""


class _Labelled:
    """The panoramas of a folder, at most `limit` from the first."""

    def __init__(self, data: PanoramaDataset, limit: int | None) -> None:
        self.data = data
        self.rows = range(len(data))[:limit]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.data[self.rows[index]]

    def name(self, index: int) -> str:
        """Return the id of a sample."""
        return self.data.name(self.rows[index])

    def contents(self, index: int) -> str:
        """Return a hash of the image and the labels of a sample."""
        i, found = self.rows[index], self.data.index
        files = hashlib.sha256()
        for role in sorted(found.files):
            for content in found.read(role, i) if found.has(role, i) else ():
                files.update(role.encode() + hashlib.sha256(content).digest())
        return files.hexdigest()


def open_data(source: str | Path, height: int | None = None, limit: int | None = None, seed: int = 0) -> EvaluationSet:
    """Open rendered scenes by their kind, or a folder in the layout of `FolderDataModule`.

    Args:
        source: `rooms`, `homes` or `streets`, or a folder.
        height: rows of the panoramas, which are twice as wide; by default 256, or the rows of a folder's first image.
        limit: number of panoramas to take, from the first; by default 20 scenes, or all panoramas of a folder.
        seed: seed of rendered scenes.

    Raises:
        FileNotFoundError: If `source` is neither.
        InputError: If the limit is not positive, the height is too large, the folder holds no label, or its `test.txt`
            lists no panorama with one.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be a positive number of panoramas, not {limit}")
    if height is not None:
        check_pixels(height, 2 * height, f"a panorama of --height {height}")
    if (kind := str(source)) in KINDS:
        rows = 256 if height is None else height
        scenes = KINDS[kind]("test", limit or SCENES, rows, 2 * rows, seed)
        words = f"{kind} rendered for the split test with the seed {seed}; the splits share no scene"
        facts = {"data": kind, "seed": seed, "height": rows}
        return EvaluationSet(scenes, scenes.classes, words, facts)
    folder = Path(source)
    if not folder.is_dir():
        suggestion = did_you_mean(nearest(kind, KINDS)) if "/" not in kind else ""
        raise FileNotFoundError(
            f"There is no data set {kind}{suggestion or ':'} --data is one of {', '.join(KINDS)}, or a folder with "
            "images/ and labels."
        )
    return _folder(folder, height, limit)


def _folder(folder: Path, height: int | None, limit: int | None) -> EvaluationSet:
    found = FolderDataModule(folder)
    if not found.tasks:
        raise InputError(f"{folder} has images but no labels: add depth/, normals/ or semseg/")
    if height is None:
        name = found.index.describe("image", 0)
        height, columns = decode_pixels(found.index.read("image", 0)[0], name).shape[:2]
        check_panorama_size(height, columns, name)
    data = FolderDataModule(folder, height=height, width=2 * height)
    listed = (folder / "test.txt").is_file()
    try:
        samples = _Labelled(data.dataset("test" if listed else LABELLED), limit)
    except InputError as error:
        raise InputError(
            f"{folder / 'test.txt'} is empty or lists no panorama with a label: list some, or remove it to use all"
        ) from error
    name = folder.resolve().name
    words = f"{'the panoramas that test.txt lists' if listed else 'all labelled panoramas'} in the folder {name}"
    colours = None if data.palette is None else data.palette.tolist()
    classes = hashlib.sha256(json.dumps([data.classes, colours]).encode()).hexdigest()
    facts = {"data": name, "split": "test" if listed else "all", "height": height, "classes": classes}
    return EvaluationSet(samples, tuple(data.classes), words, facts, samples.contents)
