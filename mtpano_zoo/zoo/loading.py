"""From a name in `checkpoints.yaml`, a repository or a path to a network with its weights."""

import difflib
import hashlib
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import DESCRIPTION, check_weights, network_weights, read_checkpoint
from mtpano_zoo.files.weights import CONFIG, WEIGHTS, read_description, read_tensors, write_weights
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.layers import merge_lora
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.reference import FORMATS, identify, unwrap
from mtpano_zoo.resources import shipped
from mtpano_zoo.zoo.building import assemble, build_network
from mtpano_zoo.zoo.download import cache_folder, commit_of, download, fetch, known_checksum, verify
from mtpano_zoo.zoo.entries import Entry, entries

__all__ = ("check_device", "load_model")

CHECKSUM = "model.sha256"

# What a source holds: a description for `assemble`, and weights.
Contents = tuple[Mapping[str, Any], Mapping[str, Tensor]]


def load_model(
    source: str | Path,
    device: str | torch.device = "cpu",
    *,
    tasks: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    input_size: tuple[int, int] | None = None,
    **others: Any,
) -> PanoramaNetwork:
    """Load a network with its weights, ready to predict.

    Loading is strict: what does not match is listed key by key. Files are read as tensors and plain data only: nothing
    in them is executed. Weights are mapped from their file, so they take memory when they are used; do not write into
    that file while the network lives (replacing it is fine).

    Args:
        source: what to load:
            a name of `list_models()`: in the package, or downloaded to the cache of the Hugging Face Hub and converted
            on first use;
            `hf-hub:user/name` or `hf-hub:user/name@revision`, a repository that `push_to_hub` wrote;
            `local-dir:path`, a folder that `save_pretrained` wrote;
            the path of such a folder, of the `.safetensors` in it, of a checkpoint that training wrote (`.ckpt`), or of
            a published one (`.pth`, `.pth.tar`), recognised by its keys and converted in memory each time.
        device: where the network should live.
        tasks: those of its tasks to train on, such as `["depth"]`; what only the others have is left out. What the kept
            ones predict changes, since they no longer see the features of the others.
        classes: names of semantic classes to train it for instead of its own; their classifiers are re-initialised.
        palette: colours (R, G, B) of the classes, instead of its own or, for other classes, the default ones.
        input_size: height and width that `predict` resizes to instead of its own.
        **others: nothing else of a trained network can be changed.

    Raises:
        OSError: If nothing is there, or it cannot be downloaded; the sentence says what to do.
        InputError: If there is no such name, an argument cannot be changed, or a file does not hold what it should.
    """
    if others:
        raise InputError(
            f"{', '.join(others)} cannot be changed in a network with weights; load_model takes tasks, "
            "classes, palette and input_size."
        )
    if classes is not None and (isinstance(classes, str) or not all(isinstance(name, str) for name in classes)):
        raise InputError(f"classes are names in a list, such as ['floor', 'wall'], not {classes!r}.")
    check_device(device)
    description, weights = _read(str(source))
    network = assemble(
        description, weights, source, tasks=tasks, classes=classes, palette=palette, input_size=input_size
    )
    return network.to(device)


def check_device(device: str | torch.device) -> None:
    """Refuse a device that is not there before gigabytes are loaded.

    Raises:
        InputError: If it is no device, or cannot be used here.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        if isinstance(error, NotImplementedError | ImportError):  # whose text is a page about operators
            reason = "this PyTorch was built without it"
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        usable = "cpu" if found is None else f"cpu or {found.type}"
        raise InputError(f"The device {str(device)!r} cannot be used here: {reason}; choose {usable}.") from error


def _read(source: str) -> Contents:
    known = entries()
    scheme, _, rest = source.partition(":")
    path = Path(rest if scheme == "local-dir" else source).expanduser()
    if source in known:
        return _published(known[source])
    if scheme == "hf-hub":
        return _repository(rest)
    if scheme == "local-dir" or path.is_dir():
        return read_description(path), read_tensors(path / WEIGHTS)
    if path.is_file():
        return _file(path)
    if path.suffix in (".ckpt", ".pt", ".pth", ".tar", ".safetensors") or len(path.parts) > 1:
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    nearest = difflib.get_close_matches(source, known, n=1, cutoff=0.0)[0]
    raise InputError(
        f"There is no model {source!r} in the zoo; did you mean {nearest!r}? "
        "`mtpano models` lists all names; a checkpoint of your own is given by its path."
    )


def _repository(address: str) -> Contents:
    repository, _, revision = address.partition("@")
    by_hand = f'put {CONFIG} and {WEIGHTS} into one folder, whose path you give: load_model("/path/to/folder")'
    config = download(repository, CONFIG, revision or None, by_hand)
    # Of the same commit, whatever is uploaded meanwhile.
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
        # Not the card of an entry: this file need not be the one that the entry states.
        return format.describe(state), format.convert(state)
    except ValueError as error:
        raise InputError(f"{path} cannot be loaded: {error}") from error


def _published(entry: Entry) -> Contents:
    """Read a published checkpoint from what was converted before, else convert it and keep the result for next time."""
    description = {**entry.network, "card": entry.card()}
    if not entry.repository:
        return description, _packaged(entry)
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
        weights = read_tensors(folder / WEIGHTS)  # mapped, instead of the memory that converting took
    except OSError as error:
        warnings.warn(
            f"{entry.name} is loaded, but could not be kept in {folder} and will be converted again next time: "
            f"{error.strerror or error} (MTPANO_CACHE names another folder).",
            stacklevel=4,
        )
    return description, weights


def _packaged(entry: Entry) -> dict[str, Tensor]:
    """Read weights that the package brings: float32 in memory, whatever they are in the file."""
    content = shipped(entry.file).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise InputError(f"{entry.file} is not the file that {entry.name} stands for: install mtpano_zoo again.")
    return {key: x.float() if x.is_floating_point() else x for key, x in load(content).items()}


def _conversion_folder(entry: Entry, checksum: str) -> Path:
    """Name the folder for a conversion by the content that is converted and by the code that converts it."""
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
