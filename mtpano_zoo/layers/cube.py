"""Resample feature maps from a panorama to the faces of a cube and back, at coordinates that are computed once."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo import sphere
from mtpano_zoo.sphere import CubeSampling

__all__ = ("FromCube", "ToCube")


class _Sampler(nn.Module):
    """Bilinear sampling of maps at stored coordinates, where -1 and 1 are the centres of the outer pixels.

    `grid` holds them in float64, and `grid32` in float32, in which nearly every map is sampled.
    """

    grid: Tensor
    grid32: Tensor

    def __init__(self, sampling: CubeSampling, grid: Tensor) -> None:
        super().__init__()
        self.sampling: CubeSampling = sampling
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("grid32", grid.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow the network to its device, but not to its precision: coordinates in bfloat16 are off by pixels."""
        before = {"grid": self.grid, "grid32": self.grid32}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, grid in before.items():
            if getattr(self, name).dtype != grid.dtype:
                setattr(self, name, grid.to(getattr(self, name).device))
        return self

    def _sample(self, maps: Tensor, grid: Tensor | None) -> Tensor:
        """Sample (N, C, h, w) at (H, W, 2), or at the stored places: (N, C, H, W) of the same type."""
        dtype = torch.promote_types(maps.dtype, torch.float32)
        if grid is None:
            grid = self.grid32 if dtype == torch.float32 else self.grid
        grid = grid.to(maps.device, dtype).expand(maps.shape[0], -1, -1, -1)
        sampled = F.grid_sample(maps.to(dtype), grid, padding_mode="border", align_corners=True)
        return sampled.to(maps.dtype)

    def extra_repr(self) -> str:
        """Show the sampling in the module's printout."""
        return f"sampling={self.sampling!r}"


class ToCube(_Sampler):
    """Cut a panorama (B, C, H, W) into cube faces (6 B, C, S, S): the six of the first image, then of the second.

    Args:
        sampling: where pixels lie, and the order of the faces, see `mtpano_zoo.sphere.CubeSampling`.
        size: columns S of a face.
        height: rows of the panoramas whose coordinates are kept; for others they are computed at every call.
        width: columns of these panoramas.

    Example:
        >>> ToCube("sphere", 4, 8, 16)(torch.full((2, 3, 8, 16), 5.0)).shape
        torch.Size([12, 3, 4, 4])
    """

    def __init__(self, sampling: CubeSampling, size: int, height: int, width: int) -> None:
        super().__init__(sampling, _grid_of_faces(sampling, size, height, width))
        self.kept = (size, height, width)

    def forward(self, erp: Tensor, size: int | None = None) -> Tensor:
        """Cut faces of the kept size, or of another one."""
        size = size or self.kept[0]
        batch, channels, height, width = erp.shape
        wanted = (size, height, width)
        grid = None if wanted == self.kept else _grid_of_faces(self.sampling, *wanted)
        if self.sampling == "sphere":
            erp = sphere.pad(erp, (1, 1, 1, 1))
        elif self.sampling == "unifuse":
            erp = torch.cat((erp, erp[:, :, -1:].roll(width // 2, -1), erp[:, :, :1].roll(width // 2, -1)), dim=2)
        faces = self._sample(erp, grid).view(batch, channels, 6, size, size)
        return faces.transpose(1, 2).reshape(6 * batch, channels, size, size)


class FromCube(_Sampler):
    """Assemble panoramas (B, C, H, W) from cube faces (6 B, C, S, S) in the order of `ToCube`.

    Args:
        sampling: see `ToCube`. With `sphere`, interpolation continues across the edges of the cube.
        size: columns S of the faces whose coordinates are kept; for others they are computed at every call.
        height: rows of the panorama.
        width: columns of the panorama.

    Example:
        >>> FromCube("sphere", 4, 8, 16)(torch.full((12, 3, 4, 4), 5.0)).shape
        torch.Size([2, 3, 8, 16])
    """

    def __init__(self, sampling: CubeSampling, size: int, height: int, width: int) -> None:
        super().__init__(sampling, _grid_of_erp(sampling, size, height, width))
        self.kept = (size, height, width)
        ring = sphere.face_neighbours(size).flatten() if sampling == "sphere" else torch.empty(0, dtype=torch.long)
        self.neighbours = ring  # no buffer: averaging of weights would average and truncate the indices

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.neighbours = fn(self.neighbours)
        return self

    def forward(self, faces: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        """Assemble panoramas of the kept height and width, or of other ones."""
        count, channels, size = faces.shape[:3]
        wanted = (size, height or self.kept[1], width or self.kept[2])
        grid = None if wanted == self.kept else _grid_of_erp(self.sampling, *wanted)
        # Faces below one another, channels last: a view if the maps are channels last already.
        stacked = faces.permute(0, 2, 3, 1).reshape(count // 6, 6 * size * size, channels)
        if self.sampling == "sphere":
            ring = self.neighbours if size == self.kept[0] else sphere.face_neighbours(size).flatten()
            stacked = stacked.index_select(1, ring.to(faces.device))
            size += 2
        return self._sample(stacked.view(-1, 6 * size, size, channels).permute(0, 3, 1, 2), grid)


def _grid_of_faces(sampling: CubeSampling, size: int, height: int, width: int) -> Tensor:
    pixels = sphere.pixels_of_faces(size, height, width, sampling).reshape(6 * size, size, 2)
    if sampling == "sphere":
        pixels, height, width = pixels + 1, height + 2, width + 2
    elif sampling == "unifuse":
        height += 2
    return _normalised(pixels, height, width)


def _grid_of_erp(sampling: CubeSampling, size: int, height: int, width: int) -> Tensor:
    face, pixels = sphere.pixels_of_erp(height, width, size, sampling)
    if sampling == "sphere":
        pixels, size = pixels + 1, size + 2
    column, row = pixels.unbind(-1)
    return _normalised(torch.stack((column, row + face * size), dim=-1), 6 * size, size)


def _normalised(pixels: Tensor, height: int, width: int) -> Tensor:
    """Turn pixel coordinates (..., 2) into the range from -1 to 1."""
    return pixels * 2 / torch.tensor((max(width - 1, 1), max(height - 1, 1)), dtype=pixels.dtype) - 1
