"""The bridge between the streams: attention to the features of all tasks, with truncated gradients."""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.convolution import Convention, conv2d

__all__ = ("BridgeBlock",)


class BridgeBlock(nn.Module):
    """Attention of one stream's aggregated map to the features of every task (the "bridge" of MTPano).

    Features of `foreign_tasks` are detached *before* their projection: the loss of one stream never reaches the task
    features of the other, but the projection itself still learns. (The published code detaches after the projection,
    which therefore keeps its random initial weights; the forward pass is the same.)

    Args:
        channels: width C of the aggregated map and of the task features.
        tasks: names of all tasks to attend to.
        foreign_tasks: tasks of the other stream.
        convention: padding of the projections.
        heads: number of attention heads.
    """

    def __init__(
        self,
        channels: int,
        tasks: Collection[str],
        foreign_tasks: Collection[str],
        convention: Convention,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise InputError(f"The bridge width {channels} must be a multiple of its {heads} attention heads.")
        self.heads = heads
        self.foreign_tasks = frozenset(foreign_tasks)
        self.squeeze = nn.ModuleDict(
            {task: conv2d(channels, channels, 3, convention=convention, stride=2) for task in tasks}
        )
        self.query_norm = nn.LayerNorm(channels)
        self.memory_norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, aggregated: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Attend from (B, C, H, W) to the features by task, each (B, C, H, W); returns (B, C, H, W)."""
        squeezed = [
            squeeze(features[task].detach() if task in self.foreign_tasks else features[task])
            for task, squeeze in self.squeeze.items()
        ]
        memory = self.memory_norm(torch.cat([rearrange(x, "b c h w -> b (h w) c") for x in squeezed], dim=1))
        tokens: Tensor = rearrange(aggregated, "b c h w -> b (h w) c")
        tokens = tokens + self.project(self._attend(self.query_norm(tokens), memory))
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        return tokens.transpose(1, 2).reshape(aggregated.shape)

    def _attend(self, tokens: Tensor, memory: Tensor) -> Tensor:
        query, key, value = (
            rearrange(x, "b n (heads c) -> b heads n c", heads=self.heads)
            for x in (self.query(tokens), self.key(memory), self.value(memory))
        )
        return rearrange(F.scaled_dot_product_attention(query, key, value), "b heads n c -> b n (heads c)")
