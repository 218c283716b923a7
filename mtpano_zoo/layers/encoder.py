"""The interface of encoders: an image to four maps on one grid, with a class token each."""

from typing import Any

import timm
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.recorded import RecordedModule

__all__ = ("Encoder", "create_timm")


class Encoder(RecordedModule):
    """The part of a network that reads the image and can start from pretrained weights.

    Attributes:
        channels: width C of the maps.
        stride: image pixels per map pixel.
        multiple: height and width of the image must be multiples of it.
    """

    channels: int
    stride: int
    multiple: int

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Encode a normalised image (B, 3, H, W).

        Returns:
            Four maps (B, C, H / stride, W / stride), shallowest first, and four class tokens (B, C).
        """
        raise NotImplementedError

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the encoder in the backward pass instead of keeping its intermediate results."""
        raise NotImplementedError


def create_timm(name: str, pretrained: bool, **options: Any) -> Any:
    """Build a timm network by the name of its architecture.

    Args:
        name: timm architecture, with or without a tag. `hf-hub:` and `local-dir:` are refused: the name may come from a
            file, and a file must never cause another read or download.
        pretrained: download and load timm's weights.
        **options: arguments of `timm.create_model`.

    Raises:
        InputError: If timm has no such architecture, or it refuses the options.
        OSError: If its weights cannot be downloaded.
    """
    if ":" in name or not timm.is_model(name):
        raise InputError(f"timm has no architecture {name!r}; `timm.list_models()` lists them.")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    # Architectures differ in what they raise for sizes that do not fit one another.
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, LookupError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"timm cannot build {name!r} with {given}: {reason}.") from error
    except (ImportError, OSError) as error:  # the Hub's client raises ImportError for a SOCKS proxy
        socks = "a SOCKS proxy needs the package socksio" if isinstance(error, ImportError) else ""
        reason = socks or str(error).partition("\n")[0].rstrip(".")
        raise OSError(
            f"timm's weights for {name!r} cannot be downloaded ({reason}): check the connection, "
            "or leave pretrained out."
        ) from error
