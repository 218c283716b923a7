"""Low-rank adaptation (LoRA, arXiv 2106.09685): frozen weights plus a learnt product of thin matrices."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mtpano_zoo.errors import InputError

__all__ = ("LowRankUpdate", "add_lora", "merge_lora")

_ORIGINAL = re.compile(r"(.*)\.parametrizations\.weight\.original")


class LowRankUpdate(nn.Module):
    """Turn a weight W (out, in) into W + up down, of rank r: `down` (r, in) starts at random, `up` (out, r) at zero.

    This parametrises the weight instead of wrapping the layer, because some of timm's attention reads `qkv.weight`
    without calling `qkv`.

    Args:
        weight: weight to adapt, which sets device and type.
        rank: rank r of the update.

    Raises:
        InputError: If the rank is not positive and smaller than both sides of the weight.

    Example:
        >>> weight = torch.eye(3)
        >>> torch.equal(LowRankUpdate(weight, rank=1)(weight), weight)
        True
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
    """Freeze a module and add trainable low-rank updates to all linear layers of its attention blocks (`*.attn.*`).

    Its outputs do not change until something is learnt. The names of the adapted weights in its state dict do;
    `merge_lora` restores them.

    Raises:
        InputError: If there is no attention, or the rank does not fit.

    Example:
        >>> from mtpano_zoo.layers import ViTEncoder
        >>> encoder = ViTEncoder("vit_tiny_patch16_dinov3_qkvb", width=32, depth=4, heads=2)
        >>> names = encoder.state_dict().keys()
        >>> add_lora(encoder, rank=2)
        >>> sum(p.numel() for p in encoder.parameters() if p.requires_grad)
        1536
        >>> merge_lora(encoder.state_dict()).keys() == names
        True
    """
    layers = [layer for name, layer in module.named_modules() if ".attn." in name and isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError(f"{type(module).__name__} has no attention that a low-rank update could adapt.")
    module.requires_grad_(False)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRankUpdate(layer.weight.detach(), rank))


def merge_lora(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of an adapted module to that of the plain one; return any other unchanged.

    Example:
        >>> merge_lora({"weight": torch.ones(1)})
        {'weight': tensor([1.])}
    """
    merged: dict[str, Tensor] = {}
    for name, value in weights.items():
        if match := _ORIGINAL.fullmatch(name):
            update = name.removesuffix("original") + "0."
            merged[f"{match[1]}.weight"] = value + weights[update + "up"] @ weights[update + "down"]
        elif ".parametrizations.weight.0." not in name:
            merged[name] = value
    return merged
