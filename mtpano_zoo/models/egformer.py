"""EGformer (arXiv 2304.07803): attention along rows and columns whose scores depend on distances on the sphere."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import Upsample, conv2d
from mtpano_zoo.layers.convolution import Convention, without_autocast
from mtpano_zoo.layers.wrapped import WrappedConv2d
from mtpano_zoo.models.base import IMAGENET_MEAN, IMAGENET_STD
from mtpano_zoo.models.distance_network import DistanceNetwork

__all__ = ("EGformer",)

Importance = Literal["sample", "batch"]
LEVELS = 5
HEADS = (1, 2, 4, 8, 16)  # of the attention along rows and columns, finest level first
DEFORMABLE_HEADS = {"encoder": (1, 2), "decoder": (2, 4)}  # of the two finest levels
POINTS = 9
BIAS = 0.1
LEAST_IMPORTANCE = 0.5
QUARTER = torch.acos(torch.zeros(())).item()  # pi / 2 in float32, as published


class EGformer(DistanceNetwork):
    """Inverse distance up to scale and shift, or distance in metres, from a transformer.

    It goes down five levels and up again, with attention along rows and along columns at each. Scores are dot products
    plus a term for the distance on the sphere; they are normalised to length one and bent by a cosine instead of a
    softmax. The less a row or column counts, the more its input counts. At the two finest levels, two blocks that
    sample nine points around every pixel replace the attention along rows.

    Args:
        tasks: `disparity`, or `depth` to train in metres.
        convention: `sphere` (wrapped padding and sampling, cyclic distances along a row, so that there is no seam; a
            positive output) or `paper` (what the published weights expect, including its mistakes).
        input_size: height and width that `predict` resizes to; the network itself takes any multiples of 32.
        width: channels of the finest level, a multiple of 2; every level below has twice as many.
        importance: rows and columns are weighted relative to the most important one of their `sample`, or of the
            `batch`, as published, where an output depends on the other images. If omitted, `sample` for the convention
            `sphere` and `batch` for `paper`.
        image_mean: mean that images are normalised with.
        image_std: standard deviation that images are normalised with.

    Raises:
        InputError: If an argument is unknown, or the size is not a multiple of 32.
    """

    multiple = 32
    full_precision = ("predict_distance",)

    def __init__(
        self,
        tasks: Sequence[str] = ("disparity",),
        convention: Convention = "sphere",
        input_size: tuple[int, int] = (512, 1024),
        width: int = 32,
        importance: Importance | None = None,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(tasks, convention, input_size, image_mean, image_std)
        importance = importance or ("batch" if convention == "paper" else "sample")
        if importance not in ("sample", "batch"):
            raise InputError(f"importance must be sample or batch, not {importance!r}.")
        if width < 2 or width % 2:
            raise InputError(f"width must be a multiple of 2, not {width}.")
        self.config |= {"importance": importance}
        self.rolls = convention == "sphere" and importance == "sample"
        widths = [width * 2**level for level in range(LEVELS)]
        self.embed = conv2d(3, width, 3, convention=convention, stride=2)
        self.embed_norm = nn.LayerNorm(width)
        self.encoders = nn.ModuleList(
            _stage(level, widths[level], "encoder", convention, importance) for level in range(LEVELS)
        )
        self.shrink = nn.ModuleList(_Tune(w, 2 * w, convention, stride=2) for w in widths[:-1])
        self.enlarge = nn.ModuleList(_Tune(2 * w, w, convention) for w in widths[:-1])
        self.decoders = nn.ModuleList(
            _stage(level, widths[level], "decoder", convention, importance) for level in range(LEVELS - 1)
        )
        self.join = nn.ModuleList(_Tune(2 * w, w, convention) for w in widths[:-1])
        self.refine = _Tune(width, width, convention)
        self.head1 = conv2d(width, width, 3, convention=convention)
        self.head2 = conv2d(width, 32, 3, convention=convention)
        self.predict_distance = nn.Conv2d(32, 1, 1)
        self.upsample = Upsample(convention, align_corners=True)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict for images (B, 3, H, W) in [0, 1], H and W multiples of 32.

        Returns:
            `disparity` or `depth` (B, 1, H, W).

        Raises:
            InputError: If the size is not a multiple of 32.
        """
        size = (image.shape[-2], image.shape[-1])
        self.check_size(*size)
        x = self.embed_norm(self.embed(self.normalize(image)).permute(0, 2, 3, 1))
        skips: list[Tensor] = []
        for level in range(LEVELS - 1):
            x = self.encoders[level](x)
            skips.append(x)
            x = self.shrink[level](x)
        x = self.encoders[-1](x)
        for level in reversed(range(LEVELS - 1)):
            doubled = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")
            x = self.decoders[level](self.enlarge[level](doubled.permute(0, 2, 3, 1)))
            x = self.join[level](torch.cat((skips[level], x), dim=-1))
        maps = self.head1(self.refine(x).permute(0, 3, 1, 2))
        output = without_autocast(self.predict_distance, F.relu(self.head2(self.upsample(maps, size))))
        return {self.tasks[0]: self.distance(output)}


class _Tune(nn.Module):
    """A convolution of tokens (B, H, W, C), GELU and a norm."""

    def __init__(self, in_channels: int, out_channels: int, convention: Convention, stride: int = 1) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, 3, convention=convention, stride=stride)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        tuned: Tensor = self.norm(F.gelu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        return tuned


def _stage(
    level: int, channels: int, side: Literal["encoder", "decoder"], convention: Convention, importance: Importance
) -> nn.Sequential:
    down_columns = _AxisBlock(channels, HEADS[level], "column", convention, importance)
    if level >= len(DEFORMABLE_HEADS[side]):
        return nn.Sequential(_AxisBlock(channels, HEADS[level], "row", convention, importance), down_columns)
    heads = DEFORMABLE_HEADS[side][level]
    return nn.Sequential(*(_DeformableBlock(channels, heads, convention) for _ in range(2)), down_columns)


class _AxisBlock(nn.Module):
    """Attention along every row or every column of tokens (B, H, W, C), and two linear layers."""

    def __init__(
        self, channels: int, heads: int, axis: Literal["row", "column"], convention: Convention, importance: Importance
    ) -> None:
        super().__init__()
        self.heads = heads
        self.axis = axis
        self.importance = importance
        self.convention: Convention = convention
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.reduce = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        # The bent scores amplify rounding errors: only the feed-forward part uses 16 bits.
        with torch.autocast(x.device.type, enabled=False):
            x = x + self._attend(x.to(torch.promote_types(x.dtype, torch.float32)))
        x = x.to(self.norm2.weight.dtype)
        mixed: Tensor = self.reduce(F.gelu(self.expand(self.norm2(x))))
        return x + mixed

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        lines = _norm(self.norm1, x) if self.axis == "row" else _norm(self.norm1, x).transpose(1, 2)
        qkv = _linear(self.qkv, lines).reshape(*lines.shape[:3], 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        if self.axis == "row":
            places = row_distances(height, width, self.convention)
        else:
            places = column_distances(height, self.convention)
        scores = query @ key.transpose(-2, -1) + BIAS * places[:, None].to(query.device, query.dtype)
        count = self._count(scores)  # (B, lines)
        bent = 1 - torch.cos(F.normalize(scores, dim=-1) * QUARTER)
        attended = ((bent * count[:, :, None, None, None]) @ value).transpose(2, 3).flatten(3)
        attended = attended if self.axis == "row" else attended.transpose(1, 2)
        return _linear(self.project, attended + self._rest(x, 1 - count))

    def _count(self, scores: Tensor) -> Tensor:
        """Return the weight of every line (B, lines) from scores (B, lines, heads, N, N)."""
        mean = scores.abs().mean(dim=(2, 3, 4))
        most = mean.max() if self.importance == "batch" else mean.amax(dim=1, keepdim=True)
        return (mean / most).clamp(min=LEAST_IMPORTANCE)

    def _rest(self, x: Tensor, weights: Tensor) -> Tensor:
        """Multiply the tokens of the input by weights (B, lines), one for every line."""
        if self.axis == "row":
            return x * weights[:, :, None, None]
        if self.convention == "sphere":
            return x * weights[:, None, :, None]
        # The published code takes as many tokens in reading order as a column has, not those of a column.
        chunks = x.reshape(x.shape[0], x.shape[2], x.shape[1], x.shape[3])
        return (chunks * weights[:, :, None, None]).view(x.shape)


class _DeformableBlock(nn.Module):
    """Weighted sums of nine points around every token of (B, H, W, C), and a feed-forward part with a convolution."""

    def __init__(self, channels: int, heads: int, convention: Convention) -> None:
        super().__init__()
        self.heads = heads
        self.convention: Convention = convention
        self.norm1 = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, 2 * heads * POINTS)
        self.weights = nn.Linear(channels, heads * POINTS)
        self.project = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        plain = conv2d(4 * channels, 4 * channels, 3, convention=convention, groups=4 * channels)
        self.mix = plain if convention == "sphere" else WrappedConv2d(plain)
        self.reduce = nn.Linear(4 * channels, channels)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.constant_(self.weights.bias, 1 / POINTS)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x + self._attend(_norm(self.norm1, x.to(torch.promote_types(x.dtype, torch.float32))))
        x = x.to(self.norm2.weight.dtype)
        hidden = F.gelu(self.expand(self.norm2(x))).permute(0, 3, 1, 2)
        mixed: Tensor = self.reduce(F.gelu(self.mix(hidden)).permute(0, 2, 3, 1))
        return x + mixed

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        query = _linear(self.query, x)
        values = _linear(self.value, x).view(batch, height, width, self.heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        weights = _linear(self.weights, query).view(batch, height, width, self.heads, POINTS).softmax(-1)
        # Row and column of every point: (B heads, 9, H, W, 2).
        offsets = (
            _linear(self.offsets, query)
            .view(batch, height, width, self.heads, POINTS, 2)
            .permute(0, 3, 4, 1, 2, 5)
            .flatten(0, 1)
        )
        points = tangent_points(height, width, self.convention, x.device).to(offsets.dtype) + offsets
        sampled = self._sample(values, points.flatten(1, 2)).view(*values.shape[:2], POINTS, height, width)
        weights = weights.permute(0, 3, 4, 1, 2).flatten(0, 1)[:, None]
        joined = sampled[:, :, 0] * weights[:, :, 0]
        for point in range(1, POINTS):  # one product of all would need nine times the memory
            joined = torch.addcmul(joined, sampled[:, :, point], weights[:, :, point])
        joined = joined.view(batch, self.heads, -1, height, width)
        return _linear(self.project, joined.permute(0, 3, 4, 1, 2).flatten(3))

    def _sample(self, maps: Tensor, points: Tensor) -> Tensor:
        """Sample (N, C, H, W) at rows and columns (N, h, w, 2)."""
        height, width = maps.shape[-2:]
        dtype = torch.promote_types(maps.dtype, torch.float32)
        row, column = points.to(dtype).unbind(-1)
        if self.convention == "paper":
            grid = torch.stack((2 * column / max(width - 1, 1) - 1, 2 * row / max(height - 1, 1) - 1), dim=-1)
            return F.grid_sample(maps.to(dtype), grid, padding_mode="zeros", align_corners=False).to(maps.dtype)
        column, row = (column + 0.5) % width - 0.5, row.clamp(-0.5, height - 0.5)
        grid = torch.stack((2 * (column + 1.5) / (width + 2) - 1, 2 * (row + 1.5) / (height + 2) - 1), dim=-1)
        padded = sphere.pad(maps.to(dtype), (1, 1, 1, 1))
        return F.grid_sample(padded, grid, padding_mode="border", align_corners=False).to(maps.dtype)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer in the type of its input; its weights may have 16 bits."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Do the same for a norm."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight.to(x.dtype), layer.bias.to(x.dtype), layer.eps)


def column_distances(height: int, convention: Convention) -> Tensor:
    """Return the distances (1, H, H) on the unit sphere between the places of a column, positive downwards.

    Example:
        >>> column_distances(2, "sphere")[0].round(decimals=3).abs().tolist()  # a quarter turn: the root of two
        [[0.0, 1.414], [1.414, 0.0]]
    """
    if convention == "paper":  # the last place is one too far
        angle = torch.linspace(0, height, height) * (2 * QUARTER) / height
    else:
        angle = torch.arange(height, dtype=torch.float64) * math.pi / height
    turn = angle[None] - angle[:, None]
    chord = torch.sqrt(2 * (1 - torch.cos(turn)))
    return torch.where(turn > 0, chord, -chord)[None]


def row_distances(height: int, width: int, convention: Convention) -> Tensor:
    """Return the distances (H, W, W) on the unit sphere between the places of every row; signed if published."""
    if convention == "paper":
        angle = torch.linspace(0, width, width) * 2 * (2 * QUARTER) / width
        radius = torch.sin(torch.arange(height) * (2 * QUARTER) / height)
    else:
        angle = torch.arange(width, dtype=torch.float64) * 2 * math.pi / width
        radius = torch.cos(sphere.erp_angles(height, width, dtype=torch.float64)[1])
    turn = angle[None] - angle[:, None]
    chord = torch.sqrt(2 * (1 - torch.cos(turn)))
    if convention == "paper":
        chord = torch.where(turn > 0, chord, -chord)
    return radius[:, None, None] * chord


def tangent_points(height: int, width: int, convention: Convention, device: torch.device | None = None) -> Tensor:
    """Return row and column (9, H, W, 2) of the pixels around every pixel, on the plane that touches the sphere there.

    The published ones start half a pixel too far up and left, and mix up the sides next to a pole.
    """
    half = 0.0 if convention == "paper" else 0.5
    latitude = ((torch.arange(height, dtype=torch.float64) + half) / height - 0.5)[:, None] * math.pi  # downwards
    steps = torch.arange(-1, 2, dtype=torch.float64)
    across, along = steps * (2 * math.pi / width), steps * (math.pi / height)
    down = torch.tan(along) / torch.cos(across)
    down, right = (x.flatten() for x in torch.meshgrid(down, torch.tan(across), indexing="ij"))
    radius = torch.hypot(right, down)
    radius[POINTS // 2] = 1e-8  # avoids a division by zero at the centre
    angle = radius.atan()
    sine = angle.cos() * latitude.sin() + down * angle.sin() * latitude.cos() / radius
    rows = (sine.clamp(-1, 1).asin() / math.pi + 0.5) * height - half
    opposite, adjacent = (
        right * angle.sin(),
        radius * latitude.cos() * angle.cos() - down * latitude.sin() * angle.sin(),
    )
    turn = (opposite / adjacent).atan() if convention == "paper" else torch.atan2(opposite, adjacent)
    longitude = ((torch.arange(width, dtype=torch.float64) + half) / width - 0.5) * (2 * math.pi)
    columns = ((turn.T[:, :, None] + longitude) / (2 * math.pi) + 0.5) * width % width - half
    points = torch.stack((rows.T[:, :, None].expand_as(columns), columns), dim=-1)
    return (points.float() if convention == "paper" else points).to(device)
