"""What the encoder of a network sees in a small version of a panorama: enough to judge the picture as a whole."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.resize import resize

if TYPE_CHECKING:
    from mtpano_zoo.layers import Encoder

__all__ = ("encoder_levels", "encoder_of", "unprepared")

SIZE = (128, 256)


def unprepared(network: nn.Module) -> Any:
    """Return the network that one prepared for inference wraps, or the network itself."""
    return getattr(network, "network", network)


def encoder_of(network: nn.Module) -> "Encoder":
    """Return the encoder of a network.

    Raises:
        InputError: If the network has no `Encoder`.
    """
    from mtpano_zoo.layers import Encoder  # with timm, which takes a second to import

    part = getattr(network, "encoder_part", None)
    encoder = None if part is None else network.get_submodule(part)
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{type(network).__name__} has no Encoder whose features could be read: choose another network"
        )
    return encoder


@torch.no_grad()
def encoder_levels(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the encoder's levels (B, C, h, w) for panoramas (B, 3, H, W) in [0, 1], shrunk to about 128 x 256.

    Raises:
        InputError: If the network has no `Encoder`.
    """
    encoder = encoder_of(network)
    weight = next(encoder.parameters())
    height, width = (max(1, round(side / encoder.multiple)) * encoder.multiple for side in SIZE)
    small = resize(images.to(weight.device), height, width)
    normalize: Any = network.normalize
    with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16):
        levels: list[Tensor] = encoder(normalize(small).to(weight.dtype))[0]
    return [level.float() for level in levels]
