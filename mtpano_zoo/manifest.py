"""`manifest.json` records what made the results of a folder, so that results of different settings never mix."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.text_files import read_json

__all__ = (
    "MANIFEST",
    "check_settings",
    "claim_folder",
    "claim_marked_folder",
    "describe_model",
    "differences",
    "hash_of_files",
    "read_manifest",
    "rename_new",
    "write_manifest",
)

MANIFEST = "manifest.json"


def describe_model(network: nn.Module, name: str | None = None) -> dict[str, Any]:
    """Return everything that determines a network's predictions as plain data, plus `name` for people to read.

    The weights are identified by a SHA-256 hash over names, shapes, types and values, which does not depend on the
    device.

    Example:
        >>> described = describe_model(nn.Linear(2, 1), "my-model")
        >>> described["name"], described["network"], len(described["weights"])
        ('my-model', 'Linear', 64)
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    named = {key: getattr(network, key, None) for key in ("tasks", "classes", "input_size", "config")}
    described = {"name": name, "weights": digest.hexdigest(), "network": type(network).__name__, **named}
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def hash_of_files(root: Path, paths: Iterable[Path]) -> str:
    """Return a SHA-256 hash over the names below `root`, the sizes and the modification times of files.

    Raises:
        OSError: If a file does not exist.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        digest.update(os.fsencode(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n"))
    return digest.hexdigest()


def read_manifest(root: Path, form: str, *sections: str) -> dict[str, Any] | None:
    """Return the manifest of a folder; None if it has none.

    Args:
        root: The folder, which need not exist.
        form: The expected value of the manifest's key `format`.
        *sections: Keys that must hold dictionaries.

    Raises:
        InputError: If the file is not a manifest, has another format, or lacks a section.
    """
    path = root / MANIFEST
    try:
        manifest = read_json(path)
        found = manifest["format"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a manifest of this package: choose another folder.") from error
    if found != form:
        raise InputError(f"{path} has the format {found!r}, not {form!r}: choose another folder.")
    if lacking := [key for key in sections if not isinstance(manifest.get(key), dict)]:
        raise InputError(f"{path} is damaged: it has no {lacking[0]}. Choose another folder.")
    return dict(manifest)


def claim_folder(root: Path, manifest: Mapping[str, Any], advice: str) -> None:
    """Create a folder with a manifest, or check that it has the same one; several processes may do so at once.

    Args:
        root: The folder.
        manifest: Plain data with the key `format`.
        advice: See `check_settings`.

    Raises:
        InputError: If it holds something else, or is a file.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file: choose a folder")
    form = manifest["format"]
    filled = root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir())
    known = read_manifest(root, form)  # read after listing: another process of the same run may have just begun
    if filled and known is None:
        raise InputError(f"{root} holds files but no manifest.json: choose a new folder")
    if known is None:
        root.mkdir(parents=True, exist_ok=True)
        if not write_manifest(root, manifest):
            known = read_manifest(root, form)
    if known is not None:
        check_settings(root, known, manifest, advice)


def claim_marked_folder(out: Path, marker: str, content: str, what: str) -> None:
    """Create a folder with a file that says what belongs there, or continue in one with the same file.

    Args:
        out: The folder.
        marker: Name of the file.
        content: Its text.
        what: What belongs there, for the messages: `panoramas of this size`.

    Raises:
        InputError: If the folder holds something else.
    """
    path = out / marker
    if path.exists():
        if path.read_bytes() != content.encode():
            raise InputError(f"{out} holds no {what}, see {path}: choose another folder")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and holds no {what}: choose an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.encode())


def check_settings(root: Path, known: Mapping[str, Any], wanted: Mapping[str, Any], advice: str) -> None:
    """Refuse to continue in a folder whose manifest has other settings.

    Args:
        root: The folder, for the message.
        known: Its manifest.
        wanted: The manifest of results made now. Model names need not agree.
        advice: Ends the message: how to choose another folder or replace its results.

    Raises:
        InputError: If they differ; the message names the first difference.
    """
    plain = json.loads(json.dumps(wanted))  # as it would be read again: a tuple becomes a list
    found = [difference for difference in differences(known, plain) if difference[0] != "model.name"]
    if not found:
        return
    key, before, now = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    raise InputError(
        f"{root} holds results of other settings ({key} was {_short(before)}, is {_short(now)}{more}): keep the "
        f"settings, {advice}."
    )


def write_manifest(root: Path, manifest: Mapping[str, Any], replace: bool = False) -> bool:
    """Write the manifest of a folder, completely or not at all. Return False if one exists, unless `replace` is set."""
    path, content = root / MANIFEST, json.dumps(manifest, indent=1).encode()
    if replace:
        write_bytes(path, content)
        return True
    temporary = root / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_bytes(content)
        rename_new(temporary, path)
    except FileExistsError:  # another process was faster
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def rename_new(source: Path, target: Path) -> None:
    """Rename without replacing; without links in the file system, another process may do so at the same moment.

    Raises:
        FileExistsError: If the target exists.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if target.exists():
            raise FileExistsError(f"{target} exists") from error
        source.replace(target)


def differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two trees of plain data differ: the key, such as `settings.views[0]`, and both values.

    Example:
        >>> list(differences({"size": [64, 128], "seed": 0}, {"size": [64, 256], "seed": 0}))
        [('size[1]', 128, 256)]
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*before, *now)):
            yield from differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{key}[{i}]")
    elif before != now:
        yield key, before, now


def _short(value: Any) -> str:
    """Return a value as text for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."
