"""Published checkpoint formats, one per file: their names and sizes to ours; `FORMATS` is the literal list of them."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from mtpano_zoo.reference import mtpano

__all__ = ("FORMATS", "identify", "recognize", "unwrap")

FORMATS: dict[str, ModuleType] = {"mtpano": mtpano}

DAP_MODULES = ("core.pretrained.", "core.depth_head.", "core.mask_head.")


def recognize(state: Mapping[str, Tensor]) -> str | None:
    """Name the format of `FORMATS` that a published state dict has, or None."""
    return next((name for name, module in FORMATS.items() if module.recognizes(state)), None)


def identify(state: Mapping[str, Tensor]) -> str:
    """Name the format of `FORMATS` that a published state dict has.

    Raises:
        ValueError: if it has none of them; the sentence says what it looks like and what can be loaded.
    """
    name = recognize(state)
    if name is not None:
        return name
    names = [name.removeprefix("module.") for name in state]
    if any(name.startswith(DAP_MODULES) for name in names):
        looks = "a DAP checkpoint (Depth Any Panoramas)"
    else:
        looks = f"no published checkpoint known here (its keys start with {', '.join(names[:3]) or 'nothing'})"
    raise ValueError(f"This looks like {looks}; of published formats, {', '.join(FORMATS)} can be loaded.")


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint: under `model`, under `state_dict`, or the checkpoint itself.

    A leading `module.`, which data-parallel training leaves, is forgotten.

    Raises:
        ValueError: if there is none, or two of its keys differ by `module.` alone.
    """
    inner = next((checkpoint[key] for key in ("model", "state_dict") if key in checkpoint), checkpoint)
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(x, Tensor) for x in inner.values()):
        raise ValueError(
            "The checkpoint holds no weights: neither `model` nor `state_dict` nor the whole of it is a dictionary of "
            f"tensors; its keys are {', '.join(map(str, list(checkpoint)[:8])) or 'none'}."
        )
    state = {str(name).removeprefix("module."): tensor for name, tensor in inner.items()}
    if len(state) < len(inner):
        raise ValueError("Some keys of the checkpoint are there twice, with and without `module.`.")
    return state
