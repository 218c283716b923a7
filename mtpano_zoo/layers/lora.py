"""Low-rank adaptation (LoRA, arXiv 2106.09685): weights that learn by adding a product of thin matrices."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mtpano_zoo.errors import InputError

__all__ = ("LowRankUpdate", "add_lora", "merge_lora")

_ORIGINAL = re.compile(r"(.*)\.parametrizations\.weight\.original")


class LowRankUpdate(nn.Module):
    """A weight W (out, in) that becomes W + up down, of rank r: `down` (r, in) starts at random, `up` (out, r) at zero.

    It is a parametrisation of the weight, not a layer around it, because some of timm's attention reads `qkv.weight`
    without calling `qkv`.

    Args:
        weight: the weight to adapt; device and type are taken from it.
        rank: rows of `down`.

    Raises:
        InputError: If the rank is not positive and smaller than both sides of the weight.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        if not 0 < rank < min(weight.shape):
            raise InputError(f"The rank of an update must be from 1 to {min(weight.shape) - 1}, not {rank}.")
        self.down = nn.Parameter(torch.randn_like(weight[:rank]) / weight.shape[1] ** 0.5)
        self.up = nn.Parameter(torch.zeros_like(weight[:, :rank]))

    def forward(self, weight: Tensor) -> Tensor:
        """Add the update to the weight."""
        return weight + self.up @ self.down


def add_lora(module: nn.Module, rank: int) -> None:
    """Freeze a module and give all linear layers of its attention blocks (`*.attn.*`) a trainable low-rank update.

    What the module computes does not change until something is learnt. The names of the adapted weights in its state
    dict do; `merge_lora` gives them back.

    Raises:
        InputError: If there is no attention, or the rank does not fit.
    """
    layers = [layer for name, layer in module.named_modules() if ".attn." in name and isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError(f"{type(module).__name__} has no attention that a low-rank update could adapt.")
    module.requires_grad_(False)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRankUpdate(layer.weight.detach(), rank))


def merge_lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the state dict of the plain module from that of an adapted one; any other comes back as it is."""
    merged: dict[str, Tensor] = {}
    for name, value in weights.items():
        if match := _ORIGINAL.fullmatch(name):
            update = name.removesuffix("original") + "0."
            merged[f"{match[1]}.weight"] = value + weights[update + "up"] @ weights[update + "down"]
        elif ".parametrizations.weight.0." not in name:
            merged[name] = value
    return merged
