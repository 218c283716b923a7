"""Gradient checkpointing: the backward pass computes again what the forward pass did not keep."""

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
    """Apply a module without keeping what it computes on the way; gradients are those of a plain call.

    Batch norms move their running statistics once, as in a plain call, although they are computed twice.
    """
    if torch.compiler.is_compiling():  # one graph, in which the statistics move once by themselves
        return checkpoint(module, *inputs, use_reentrant=False)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=partial(_contexts, module))


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Give the contexts of the first and of the second computation."""
    return nullcontext(), _statistics_held(module)


@contextmanager
def _statistics_held(module: nn.Module) -> Iterator[None]:
    """Let batch norms compute as ever, but add nothing to their running statistics and count no batch."""
    norms = [layer for layer in module.modules() if isinstance(layer, _NormBase)]
    states = [(layer.momentum, layer.num_batches_tracked) for layer in norms]
    try:
        for layer in norms:
            layer.momentum, layer.num_batches_tracked = 0.0, None
        yield
    finally:
        for layer, (momentum, count) in zip(norms, states, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count
