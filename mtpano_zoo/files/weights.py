"""A network in a folder: its weights in `model.safetensors`, its description in `config.json`."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.text_files import read_json

__all__ = ("CONFIG", "WEIGHTS", "read_description", "read_tensors", "write_weights")

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def write_weights(folder: str | Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a network to a folder, which is created if needed. Each of the two files appears completely or not at all.

    Args:
        folder: Where `model.safetensors` and `config.json` go.
        weights: State dict of the network, in any precision, on any device.
        description: Result of `mtpano_zoo.files.checkpoint.describe_network`, plus the origin of the weights under
            `card`, as plain data.

    Raises:
        OSError: If the folder cannot be written, or its disk is full.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_weights(folder, {"scale": torch.ones(2)}, {"class_path": "MyNet", "init_args": {}})
        ...     read_description(folder), read_tensors(Path(folder, WEIGHTS))
        ({'class_path': 'MyNet', 'init_args': {}}, {'scale': tensor([1., 1.])})
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(dict(description), indent=2, ensure_ascii=False) + "\n"
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors makes the file readable by its owner only
        save_file(_separate(weights), temporary, metadata={"format": "pt"})
        temporary.chmod(mode)
        temporary.replace(folder / WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"The weights could not be written to {folder}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    write_bytes(folder / CONFIG, config.encode())


def _separate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory, as the format requires."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def read_description(folder: str | Path) -> dict[str, Any]:
    """Read the `config.json` of a folder.

    Raises:
        FileNotFoundError: If there is none.
        InputError: If it is damaged.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no {CONFIG} in {folder}, which says which network the weights belong to.")
    description = read_json(path)
    if not isinstance(description, dict):
        raise InputError(f"{path} holds a {type(description).__name__}, not the description of a network.")
    return description


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is truncated or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no weight file at {path}.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is truncated or not a safetensors file ({error}); copy it again.") from error
    return tensors
