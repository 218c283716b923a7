"""What every encoder returns: four maps of one grid, and a class token for each."""

from typing import Any

import timm
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.recorded import RecordedModule

__all__ = ("Encoder", "create_timm")


class Encoder(RecordedModule):
    """The part of a network that reads the image and can start from weights pretrained elsewhere.

    Attributes:
        channels: width C of the maps.
        stride: pixels of the image per pixel of the maps.
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
        """Let the backward pass compute the encoder again instead of keeping what it computed."""
        raise NotImplementedError


def create_timm(name: str, pretrained: bool, **options: Any) -> Any:
    """Build a network of timm by the name of its architecture.

    Args:
        name: an architecture of timm, with or without a tag. `hf-hub:` and `local-dir:` are refused: the name may come
            from a file, and what is read from a file never causes another read or download.
        pretrained: download and load timm's weights.
        **options: arguments of `timm.create_model`.

    Raises:
        InputError: If timm has no such architecture, or it does not take the options.
        OSError: If its weights cannot be downloaded.
    """
    if ":" in name or not timm.is_model(name):
        raise InputError(f"timm has no architecture {name!r}; `timm.list_models()` lists them.")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    # What an architecture makes of sizes that do not fit one another is up to it.
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, LookupError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"timm cannot build {name!r} with {given}: {reason}.") from error
    except (ImportError, OSError) as error:  # ImportError is what the client of the Hub raises for a SOCKS proxy
        socks = "a SOCKS proxy needs the package socksio" if isinstance(error, ImportError) else ""
        reason = socks or str(error).partition("\n")[0].rstrip(".")
        raise OSError(
            f"timm's weights of {name!r} cannot be downloaded ({reason}); or leave pretrained out."
        ) from error
