"""HoHoNet (arXiv 2011.11498): columns of a panorama become vectors, and vectors become columns of distances."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import ResNetStages, Upsample, conv2d
from mtpano_zoo.layers.convolution import Convention, check_convention
from mtpano_zoo.layers.wrapped import WrappedConv2d
from mtpano_zoo.models.base import IMAGENET_MEAN, IMAGENET_STD, PanoramaNetwork
from mtpano_zoo.models.student import distance, one_distance_task

__all__ = ("HoHoNet", "cosines", "sinusoids")

STRIDE = 32
COLUMNS = 4  # image columns per vector


class HoHoNet(PanoramaNetwork):
    """Inverse distance up to scale and shift, or distance in metres, through one vector per four columns.

    The four stages of a ResNet are compressed to a height of one, joined, and refined by self-attention along the
    horizon. Every column of the output is a sum of cosines whose coefficients are computed from its vector.

    The kernels that compress have a fixed height. Images of another size are resized to `height` x 2 `height`, and the
    output is resized back.

    Args:
        encoder: timm name of the ResNet.
        pretrained: start from ImageNet: true downloads timm's weights; the path of a `.safetensors` or `.pth` file
            loads them.
        tasks: `disparity`, or `depth` to train in metres.
        convention: `sphere` (padding over the poles too, no position along the horizon, so that there is no seam at
            its own size; a positive output) or `paper` (what the published weights expect: zero rows, images that are
            normalised twice, an output of any sign).
        height: rows of the images that it works on.
        input_size: height and width that `predict` resizes to.
        width: channels of the vectors; a multiple of `heads`.
        heads: heads of the self-attention.
        embedding: channels from which the coefficients are computed.
        components: coefficients of a column.
        image_mean: mean that images are normalised with.
        image_std: standard deviation that images are normalised with.

    Raises:
        InputError: If an argument is unknown, or sizes do not fit one another.
    """

    encoder_part = "encoder"
    multiple = STRIDE

    def __init__(
        self,
        encoder: str = "resnet50",
        pretrained: bool | str | Path = False,
        tasks: Sequence[str] = ("disparity",),
        convention: Convention = "sphere",
        height: int = 512,
        input_size: tuple[int, int] = (512, 1024),
        width: int = 1024,
        heads: int = 8,
        embedding: int = 256,
        components: int = 64,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(tasks, input_size, image_mean=image_mean, image_std=image_std)
        one_distance_task(self)
        self.convention = check_convention(convention)
        self.rolls = convention == "sphere"
        self.check_size(*self.input_size, "input_size")
        self.check_size(height, 2 * height, "The working size, set by height,")
        if width < 1 or width % heads or width % 2:
            raise InputError(f"width must be an even multiple of heads, {heads}, not {width}.")
        if not 1 <= components <= height:
            raise InputError(f"components must be between 1 and the height, {height}, not {components}.")
        self.own_size = (height, 2 * height)
        self.encoder = ResNetStages(encoder, "sphere" if convention == "sphere" else "columns", pretrained)
        channels = self.encoder.channels[1:]
        self.compress = nn.ModuleList(
            _Compress(count, 2**i, height // 2 ** (i + 2), convention) for i, count in enumerate(channels)
        )
        self.join = nn.Sequential(
            nn.Conv2d(sum(count // 4 for count in channels), width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.attend = _AttentionLayer(width, heads)
        self.embed = nn.Sequential(
            nn.Conv1d(width, embedding, 3, padding=1, padding_mode="circular", bias=False),
            nn.BatchNorm1d(embedding),
            nn.ReLU(),
        )
        self.coefficients = nn.Sequential(
            nn.Conv1d(embedding, embedding, 1),
            nn.BatchNorm1d(embedding),
            nn.ReLU(),
            nn.Conv1d(embedding, components, 1, bias=False),
        )
        nn.init.normal_(cast("Tensor", self.coefficients[3].weight), std=0.1 / math.sqrt(embedding / 2))
        self.bias = nn.Parameter(torch.full((1,), 2.5))
        self.resize = Upsample("sphere", align_corners=False)
        self.basis: Tensor
        self.position: Tensor
        self.register_buffer("basis", cosines(components, height), persistent=False)
        self.register_buffer("position", sinusoids(width, 2 * height // COLUMNS), persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict for images (B, 3, H, W) in [0, 1], H and W multiples of 32.

        Returns:
            `disparity` or `depth` (B, 1, H, W).

        Raises:
            InputError: If the size is not a multiple of 32.
        """
        size = (image.shape[-2], image.shape[-1])
        self.check_size(*size)
        image = self.normalize(self.resize(image, self.own_size))
        if self.convention == "paper":
            image = self.normalize(image)
        compressed = [part(level) for part, level in zip(self.compress, self.encoder(image)[1:], strict=True)]
        vectors = self.join(torch.cat(compressed, dim=1))[:, :, 0]
        if self.convention == "paper":
            vectors = vectors + self.position
        vectors = self.attend(vectors.transpose(1, 2)).transpose(1, 2)
        coefficients = self.coefficients(self.embed(widen(vectors[:, :, None], COLUMNS)[:, :, 0]))
        with torch.autocast(image.device.type, enabled=False):  # see `without_autocast`
            columns = torch.einsum("bkw,kh->bhw", coefficients.to(self.basis.dtype), self.basis)[:, None] + self.bias
        return {self.tasks[0]: distance(self.resize(columns, size), self.convention)}


class _Compress(nn.Sequential):
    """Turn a map (B, C, H, W) into one row (B, C / 4, 1, scale W)."""

    def __init__(self, channels: int, scale: int, height: int, convention: Convention) -> None:
        out = channels // 4
        super().__init__(
            _convolution(channels, out, convention),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            _Widen(scale),
            _convolution(out, out, convention),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, (height, 1), groups=out, bias=False),
        )


class _Widen(nn.Module):
    """Enlarge the width of maps (B, C, H, W) across the seam."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return widen(x, self.scale)


class _AttentionLayer(nn.Module):
    """Self-attention and two linear layers, each after a norm and around a shortcut, on vectors (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.reduce = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        x = x + self.drop(self.project(attended))
        hidden = self.drop(F.relu(self.expand(self.norm2(x))))
        refined: Tensor = x + self.drop(self.reduce(hidden))
        return refined


def widen(x: Tensor, scale: int) -> Tensor:
    """Enlarge the width of maps (B, C, H, W) linearly and across the seam.

    Example:
        >>> widen(torch.tensor([[[[0.0, 4.0]]]]), 2).tolist()
        [[[[1.0, 1.0, 3.0, 3.0]]]]
    """
    if scale == 1:
        return x
    padded = torch.cat((x[..., -1:], x, x[..., :1]), dim=-1)
    size = (x.shape[-2], scale * padded.shape[-1])
    return F.interpolate(padded, size, mode="bilinear", align_corners=False)[..., scale:-scale]


def cosines(count: int, height: int) -> Tensor:
    """Return the cosines (count, height) that a column is the sum of, the constant one first.

    Example:
        >>> cosines(2, 2).double().round(decimals=3).tolist()
        [[1.0, 1.0], [0.707, -0.707]]
    """
    rows = (torch.arange(height).float() + 0.5) / height * math.pi  # in the published order: same rounding
    return (torch.arange(count).float()[:, None] * rows).cos()


def sinusoids(channels: int, count: int) -> Tensor:
    """Return sines and cosines (channels, count) of the position, with increasing periods.

    Example:
        >>> sinusoids(4, 3)[:, 0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    rates = torch.exp(torch.arange(0, channels, 2).float() * (-math.log(10000.0) / channels))
    angles = rates[:, None] * torch.arange(count).float()
    return torch.stack((angles.sin(), angles.cos()), dim=1).flatten(0, 1)


def _convolution(in_channels: int, out_channels: int, convention: Convention) -> nn.Conv2d:
    """Build a 3 x 3 convolution; the published one wraps at the seam only."""
    plain = conv2d(in_channels, out_channels, 3, convention=convention, bias=False)
    return plain if convention == "sphere" else WrappedConv2d(plain)
