"""Lightning checkpoints that describe their network, so that loading one needs no configuration beside it."""

import pickle
import zipfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import mtpano_zoo
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import check_stored
from mtpano_zoo.spelling import listed

if TYPE_CHECKING:
    from mtpano_zoo.models import PanoramaNetwork

__all__ = (
    "DESCRIPTION",
    "card_after_training",
    "check_not_nan",
    "check_options",
    "check_same_outputs",
    "check_weights",
    "describe_network",
    "network_weights",
    "read_checkpoint",
)

DESCRIPTION = "network"
"""Key of the description inside a Lightning checkpoint."""
PRETRAINED = "--model.network=Pretrained --model.network.init_args.source=PATH"


def describe_network(network: "PanoramaNetwork") -> dict[str, Any]:
    """Describe a network in plain data: class, constructor arguments, tasks, class names, package version."""
    return {
        **network.describe(),
        "tasks": list(network.tasks),
        "classes": list(network.classes),
        "version": mtpano_zoo.__version__,
    }


def card_after_training(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a card that still holds after further training: origin and licences.

    Example:
        >>> card_after_training({"description": "Rooms", "license": {"weights": "MIT"}, "results": [{"mIoU": 0.58}]})
        {'license': {'weights': 'MIT'}, 'description': 'Trained further with mtpano_zoo, from: Rooms'}
    """
    if not card:
        return {}
    kept = {key: card[key] for key in ("paper", "depth_unit", "license", "upstream", "training_data") if key in card}
    return kept | {"description": f"Trained further with mtpano_zoo, from: {card.get('description', 'unknown')}"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file as tensors and plain data. Large tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the file is damaged, or holds anything but tensors and plain data.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    if zipfile.is_zipfile(path):
        check_stored(path)
    try:
        # Files from before PyTorch 1.6 are not archives and cannot be mapped.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle raises anything from KeyError to struct.error
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise InputError(
                f"{path} holds more than tensors and plain data, perhaps code, and none of it was run: ask its author "
                "for a safetensors file."
            ) from error
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is truncated, damaged, or not tensors and plain data, and "
            "nothing in it was run; copy it again from its source."
        ) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path} holds a {type(checkpoint).__name__}, not the dictionary of a checkpoint.")
    return checkpoint


def check_same_outputs(description: Mapping[str, Any] | None, network: "PanoramaNetwork", source: str) -> None:
    """Refuse a checkpoint whose tasks or classes differ from the network's, classes in another order included.

    A checkpoint without a description passes, because its keys are checked later.

    Raises:
        InputError: If the tasks or the classes differ.

    Example:
        >>> import types
        >>> network = types.SimpleNamespace(tasks=("depth",), classes=())
        >>> check_same_outputs({"tasks": ["normals"]}, network, "room.ckpt")
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    stored = description if isinstance(description, Mapping) else {}
    tasks, classes = stored.get("tasks"), stored.get("classes")
    if isinstance(tasks, list | tuple) and tasks and sorted(map(str, tasks)) != sorted(network.tasks):
        raise InputError(
            f"{source} was trained for the tasks {', '.join(map(str, tasks))}, but the network has "
            f"{', '.join(network.tasks)}: build the network with the checkpoint's tasks, or train a new one."
        )
    if isinstance(classes, list | tuple) and tuple(classes) != network.classes:
        pairs = enumerate(zip_longest(classes, network.classes))
        number, (theirs, own) = next((i, names) for i, names in pairs if names[0] != names[1])
        theirs, own = ("missing" if name is None else repr(name) for name in (theirs, own))
        raise InputError(
            f"{source} was trained for other classes: class {number} is {theirs} in it, and {own} here. Use data with "
            f"its classes, or start a new training from its network with {PRETRAINED}."
        )


def check_options(checkpoint: Mapping[str, Any], network: "PanoramaNetwork", *, encoder_learns: bool | None) -> None:
    """Refuse a checkpoint that was trained with another `lora_rank` or `freeze_encoder`.

    Args:
        checkpoint: Content of a checkpoint of a `PanoramaModule`.
        network: The network to load into.
        encoder_learns: Whether the optimiser has parameters of the encoder; None if its state is not restored.

    Raises:
        InputError: If an option differs; the message names it.
    """
    stored, own = _lora_rank(network_weights(checkpoint)), _lora_rank(network.state_dict())
    if stored != own:
        do = f"pass --model.lora_rank={stored}" if stored else "leave --model.lora_rank out"
        raise InputError(
            f"The checkpoint was trained {f'with lora_rank {stored}' if stored else 'without lora_rank'}, but here "
            f"lora_rank is {own or 'not set'}: {do}, or start a new training from its network with {PRETRAINED}."
        )
    groups = [group.get("name") for state in checkpoint.get("optimizer_states", ()) for group in state["param_groups"]]
    learnt = any(str(name).startswith("encoder/") for name in groups)
    if groups and encoder_learns is not None and learnt != encoder_learns:
        raise InputError(
            f"The checkpoint was trained with freeze_encoder {str(not learnt).lower()}; to resume it, pass "
            f"--model.freeze_encoder={str(not learnt).lower()}."
        )


def _lora_rank(weights: Mapping[str, torch.Tensor]) -> int | None:
    ranks = (len(x) for name, x in weights.items() if name.endswith(".parametrizations.weight.0.down") and x.ndim)
    return next(ranks, None)


def check_weights(network: "PanoramaNetwork", weights: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Refuse weights that do not fit a network exactly.

    Args:
        network: The network to load into.
        weights: The state dict to load.
        source: Where the weights come from, for the message.

    Raises:
        InputError: If keys or shapes do not fit; the message lists them.

    Example:
        >>> from torch import nn
        >>> check_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 3)}, "last.ckpt")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mtpano_zoo.errors.InputError: The weights in last.ckpt do not fit Linear: missing bias; of another shape...
    """
    own = network.state_dict()
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    reshaped = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]
    problems = [
        f"{what} {listed(sorted(keys))}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise InputError(f"The weights in {source} do not fit {type(network).__name__}: {'; '.join(problems)}.")


def check_not_nan(weights: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Refuse weights of a training that diverged: a network with them predicts the first class everywhere.

    This reads all weights, so call it once for each file.

    Raises:
        InputError: If a weight is NaN.

    Example:
        >>> check_not_nan({"bias": torch.full((2,), torch.nan)}, "last.ckpt")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mtpano_zoo.errors.InputError: The weights in last.ckpt are NaN (bias): their training diverged...
    """
    if diverged := next((key for key, value in weights.items() if value.isnan().any()), None):
        raise InputError(f"The weights in {source} are NaN ({diverged}): their training diverged, use an earlier one.")


def network_weights(checkpoint: Mapping[str, Any], prefix: str = "network.") -> dict[str, torch.Tensor]:
    """Return the network's weights from a checkpoint of a `PanoramaModule`, under the network's own names.

    Args:
        checkpoint: The checkpoint.
        prefix: How the names of its weights begin; other modules have other prefixes.

    Raises:
        InputError: If its state dict is not a dictionary of tensors.

    Example:
        >>> network_weights({"state_dict": {"network.head.bias": torch.zeros(1), "loss.scale": torch.ones(1)}})
        {'head.bias': tensor([0.])}
    """
    state = checkpoint.get("state_dict", {})
    if not isinstance(state, Mapping) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise InputError("The checkpoint holds no weights: its state_dict is not a dictionary of tensors.")
    return {str(k).removeprefix(prefix): v for k, v in state.items() if str(k).startswith(prefix)}
