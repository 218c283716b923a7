"""Processes that train together: losses and means that they log, and random numbers that differ."""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from mtpano_zoo.losses.means import several_processes

__all__ = ("EpochMeans", "draw_differently", "mean_of_processes", "named_losses")


def draw_differently(rank: int) -> None:
    """Let this process draw other random numbers than the first one, for dropout, noise or damage.

    The seed comes from the state that all processes share, which differs after every resumption.
    """
    if rank:
        torch.manual_seed(int(torch.randint(2**62, ())) + rank)


def named_losses(stage: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms of a loss by the names that are logged.

    Example:
        >>> list(named_losses("val", {"total": torch.tensor(3.0), "depth": torch.tensor(2.0)}))
        ['val/loss', 'val/loss/depth']
    """
    return {f"{stage}/loss" if name == "total" else f"{stage}/loss/{name}": term for name, term in terms.items()}


def mean_of_processes(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average scalars over the processes, which must all call this with the same names.

    No process waits for its device, as it would with ``sync_dist=True`` of Lightning's `log`.

    Example:
        >>> {name: value.item() for name, value in mean_of_processes({"depth": torch.tensor(2.0)}).items()}
        {'depth': 2.0}
    """
    if not several_processes():
        return dict(values)
    names = sorted(values)
    stacked = torch.stack([values[name].detach().float() for name in names])
    distributed.all_reduce(stacked)
    return dict(zip(names, stacked / distributed.get_world_size(), strict=True))


class EpochMeans:
    """Means of values over an epoch and all processes, weighted by batch size.

    Lightning's `log` with ``sync_dist=True`` does the same, with two defects. It truncates the average batch size of
    the processes to a whole number, so that the mean is too large if they do not share the samples evenly. And it waits
    forever if a process has not logged a name that another one has.

    Example:
        >>> means = EpochMeans()
        >>> means.update({"depth": torch.tensor(2.0)}, 1)
        >>> means.update({"depth": torch.tensor(5.0)}, 2)
        >>> means.compute(), means.compute()
        ({'depth': 4.0}, {})
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def update(self, values: Mapping[str, Tensor], batch_size: int) -> None:
        """Add the values of a batch, without waiting for the device."""
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros(()), 0))
            self._sums[name] = (total + value.detach().float() * batch_size, count + batch_size)

    def compute(self) -> dict[str, float]:
        """Return the means of the names that any process has, the same in all processes, and start again.

        All processes must call this.
        """
        mine = {name: (float(total), count) for name, (total, count) in self._sums.items()}
        self._sums = {}
        parts: list[dict[str, tuple[float, int]]] = [mine]
        if several_processes():
            parts = [{} for _ in range(distributed.get_world_size())]
            distributed.all_gather_object(parts, mine)
        sums: dict[str, tuple[float, int]] = {}
        for part in parts:
            for name, (total, count) in part.items():
                before, counted = sums.get(name, (0.0, 0))
                sums[name] = (before + total, counted + count)
        return {name: total / count for name, (total, count) in sums.items()}
