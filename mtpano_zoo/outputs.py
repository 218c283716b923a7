"""The outputs of a network that a user sees."""

from typing import cast

from torch import Tensor, nn

__all__ = ("main_outputs",)


def main_outputs(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Run a network on images (B, 3, H, W) in [0, 1] for the maps of its tasks alone, in float32."""
    options = {"auxiliary": False} if getattr(network, "takes_auxiliary", False) else {}
    outputs: dict[str, Tensor] = network(image, **options)
    return {task: outputs[task].float() for task in cast("tuple[str, ...]", network.tasks)}
