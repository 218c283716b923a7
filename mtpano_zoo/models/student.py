"""What the networks have in common that predict one distance: inverse up to scale and shift, or in metres."""

from typing import get_args

import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.convolution import Convention
from mtpano_zoo.models.base import PanoramaNetwork

__all__ = ("check_convention", "distance", "one_distance_task")


def one_distance_task(network: PanoramaNetwork) -> None:
    """Refuse tasks other than one of `disparity` and `depth`.

    Raises:
        InputError: If the network has others, or both.
    """
    if network.tasks not in (("disparity",), ("depth",)):
        name = type(network).__name__
        raise InputError(f"{name} predicts either disparity or depth: tasks cannot be {', '.join(network.tasks)}.")


def check_convention(convention: Convention) -> Convention:
    """Return a convention that is known.

    Raises:
        InputError: If it is not.
    """
    if convention not in get_args(Convention):
        raise InputError(f"convention must be {' or '.join(get_args(Convention))}, not {convention!r}.")
    return convention


def distance(output: Tensor, convention: Convention) -> Tensor:
    """Return the last layer's output as a distance or its inverse: positive, or of any sign as published."""
    return output if convention == "paper" else F.softplus(output)
