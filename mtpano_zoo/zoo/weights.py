"""A network in a folder: its weights in `model.safetensors`, what it takes to build it in `config.json`."""

import json
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mtpano_zoo.image_io import check_panorama_size, write_bytes
from mtpano_zoo.models import NETWORKS, PanoramaNetwork
from mtpano_zoo.tasks import check_tasks
from mtpano_zoo.text_files import read_json
from mtpano_zoo.training.checkpoint import check_weights
from mtpano_zoo.zoo.transfer import transfer, transferred_card

__all__ = ("CONFIG", "WEIGHTS", "assemble", "read_description", "read_network", "read_tensors", "write_weights")

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
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors would let nobody but the owner read the file
        save_file(_separate(weights), temporary, metadata={"format": "pt"})
        temporary.chmod(mode)
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
    path = Path(folder) / WEIGHTS
    return assemble(read_description(folder), read_tensors(path), folder, classes=classes)


def assemble(
    description: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    input_size: tuple[int, int] | None = None,
) -> PanoramaNetwork:
    """Put a network together from what describes it and its weights, which it takes over without copying them.

    Args:
        description: `class`, `config` and, if something is known, `card`.
        weights: the whole state dict.
        source: where they come from, for messages.
        tasks: those of its tasks that are kept; what only the others have is left out.
        classes: names of classes instead of its own; the layers that score them start anew.
        palette: colours of the classes, instead of its own or, for other classes, the default ones.
        input_size: height and width instead of its own.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: if the description is of no known network, or the weights do not fit it.
    """
    if not {"class", "config"} <= description.keys():
        raise ValueError(f"{source} does not describe a network of this package: it needs the keys class and config.")
    if not isinstance(description["config"], Mapping) or not isinstance(description.get("card") or {}, Mapping):
        raise ValueError(f"{source} does not describe a network: its config and its card must be dictionaries.")
    config = dict(description["config"])
    card = dict(description.get("card") or {})
    if input_size is not None:
        if len(tuple(input_size)) != 2 or not all(isinstance(side, int) and side > 0 for side in input_size):
            raise ValueError(f"input_size is height and width in pixels, such as (512, 1024), not {input_size!r}.")
        check_panorama_size(*input_size, "input_size")
        config["input_size"] = list(input_size)
    if tasks is not None:
        config, weights = _of_tasks(description["class"], config, weights, source, check_tasks(tuple(tasks)))
    renewed = classes is not None and list(classes) != config.get("classes")
    if renewed:
        config |= {"classes": list(classes or ()), "palette": None}
    if palette is not None:
        config["palette"] = [[int(value) for value in colour] for colour in palette]
    network = build_network(description["class"], config, source)
    if renewed:
        weights, new = transfer(weights, network, source)
        warnings.warn(
            f"{source} for your {len(network.classes)} classes: all is kept but {', '.join(new)}, new and untrained.",
            stacklevel=3,
        )
        card = transferred_card(card, source, network.classes)
    check_weights(network, weights, source)
    network.load_state_dict(dict(weights), assign=True)
    network.card = card
    return network.eval()


def _of_tasks(
    name: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], source: str | Path, tasks: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give arguments and weights of the same network with a part of its tasks."""
    network = build_network(name, config, source)
    if absent := [task for task in tasks if task not in network.tasks]:
        raise ValueError(f"{source} has no {' and no '.join(absent)}: its tasks are {', '.join(network.tasks)}.")
    check_weights(network, weights, source)
    fewer = dict(config) | {"tasks": list(tasks)} | ({} if "semseg" in tasks else {"classes": [], "palette": None})
    kept = build_network(name, fewer, source).state_dict().keys()
    return fewer, {key: tensor for key, tensor in weights.items() if key in kept}


def read_description(folder: str | Path) -> dict[str, Any]:
    """Read the `config.json` of a folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no {CONFIG} in {folder}: it says which network the weights belong to.")
    description = read_json(path)
    if not isinstance(description, dict):
        raise ValueError(f"{path} holds a {type(description).__name__}, not the description of a network.")
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


def build_network(name: str, config: Mapping[str, Any], source: str | Path) -> PanoramaNetwork:
    """Build a network whose parameters have no memory yet.

    Args:
        name: its class, one of `NETWORKS`.
        config: the arguments of its constructor.
        source: where they come from, for the message.

    Raises:
        ValueError: if the class is none of ours, or does not take the arguments.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"{source} describes a network of the class {name!r}, which is none of {', '.join(NETWORKS)}.")
    try:
        with _parameters_on_meta():
            # Weights that are about to be replaced need no download.
            return NETWORKS[name](**{key: value for key, value in config.items() if key != "pretrained"})
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{source} has arguments that {name} does not take: {reason}.") from error


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
