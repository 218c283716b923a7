"""Supervised training on labels of any tasks."""

from typing import Any

from mtpano_zoo.losses import Loss, MultiTaskLoss
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.training.base import PanoramaModule

__all__ = ("MultiTaskModule",)


class MultiTaskModule(PanoramaModule):
    """Train and score a panorama network on the labels of any of its tasks.

    Args:
        network: The network; its encoder can have a learning rate of its own or be frozen.
        loss: What training minimises. If omitted, `MultiTaskLoss` with its defaults.
        **options: Optimiser, schedule, freezing and metrics, see `PanoramaModule`.
    """

    def __init__(self, network: PanoramaNetwork, loss: Loss | None = None, **options: Any) -> None:
        super().__init__(network, MultiTaskLoss() if loss is None else loss, **options)
