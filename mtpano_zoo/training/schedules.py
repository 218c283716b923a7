"""Learning-rate schedules: a factor on the learning rate for every step of the optimiser."""

import math
from functools import partial
from typing import Any, Literal, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mtpano_zoo.errors import InputError

__all__ = ("Schedule", "learning_rate_factor", "training_length", "with_schedule")

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


def with_schedule(
    optimizer: Optimizer,
    total_steps: float,
    *,
    schedule: Schedule = "polynomial",
    power: float = 0.9,
    warmup_steps: int = 0,
    start: int = 0,
) -> OptimizerLRSchedulerConfig:
    """Return an optimiser and its schedule, as Lightning expects them from `configure_optimizers`.

    Args:
        optimizer: The optimiser, with its base learning rates.
        total_steps: Steps of the whole training; infinity if it has no end.
        schedule: See `learning_rate_factor`, as the following two.
        power: Exponent of the polynomial.
        warmup_steps: Steps of the linear rise.
        start: Steps during which the first factor is held.

    Raises:
        InputError: If the schedule needs an end and the training has none, or a number is negative.
    """
    for name, value in (("warmup_steps", warmup_steps), ("power", power)):
        if value < 0:
            raise InputError(f"{name} must not be negative, but is {value}.")
    if schedule != "constant" and math.isinf(total_steps):
        raise InputError(
            f"The {schedule} schedule needs an end: set the trainer's max_steps, or max_epochs if the data have a "
            "length, or, if the module has the argument, schedule=constant."
        )
    factor = partial(_delayed_factor, start, total_steps - start, schedule, power, warmup_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": _Factors(optimizer, factor), "interval": "step"}}


def training_length(trainer: Trainer) -> float:
    """Return the number of optimiser steps of a whole training; infinity if it has no end."""
    steps = float(trainer.estimated_stepping_batches)
    if steps < 0:  # of a data set without a length
        return math.inf
    changing = [one for one in trainer.callbacks if isinstance(one, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
    if not changing or math.isinf(trainer.num_training_batches) or (trainer.max_epochs or -1) < 0:
        return steps
    # Lightning counts as if the first epoch's accumulation stayed.
    every_epoch = map(changing[0].get_accumulate_grad_batches, range(cast(int, trainer.max_epochs)))
    total = float(sum(math.ceil(trainer.num_training_batches / batches) for batches in every_epoch))
    return total if trainer.max_steps < 0 else min(total, trainer.max_steps)


class _Factors(LambdaLR):
    """A schedule whose rates hold from the moment its state is restored, even if the training has a new length."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        factors = [factor(self.last_epoch) for factor in self.lr_lambdas]
        self._last_lr = [base * factor for base, factor in zip(self.base_lrs, factors, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def _delayed_factor(start: int, total: float, schedule: Schedule, power: float, warmup: int, step: int) -> float:
    """Hold the first factor until ``start`` steps are done, then follow the schedule."""
    return learning_rate_factor(max(step - start, 0), total, schedule=schedule, power=power, warmup_steps=warmup)
