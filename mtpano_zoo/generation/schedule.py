"""Noise levels for sampling and training."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError

__all__ = ("TRAINED_TOKENS", "Density", "Weighting", "draw_levels", "level_weight", "shift_for", "with_length")

TRAINED_TOKENS = 64 * 128  # 1024 x 2048, the largest size that DiT360 was trained at
TRAINED_ROWS = 64
TIMESTEPS = 1000
Density = Literal["none", "logit_normal", "mode"]
Weighting = Literal["none", "sigma_sqrt", "cosmap"]


def shift_for(length: float, config: Any) -> float:
    """Return mu for a length in tokens: the line through the two lengths and shifts in a scheduler's config.

    Example:
        >>> config = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
        >>> round(shift_for(8192, config), 4), round(shift_for(8320, config), 4)
        (1.8433, 1.865)
    """
    short, long = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (long - short)
    return float(config["base_shift"] + slope * (length - short))


def with_length(scheduler: Any, rows: int, columns: int, padding: int = 0) -> Any:
    """Return a copy of a scheduler with the noise levels of a panorama of rows x columns tokens.

    A pipeline uses its number of tokens as the length. This differs in two ways: the columns that the published
    sampling pads with may count too, and above 1024 x 2048 pixels the length stays constant, because mu would grow
    without limit: at 2048 x 4096, all levels but one would be above 0.93. Every run gets its own scheduler, because a
    scheduler counts steps.

    Args:
        scheduler: A `FlowMatchEulerDiscreteScheduler`.
        rows: Rows of tokens.
        columns: Columns of tokens.
        padding: Padded columns on each side that count.
    """
    config = dict(scheduler.config)
    if not config.get("use_dynamic_shifting"):
        return type(scheduler).from_config(config)
    tokens = rows * columns
    length = min(tokens, TRAINED_TOKENS) + 2 * padding * min(rows, TRAINED_ROWS)
    change = shift_for(length, config) - shift_for(tokens, config)
    config |= {"base_shift": config["base_shift"] + change, "max_shift": config["max_shift"] + change}
    return type(scheduler).from_config(config)


def draw_levels(
    count: int, density: Density = "none", *, uniform: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw noise levels sigma (count,) for training, in (0, 1] in steps of a thousandth, as published.

    Densities as in Stable Diffusion 3 (arXiv 2403.03206): uniform, logit-normal with mean 0 and deviation 1, and modes
    with scale 1.29.

    Args:
        count: Number of levels.
        density: Distribution of the levels.
        uniform: Numbers (count,) in [0, 1) to use instead of random ones; standard normal ones for ``logit_normal``.
        generator: Random generator. If omitted, the global one.

    Raises:
        InputError: If the density is unknown.

    Example:
        >>> draw_levels(3, uniform=torch.tensor([0.0, 0.25, 0.9995])).tolist()
        [1.0, 0.75, 0.0010000000474974513]
    """
    if density not in get_args(Density):
        raise InputError(f"density must be one of {', '.join(get_args(Density))}, not {density!r}")
    if uniform is None:
        draw = torch.randn if density == "logit_normal" else torch.rand
        uniform = draw(count, generator=generator)
    if density == "logit_normal":
        uniform = torch.sigmoid(uniform)
    elif density == "mode":
        uniform = 1 - uniform - 1.29 * (torch.cos(torch.pi * uniform / 2) ** 2 - 1 + uniform)
    index = (uniform * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
    return (TIMESTEPS - index).float() / TIMESTEPS


def level_weight(sigma: Tensor, weighting: Weighting = "none") -> Tensor:
    """Return the weight of each level in the loss: 1, sigma^-2, or 2 / (pi (1 - 2 sigma + 2 sigma^2)).

    Raises:
        InputError: If the weighting is unknown.

    Example:
        >>> level_weight(torch.tensor([0.5, 1.0]), "sigma_sqrt").tolist()
        [4.0, 1.0]
    """
    if weighting == "none":
        return torch.ones_like(sigma)
    if weighting == "sigma_sqrt":
        return sigma**-2.0
    if weighting == "cosmap":
        return 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2))
    raise InputError(f"weighting must be one of {', '.join(get_args(Weighting))}, not {weighting!r}")
