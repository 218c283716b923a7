"""The input type of a network, and the outputs that users see."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import cast

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.tasks import TASKS

__all__ = (
    "check_output",
    "check_precision",
    "check_range",
    "check_trainer_precision",
    "main_outputs",
    "weight_type",
)


def main_outputs(network: nn.Module, image: Tensor, max_distance: float | None = None) -> dict[str, Tensor]:
    """Run a network on images (B, 3, H, W) in [0, 1] and return only the maps of its tasks, in float32.

    If the network has masks for several ranges, `valid` is the mask for `max_distance` metres.

    Raises:
        InputError: If it does not return a map (B, C, h, w) for each of its tasks.
    """
    options: dict[str, object] = {"auxiliary": False} if getattr(network, "takes_auxiliary", False) else {}
    if max_distance is not None:
        options["max_distance"] = max_distance
    outputs = network(image, **options)
    if not isinstance(outputs, Mapping):
        name, kind = type(network).__name__, type(outputs).__name__
        raise InputError(f"{name} must return a dict of maps by task, but returned {kind}")
    tasks = cast("tuple[str, ...]", network.tasks)
    for task in tasks:
        check_output(task, outputs.get(task), type(network).__name__)
    return {task: outputs[task].float() for task in tasks}


def check_output(task: str, output: Tensor | None, network: str = "the network") -> None:
    """Refuse an output that is not a map (B, C, H, W) with the channels of its task.

    Raises:
        InputError: If it is missing, or has another shape.

    Example:
        >>> check_output("depth", torch.zeros(1, 3, 8, 16))
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    channels = TASKS[task].channels if task in TASKS else 0
    if output is None or output.ndim != 4 or channels not in (0, output.shape[1]):
        shown = "nothing" if output is None else f"a map {tuple(output.shape)}"
        raise InputError(f"{network} must return a dict with {task} (B, {channels or 'C'}, H, W), but returned {shown}")


def check_range(ranges: Sequence[float], max_distance: float | None) -> int:
    """Return the index of the mask for a range.

    Args:
        ranges: ranges of the network's masks in metres; empty if it has none.
        max_distance: the wanted range in metres. If omitted, the last one.

    Raises:
        InputError: If no mask has this range.

    Example:
        >>> check_range((10, 20, 50, 100), 20)
        1
    """
    if max_distance is None:
        return -1
    if not isinstance(max_distance, Real):
        raise InputError(f"max_distance is a number of metres, not {max_distance!r}")
    if max_distance not in ranges:
        known = ", ".join(f"{distance:g}" for distance in ranges)
        has = f"the network has masks at {known} m: choose one of them" if ranges else "this network has no range masks"
        raise InputError(f"max_distance cannot be {max_distance:g} m; {has}, or leave it out")
    return list(ranges).index(max_distance)


def weight_type(network: nn.Module) -> torch.dtype:
    """Return the dtype of the images that a network takes: that of its weights, unless it converts the images itself.

    Example:
        >>> weight_type(nn.Conv2d(3, 8, 3).half())
        torch.float16
    """
    if getattr(network, "precision", "float32") != "float32":
        return torch.float32
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def check_trainer_precision(precision: str, rounded: str) -> None:
    """Refuse a precision of Lightning's trainer that also converts what a batch holds.

    Raises:
        InputError: If it is one of 16 bits; the message says what it would round.

    Example:
        >>> check_trainer_precision("bf16-true", "labels")
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: precision bf16-true would round labels to 16 bits too: use bf16-mixed
    """
    if precision.endswith("-true") and precision[:2] not in ("32", "64"):
        raise InputError(f"precision {precision} would round {rounded} to 16 bits too: use {precision[:-5]}-mixed")


def check_precision(network: nn.Module, precision: str) -> None:
    """Refuse bfloat16 for a network whose weights have another precision, as after `network.half()`.

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
