"""Latents as tokens of a FLUX.1 transformer, their positions, and columns that wrap around the panorama.

A token is a block of 2 x 2 latents. Tokens are in row-major order, (B, rows * columns, C).
"""

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError

__all__ = ("crop_columns", "pack", "position_ids", "unpack", "wrap_columns")


def pack(latents: Tensor) -> Tensor:
    """Pack latents (B, C, h, w) into tokens (B, h/2 * w/2, 4C); within a token, the channel is the slowest index.

    Raises:
        InputError: If the latents are not (B, C, h, w) with even sides.

    Example:
        >>> pack(torch.arange(8.0).view(1, 2, 2, 2)).tolist()
        [[[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]]
    """
    if latents.ndim != 4 or latents.shape[2] % 2 or latents.shape[3] % 2:
        raise InputError(f"expected latents (B, C, h, w) with even sides, got {tuple(latents.shape)}")
    batch, channels, height, width = latents.shape
    blocks = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Unpack tokens (B, rows * columns, 4C) into latents (B, C, 2 * rows, 2 * columns): the inverse of `pack`.

    Example:
        >>> tokens = torch.arange(8.0).reshape(1, 2, 4)
        >>> unpack(tokens, 1, 2).tolist()
        [[[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]]
    """
    batch, _, channels = tokens.shape
    blocks = tokens.reshape(batch, rows, columns, channels // 4, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, 2 * rows, 2 * columns)


def position_ids(rows: int, columns: int, *, device: torch.device | str | None = None, padding: int = 0) -> Tensor:
    """Return the positions (rows * columns, 3) of tokens: 0, row, column.

    They are always float32, because bfloat16 cannot distinguish 256 from 257.

    Args:
        rows: Rows of tokens.
        columns: Columns of tokens.
        device: Device of the result.
        padding: Number the columns from -padding to columns + padding - 1.

    Example:
        >>> position_ids(1, 2, padding=1)[:, 2].tolist()
        [-1.0, 0.0, 1.0, 2.0]
    """
    row = torch.arange(rows, device=device, dtype=torch.float32)
    column = torch.arange(-padding, columns + padding, device=device, dtype=torch.float32)
    grid = torch.meshgrid(row, column, indexing="ij")
    return torch.stack([torch.zeros_like(grid[0]), *grid], -1).reshape(-1, 3)


def wrap_columns(values: Tensor, columns: int, padding: int) -> Tensor:
    """Add `padding` columns on each side, copied from the other side.

    Args:
        values: Values of tokens (..., rows * columns, C).
        columns: Columns of tokens.
        padding: Columns to add on each side, at most `columns`.

    Example:
        >>> wrap_columns(torch.arange(4.0).view(1, 4, 1), columns=4, padding=1).flatten().tolist()
        [3.0, 0.0, 1.0, 2.0, 3.0, 0.0]
    """
    if padding == 0:
        return values
    grid = values.reshape(*values.shape[:-2], -1, columns, values.shape[-1])
    return torch.cat([grid[..., -padding:, :], grid, grid[..., :padding, :]], -2).flatten(-3, -2)


def crop_columns(values: Tensor, columns: int, padding: int) -> Tensor:
    """Remove the columns that `wrap_columns` added; `columns` counts those that remain.

    Example:
        >>> crop_columns(torch.arange(4.0)[None, :, None], columns=2, padding=1).flatten().tolist()
        [1.0, 2.0]
    """
    if padding == 0:
        return values
    grid = values.reshape(*values.shape[:-2], -1, columns + 2 * padding, values.shape[-1])
    return grid[..., padding:-padding, :].flatten(-3, -2)
