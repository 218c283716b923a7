"""The small layers between the streams and the decoders."""

from collections.abc import Sequence

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from mtpano_zoo.layers.convolution import Convention, conv2d, zero_init

__all__ = ("AuxiliaryHead", "ScaleAggregator", "TaskAdapter", "zero_init_projection")


class ScaleAggregator(nn.Module):
    """Join the refined levels of one stream into one map of `channels` channels."""

    def __init__(self, in_channels: int, levels: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(levels * in_channels, channels, 1, bias=False)
        self.norm = LayerNorm2d(channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Join levels of shape (B, C, H, W) into (B, channels, H, W)."""
        return nn.functional.gelu(self.norm(self.project(torch.cat(tuple(levels), dim=1))))


class AuxiliaryHead(nn.Module):
    """Extract one task's feature (B, C, H, W) from the aggregate; `predictor` turns it into a supervised prediction."""

    def __init__(self, channels: int, out_channels: int, convention: Convention) -> None:
        super().__init__()
        self.feature = nn.Sequential(
            conv2d(channels, channels, 3, convention=convention, bias=False),
            LayerNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            LayerNorm2d(channels),
            nn.GELU(),
        )
        self.predictor = nn.Conv2d(channels, out_channels, 1)

    def forward(self, aggregated: Tensor) -> Tensor:
        """Return the task feature; only training needs the prediction that `predictor` makes from it."""
        feature: Tensor = self.feature(aggregated)
        return feature


class TaskAdapter(nn.Sequential):
    """Residual that one task adds to one level of its stream, (B, C, H, W) to the same shape; starts at zero.

    Example:
        >>> TaskAdapter(8, "sphere")(torch.rand(1, 8, 4, 8)).abs().max().item()
        0.0
    """

    def __init__(self, channels: int, convention: Convention) -> None:
        mix = conv2d(channels, channels, 3, convention=convention, bias=False)
        nn.init.kaiming_normal_(mix.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(mix, LayerNorm2d(channels), nn.GELU(), zero_init(nn.Conv2d(channels, channels, 1)))


def zero_init_projection(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Build an injector: a 1 x 1 convolution that starts at zero.

    Example:
        >>> zero_init_projection(3, 8)(torch.rand(1, 3, 4, 8)).any().item()
        False
    """
    return zero_init(nn.Conv2d(in_channels, out_channels, 1))
