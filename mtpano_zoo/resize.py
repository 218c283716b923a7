"""Resize equirectangular maps, wrapped at the left and right edge, from any size to any size.

The filter is the triangle of `torch.nn.functional.interpolate(antialias=True)`: bilinear when enlarging, an average
over the covered area when shrinking. PyTorch's own resize cannot wrap unless the scale happens to be integral.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ("resize", "resize_argmax", "resize_bands", "resize_pixels")

ROWS = 4  # new rows of `resize_pixels` that are computed by one matrix product
CHUNK = 1 << 20  # elements per band: larger buffers cost more than the arithmetic


def resize(maps: Tensor, height: int, width: int) -> Tensor:
    """Resize maps (..., H, W), uint8 or floating, to (..., height, width) in their floating type (float32 for uint8).

    Columns wrap around; rows end at the poles. Rolling the input by whole columns rolls the output, if the shift is a
    whole number of output columns too.

    Example:
        >>> resize(torch.arange(4.0).expand(1, 2, 4), 1, 2).shape
        torch.Size([1, 1, 2])
    """
    dtype = maps.dtype if maps.is_floating_point() else torch.float32
    if maps.shape[-2:] == (height, width):
        return maps.to(dtype)
    # Rows first and straight from the bytes: a float copy of a 16384 x 8192 image would take 1.6 GB.
    maps = _filter(maps, _taps(maps.shape[-2], height, False, dtype, maps.device), -2)
    return _filter(maps, _taps(maps.shape[-1], width, True, dtype, maps.device), -1)


def resize_pixels(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize an image (H, W, 3) uint8 to (3, height, width) float32, as `resize` does, in one pass over its pixels.

    Example:
        >>> resize_pixels(torch.zeros(64, 128, 3, dtype=torch.uint8), 16, 32).shape
        torch.Size([3, 16, 32])
    """
    rows, columns, channels = pixels.shape
    index, weight = _taps(rows, height, False, torch.float32, pixels.device)
    flat = pixels.reshape(rows, -1)
    resized = torch.empty(height, columns * channels, dtype=torch.float32, device=pixels.device)
    for top in range(0, height, ROWS):
        band = slice(top, top + ROWS)
        first, last = int(index[:, band].min()), int(index[:, band].max()) + 1
        matrix = resized.new_zeros(len(resized[band]), last - first)
        matrix.scatter_add_(1, index[:, band].T - first, weight[:, band].T)
        resized[band] = matrix @ flat[first:last].float()
    return resize(resized.view(height, columns, channels).permute(2, 0, 1), height, width)


def resize_bands(maps: Tensor, height: int, width: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of `resize(maps, height, width)` band by band, each with its place, for maps (C, h, w).

    Three float32 maps of 16384 x 8192 take 1.6 GB, and every step of arithmetic on them as much again.

    Example:
        >>> [(rows, tuple(band.shape)) for rows, band in resize_bands(torch.zeros(3, 2, 4), 4, 8)]
        [(slice(0, 4, None), (3, 4, 8))]
    """
    dtype = maps.dtype if maps.is_floating_point() else torch.float32
    index, weight = _taps(maps.shape[-2], height, False, dtype, maps.device)
    across = _taps(maps.shape[-1], width, True, dtype, maps.device)
    step = max(1, CHUNK // (width * len(maps)))
    bands = [slice(top, min(top + step, height)) for top in range(0, height, step)]
    if maps.shape[-2:] == (height, width):
        yield from ((band, maps[:, band].to(dtype)) for band in bands)
        return
    turned = maps.transpose(-2, -1).contiguous()  # to gather columns as whole vectors
    for band in bands:
        columns = _filter(_filter(turned, (index[:, band], weight[:, band]), -1), across, -2)
        resized = columns.new_empty(len(maps), band.stop - band.start, width)
        for rows, values in zip(resized, columns, strict=True):  # PyTorch transposes one matrix much faster than three
            rows.copy_(values.T)
        yield band, resized


def resize_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """Resize logits (C, h, w) and return the index of the largest (height, width), uint8 for up to 256 classes.

    Works in bands of rows, because 150 classes at 4096 x 2048 would take 5 GB at once.

    Example:
        >>> logits = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 2, 4)
        >>> resize_argmax(logits, 4, 8).unique().tolist()
        [1]
    """
    channels, rows, columns = logits.shape
    kind = torch.uint8 if channels <= 256 else torch.int64
    if (rows, columns) == (height, width):
        return logits.argmax(0).to(kind)
    values = logits.permute(1, 2, 0).contiguous()  # channels last, to gather columns as whole vectors
    index, weight = _taps(rows, height, False, logits.dtype, logits.device)
    across, shares = _taps(columns, width, True, logits.dtype, logits.device)
    clear = _clear_classes(values)
    step = max(1, CHUNK // max(width, columns * channels))
    labels = torch.empty(height, width, dtype=kind, device=logits.device)
    for top in range(0, height, step):
        band = slice(top, min(top + step, height))
        found = _unanimous(_unanimous(clear, index[:, band], 0), across, 1)
        labels[band] = found.to(kind)
        # Only the other pixels, near borders, are computed.
        resized = _filter(values, (index[:, band], weight[:, band]), 0).flatten(0, 1)
        open_rows, open_columns = (found < 0).nonzero(as_tuple=True)
        for first in range(0, len(open_rows), CHUNK // channels + 1):
            part = slice(first, first + CHUNK // channels + 1)
            row, column = open_rows[part], open_columns[part]
            taps = (across[:, column] + row * columns, shares[:, column])
            labels[top + row, column] = _filter(resized, taps, 0).argmax(-1).to(kind)
    return labels


def _clear_classes(logits: Tensor) -> Tensor:
    """Return the class (h, w) int16 whose logit (h, w, C) is the largest by more than rounding, -1 where none is."""
    best, labels = logits.topk(min(2, logits.shape[-1]), dim=-1)
    rounding = 100 * torch.finfo(logits.dtype).eps * logits.abs().amax()
    return torch.where(best[..., 0] - best[..., -1] > rounding, labels[..., 0], -1).to(torch.int16)


def _unanimous(labels: Tensor, index: Tensor, dim: int) -> Tensor:
    """Return the label of all samples (T, n) along one axis that make up a new one, -1 where they differ.

    The largest of several weighted sums is that of the class which is the largest everywhere.
    """
    first, *others = (labels.index_select(dim, positions) for positions in index)
    for other in others:
        first = torch.where(first == other, first, -1)
    return first


def _filter(maps: Tensor, taps: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """Return the weighted sum of samples along one axis."""
    shape = [1] * maps.ndim
    shape[dim] = -1
    index, weight = taps
    total = maps.index_select(dim, index[0]) * weight[0].view(shape)
    for positions, factors in zip(index[1:], weight[1:], strict=True):
        total += maps.index_select(dim, positions) * factors.view(shape)
    return total


def _taps(size: int, new_size: int, wrap: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the index and weight, both (T, new_size), of the samples that make up each new sample."""
    scale = size / new_size
    support = max(scale, 1.0)
    # Pixel centres split into whole and fractional parts by integer arithmetic: exact, so every period is the same.
    centre = (torch.arange(new_size) * 2 + 1) * size - new_size  # in units of 1 / (2 new_size)
    base = torch.div(centre, 2 * new_size, rounding_mode="floor")
    fraction = (centre - base * 2 * new_size).double() / (2 * new_size)
    offset = torch.arange(1 - math.ceil(support), math.ceil(support) + 1)[:, None]
    weight = (1 - (offset - fraction).abs() / support).clamp_min(0)
    index = base + offset
    if wrap:
        index = index % size
    else:
        weight = torch.where((index >= 0) & (index < size), weight, 0)
        index = index.clamp(0, size - 1)
    used = (weight > 0).any(1)
    weight = weight / weight.sum(0)
    return index[used].to(device), weight[used].to(dtype).to(device)
