"""Learning-rate schedules as pure functions of the optimiser step."""

import math
from typing import Literal

Schedule = Literal["polynomial", "cosine", "constant"]


def learning_rate_factor(
    step: int, total_steps: float, *, schedule: Schedule = "polynomial", power: float = 0.9, warmup_steps: int = 0
) -> float:
    """Return the factor on the base learning rate for one optimiser step.

    The factor rises linearly over ``warmup_steps`` (1/n, 2/n, ... 1), then follows the schedule down from one. With
    p the fraction of the remaining steps that is done: polynomial (1 - p)^power, as published MTPano trains with
    power 0.9; cosine (1 + cos(pi p)) / 2; constant 1.

    Args:
        step: Number of optimiser steps already taken, from zero.
        total_steps: Steps of the whole training; infinity where only the constant schedule is used.
        schedule: Shape of the decay.
        power: Exponent of the polynomial.
        warmup_steps: Steps of the linear rise, part of ``total_steps``.

    Example:
        >>> [learning_rate_factor(step, 10, power=1.0, warmup_steps=2) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1.0), 1.0)
    if schedule == "polynomial":
        return float((1.0 - progress) ** power)
    return 0.5 * (1.0 + math.cos(math.pi * progress))
