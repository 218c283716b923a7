"""What networks share that predict one distance: inverse up to scale and shift, or in metres."""

import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.convolution import Convention
from mtpano_zoo.models.base import PanoramaNetwork

__all__ = ("distance", "one_distance_task")


def one_distance_task(network: PanoramaNetwork) -> None:
    """Refuse tasks other than one of `disparity` and `depth`.

    Raises:
        InputError: If the network has others, or both.
    """
    if network.tasks not in (("disparity",), ("depth",)):
        name = type(network).__name__
        raise InputError(f"{name} predicts either disparity or depth: tasks cannot be {', '.join(network.tasks)}.")


def distance(output: Tensor, convention: Convention) -> Tensor:
    """Return the last layer's output as a distance or its inverse: positive, or of any sign as published."""
    return output if convention == "paper" else F.softplus(output)
