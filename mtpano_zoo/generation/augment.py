"""Prepare panoramas, photographs and masks for training a generator."""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError

__all__ = ("MaskRule", "Turns", "draw_turn", "latent_mask", "place_photo", "prepare_mask", "prepare_panorama")

Turns = Literal["uniform", "published"]
MaskRule = Literal["all", "any", "nearest", "published"]


def prepare_panorama(image: NDArray[np.uint8], height: int, *, mirror: bool = False, turn: int = 0) -> Tensor:
    """Resize a panorama (H, W, 3), mirror it and turn it to the right as DiT360 does; return (3, h, 2h) in [0, 1].

    Args:
        image: Panorama of any size; one that is not 2:1 is stretched.
        height: Rows of the result.
        mirror: Swap left and right.
        turn: Columns to turn by.
    """
    resized = Image.fromarray(image).resize((2 * height, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    if mirror:
        pixels = pixels.flip(-1)
    return pixels.roll(turn, -1)


def prepare_mask(mask: NDArray[np.uint8], height: int) -> Tensor:
    """Resize the mask of a panorama (H, W, 3) as `prepare_panorama` does; return where it is white (h, 2h)."""
    grey = Image.fromarray(mask).convert("L").resize((2 * height, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(grey)) > 0.99 * 255


def draw_turn(width: int, turns: Turns = "uniform", generator: torch.Generator | None = None) -> int:
    """Draw the number of columns by which a panorama is turned.

    ``uniform`` draws from the whole width, ``published`` from a third of the width up to the whole width.

    Raises:
        InputError: If `turns` is unknown.
    """
    if turns not in get_args(Turns):
        raise InputError(f"turns must be one of {', '.join(get_args(Turns))}, not {turns!r}")
    first, last = (width // 3, width) if turns == "published" else (0, width - 1)
    return int(torch.randint(first, last + 1, (), generator=generator))


def place_photo(photo: Tensor, rotation: Tensor, fov: float, height: int) -> tuple[Tensor, Tensor]:
    """Project a photograph (C, h, w) onto a black panorama (C, H, 2H); also return a mask of where it lies (H, 2H).

    Args:
        photo: Image of a pinhole camera, in [0, 1].
        rotation: Camera-to-world rotation (3, 3).
        fov: Horizontal field of view in degrees.
        height: Rows of the panorama.

    Raises:
        InputError: If a shape or the field of view does not fit.
    """
    maps, valid = sphere.from_perspective(photo[None, None], rotation, height, 2 * height, fov=fov)
    return maps[0, 0], valid[0, 0]


def latent_mask(mask: Tensor, factor: int, rule: MaskRule = "all") -> Tensor:
    """Return which latents (h, w) a mask of pixels (H, W) covers.

    ``all`` selects the latents whose pixels are all covered, ``any`` those with at least one covered pixel, ``nearest``
    looks at one pixel of each. ``published`` swaps height and width when it resizes, as the published code does, so the
    region appears twice, each time half as wide.

    Raises:
        InputError: If a side of the mask is not a multiple of `factor`, or the rule is unknown.

    Example:
        >>> mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
        >>> latent_mask(mask, 2).tolist(), latent_mask(mask, 2, "any").tolist()
        ([[True, False]], [[True, True]])
    """
    if rule not in get_args(MaskRule):
        raise InputError(f"the mask rule must be one of {', '.join(get_args(MaskRule))}, not {rule!r}")
    if mask.ndim != 2 or mask.shape[0] % factor or mask.shape[1] % factor:
        raise InputError(f"a mask must be (H, W) with sides that are multiples of {factor}, not {tuple(mask.shape)}")
    if rule == "nearest":
        return mask[factor // 2 :: factor, factor // 2 :: factor].bool()
    height, width = mask.shape[0] // factor, mask.shape[1] // factor
    if rule == "published":
        image = Image.fromarray(mask.to(torch.uint8).mul(255).numpy())
        swapped = np.array(image.resize((height, width), Image.Resampling.NEAREST)) > 127
        return torch.from_numpy(swapped.reshape(height, width))
    blocks = mask.bool().reshape(height, factor, width, factor)
    return blocks.all(3).all(1) if rule == "all" else blocks.any(3).any(1)
