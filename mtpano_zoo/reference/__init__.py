"""Convert published checkpoints, one file per publication: names, sizes and frames to ours; see `FORMATS`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.reference import dap, depth_anywhere, mtpano
from mtpano_zoo.reference.format import Format

__all__ = ("FORMATS", "Format", "identify", "recognize", "unwrap")

FORMATS: dict[str, Format] = {"dap": dap.FORMAT, "mtpano": mtpano.FORMAT, **depth_anywhere.FORMATS}


def recognize(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the format of `FORMATS` that a published state dict has, or None.

    Example:
        >>> import torch
        >>> recognize({"weight": torch.zeros(1)}) is None
        True
    """
    return next((name for name, format in FORMATS.items() if format.recognizes(state)), None)


def identify(state: Mapping[str, Tensor]) -> str:
    """Return the name of the format of `FORMATS` that a published state dict has.

    Raises:
        InputError: If it has none of them; the message lists what can be loaded.
    """
    name = recognize(state)
    if name is None:
        keys = ", ".join(key.removeprefix("module.") for key in list(state)[:3]) or "nothing"
        raise InputError(
            f"No published format has its keys, which start with {keys}; {', '.join(FORMATS)} can be loaded."
        )
    return name


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint: under `model`, under `state_dict`, or the checkpoint itself.

    A leading `module.`, which data-parallel training leaves, is removed.

    Raises:
        InputError: If there is none, or two of its keys differ only by `module.`.

    Example:
        >>> import torch
        >>> unwrap({"model": {"module.head.bias": torch.zeros(1)}, "epoch": 3})
        {'head.bias': tensor([0.])}
    """
    inner = next((checkpoint[key] for key in ("model", "state_dict") if key in checkpoint), checkpoint)
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(x, Tensor) for x in inner.values()):
        raise InputError(
            "The checkpoint holds no weights: neither `model` nor `state_dict` nor the whole of it is a dictionary of "
            f"tensors; its keys are {', '.join(map(str, list(checkpoint)[:8])) or 'none'}."
        )
    state = {str(name).removeprefix("module."): tensor for name, tensor in inner.items()}
    if len(state) < len(inner):
        raise InputError("Some keys of the checkpoint occur twice, with and without `module.`.")
    return state
