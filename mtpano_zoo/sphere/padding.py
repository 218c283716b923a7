"""Padding of an equirectangular map with its neighbours on the sphere."""

from typing import Any, cast

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError

__all__ = ("PadOnce", "pad")


def pad(x: Tensor, padding: tuple[int, int, int, int], *, nearest: bool = False) -> Tensor:
    """Pad (..., H, W) by (left, right, top, bottom) pixels with the neighbours on the sphere.

    Left and right wrap across the seam, as often as needed. Past a pole the map continues down the opposite meridian,
    half a turn away. If the width is odd, no column lies exactly there: the two nearest are averaged, but integer maps
    (labels) and maps padded with ``nearest`` take the left one. Vectors keep their sign, because they are expressed in
    the frame of the camera and not in that of the pixel.

    Raises:
        InputError: If a number is negative, or ``top`` or ``bottom`` exceeds the height (past both poles).

    Example:
        >>> pad(torch.arange(8).view(2, 4), (1, 1, 0, 0)).tolist()  # the seam
        [[3, 0, 1, 2, 3, 0], [7, 4, 5, 6, 7, 4]]
        >>> pad(torch.arange(8).view(2, 4), (0, 0, 1, 0)).tolist()  # beyond the upper pole, half a turn away
        [[2, 3, 0, 1], [0, 1, 2, 3], [4, 5, 6, 7]]
    """
    left, right, top, bottom = padding
    if min(padding) < 0:
        raise InputError(f"padding must not be negative, got {padding}")
    height, width = x.shape[-2:]
    if top > height or bottom > height:
        raise InputError(f"cannot pad {height} rows by {top} above and {bottom} below: pad by at most the height")
    recorded = torch.compiler.is_compiling() or cast(Any, torch.jit).is_tracing()
    if x.ndim == 4 and max(left, right) <= width and max(padding) and not recorded:
        padded: Tensor = PadOnce.apply(x, padding, nearest)
        return padded
    if top or bottom:
        parts = [x]
        if top:
            parts.insert(0, _opposite(x[..., :top, :], nearest))
        if bottom:
            parts.append(_opposite(x[..., height - bottom :, :], nearest))
        x = torch.cat(parts, dim=-2)
    if left or right:
        turns_left, turns_right = left // width, right // width
        parts = [x] * (turns_left + 1 + turns_right)
        if left % width:
            parts.insert(0, x[..., width - left % width :])
        if right % width:
            parts.append(x[..., : right % width])
        x = torch.cat(parts, dim=-1)
    return x


class PadOnce(torch.autograd.Function):
    """Do what `pad` does for a map (B, C, H, W), copied once instead of once per axis, both ways.

    Recorded slices would each fill a map of zeros for their gradient: a third of a training step on a CPU.
    """

    @staticmethod
    def forward(x: Tensor, padding: tuple[int, int, int, int], nearest: bool) -> Tensor:
        """Pad (B, C, H, W)."""
        left, right, top, bottom = padding
        height, width = x.shape[-2:]
        last = x.shape[1] > 1 and x.stride(1) == 1  # true also for a slice, which is contiguous in no format
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (*x.shape[:2], top + height + bottom, left + width + right)
        padded = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        middle = padded[..., left : left + width]
        middle[..., top : top + height, :] = x
        if top:
            middle[..., :top, :] = _opposite(x[..., :top, :], nearest)
        if bottom:
            middle[..., top + height :, :] = _opposite(x[..., height - bottom :, :], nearest)
        if left:
            padded[..., :left] = middle[..., width - left :]
        if right:
            padded[..., left + width :] = middle[..., :right]
        return padded

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, int, int, int], bool], output: Tensor) -> None:
        """Keep the padding."""
        _, ctx.padding, ctx.nearest = inputs

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        """Pad the tangent: padding is linear."""
        padded: Tensor = PadOnce.apply(tangent, ctx.padding, ctx.nearest)
        return padded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Add the gradient of every padded pixel to that of its source."""
        left, right, top, bottom = ctx.padding
        height, width = gradient.shape[-2] - top - bottom, gradient.shape[-1] - left - right

        def unwrap(rows: Tensor) -> Tensor:
            inside = rows[..., left : left + width].clone()
            if left:
                inside[..., width - left :] += rows[..., :left]
            if right:
                inside[..., :right] += rows[..., left + width :]
            return inside

        inside = unwrap(gradient[..., top : top + height, :])
        if top:
            inside[..., :top, :] += _opposite(unwrap(gradient[..., :top, :]), ctx.nearest, back=True)
        if bottom:
            inside[..., height - bottom :, :] += _opposite(
                unwrap(gradient[..., top + height :, :]), ctx.nearest, back=True
            )
        return inside, None, None


def _opposite(rows: Tensor, nearest: bool, back: bool = False) -> Tensor:
    """Return rows next to a pole as they continue on its other side; `back` transposes that, for the gradient."""
    width = rows.shape[-1]
    turn = -(width // 2) if back else width // 2
    rows = rows.flip(-2) if rows.shape[-2] > 1 else rows
    turned = rows.roll(turn, -1)
    if width % 2 and rows.is_floating_point() and not nearest:
        return (turned + rows.roll(turn - 1 if back else turn + 1, -1)) / 2
    return turned
