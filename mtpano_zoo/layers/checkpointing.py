"""Gradient checkpointing: the backward pass recomputes what the forward pass did not keep."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

__all__ = ("checkpointed",)


def checkpointed(module: nn.Module, *inputs: Any) -> Any:
    """Apply a module without keeping its intermediate results; gradients are the same as in a plain call.

    Batch norms update their running statistics once, as in a plain call, although they run twice.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> checkpointed(nn.ReLU(), x).sum().backward()
        >>> x.grad.shape
        torch.Size([2])
    """
    if torch.compiler.is_compiling():  # one graph, which updates the statistics only once anyway
        return checkpoint(module, *inputs, use_reentrant=False)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=partial(_contexts, module))


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts for the first computation and for the recomputation."""
    return nullcontext(), _statistics_held(module)


@contextmanager
def _statistics_held(module: nn.Module) -> Iterator[None]:
    """Keep batch norms from updating their running statistics and counting batches; they compute as usual."""
    norms = [layer for layer in module.modules() if isinstance(layer, _NormBase)]
    states = [(layer.momentum, layer.num_batches_tracked) for layer in norms]
    try:
        for layer in norms:
            layer.momentum, layer.num_batches_tracked = 0.0, None
        yield
    finally:
        for layer, (momentum, count) in zip(norms, states, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count
