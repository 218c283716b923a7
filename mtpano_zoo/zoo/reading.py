"""Read the description and the weights of a network from a published checkpoint, a repository or a path."""

import hashlib
import inspect
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import DESCRIPTION, check_weights, network_weights, read_checkpoint
from mtpano_zoo.files.weights import CONFIG, WEIGHTS, read_description, read_tensors, write_weights
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.layers import merge_lora
from mtpano_zoo.reference import FORMATS, identify, unwrap
from mtpano_zoo.resources import cache_folder, shipped
from mtpano_zoo.zoo.building import build_network
from mtpano_zoo.zoo.download import commit_of, download, fetch, known_checksum, verify
from mtpano_zoo.zoo.entries import Entry
from mtpano_zoo.zoo.places import Place, Repository

__all__ = ("Contents", "read")

CHECKSUM = "model.sha256"
OWN = "mtpano_zoo"  # the format of an entry whose file needs no conversion

# What a source holds: a description for `assemble`, and weights.
Contents = tuple[Mapping[str, Any], Mapping[str, Tensor]]


def read(place: Place) -> Contents:
    """Read the description and the weights of a network.

    Raises:
        OSError: If nothing is there, or it cannot be downloaded.
        InputError: If a file does not hold what it should.
    """
    if isinstance(place, Entry):
        return _published(place)
    if isinstance(place, Repository):
        return _repository(place)
    return _file(place) if place.is_file() else (read_description(place), read_tensors(place / WEIGHTS))


def _repository(place: Repository) -> Contents:
    repository, revision = place
    by_hand = f'put {CONFIG} and {WEIGHTS} into one folder, and pass its path: load_model("/path/to/folder")'
    config = download(repository, CONFIG, revision, by_hand)
    # From the same commit, whatever is uploaded meanwhile.
    weights = download(repository, WEIGHTS, commit_of(config), by_hand)
    verify(weights)
    return read_description(config.parent), read_tensors(weights)


def _file(path: Path) -> Contents:
    if path.suffix == ".safetensors":
        return read_description(path.parent), read_tensors(path)
    checkpoint = read_checkpoint(path)
    if isinstance(description := checkpoint.get(DESCRIPTION), Mapping):
        return description, merge_lora(network_weights(checkpoint))
    try:
        state = unwrap(checkpoint)
        format = FORMATS[identify(state)]
        # Without the card of an entry: this file need not be the one that the entry describes.
        return format.describe(state), format.convert(state)
    except ValueError as error:
        raise InputError(f"{path} cannot be loaded: {error}") from error


def _published(entry: Entry) -> Contents:
    """Read a published checkpoint from an earlier conversion, or convert it and keep the result for next time."""
    description = {**entry.network, "card": entry.card()}
    if entry.packaged:
        return description, _packaged(entry)
    if entry.format == OWN:
        return description, _in_float32(read_tensors(fetch(entry)[0]))
    if entry.format not in FORMATS:
        raise InputError(
            f"The entry {entry.name} of checkpoints.yaml has the format {entry.format!r}, which is not one of "
            f"{', '.join((OWN, *FORMATS))}."
        )
    checksum = known_checksum(entry)
    if checksum and (weights := _converted(entry, checksum, description)):
        return description, weights
    path, checksum = fetch(entry)
    if weights := _converted(entry, checksum, description):
        return description, weights
    try:
        weights = FORMATS[entry.format].convert(unwrap(read_checkpoint(path)))
    except ValueError as error:
        raise InputError(f"{entry.file} of {entry.repository} cannot be loaded: {error}") from error
    folder = _conversion_folder(entry, checksum)
    try:
        write_weights(folder, weights, description)
        write_bytes(folder / CHECKSUM, verify(folder / WEIGHTS).encode())
        weights = read_tensors(folder / WEIGHTS)  # mapped, which frees the memory that converting took
    except OSError as error:
        warnings.warn(
            f"{entry.name} is loaded, but could not be kept in {folder} and will be converted again next time: "
            f"{error.strerror or error} (set MTPANO_CACHE to another folder).",
            stacklevel=4,
        )
    return description, weights


def _packaged(entry: Entry) -> dict[str, Tensor]:
    """Read weights that come with the package."""
    content = shipped(entry.file).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise InputError(f"{entry.file} is not the file that {entry.name} stands for: install mtpano_zoo again.")
    return _in_float32(load(content))


def _in_float32(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an entry as float32, whatever their type in the file."""
    return {key: x.float() if x.is_floating_point() else x for key, x in weights.items()}


def _conversion_folder(entry: Entry, checksum: str) -> Path:
    """Return the folder of a conversion, named after the content that is converted and the code that converts it."""
    code = inspect.getsource(sys.modules[FORMATS[entry.format].convert.__module__]).encode()
    return cache_folder() / entry.name / f"{checksum[:16]}-{hashlib.sha256(code).hexdigest()[:8]}"


def _converted(entry: Entry, checksum: str, description: Mapping[str, Any]) -> dict[str, Tensor] | None:
    folder = _conversion_folder(entry, checksum)
    try:
        verify(folder / WEIGHTS, (folder / CHECKSUM).read_text())
        weights = read_tensors(folder / WEIGHTS)
        # Names may have changed with the package since.
        check_weights(build_network(description, folder), weights, folder)
    except (OSError, ValueError):  # absent, damaged or old: it is made again
        return None
    return weights
