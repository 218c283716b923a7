"""Where the pixels of a panorama lie on its six cube faces and vice versa, in our sampling or a published network's.

:func:`mtpano_zoo.sphere.to_cubemap` samples one map at once. A network samples maps of the same size again and again,
so it takes the coordinates from here and keeps them.
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere.rays import cube_rays, cube_rotations, erp_rays, rays_to_pixels

__all__ = ("CubeSampling", "face_neighbours", "pixels_of_erp", "pixels_of_faces")

CubeSampling = Literal["sphere", "unifuse", "bifuse"]
"""Where the pixels lie, and the order of the faces:

- ``sphere``: pixel centres in both, faces front, right, back, left, up, down.
- ``unifuse``: the same faces; the outer pixels of a face lie on its edges.
- ``bifuse``: faces back, down, front, left, right, up; the outer rows and columns of the panorama lie on its borders.
"""

# The BiFuse faces as rotations about one axis by quarter turns: down looks along y, which points down.
BIFUSE_AXES = ((1, -2), (0, 1), (0, 0), (1, 1), (1, -1), (0, -1))
BIFUSE_NORMALS = ((0, 0, -1), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (1, 0, 0), (0, -1, 0))


def pixels_of_faces(size: int, height: int, width: int, sampling: CubeSampling) -> Tensor:
    """Return where the pixels of six faces lie in a panorama: (6, S, S, 2), float64, column and row.

    Integers are pixel centres. With ``unifuse``, the rows are those of the panorama followed by two more, the lowest
    row and then the topmost one, both rolled by half the width.

    Raises:
        InputError: If the sampling is unknown or a side is not positive.

    Example:
        >>> front = pixels_of_faces(2, 4, 8, "sphere")[0]
        >>> front[0].round(decimals=2).tolist()  # the upper row of the front face
        [[2.91, 0.96], [4.09, 0.96]]
    """
    _check(sampling, size, height, width)
    if sampling == "sphere":
        return rays_to_pixels(cube_rays(size, dtype=torch.float64), height, width)
    return (_unifuse_faces if sampling == "unifuse" else _bifuse_faces)(size, height, width)


def pixels_of_erp(height: int, width: int, size: int, sampling: CubeSampling) -> tuple[Tensor, Tensor]:
    """Return on which face (H, W) a pixel of a panorama lies, and its column and row there: (H, W, 2), float64.

    Integers are pixel centres. With ``sphere``, coordinates go up to half a pixel beyond the outer centres.

    Raises:
        InputError: If the sampling is unknown or a side is not positive.

    Example:
        >>> face, pixels = pixels_of_erp(4, 8, 4, "sphere")
        >>> face[1].tolist(), pixels[1, 4].round(decimals=2).tolist()  # right of the middle, above the horizon
        ([2, 3, 3, 0, 0, 1, 1, 2], [2.33, 0.6])
    """
    _check(sampling, size, height, width)
    if sampling == "unifuse":
        return _unifuse_erp(height, width, size)
    if sampling == "bifuse":
        return _bifuse_erp(height, width, size)
    return _face_pixels(erp_rays(height, width, dtype=torch.float64), size)


def face_neighbours(size: int) -> Tensor:
    """Return which pixel fills every place of six faces (``sphere``) with a ring around each: (6, S + 2, S + 2).

    Pixels are counted face by face, row by row. The ring around a face holds the nearest pixels of its neighbours.

    Example:
        >>> face_neighbours(2)[0].tolist()  # left of the front face stands the right column of the left one
        [[13, 18, 19, 4], [13, 0, 1, 4], [15, 2, 3, 6], [15, 20, 21, 6]]
    """
    steps = torch.arange(-1, size + 1, dtype=torch.float64).add(0.5).mul(2 / size).sub(1)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    rays = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1)
    rays = rays @ cube_rotations(dtype=torch.float64)[:, None].mT
    face, pixels = _face_pixels(rays, size)
    column, row = pixels.round().clamp(0, size - 1).long().unbind(-1)
    nearest = (face * size + row) * size + column
    inner = torch.arange(6 * size * size).view(6, size, size)
    nearest[:, 1:-1, 1:-1] = inner
    return nearest


def _check(sampling: str, *sides: int) -> None:
    if sampling not in get_args(CubeSampling):
        raise InputError(f"the sampling of a cube is one of {', '.join(get_args(CubeSampling))}, not {sampling!r}")
    if min(sides) < 1:
        raise InputError(f"sides must be at least 1 pixel, got {', '.join(map(str, sides))}")


def _face_pixels(rays: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the face (...) that rays (..., 3) meet, and where, (..., 2)."""
    views = torch.einsum("fji,...j->...fi", cube_rotations(dtype=rays.dtype), rays)  # in the frame of every face
    face = views[..., 2].argmax(-1)
    right, down, forward = views.gather(-2, face[..., None, None].expand(*face.shape, 1, 3))[..., 0, :].unbind(-1)
    return face, (torch.stack((right, down), dim=-1) / forward[..., None] + 1) * (size / 2) - 0.5


def _unifuse_faces(size: int, height: int, width: int) -> Tensor:
    steps = torch.linspace(-0.5, 0.5, size, dtype=torch.float64).float()
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    rays = torch.stack((columns, rows, torch.full_like(rows, 0.5)), dim=-1) @ cube_rotations()[:, None].mT
    x, y, z = rays.unbind(-1)
    longitude, latitude = torch.atan2(x, z), torch.atan2(-y, (x * x + z * z).sqrt())
    column = ((longitude / (2 * math.pi) + 0.5) * width - 0.5).double()
    row = ((-latitude / math.pi + 0.5) * height - 0.5).double()
    return torch.stack((_scipy_wrap(column, width), _scipy_wrap(row, height + 2)), dim=-1)


def _scipy_wrap(x: Tensor, length: int) -> Tensor:
    """Bring coordinates into [0, length - 1] as SciPy's mode "wrap" does, whose period is one short of the length."""
    period = length - 1
    below = x + period * ((-x / period).trunc() + 1)
    return torch.where(x < 0, below, torch.where(x > period, x - period * (x / period).trunc(), x))


def _unifuse_erp(height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    face = _unifuse_face_of_erp(height, width)
    # The published code computes every step in float32.
    column, row = torch.arange(width).float(), torch.arange(height).float()
    longitude = (((column + 0.5) / width - 0.5) * 2 * math.pi).expand(height, width)
    latitude = (-((row + 0.5) / height - 0.5) * math.pi)[:, None].expand(height, width)
    turned = torch.stack([longitude - math.pi * i / 2 for i in range(4)])
    around = turned.gather(0, face.clamp(max=3)[None])[0]
    radius = 0.5 * _numpy(np.tan, math.pi / 2 - latitude.abs())
    level = face < 4
    u = torch.where(level, 0.5 * _numpy(np.tan, around), radius * _numpy(np.sin, longitude))
    sign = torch.where(face == 4, 1.0, -1.0)
    upright = -0.5 * _numpy(np.tan, latitude) / _numpy(np.cos, around)
    v = torch.where(level, upright, sign * radius * _numpy(np.cos, longitude))
    uv = torch.stack((u, v), dim=-1).clamp(-0.5, 0.5) * 2
    return face, (uv.double() + 1) / 2 * (size - 1)


def _numpy(function: np.ufunc, x: Tensor) -> Tensor:
    """Apply one of NumPy's functions: in float32, the last bits of the published maps are NumPy's, not torch's."""
    return torch.from_numpy(function(x.numpy()))


def _unifuse_face_of_erp(height: int, width: int) -> Tensor:
    """Return the face (H, W): the borders of the upper and lower ones are rounded to rows, column by column."""
    if width % 4:  # the published code has no such map
        return _face_pixels(erp_rays(height, width, dtype=torch.float64), 1)[0]
    quarter = width // 4
    shift = 3 * width // 8
    face = torch.arange(4).repeat_interleave(quarter).roll(shift).expand(height, width)
    angle = torch.linspace(-math.pi, math.pi, quarter, dtype=torch.float64) / 4
    rows = height // 2 - (angle.cos().atan() * height / math.pi).round().long()
    upper = (torch.arange(height)[:, None] < rows).repeat(1, 4).roll(shift, 1)
    return torch.where(upper.flip(0), 5, torch.where(upper, 4, face))


def _quarter_turn(axis: int, quarters: int, dtype: torch.dtype) -> Tensor:
    """Return the rotation (3, 3) about one axis, from an angle and with numbers of the given type."""
    angle = torch.tensor(quarters * math.pi / 2, dtype=torch.float64).to(dtype).double()
    matrix = torch.eye(3, dtype=torch.float64)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = angle.cos()
    matrix[i, j], matrix[j, i] = -angle.sin(), angle.sin()
    return matrix.to(dtype).double()


def _bifuse_faces(size: int, height: int, width: int) -> Tensor:
    steps = (2 * torch.arange(size, dtype=torch.float64) - (size - 1)) / size
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    rays = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1)
    rays = rays / rays.norm(dim=-1, keepdim=True)
    # The published rotations are float32: their quarter turns are off by about 1e-8.
    turns = torch.stack([_quarter_turn(axis, n, torch.float32) for axis, n in BIFUSE_AXES])
    x, y, z = (rays @ turns[:, None]).unbind(-1)
    angles = torch.stack((torch.atan2(x, z) / math.pi, torch.asin(y.clamp(-1, 1)) / (math.pi / 2)), dim=-1)
    scale = torch.tensor((width - 1, height - 1), dtype=torch.float64)
    return (angles.float().double() + 1) / 2 * scale


def _bifuse_erp(height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    longitude = (torch.arange(width, dtype=torch.float64) / max(width - 1, 1) - 0.5) * 2 * math.pi
    down = ((torch.arange(height, dtype=torch.float64) / max(height - 1, 1) - 0.5) * math.pi)[:, None]
    rays = torch.stack(
        (longitude.sin() * down.cos(), down.sin().expand(height, width), longitude.cos() * down.cos()), dim=-1
    )
    distance = 1 / (rays @ torch.tensor(BIFUSE_NORMALS, dtype=torch.float64).T)
    distance, face = torch.where(distance < 0, torch.inf, distance).min(-1)
    turns = torch.stack([_quarter_turn(axis, n, torch.float64) for axis, n in BIFUSE_AXES])[face]
    x, y, z = ((distance[..., None] * rays)[..., None, :] @ turns.mT)[..., 0, :].unbind(-1)
    pixels = torch.stack((x, y), dim=-1) / z[..., None] * (size / 2) + (size - 1) / 2
    return face, pixels.clamp(0, size - 1).float().double()
