"""The user's own panoramas, with any labels that exist."""

import os
import warnings
import zlib
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtpano_zoo.data.index import Index, index_rows
from mtpano_zoo.data.panoramas import SPLITS, PanoramaDataModule, Split
from mtpano_zoo.data.reading import (
    Decoder,
    decode_array,
    decode_depth,
    decode_wide_rgb,
    look_up,
    open_image,
    stored_numbers,
    unit_or_zero,
)
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import files_below
from mtpano_zoo.image_io import IMAGE_SUFFIXES, decode_full_panorama
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.tasks import NO_LABEL
from mtpano_zoo.text_files import read_lines, read_table, read_yaml
from mtpano_zoo.viz import default_palette

__all__ = ("LABELLED", "FolderDataModule", "decode_png_or_npy_normals", "read_classes")

FOLDERS = {"image": "images", "semseg": "semseg", "depth": "depth", "normals": "normals"}
COMMON = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
EXTENSIONS = {
    "image": (*COMMON, *(suffix for suffix in IMAGE_SUFFIXES if suffix not in COMMON)),
    "semseg": (".png",),
    "depth": (".png", ".npy"),
    "normals": (".png", ".npy"),
}
LISTED: dict[str, Split | None] = {"train": "train", "val": "val", "test": "test", "left out": None}
LABELLED = "labelled"  # the panoramas with a label, whatever the lists say


class FolderDataModule(PanoramaDataModule):
    """Panoramas of your own, with the labels that you have for them.

    Expected below the root, as `mtpano rooms --out DIR` writes rooms; all but the images may be missing, as a folder or
    for single images::

        images/NAME.jpg     or any other kind of image that `mtpano run` reads; twice as wide as high, the full sphere
        semseg/NAME.png     8-bit class numbers (grey or palette), 255 = no label; or the colours of `classes.yaml`
        depth/NAME.png      16-bit, millimetres along the ray, 0 = no measurement, 65535 = 65.535 m or more, which
                            counts as no measurement; or NAME.npy, float, metres
        normals/NAME.png    RGB, 128 + 127 n in 8 bits or 32768 + 32767 n in 16, x right, y down, z forward, towards the
                            camera, middle grey = no measurement; or NAME.npy, float (H, W, 3)
        classes.yaml        classes: [{name: wall, color: [120, 120, 120]}, ...] or classes: [wall, floor, ...]
        train.txt, val.txt, test.txt    names without extension, one per line; without them the split is automatic

    These folders are not searched recursively; a warning counts the files in them that are not used.

    Instead of folders, a table: a CSV file with the columns image, and any of semseg, depth, normals, split, name;
    paths are relative to the root.

    The automatic split depends on the name of a panorama only, so it stays when others are added. In a small set,
    however, validation and test, if their fraction is not 0, get one panorama each if that leaves one for training.
    Panoramas without any label are for prediction only, which runs over all panoramas.

    Args:
        root: The folder.
        table: CSV file of paths, absolute or relative to the root.
        classes_file: YAML with names and colours of the classes, absolute or relative to the root; by default
            `classes.yaml` or `rooms.yaml` in the root. May be missing if `tasks` lacks semseg.
        val_fraction: Share of the labelled panoramas that the automatic split assigns to validation.
        test_fraction: The same for test.
        options: See `PanoramaDataModule`.

    Raises:
        FileNotFoundError: If the root, the table, the list of classes or all images are missing.
        InputError: If an argument is out of range, a name occurs twice, or a list cannot be read.
    """

    id_pattern = "{name}"

    def __init__(
        self,
        root: str | Path,
        *,
        table: str | Path | None = None,
        classes_file: str | Path | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **options: Any,
    ) -> None:
        if not (val_fraction >= 0 <= test_fraction and val_fraction + test_fraction < 1):
            raise InputError(
                "val_fraction and test_fraction must not be negative, and leave something for training: got "
                f"{val_fraction} and {test_fraction}"
            )
        folder = Path(root).expanduser().absolute()
        if not folder.is_dir():
            raise FileNotFoundError(f"the data root {folder} is not a folder")
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self._rows = _rows_of_table(folder, table) if table is not None else _rows_of_folders(folder)
        present = [role for role in FOLDERS if any(row[role] for row in self._rows)]
        self.files = {role: (f"{{{role}}}",) for role in present}
        tasks = options.get("tasks")
        if "semseg" in present and (file := _classes_file(folder, classes_file, tasks is None or "semseg" in tasks)):
            self.classes, self.palette = read_classes(file)
        decoders: dict[str, Decoder] = {
            "image": decode_full_panorama,
            "semseg": partial(_decode_semseg, count=len(self.classes), palette=self.palette),
            "depth": _decode_png_or_npy_depth,
            "normals": decode_png_or_npy_normals,
        }
        self.decoders = {role: decoders[role] for role in present}
        super().__init__(root, **options)

    def find(self) -> Index:
        """Return the panoramas that folders or table list."""
        return index_rows(self.root, self.files, self._rows)

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return the listed split, else one by a hash of the name; None without any label of the chosen tasks."""
        if not any(fields[task] for task in self.tasks):
            return None
        if listed := fields["split"]:
            return LISTED[listed]
        return self._automatic_split[fields["name"]]

    @cached_property
    def _automatic_split(self) -> dict[str, Split]:
        """Split by name, for panoramas that have labels and are in no list."""
        labelled = [row["name"] for row in self._rows if any(row[task] for task in self.tasks) and not row["split"]]
        shares = {name: zlib.crc32(os.fsencode(name)) / 2**32 for name in labelled}
        ordered = sorted(shares, key=lambda name: shares[name])
        held_out: dict[Split, float] = {"test": self.test_fraction, "val": self.val_fraction}
        split: dict[str, Split] = {}
        until = 0.0
        for which, fraction in held_out.items():
            until += fraction
            rest = [name for name in ordered if name not in split]
            spare = bool(fraction) and len(rest) > (2 if which == "test" else 1)
            split |= {name: which for i, name in enumerate(rest) if shares[name] < until or (spare and i == 0)}
        return {name: split.get(name, "train") for name in ordered}

    def belongs(self, i: int, fields: Mapping[str, str], split: str) -> bool:
        """Return whether a sample is in a split; all are in ``predict``, those with labels in ``labelled``."""
        if split == LABELLED:
            return any(fields[task] for task in self.tasks)
        return split == "predict" or super().belongs(i, fields, split)


def read_classes(path: Path) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Read names and colours (N, 3) of classes from a YAML file; missing colours are the default ones.

    Raises:
        InputError: If it does not have the form that `FolderDataModule` describes.
    """
    content = read_yaml(path, plain=True)  # a class may be called no, or 1
    try:
        entries = [entry if isinstance(entry, dict) else {"name": entry} for entry in content["classes"]]
        names = tuple(entry["name"] for entry in entries)
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a name is no text")
        colors = [entry.get("color", "") for entry in entries]
        known = not set(map(str, colors)) <= {"", "~", "null"}
        if not all(isinstance(one, list) for one in (content["classes"], *(colors if known else ()))):
            raise TypeError("no list")
        numbers = [[int(part) for part in color] for color in colors] if known else []
        palette = np.array(numbers, np.uint8).reshape(-1, 3) if known else default_palette(len(names))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is not a list of classes such as `classes: [{{name: wall, color: [120, 120, 120]}}]`, with a "
            "colour for each or for none"
        ) from error
    if unknown := sorted(set().union(*entries) - {"name", "color"}):
        known_keys = "a class has name and color only, and its place in the list as number"
        raise InputError(f"{path} has the key {unknown[0]} in a class, but {known_keys}")
    if not 1 <= len(names) <= NO_LABEL or len({*names, ""}) != len(names) + 1 or len(palette) != len(names):
        raise InputError(f"{path} must name 1 to {NO_LABEL} different classes, with a colour for each or for none")
    return names, palette


def _classes_file(root: Path, given: str | Path | None, needed: bool) -> Path | None:
    candidates = [root / user_path(given)] if given is not None else [root / "classes.yaml", root / "rooms.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    if not needed and given is None:
        return None
    raise FileNotFoundError(
        f"there are semantic labels but no names of classes at {candidates[0]}: write a file such as "
        "`classes: [wall, floor]`, in the order of the numbers"
    )


def _rows_of_folders(root: Path) -> list[dict[str, str]]:
    found = {role: _by_stem(root, role) for role in FOLDERS}
    if not found["image"]:
        entries = ", ".join(sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())[:8])
        raise FileNotFoundError(
            f"{root} has no panoramas in images/ ({', '.join(EXTENSIONS['image'])}); it holds {entries or 'nothing'}: "
            "pass the folder that contains images/"
        )
    for files in found.values():
        if stray := sorted(files.keys() - found["image"].keys()):
            raise InputError(
                f"{root / files[stray[0]]} belongs to no panorama: there is no images/{stray[0]}.* "
                f"({len(stray)} such files); remove it or add the image"
            )
    split = _listed_splits(root, found["image"].keys())
    return [
        {role: files.get(stem, "") for role, files in found.items()} | {"name": stem, "split": split.get(stem, "")}
        for stem in sorted(found["image"])
    ]


def _by_stem(root: Path, role: str) -> dict[str, str]:
    """Return the files of a role by their names without extension.

    Raises:
        InputError: If two files differ only in their extension.
    """
    files: dict[str, str] = {}
    unknown: list[str] = []
    folder = root / FOLDERS[role]
    entries = os.listdir(folder) if folder.is_dir() else ()  # noqa: PTH208 - names are all that is needed
    for entry in sorted(entries, key=lambda name: (not name.lower().endswith(COMMON), name)):
        stem, extension = os.path.splitext(entry)  # noqa: PTH122
        if entry.startswith("."):
            continue
        if extension.lower() not in EXTENSIONS[role]:
            inner = files_below(folder / entry) if (folder / entry).is_dir() else [folder / entry]
            unknown += [str(path.relative_to(folder)) for path in inner]
            continue
        if role == "image" and extension.lower() not in COMMON and files.get(stem, "").lower().endswith(COMMON):
            unknown.append(entry)  # the original of a panorama, or a preview
            continue
        if stem in files:
            raise InputError(f"{root / files[stem]} and {entry} have the same name: remove one of them")
        files[stem] = f"{FOLDERS[role]}/{entry}"
    if unknown:
        kinds = ", ".join(EXTENSIONS[role])
        warnings.warn(
            f"{len(unknown)} files in {folder} are ignored, such as {min(unknown)}: expected {kinds}, one for each "
            "panorama, not in a sub-folder",
            stacklevel=2,
        )
    return files


def _listed_splits(root: Path, names: Any) -> dict[str, str]:
    split: dict[str, str] = {}
    lists = {which: path for which in SPLITS if (path := root / f"{which}.txt").is_file()}
    for which, path in lists.items():
        for name in read_lines(path):
            if not (name := name.strip()):
                continue
            if name not in names or split.get(name, which) != which:
                reason = (
                    "is in another list too" if name in names else "is not in images/ (write names without extension)"
                )
                raise InputError(f"{path}: {name} {reason}")
            split[name] = which
    if lists and not split:
        raise InputError(
            f"{next(iter(lists.values()))} is empty, and no other list names a panorama: write names into it, or "
            "remove it for the automatic split"
        )
    if split:  # panoramas in no list are left out
        split |= {name: "left out" for name in names if name not in split}
    return split


def _rows_of_table(root: Path, table: str | Path) -> list[dict[str, str]]:
    path = root / user_path(table)
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {path}")
    columns, rows = read_table(path)
    if "image" not in columns or not {*columns} <= {*FOLDERS, "split", "name"}:
        raise InputError(
            f"{path} needs a first line with the column image and any of semseg, depth, normals, split and name; "
            f"it has {', '.join(columns) or 'nothing'}"
        )
    complete = [dict.fromkeys((*FOLDERS, "split", "name"), "") | row for _, row in rows]
    seen: set[str] = set()
    for (number, _), row in zip(rows, complete, strict=True):
        row["name"] = row["name"] or Path(row["image"]).stem
        if not row["image"] or row["split"] not in ("", *SPLITS) or row["name"] in seen or "/" in row["name"]:
            raise InputError(
                f"{path}, line {number}: every panorama needs an image, a name of its own (by default that of the "
                f"image) and as split one of train, val, test or nothing; got {row}"
            )
        seen.add(row["name"])
    if not complete:
        raise InputError(f"{path} lists no panorama")
    return complete


def _decode_semseg(data: bytes, count: int, palette: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return class numbers as stored, or look up colours in the palette; black is no label unless it is a class."""
    image = open_image(data)
    classes_of = _classes_by_color(palette)
    if image.mode not in ("RGB", "RGBA"):
        numbers = stored_numbers(data, image)
        if image.mode == "P":
            _check_palette(image, numbers, classes_of)
        return look_up(numbers, [*range(count), *[-1] * (NO_LABEL - count), NO_LABEL])
    pixels = np.array(image)[..., :3].astype(np.int32)
    colors, inverse = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    meant = [classes_of.get(color, [NO_LABEL] if color == 0 else []) for color in colors.tolist()]
    for count_of, reason in ((0, "no class has"), (2, "two classes have")):
        if wrong := [color for color, classes in zip(colors.tolist(), meant, strict=True) if len(classes) == count_of]:
            raise InputError(f"it holds the colours {', '.join(map(_rgb, wrong[:3]))}, which {reason}")
    return np.array([classes[0] for classes in meant], np.uint8)[inverse].reshape(pixels.shape[:2])


def _classes_by_color(palette: NDArray[np.uint8] | None) -> dict[int, list[int]]:
    classes_of: dict[int, list[int]] = {}
    for number, (red, green, blue) in enumerate([] if palette is None else palette.tolist()):
        classes_of.setdefault(red << 16 | green << 8 | blue, []).append(number)
    return classes_of


def _check_palette(image: Image.Image, numbers: NDArray[np.uint8], classes_of: dict[int, list[int]]) -> None:
    """Refuse numbers that the palette shows in the colours of other classes.

    Programs that shrink PNG files may renumber the colours.
    """
    shown = np.array(image.getpalette("RGB"), np.int32).reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1])
    colors = {number: int(shown[number]) for number in np.unique(numbers).tolist() if number < len(shown)}
    meant = {number: classes_of.get(color, []) for number, color in colors.items() if number != NO_LABEL and color}
    if all(meant.values()) and (wrong := [number for number, classes in meant.items() if number not in classes]):
        raise InputError(
            f"its palette shows the number {wrong[0]} in {_rgb(colors[wrong[0]])}, the colour of class "
            f"{meant[wrong[0]][0]}: store the colours as RGB, or the classes as numbers"
        )


def _rgb(color: int) -> str:
    return f"({color >> 16}, {color >> 8 & 255}, {color & 255})"


def _decode_png_or_npy_depth(data: bytes) -> NDArray[np.float32]:
    if not data.startswith(b"\x93NUMPY"):
        return decode_depth(data, unit=0.001)
    depth = _load_array(data, 2).astype(np.float32)
    depth[~np.isfinite(depth) | (depth < 0)] = 0
    return depth


def decode_png_or_npy_normals(data: bytes) -> NDArray[np.float32]:
    """Decode normals as `FolderDataModule` describes them; invalid directions become the zero vector.

    Raises:
        InputError: If it is neither RGB nor floating point (H, W, 3).
    """
    if data.startswith(b"\x93NUMPY"):
        return unit_or_zero(_load_array(data, 3))
    stored = decode_wide_rgb(data)
    middle = 128 if stored.dtype == np.uint8 else 32768
    return unit_or_zero((stored.astype(np.float32) - middle) / np.float32(middle - 1))


def _load_array(data: bytes, dimensions: int) -> NDArray[Any]:
    values = decode_array(data)
    if values.ndim != dimensions or values.dtype.kind != "f" or (dimensions == 3 and values.shape[2] != 3):
        wanted = "(H, W, 3)" if dimensions == 3 else "(H, W)"
        raise InputError(f"it holds {values.dtype} {values.shape} instead of floating point {wanted}")
    return values
