"""A network in a folder: its weights in `model.safetensors`, what it takes to build it in `config.json`."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.models import NETWORKS, PanoramaNetwork
from mtpano_zoo.training.checkpoint import check_weights

__all__ = ("CONFIG", "WEIGHTS", "build_network", "fill_network", "read_description", "read_network", "write_weights")

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def write_weights(folder: str | Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a network to a folder, which is made if need be; each of the two files appears completely or not at all.

    Args:
        folder: where `model.safetensors` and `config.json` go.
        weights: state dict of the network, in any precision, on any device.
        description: what `mtpano_zoo.training.checkpoint.describe_network` says of the network, and under `card` where
            its weights come from, as plain data.

    Raises:
        OSError: if the folder cannot be written, or its disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(dict(description), indent=2, ensure_ascii=False) + "\n"
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        save_file(_separate(weights), temporary, metadata={"format": "pt"})
        temporary.replace(folder / WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"The weights could not be written to {folder}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    write_bytes(folder / CONFIG, config.encode())


def _separate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor memory of its own, which the format asks for."""
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


def read_network(folder: str | Path, classes: Sequence[str] | None = None) -> PanoramaNetwork:
    """Read a network that `write_weights` wrote, in evaluation mode and in the precision that it was written in.

    Its weights are mapped from the file: they take memory when they are used, and only once for all processes. The file
    is never changed by what becomes of the network.

    Args:
        folder: a folder with `model.safetensors` and `config.json`.
        classes: names of classes instead of its own.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if a file is damaged, describes no known network, or the weights do not fit.
    """
    description = read_description(folder)
    if classes is not None:
        raise ValueError("Other classes are not supported yet.")
    network = build_network(description, Path(folder) / CONFIG)
    fill_network(network, read_tensors(Path(folder) / WEIGHTS), Path(folder) / WEIGHTS)
    network.card = dict(description.get("card") or {})
    return network


def read_description(folder: str | Path) -> dict[str, Any]:
    """Read the `config.json` of a folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged or describes no network.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no {CONFIG} in {folder}: it says which network the weights belong to.")
    try:
        description = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(description, dict) or not {"class", "config"} <= description.keys():
        raise ValueError(f"{path} does not describe a network of this package: it needs the keys class and config.")
    return description


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file of weights at {path}.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or no safetensors file ({error}); copy it again.") from error
    return tensors


def build_network(description: Mapping[str, Any], source: str | Path) -> PanoramaNetwork:
    """Build the network of a description without memory for its parameters; `fill_network` gives it its weights.

    Raises:
        ValueError: if the class is none of ours, or does not take the arguments.
    """
    name = description["class"]
    if name not in NETWORKS:
        raise ValueError(f"{source} describes a network of the class {name!r}, which is none of {', '.join(NETWORKS)}.")
    try:
        with _parameters_on_meta():
            return NETWORKS[name](**description["config"])
    except TypeError as error:
        raise ValueError(f"{source} has arguments that {name} does not take: {error}.") from error


def fill_network(network: PanoramaNetwork, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Let a network of `build_network` take tensors as its weights, without copying them, and set evaluation mode.

    Raises:
        ValueError: if keys or shapes do not fit; the sentence lists which.
    """
    check_weights(network, weights, source)
    network.load_state_dict(dict(weights), assign=True)
    network.eval()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move parameters to the meta device as modules register them; buffers are computed, since no file holds them all.

    `torch.device("meta")` would leave buffers without values that the state dict does not contain.
    """
    thread = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != thread or parameter is None:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook: Callable[..., Any] = to_meta  # torch's annotation forgets that the hook may return a parameter
    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
