"""Base classes of losses: one for all outputs of a network, one for a single task."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mtpano_zoo.errors import InputError

__all__ = ("BatchLabels", "Loss", "TaskLoss", "check_not_negative")


def check_not_negative(weights: Mapping[str, float]) -> None:
    """Refuse negative weights, by which training would increase a loss.

    Raises:
        InputError: If a weight is negative or NaN.
    """
    if negative := [f"{name} {weight}" for name, weight in weights.items() if not weight >= 0]:
        raise InputError(f"Weights of a loss must not be negative, but there is {', '.join(negative)}.")


class Loss(nn.Module):
    """Loss of a whole network, which training minimises.

    A subclass returns scalars from `forward`: `total`, which training minimises, and its terms by name, which are
    logged. Every parameter of the network must get a gradient, even if zero, for any batch. Where several processes
    train together, all of them must return the same names in every step.
    """

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `total` and the terms by name.

        Args:
            outputs: outputs of the network, see `mtpano_zoo.models.PanoramaNetwork`.
            batch: maps of samples, see `mtpano_zoo.tasks.SAMPLE_MAPS`; some may be missing.
        """
        raise NotImplementedError


class BatchLabels(dict[str, Tensor]):
    """The labels of a task in a batch, and what its loss derived from them for the first prediction.

    Example:
        >>> from torch import zeros
        >>> labels = BatchLabels(depth=zeros(1, 2, 4))
        >>> list(labels), labels.derived
        (['depth'], {})
    """

    def __init__(self, *labels: Any, **more: Tensor) -> None:
        super().__init__(*labels, **more)
        self.derived: dict[str, Any] = {}


class TaskLoss(nn.Module):
    """Loss of one prediction of one task.

    Pixels without a label change neither loss nor gradient, whatever they hold.
    """

    takes_any_precision = False
    """Whether predictions may come in half precision, to be read in float32 a part at a time."""

    def forward(
        self, prediction: Tensor, labels: Mapping[str, Tensor], weight: Tensor | None, across_ranks: bool
    ) -> Tensor:
        """Return a scalar.

        Args:
            prediction: float32 (B, C, H, W), or in the network's precision for a loss that `takes_any_precision`.
            labels: the maps of a batch that `mtpano_zoo.tasks.Task.labels` lists for the task.
            weight: confidence of the label of each pixel (B, H, W), in [0, 1]; None trusts all.
            across_ranks: take means over all processes, see `mtpano_zoo.losses.means.mean`.
        """
        raise NotImplementedError
