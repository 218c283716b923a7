"""The DPT decoder: token levels to a feature map, and its heads (Ranftl et al. 2021, arXiv 2103.13413)."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.convolution import Convention, Upsample, conv2d, without_autocast

__all__ = ("DPTNeck", "RegressionHead", "SegmentationHead")


class ReassembleLevel(nn.Module):
    """Turn one token level and its class token into a map of its own resolution.

    Args:
        in_channels: width of the tokens.
        channels: width of the map.
        scale: resolution of the map relative to the token grid: 4, 2, 1 or 0.5.
        convention: padding of the strided convolution.
        readout: mix the class token into every token.
    """

    def __init__(
        self, in_channels: int, channels: int, scale: float, convention: Convention, readout: bool = True
    ) -> None:
        super().__init__()
        self.readout = nn.Linear(2 * in_channels, in_channels) if readout else None
        self.project = nn.Conv2d(in_channels, channels, 1)
        self.resize: nn.Module
        if scale > 1:
            self.resize = nn.ConvTranspose2d(channels, channels, int(scale), int(scale))
        elif scale == 1:
            self.resize = nn.Identity()
        else:
            self.resize = conv2d(channels, channels, 3, convention=convention, stride=int(1 / scale))

    def forward(self, tokens: Tensor, class_token: Tensor) -> Tensor:
        """Turn (B, C, h, w) and (B, C) into (B, channels, scale h, scale w)."""
        resized: Tensor = self.resize(self.project(self._read_out(tokens, class_token)))
        return resized

    def _read_out(self, tokens: Tensor, class_token: Tensor) -> Tensor:
        if self.readout is None:
            return tokens
        patches = tokens.permute(0, 2, 3, 1)
        # Two products instead of one on a concatenation: the class token is multiplied once, not once per patch.
        weight_patches, weight_class = self.readout.weight.chunk(2, dim=1)
        shift = F.linear(class_token, weight_class, self.readout.bias)[:, None, None]
        return F.gelu(F.linear(patches, weight_patches) + shift).permute(0, 3, 1, 2)


class ResidualUnit(nn.Module):
    """Pre-activation residual unit, (B, C, H, W) to the same shape, with batch norms or else with biases."""

    folds = (("conv1", "norm1"), ("conv2", "norm2"))  # inference folds each norm into the convolution before it

    def __init__(self, channels: int, convention: Convention, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = conv2d(channels, channels, 3, convention=convention, bias=not norm)
        self.norm1 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.conv2 = conv2d(channels, channels, 3, convention=convention, bias=not norm)
        self.norm2 = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, C, H, W)."""
        refined: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(F.relu(x))))))
        return x + refined


class FusionLayer(nn.Module):
    """Add one level to the coarser ones and resize the sum to the next level.

    The coarsest level has nothing to add to, hence no residual unit for a skip connection; the published network has
    one there but never uses it.
    """

    def __init__(self, channels: int, convention: Convention, coarsest: bool, norm: bool = True) -> None:
        super().__init__()
        self.skip = None if coarsest else ResidualUnit(channels, convention, norm)
        self.refine = ResidualUnit(channels, convention, norm)
        self.upsample = Upsample(convention, align_corners=True)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, level: Tensor, fused: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Fuse (B, C, h, w) with the result of the coarser levels and resize it to `size`."""
        x = level if fused is None or self.skip is None else fused + self.skip(level)
        # A 1 x 1 convolution commutes with resizing, and has a quarter of the pixels to process before it.
        resized: Tensor = self.upsample(self.project(self.refine(x)), size)
        return resized


class DPTNeck(nn.Module):
    """Fuse four token levels of equal size into one map at eight times the resolution of the token grid.

    Args:
        in_channels: width of the tokens.
        level_channels: widths of the four levels, finest first.
        channels: width of the fused map.
        convention: padding and resizing.
        readout: mix the class token into every token; Depth Anything and DAP do not.
        norm: batch norms in the residual units; Depth Anything and DAP have none.

    Example:
        >>> import torch
        >>> neck = DPTNeck(8, (8, 8, 8, 8), channels=4, convention="sphere")
        >>> neck([torch.rand(1, 8, 2, 4)] * 4, [torch.rand(1, 8)] * 4).shape
        torch.Size([1, 4, 16, 32])
    """

    def __init__(
        self,
        in_channels: int,
        level_channels: Sequence[int],
        channels: int,
        convention: Convention,
        readout: bool = True,
        norm: bool = True,
    ) -> None:
        super().__init__()
        scales = (4, 2, 1, 0.5)
        if len(level_channels) != len(scales):
            raise InputError(f"A DPT neck has {len(scales)} levels, but {len(level_channels)} widths were given.")
        self.reassemble = nn.ModuleList(
            ReassembleLevel(in_channels, width, scale, convention, readout)
            for width, scale in zip(level_channels, scales, strict=True)
        )
        self.project = nn.ModuleList(
            conv2d(width, channels, 3, convention=convention, bias=False) for width in level_channels
        )
        # In the order of use: the coarsest level first.
        self.fuse = nn.ModuleList(FusionLayer(channels, convention, coarsest=i == 0, norm=norm) for i in range(4))

    def forward(self, levels: Sequence[Tensor], class_tokens: Sequence[Tensor]) -> Tensor:
        """Fuse levels of shape (B, C, h, w) with class tokens (B, C) into (B, channels, 8 h, 8 w)."""
        maps = [
            project(reassemble(level, class_token))
            for project, reassemble, level, class_token in zip(
                self.project, self.reassemble, levels, class_tokens, strict=True
            )
        ]
        height, width = levels[0].shape[-2:]
        sizes = [(8 * height, 8 * width)] + [(x.shape[-2], x.shape[-1]) for x in maps[:-1]]
        fused: Tensor | None = None
        for layer, level, size in zip(self.fuse, reversed(maps), reversed(sizes), strict=True):
            fused = layer(level, fused, size)
        return cast(Tensor, fused)


class SegmentationHead(nn.Module):
    """Predict class logits from the fused map."""

    folds = (("conv", "norm"),)

    def __init__(self, channels: int, out_channels: int, convention: Convention) -> None:
        super().__init__()
        self.conv = conv2d(channels, channels, 3, convention=convention, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(0.1)
        self.classify = nn.Conv2d(channels, out_channels, 1)
        self.upsample = Upsample(convention, align_corners=True)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Turn (B, C, h, w) into logits (B, out_channels, *size)."""
        logits = self.classify(self.dropout(F.relu(self.norm(self.conv(x)))))
        resized: Tensor = self.upsample(logits, size)
        return resized


class RegressionHead(nn.Module):
    """Predict dense values (depth, normals) from the fused map, without a final activation, at first around `bias`."""

    full_precision = ("predict",)

    def __init__(self, channels: int, out_channels: int, convention: Convention, bias: float = 0.0) -> None:
        super().__init__()
        self.conv1 = conv2d(channels, channels // 2, 3, convention=convention)
        self.upsample = Upsample(convention, align_corners=True)
        self.conv2 = conv2d(channels // 2, 32, 3, convention=convention)
        self.predict = nn.Conv2d(32, out_channels, 1)
        nn.init.constant_(cast(Tensor, self.predict.bias), bias)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Turn (B, C, h, w) into (B, out_channels, *size)."""
        return without_autocast(self.predict, F.relu(self.conv2(self.upsample(self.conv1(x), size))))
