"""The samples of a data set and their files; found once, then cached outside the data."""

import hashlib
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.data.source import (
    MISSING,
    PLAIN,
    Place,
    Source,
    compile_pattern,
    field_names,
    list_archive,
    list_tree,
)
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.output_paths import printable
from mtpano_zoo.resources import cache_folder
from mtpano_zoo.spelling import listed

__all__ = ("Index", "find_samples", "index_rows")

Files = Mapping[str, tuple[str, ...]]

_VERSION = 4  # of the cached file


@dataclass
class Index:
    """Samples as columns of arrays: a worker that is forked shares them, and there is no Python object per sample.

    Args:
        source: What reads the files.
        files: Path patterns by role (image, semseg, ...); the fields of a sample make them names.
        fields: Values (N,) of every field, as bytes.
        places: For every pattern the places (N, 6) of its files, see `source.Place`.
        notes: Sentences about oddities of the data.
    """

    source: Source
    files: Files
    fields: dict[str, NDArray[np.bytes_]]
    places: dict[str, NDArray[np.int64]]
    notes: list[str]

    def __len__(self) -> int:
        return len(next(iter(self.places.values())))

    def fields_of(self, i: int) -> dict[str, str]:
        """Return the fields of a sample as text."""
        return {name: os.fsdecode(bytes(column[i])) for name, column in self.fields.items()}

    def has(self, role: str, i: int) -> bool:
        """Return whether all files of a role exist."""
        return role in self.files and all(self.places[pattern][i, 0] != MISSING[0] for pattern in self.files[role])

    def read(self, role: str, i: int) -> list[bytes]:
        """Return the contents of the files of a role, in the order of its patterns.

        Raises:
            InputError: If a member of an archive is damaged.
            OSError: If a file cannot be read.
        """
        return [self.source.read(*self._locate(pattern, i)) for pattern in self.files[role]]

    def describe(self, role: str, i: int) -> str:
        """Return a readable name of the first file of a role."""
        return self.source.describe(*self._locate(self.files[role][0], i))

    def select(self, chosen: NDArray[np.intp]) -> "Index":
        """Return the samples with these numbers."""
        fields = {name: column[chosen] for name, column in self.fields.items()}
        places = {pattern: column[chosen] for pattern, column in self.places.items()}
        return Index(self.source, self.files, fields, places, self.notes)

    def _locate(self, pattern: str, i: int) -> tuple[str, Place]:
        archive, offset, size, unpacked, method, crc = self.places[pattern][i].tolist()
        return pattern.format(**self.fields_of(i)), (archive, offset, size, unpacked, method, crc)


def find_samples(
    root: Path, files: Files, expressions: Mapping[str, str], *, prefix: str = "", archives: str = "*.zip"
) -> Index:
    """Find the samples below a root, which is a folder, a folder with zip files, or one zip file.

    Every file that fits the first pattern of the role ``image`` is a sample; its fields give the names of its other
    files. An unpacked file is preferred to the same file in an archive. The result is cached in the folder
    ``$MTPANO_CACHE`` (by default ``~/.cache/mtpano_zoo``) until a folder or an archive changes.

    Args:
        root: Folder or file of the data set.
        files: Path patterns by role, relative to the root.
        expressions: Regular expressions of the fields.
        prefix: A folder of the release, with its slash, that the root may contain or already be.
        archives: Pattern of the zip files in the root that belong to it.

    Raises:
        FileNotFoundError: If there is no such root, or no image in it; the message shows what was expected and found.
        InputError: If an archive is damaged.
    """
    root = root.expanduser().absolute()
    if not root.exists():
        raise FileNotFoundError(f"the data root {root} does not exist")
    folder, zips = _open_root(root, prefix, archives)
    key = json.dumps([_VERSION, str(root), prefix, archives, dict(files), dict(expressions)])
    cache = cache_folder() / "index" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    source = Source(folder, zips)
    if (index := _load(cache, source, files)) is None:
        index, times = _build(source, files, expressions, prefix)
        if len(index) == 0:
            raise FileNotFoundError(_nothing_found(root, files, expressions, zips, archives))
        _save(cache, index, times)
    for note in index.notes:
        warnings.warn(printable(f"{root}: {note}"), stacklevel=2)
    return index


def index_rows(root: Path, files: Files, rows: Sequence[Mapping[str, str]]) -> Index:
    """Index samples that a list names, instead of searching for them.

    Args:
        root: Folder or file of the data set.
        files: Path patterns by role; every field of them is a column of the rows.
        rows: The fields of every sample, all with the same columns; an empty path means that there is no such file.
    """
    columns = {name: np.array([os.fsencode(row[name]) for row in rows], np.bytes_) for name in rows[0]}
    places = {
        pattern: np.array([PLAIN if pattern.format(**row) else MISSING for row in rows], np.int64)
        for pattern in dict.fromkeys(chain.from_iterable(files.values()))
    }
    return Index(Source(root, []), files, columns, places, [])


def _open_root(root: Path, prefix: str, archives: str) -> tuple[Path, list[Path]]:
    if root.is_file():
        return root.parent / f"{root.name}.no-folder", [root]  # such a folder does not exist: no file is unpacked
    return (root / prefix if (root / prefix).is_dir() else root), sorted(filter(Path.is_file, root.glob(archives)))


def _build(source: Source, files: Files, expressions: Mapping[str, str], prefix: str) -> tuple[Index, dict[str, int]]:
    patterns = list(dict.fromkeys(chain.from_iterable(files.values())))
    compiled = [compile_pattern(pattern, expressions) for pattern in patterns]
    # One expression for all patterns; its groups lose their names, which may not occur twice.
    union = re.compile(
        "|".join(re.sub(r"\(\?P=\w+\)", "[^/]+", re.sub(r"\?P<\w+>", "?:", c.pattern)) for c in compiled)
    )
    known: dict[str, Place] = {}
    for number, path in enumerate(source.archives):
        known |= list_archive(path, number, prefix, union)
    names, times = list_tree(source.folder, patterns, expressions)
    known |= dict.fromkeys(names, PLAIN)

    first = compiled[patterns.index(files["image"][0])]
    samples = [match.groupdict() for name in sorted(known) if (match := first.fullmatch(name))]
    names_of = {pattern: [pattern.format(**sample) for sample in samples] for pattern in patterns}
    places = {
        pattern: np.array([known.get(name, MISSING) for name in names], np.int64).reshape(-1, len(MISSING))
        for pattern, names in names_of.items()
    }
    fields = {name: np.array([os.fsencode(sample[name]) for sample in samples], np.bytes_) for name in first.groupindex}
    index = Index(source, files, fields, places, [])
    unused = known.keys() - set(chain.from_iterable(names_of.values()))
    index.notes.extend(_oddities(index, unused, dict(zip(patterns, compiled, strict=True))))
    return index, times


def _oddities(index: Index, unused: set[str], compiled: Mapping[str, re.Pattern[str]]) -> list[str]:
    """List incomplete samples, and labels that belong to no image."""
    notes = []
    for role in index.files:
        missing = [i for i in range(len(index)) if not index.has(role, i)]
        if 0 < len(missing) < len(index):
            name = index.files[role][0].format(**index.fields_of(missing[0]))
            notes.append(f"{len(missing)} of {len(index)} panoramas have no {role}, for example {name}")
    own = set(field_names(index.files["image"][0]))
    first = {patterns[0] for patterns in index.files.values()}
    # Further files of a role may belong to several panoramas, such as the cameras of a building.
    single = [e for pattern, e in compiled.items() if pattern in first or set(field_names(pattern)) == own]
    if stray := sorted(name for name in unused if any(expression.fullmatch(name) for expression in single)):
        notes.append(f"{len(stray)} files have no image, for example {stray[0]}")
    return notes


def _nothing_found(root: Path, files: Files, expressions: Mapping[str, str], zips: list[Path], archives: str) -> str:
    expected = files["image"][0]
    for name, expression in expressions.items():
        if re.fullmatch(r"[\w|]+", expression):  # chosen by an option: perhaps only files of other choices exist
            expected = expected.replace(f"{{{name}}}", expression)
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir()) if root.is_dir() else []
    found = listed(entries)
    if zips:
        with zipfile.ZipFile(zips[0]) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/")]
        found += (
            f"{'; ' if found else ''}the first of {len(members)} files in {zips[0].name} is {[*members, 'none'][0]}"
        )
    return (
        f"{root} holds no panorama of the form {expected}, neither unpacked nor in {archives}; it holds "
        f"{found or 'nothing'}: pass the folder that contains the first part of that path"
    )


def _archives_as_they_are(archives: list[Path]) -> NDArray[np.bytes_]:
    stats = [(path.name, path.stat()) for path in archives]
    entries = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    return np.array([os.fsencode(entry) for entry in entries], np.bytes_)


def _save(cache: Path, index: Index, times: dict[str, int]) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "archives": _archives_as_they_are(index.source.archives),
        "folders": np.array([os.fsencode(name) for name in times], np.bytes_),
        "times": np.array(list(times.values()), np.int64),
        "notes": np.array([os.fsencode(note) for note in index.notes], np.bytes_),
    }
    arrays |= {f"field {name}": column for name, column in index.fields.items()}
    arrays |= {f"place {pattern.replace('/', '|')}": column for pattern, column in index.places.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cache, buffer.getvalue())
    except OSError as error:
        warnings.warn(
            f"the list of samples cannot be cached in {cache.parent} ({error}): set MTPANO_CACHE", stacklevel=4
        )


def _load(cache: Path, source: Source, files: Files) -> Index | None:
    """Return what was found before, unless a folder or an archive has changed since."""
    try:
        with np.load(cache, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        folders = [os.fsdecode(bytes(name)) for name in arrays["folders"]]
        base = f"{source.folder}/"
        times = [os.stat(base + name).st_mtime_ns for name in folders]  # noqa: PTH116 - a Path each would take longer
        same = np.array_equal(np.array(times, np.int64), arrays["times"])
        if not same or not np.array_equal(_archives_as_they_are(source.archives), arrays["archives"]):
            return None
        places = {p: arrays[f"place {p.replace('/', '|')}"] for p in dict.fromkeys(chain.from_iterable(files.values()))}
        names = field_names(files["image"][0])
        fields = {name: arrays[f"field {name}"] for name in names}
        return Index(source, files, fields, places, [os.fsdecode(bytes(note)) for note in arrays["notes"]])
    except Exception:  # missing, of an older release, or damaged in any way: it is only a cache
        return None
