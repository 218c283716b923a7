"""The input type of a network, and the outputs that users see."""

from typing import cast

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError

__all__ = ("check_precision", "main_outputs", "weight_type")


def main_outputs(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Run a network on images (B, 3, H, W) in [0, 1] and return only the maps of its tasks, in float32."""
    options = {"auxiliary": False} if getattr(network, "takes_auxiliary", False) else {}
    outputs: dict[str, Tensor] = network(image, **options)
    return {task: outputs[task].float() for task in cast("tuple[str, ...]", network.tasks)}


def weight_type(network: nn.Module) -> torch.dtype:
    """Return the type of images that a network takes: that of its weights, unless it converts them itself.

    Example:
        >>> weight_type(nn.Conv2d(3, 8, 3).half())
        torch.float16
    """
    if getattr(network, "precision", "float32") != "float32":
        return torch.float32
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def check_precision(network: nn.Module, precision: str) -> None:
    """Refuse bfloat16 for a network in a precision of its own, as after `network.half()`.

    Raises:
        InputError: If its weights are neither float32 nor bfloat16.

    Example:
        >>> check_precision(nn.Linear(2, 2).half(), "bfloat16")
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    kind = weight_type(network)
    if precision == "bfloat16" and kind not in (torch.float32, torch.bfloat16):
        raise InputError(
            f"the network's weights are {str(kind).removeprefix('torch.')}, which does not work with bfloat16: leave "
            "the precision out, or call network.float() first"
        )
