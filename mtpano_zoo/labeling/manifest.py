"""Records of how the labels of a folder were made: one manifest, and a record of every run.

`manifest.json` holds the settings that determine the labels, and what their numbers mean. It is written once; a run
with other settings is refused. Every run writes `runs/TIME-ID.json` at its end, with what it did, on which device, and
with which software; these records are deleted together with the labels that they describe.
"""

import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

import mtpano_zoo
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.storage import LABELS, RUNS, TEMPORARY, LabelFolder, check_folders, in_use
from mtpano_zoo.manifest import MANIFEST, differences, rename_new
from mtpano_zoo.text_files import read_json

__all__ = ("FORMAT", "check_manifest", "claim", "describe", "software", "write_record")

CLASSES = "classes.yaml"
FORMAT = "mtpano pseudo-labels, 1"
ENCODING = {
    "image": "8-bit RGB JPEG",
    "semseg": {"file": "8-bit PNG", "unit": "index into `classes`", "no label": 255},
    "depth": {
        "file": "16-bit PNG",
        "unit": "millimetres along the ray; thousandths of about the median if no teacher knows metres",
        "no label": 0,
        "range": "0.001 to 65.535 m; what is farther has no label",
    },
    "normals": {
        "file": "8-bit PNG",
        "unit": "n = value / 127.5 - 1, (R, G, B) = (forward, up, left), towards the camera",
        "no label": [128, 128, 128],
    },
    "merged_confidence": {"file": "8-bit PNG", "unit": "confidence = value / 255"},
    "missing file": "no label",
}
MASKS = {"file": "8-bit PNG", "unit": "255 = masked: no label counts there", "missing file": "nothing is masked"}
PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "transformers",
    "timm",
    "numpy",
    "opencv-python-headless",
    "moge",
    "diffusers",
    "peft",
)


def describe(settings: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the manifest of labels that were made with these settings, as plain data."""
    # Add masks only with a masker, so that a run can continue in a folder of an earlier release.
    encoding = ENCODING | ({"masks": MASKS} if "masker" in settings else {})
    manifest = {"format": FORMAT, "classes": list(classes), "encoding": encoding, "settings": settings}
    plain: dict[str, Any] = json.loads(json.dumps(manifest, default=str))
    return plain


def check_manifest(root: Path, manifest: Mapping[str, Any], overwrite: bool = False) -> bool:
    """Check that a folder is empty, or was labelled with the same settings; change nothing.

    Returns:
        Whether its labels stay: with `overwrite`, those of other settings do not.

    Raises:
        InputError: If it holds something else, or labels with other settings and `overwrite` is false.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file: choose a folder for the labels")
    check_folders(root)
    path = root / MANIFEST
    if not path.exists():
        filled = root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir())
        # Another process may have just started here; it writes the manifest before anything else.
        if filled and not path.exists():
            raise InputError(f"{root} holds files but no {MANIFEST}: choose a new folder, or one that holds labels")
        if not filled:
            return True
    try:
        known = read_json(path)
        same_format = known["format"] == manifest["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a manifest of labels: choose another folder") from error
    if not same_format:
        raise InputError(f"{path} has another format or version, {known['format']!r}: choose another folder")
    if overwrite:
        return bool(known == manifest)
    if found := list(differences(known, manifest)):
        key, before, now = found[0]
        setting = key.removeprefix("settings.")
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise InputError(
            f"{root} was labelled with other settings ({setting} was {before}, is {now}{more}): choose another folder, "
            "the same settings, or --overwrite to delete those labels"
        )
    return True


def claim(root: Path, manifest: Mapping[str, Any], overwrite: bool = False) -> None:
    """Create the folder and its manifest, or continue in one with the same; delete other labels if `overwrite`.

    Raises:
        InputError: If `check_manifest` refuses the folder, or another process writes to it.
    """
    labels_stay = check_manifest(root, manifest, overwrite)
    path = root / MANIFEST
    root.mkdir(parents=True, exist_ok=True)
    if not labels_stay:
        if in_use(root):
            raise InputError(
                f"{root} is being written to by another process: let it finish, or end it, and start again (if there "
                f"is none, remove {root / TEMPORARY}*)"
            )
        # Delete images first: without them nothing counts as finished, even if this is interrupted.
        for folder in (*LABELS, RUNS):
            shutil.rmtree(root / folder, ignore_errors=True)
        (root / CLASSES).unlink(missing_ok=True)
        _write(path, json.dumps(manifest, indent=1).encode(), os.replace)
    _write(path, json.dumps(manifest, indent=1).encode(), rename_new)
    if manifest.get("classes"):
        classes = yaml.safe_dump({"classes": list(manifest["classes"])}, allow_unicode=True)
        _write(root / CLASSES, classes.encode(), rename_new)
    check_manifest(root, manifest)


def software() -> dict[str, str]:
    """Return the versions of all software that may change a label."""
    versions = {"python": platform.python_version(), "mtpano_zoo": mtpano_zoo.__version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions | ({"cuda": str(torch.version.cuda)} if torch.cuda.is_available() else {})


def write_record(folder: LabelFolder, started: str, record: Mapping[str, Any]) -> None:
    """Write the record of a run under a name of its own.

    Args:
        folder: The folder of labels, open.
        started: Start time of the run, in a form for file names.
        record: Plain data.
    """
    path = folder.root / RUNS / f"{started}-{uuid.uuid4().hex[:8]}.json"
    folder.write_file(path, json.dumps(record, indent=1).encode())


def _write(path: Path, content: bytes, into_place: Callable[[Path, Path], None]) -> None:
    """Write a file through a temporary folder, which the next process removes; `rename_new` keeps an existing file."""
    folder = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        folder.mkdir()
        (folder / path.name).write_bytes(content)
        into_place(folder / path.name, path)
    except (FileExistsError, FileNotFoundError):  # another process was faster, or has already started and cleaned up
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
