"""Lightning checkpoints that say which network they hold, so that loading one needs no configuration beside it."""

import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy

import mtpano_zoo
from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import merge_lora
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


def training_checkpoint(path: str | Path, weights_only: bool | None = None) -> Path:
    """Check a checkpoint that a trainer is about to read; nothing in it is executed.

    Args:
        path: What the user gave as ``ckpt_path``.
        weights_only: What the user gave as ``weights_only``.

    Returns:
        Its absolute path, which Lightning cannot take for an address.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is no file on this machine, if training has not written it, if it holds anything but tensors
            and plain data, or if `weights_only` is False.
    """
    if weights_only is False:
        raise InputError("weights_only=False would let a checkpoint run code, which is never done here: leave it out.")
    if "://" in str(path) or "::" in str(path):
        raise InputError(f"{path} is an address, but a checkpoint is a file on this machine: download it first.")
    file = Path(path).expanduser().absolute()
    if not file.is_file() and not _is_network(path):
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    if _is_network(path) or not {"state_dict", "pytorch-lightning_version"} <= read_checkpoint(file).keys():
        raise InputError(
            f"{path} is not the checkpoint of a training, which ckpt_path takes: give a network with its weights by "
            f"--model.network=Pretrained --model.network.init_args.source={path} instead."
        )
    return file


def _is_network(path: str | Path) -> bool:
    """Whether `load_model` reads it, but a trainer cannot."""
    from mtpano_zoo.zoo.entries import entries  # the zoo reads checkpoints by this module

    source, path = str(path), Path(path)
    named = source.startswith(("hf-hub:", "local-dir:")) or source in entries()
    return named or path.suffix == ".safetensors" or (path / "config.json").is_file()


def read_plain_data_only(strategy: Strategy) -> None:
    """Let the strategy of a trainer read checkpoints as `training_checkpoint` allows, and in no other way.

    Lightning takes addresses as well, and runs what is pickled in them.
    """
    if not isinstance(strategy.load_checkpoint, partial):
        strategy.load_checkpoint = partial(_load_plain_data, strategy.load_checkpoint)  # type: ignore[method-assign]


def _load_plain_data(
    load: Callable[..., dict[str, Any]], checkpoint_path: str | Path, weights_only: bool | None = None
) -> dict[str, Any]:
    return load(training_checkpoint(checkpoint_path, weights_only), weights_only=True)


def check_tasks(description: Mapping[str, Any] | None, network: PanoramaNetwork, source: str) -> None:
    """Refuse a checkpoint whose task set is not the network's.

    Raises:
        ValueError: If the tasks differ; a checkpoint without description passes, since its keys are checked later.
    """
    stored, wanted = description.get("tasks") if isinstance(description, Mapping) else None, network.tasks
    if isinstance(stored, list | tuple) and stored and sorted(map(str, stored)) != sorted(wanted):
        raise ValueError(
            f"{source} was trained for the tasks {', '.join(map(str, stored))}, but the network has "
            f"{', '.join(wanted)}: build the network with the tasks of the checkpoint, or train a new one."
        )


def check_options(checkpoint: Mapping[str, Any], network: PanoramaNetwork, *, encoder_learns: bool | None) -> None:
    """Refuse a checkpoint of a training with other options, as far as they decide what it holds.

    Args:
        checkpoint: Content of a checkpoint of `MultiTaskModule`.
        network: The network to load into.
        encoder_learns: Whether the optimiser has parameters of the encoder; None if its state is not restored.

    Raises:
        InputError: If the options differ; the sentence names the one.
    """
    stored, own = _lora_rank(network_weights(checkpoint)), _lora_rank(network.state_dict())
    if stored != own:
        do = f"give --model.lora_rank={stored}" if stored else "leave --model.lora_rank out"
        raise InputError(
            f"The checkpoint was trained {f'with lora_rank {stored}' if stored else 'without lora_rank'}, but here "
            f"lora_rank is {own or 'not set'}: {do}, or start a new training from its network, by "
            "--model.network=Pretrained --model.network.init_args.source=PATH."
        )
    groups = [group.get("name") for state in checkpoint.get("optimizer_states", ()) for group in state["param_groups"]]
    learnt = any(str(name).startswith("encoder/") for name in groups)
    if groups and encoder_learns is not None and learnt != encoder_learns:
        raise InputError(
            f"The checkpoint was trained with freeze_encoder {str(not learnt).lower()}: a training goes on with the "
            f"same, so give --model.freeze_encoder={str(not learnt).lower()}."
        )


def _lora_rank(weights: Mapping[str, torch.Tensor]) -> int | None:
    ranks = (len(x) for name, x in weights.items() if name.endswith(".parametrizations.weight.0.down") and x.ndim)
    return next(ranks, None)


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
    if not isinstance(description, Mapping):
        raise ValueError(
            f"{path} does not say which network it holds, so `mtpano fit` has not written it: published checkpoints "
            "are loaded by their names in `mtpano models`, other weights into a network that you build yourself."
        )
    return build_network(description.get("class"), description.get("config"), path)


def build_network(name: object, config: object, source: str | Path) -> PanoramaNetwork:
    """Build a network from what a file says of it, with random weights; nothing else is read or downloaded for it.

    Args:
        name: Its class, one of `NETWORKS`: a file cannot name code to import.
        config: The arguments of its constructor.
        source: Where they come from, for the message.

    Raises:
        InputError: If the class is none of ours, or does not take the arguments.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise InputError(
            f"{source} describes a network of the class {name!r}, which is none of {_names(NETWORKS)}: build it "
            "yourself, and load its weights by `load_network(path, network)`."
        )
    if not isinstance(config, Mapping):
        raise InputError(f"{source} does not describe a network: its config must be a dictionary, not {config!r}.")
    try:
        # Weights that are about to be replaced need no download.
        return NETWORKS[name](**{key: value for key, value in config.items() if key != "pretrained"})
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise InputError(f"{source} has arguments that {name} does not take: {reason}.") from error


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
    """Return the weights of the network in a checkpoint of `MultiTaskModule`, under the network's own names.

    Raises:
        InputError: If its state dict is no dictionary of tensors.
    """
    state, prefix = checkpoint.get("state_dict", {}), "network."
    if not isinstance(state, Mapping) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise InputError("The checkpoint holds no weights: its state_dict is no dictionary of tensors.")
    return {str(k).removeprefix(prefix): v for k, v in state.items() if str(k).startswith(prefix)}


def _names(names: Iterable[str], limit: int = 8) -> str:
    """Join names for a message, the first few in full."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
