"""Lightning checkpoints that say which network they hold, so that loading one needs no configuration beside it."""

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import mtpano_zoo
from mtpano_zoo.layers import merge_lora
from mtpano_zoo.limits import check_stored
from mtpano_zoo.models import NETWORKS, PanoramaNetwork

DESCRIPTION = "network"
"""Key of the description inside a Lightning checkpoint."""


def describe_network(network: PanoramaNetwork) -> dict[str, Any]:
    """Describe a network in plain data: class name, constructor arguments, tasks, class names, package version."""
    return {
        "class": type(network).__name__,
        "config": network.config,
        "tasks": list(network.tasks),
        "classes": list(network.classes),
        "version": mtpano_zoo.__version__,
    }


def card_after_training(card: Mapping[str, Any]) -> dict[str, Any]:
    """Say what still holds of a card when its network has learnt more: origin and licences."""
    if not card:
        return {}
    kept = {key: card[key] for key in ("paper", "depth_unit", "license", "upstream", "training_data") if key in card}
    return kept | {"description": f"Trained further with mtpano_zoo, from: {card.get('description', 'unknown')}"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file as tensors and plain data; large tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or holds anything but tensors and plain data.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    if zipfile.is_zipfile(path):
        check_stored(path)
    try:
        # The format before PyTorch 1.6 is no archive and cannot be mapped.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except Exception as error:  # what a damaged pickle raises is anything from KeyError to struct.error
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise ValueError(
                f"{path} holds more than tensors and plain data, code perhaps, and none of it was run: ask for "
                "a file of tensors only (safetensors) where it comes from."
            ) from error
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is no such file, truncated, damaged, or holds more than "
            "tensors and plain data, of which nothing was run; copy it again from where it was written."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not the dictionary of a checkpoint.")
    return checkpoint


def check_tasks(description: Mapping[str, Any] | None, network: PanoramaNetwork, source: str) -> None:
    """Refuse a checkpoint whose task set is not the network's.

    Raises:
        ValueError: If the tasks differ; a checkpoint without description passes, since its keys are checked later.
    """
    stored, wanted = (description or {}).get("tasks", ()), network.tasks
    if stored and set(stored) != set(wanted):
        raise ValueError(
            f"{source} was trained for the tasks {', '.join(stored)}, but the network has {', '.join(wanted)}: "
            "build the network with the tasks of the checkpoint, or train a new one."
        )


def load_network(path: str | Path, network: PanoramaNetwork | None = None) -> PanoramaNetwork:
    """Rebuild the network of a checkpoint that training wrote, with its weights, in evaluation mode.

    The averaged weights are loaded where training kept an average (``EMAWeightAveraging`` stores them as the main
    weights), and low-rank updates are added to the weights that they adapt. Only classes listed in
    ``mtpano_zoo.models.NETWORKS`` are built: a file cannot name code to import.

    Args:
        path: A Lightning ``.ckpt`` written by `MultiTaskModule`.
        network: A network to load into; without it the one that the checkpoint describes is built.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged or describes no known network, or if tasks or weights do not fit.
    """
    checkpoint = read_checkpoint(path)
    description = checkpoint.get(DESCRIPTION)
    if network is None:
        network = _build(description, path)
    check_tasks(description, network, str(path))
    load_strictly(network, merge_lora(network_weights(checkpoint)), path)
    return network.eval()


def _build(description: Mapping[str, Any] | None, path: str | Path) -> PanoramaNetwork:
    if not description:
        raise ValueError(
            f"{path} does not say which network it holds, so `mtpano fit` has not written it: published checkpoints "
            "are loaded by their names in `mtpano models`, other weights into a network that you build yourself."
        )
    if description["class"] not in NETWORKS:
        raise ValueError(
            f"{path} holds a network of the class {description['class']}, which is none of {_names(NETWORKS)}: "
            "build it yourself and pass it as `network`."
        )
    return NETWORKS[description["class"]](**description["config"])


def load_strictly(network: PanoramaNetwork, weights: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Load weights that must fit exactly, see `check_weights`."""
    check_weights(network, weights, source)
    network.load_state_dict(dict(weights))


def check_weights(network: PanoramaNetwork, weights: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Refuse weights that do not fit a network exactly.

    Args:
        network: The network to load into.
        weights: Its state dict.
        source: Where the weights come from, for the message.

    Raises:
        ValueError: If keys or shapes do not fit; the sentence lists which.
    """
    own = network.state_dict()
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    reshaped = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]
    problems = [
        f"{what} {_names(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise ValueError(f"The weights in {source} do not fit {type(network).__name__}: {'; '.join(problems)}.")


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Give the weights of the network in a checkpoint of `MultiTaskModule`, under the network's own names."""
    prefix = "network."
    return {k.removeprefix(prefix): v for k, v in checkpoint.get("state_dict", {}).items() if k.startswith(prefix)}


def _names(names: Iterable[str], limit: int = 8) -> str:
    """Join names for a message, the first few in full."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
