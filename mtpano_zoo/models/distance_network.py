"""What networks share that predict one distance: inverse up to scale and shift, or in metres."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.convolution import Convention, check_convention
from mtpano_zoo.models.base import PanoramaNetwork

__all__ = ("DistanceNetwork",)


class DistanceNetwork(PanoramaNetwork):
    """A network with one task, `disparity` or `depth`, in one of two conventions.

    Args:
        tasks: `disparity` or `depth`.
        convention: `sphere`, or `paper` for what the published weights expect.
        input_size: height and width that it is made for.
        image_mean: mean that images are normalised with.
        image_std: standard deviation that images are normalised with.

    Raises:
        InputError: If there is another task, or both, the convention is unknown, or the size does not fit.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        convention: Convention,
        input_size: tuple[int, int],
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> None:
        super().__init__(tasks, input_size, image_mean=image_mean, image_std=image_std)
        if self.tasks not in (("disparity",), ("depth",)):
            name = type(self).__name__
            raise InputError(f"{name} predicts either disparity or depth: tasks cannot be {', '.join(self.tasks)}.")
        self.convention = check_convention(convention)
        self.check_size(*self.input_size, "input_size")

    def distance(self, output: Tensor) -> Tensor:
        """Return the last layer's output as a distance or its inverse: positive, or of any sign as published."""
        return output if self.convention == "paper" else F.softplus(output)
