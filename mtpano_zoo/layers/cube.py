"""Feature maps from a panorama to the faces of a cube and back, at coordinates that are computed once."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo import sphere
from mtpano_zoo.sphere import CubeSampling

__all__ = ("FromCube", "ToCube")


class _Sampler(nn.Module):
    """Bilinear sampling of maps at stored places; `grid` holds them from -1 to 1, the centres of the outer pixels."""

    grid: Tensor

    def __init__(self, sampling: CubeSampling) -> None:
        super().__init__()
        self.sampling: CubeSampling = sampling

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow the network to its device, but not to its precision: coordinates in bfloat16 miss by pixels."""
        before = self.grid
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.grid.dtype != before.dtype:
            self.grid = before.to(self.grid.device)
        return self

    def _sample(self, maps: Tensor, grid: Tensor) -> Tensor:
        """Sample (N, C, h, w) at (H, W, 2): (N, C, H, W) of the same type."""
        dtype = torch.promote_types(maps.dtype, torch.float32)
        grid = grid.to(maps.device, dtype).expand(maps.shape[0], -1, -1, -1)
        sampled = F.grid_sample(maps.to(dtype), grid, padding_mode="border", align_corners=True)
        return sampled.to(maps.dtype)

    def extra_repr(self) -> str:
        """Show the sampling in the module's printout."""
        return f"sampling={self.sampling!r}"


class ToCube(_Sampler):
    """Cut a panorama (B, C, H, W) into cube faces (6 B, C, S, S): the six of the first image, then of the second.

    Args:
        sampling: whose pixels and order of faces.
        size: columns S of a face.
        height: rows of the panoramas that the coordinates are kept for; for others they are computed at every call.
        width: columns of these panoramas.

    Example:
        >>> ToCube("sphere", 4, 8, 16)(torch.full((2, 3, 8, 16), 5.0)).shape
        torch.Size([12, 3, 4, 4])
    """

    def __init__(self, sampling: CubeSampling, size: int, height: int, width: int) -> None:
        super().__init__(sampling)
        self.kept = (size, height, width)
        self.register_buffer("grid", self._grid(*self.kept), persistent=False)

    def _grid(self, size: int, height: int, width: int) -> Tensor:
        pixels = sphere.pixels_of_faces(size, height, width, self.sampling).reshape(6 * size, size, 2)
        if self.sampling == "sphere":
            pixels, height, width = pixels + 1, height + 2, width + 2
        elif self.sampling == "unifuse":
            height += 2
        return _normalised(pixels, height, width)

    def forward(self, erp: Tensor, size: int | None = None) -> Tensor:
        """Cut faces of the kept size, or of another one."""
        size = size or self.kept[0]
        batch, channels, height, width = erp.shape
        wanted = (size, height, width)
        grid = self.grid if wanted == self.kept else self._grid(*wanted)
        if self.sampling == "sphere":
            erp = sphere.pad(erp, (1, 1, 1, 1))
        elif self.sampling == "unifuse":
            erp = torch.cat((erp, erp[:, :, -1:].roll(width // 2, -1), erp[:, :, :1].roll(width // 2, -1)), dim=2)
        faces = self._sample(erp, grid).view(batch, channels, 6, size, size)
        return faces.transpose(1, 2).reshape(6 * batch, channels, size, size)


class FromCube(_Sampler):
    """Assemble panoramas (B, C, H, W) from cube faces (6 B, C, S, S) in the order of `ToCube`.

    Args:
        sampling: whose pixels and order of faces. With `sphere`, interpolation goes on across the edges of the cube.
        size: columns S of a face that the coordinates are kept for; for others they are computed at every call.
        height: rows of the panorama.
        width: columns of the panorama.

    Example:
        >>> FromCube("sphere", 4, 8, 16)(torch.full((12, 3, 4, 4), 5.0)).shape
        torch.Size([2, 3, 8, 16])
    """

    neighbours: Tensor

    def __init__(self, sampling: CubeSampling, size: int, height: int, width: int) -> None:
        super().__init__(sampling)
        self.kept = (size, height, width)
        self.register_buffer("grid", self._grid(*self.kept), persistent=False)
        ring = sphere.face_neighbours(size).flatten() if sampling == "sphere" else torch.empty(0, dtype=torch.long)
        self.register_buffer("neighbours", ring, persistent=False)

    def _grid(self, size: int, height: int, width: int) -> Tensor:
        face, pixels = sphere.pixels_of_erp(height, width, size, self.sampling)
        if self.sampling == "sphere":
            pixels, size = pixels + 1, size + 2
        column, row = pixels.unbind(-1)
        return _normalised(torch.stack((column, row + face * size), dim=-1), 6 * size, size)

    def forward(self, faces: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        """Assemble panoramas of the kept height and width, or of other ones."""
        count, channels, size = faces.shape[:3]
        wanted = (size, height or self.kept[1], width or self.kept[2])
        grid = self.grid if wanted == self.kept else self._grid(*wanted)
        # Faces below one another, channels last: of maps that already are channels last this is a view.
        stacked = faces.permute(0, 2, 3, 1).reshape(count // 6, 6 * size * size, channels)
        if self.sampling == "sphere":
            ring = self.neighbours if size == self.kept[0] else sphere.face_neighbours(size).flatten()
            stacked = stacked.index_select(1, ring.to(faces.device))
            size += 2
        return self._sample(stacked.view(-1, 6 * size, size, channels).permute(0, 3, 1, 2), grid)


def _normalised(pixels: Tensor, height: int, width: int) -> Tensor:
    """Turn pixel coordinates (..., 2) into the range from -1 to 1."""
    return pixels * 2 / torch.tensor((max(width - 1, 1), max(height - 1, 1)), dtype=pixels.dtype) - 1
