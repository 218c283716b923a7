"""Means over valid pixels, in one process or over all processes that train together; and medians of images."""

import torch
from torch import Tensor, distributed

__all__ = ("mean", "middle_values", "several_processes", "weighted_mean")


def several_processes() -> bool:
    """Return whether this process trains together with others.

    Example:
        >>> several_processes()
        False
    """
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def mean(total: Tensor, count: Tensor, least: float = 1.0, across_ranks: bool = False) -> Tensor:
    """Divide a sum by the number, or the total weight, of its terms; zero without terms.

    Args:
        total: The sum, which has gradients.
        count: The number or the weight, a scalar.
        least: Lower bound of the count.
        across_ranks: Divide by the count of all processes, and multiply by their number. DDP averages the gradients
            over the processes, which then yields the gradient of the mean over all of them. All processes must call
            this, in the same order.

    Example:
        >>> mean(torch.tensor(6.0), torch.tensor(3)).item(), mean(torch.tensor(0.0), torch.tensor(0)).item()
        (2.0, 0.0)
    """
    if across_ranks:
        count = count.detach().float()  # all processes send the same type, whether they count pixels or weights
        distributed.all_reduce(count)
        total = total * distributed.get_world_size()
    return total / count.clamp(min=least)


def weighted_mean(values: Tensor, valid: Tensor, weight: Tensor | None = None, across_ranks: bool = False) -> Tensor:
    """Return the (weighted) mean of values over the pixels of a mask of the same shape; zero if there are none.

    Values and weights of other pixels may be anything. For ``across_ranks`` see `mean`.

    Example:
        >>> values, valid = torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([True, True, False])
        >>> weighted_mean(values, valid).item(), weighted_mean(values, valid, torch.tensor([3.0, 1.0, 9.0])).item()
        (2.0, 1.5)
    """
    values = torch.where(valid, values, 0)
    if weight is None:
        return mean(values.sum(), valid.sum(), across_ranks=across_ranks)
    weight = torch.where(valid, weight, 0)
    return mean((values * weight).sum(), weight.sum(), 1e-6, across_ranks)


def middle_values(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and upper median (B,) of the valid values of every image (B, H, W); infinite if there are none.

    Example:
        >>> middle_values(torch.tensor([[[4.0, 1.0, 2.0, 9.0]]]), torch.tensor([[[True, True, True, True]]]))
        (tensor([2.]), tensor([4.]))
    """
    # Sort instead of indexing by the mask, which would wait for the host.
    ordered = torch.where(valid, values, torch.inf).flatten(1).sort(dim=1).values
    count = valid.sum(dim=(1, 2))[:, None]
    lower, upper = (ordered.gather(1, index.clamp(min=0))[:, 0] for index in ((count - 1) // 2, count // 2))
    return lower, upper
