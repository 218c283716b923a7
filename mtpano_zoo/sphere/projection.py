"""Rotate a panorama, cut it into cube faces or perspective views, and project those back.

Every rotation here is camera-to-world: it maps directions of the new camera to the frame of the panorama. In direction
r, the new camera sees what the panorama shows in direction R r, and a vector v of the panorama becomes R^T v for the
new camera. Modes are those of :func:`mtpano_zoo.sphere.sample`.
"""

import math

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere.precision import at_least_float32, check_floating, floating
from mtpano_zoo.sphere.rays import (
    cube_rays,
    cube_rotations,
    erp_rays,
    intrinsics_from_fov,
    perspective_rays,
    rotate_rays,
    rotation_matrix,
)
from mtpano_zoo.sphere.sampling import Mode, check_mode, interpolate, padded, padded_points, sample
from mtpano_zoo.tasks import NO_LABEL

__all__ = (
    "distance_to_z",
    "from_cubemap",
    "from_perspective",
    "icosahedron_rotations",
    "rotate",
    "to_cubemap",
    "to_perspective",
    "turn_vectors",
    "z_to_distance",
)

# Pixels of perspective views processed at once, so that their coordinates stay in the processor's cache.
CHUNK = 2**19


def rotate(erp: Tensor, rotation: Tensor, mode: Mode = "image") -> Tensor:
    """Return a panorama (B, C, H, W) as a camera turned by R, (3, 3) or (B, 3, 3), sees it; vectors turn with it.

    A yaw by whole columns is exactly a roll of the map, except under ``torch.compile`` or for a rotation that requires
    a gradient, because the matrix is not inspected then.

    Raises:
        InputError: If a shape does not fit, the mode is unknown, or vectors do not have three components.

    Example:
        >>> erp = torch.arange(4.0).expand(1, 1, 2, 4)
        >>> rotate(erp, rotation_matrix(yaw=90))[0, 0].tolist()  # a camera that turns right sees what was on its right
        [[1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, 0.0]]
    """
    if erp.ndim != 4 or rotation.shape not in ((3, 3), (erp.shape[0], 3, 3), (1, 3, 3)):
        raise InputError(
            f"expected a map (B, C, H, W) and a rotation (3, 3) or (B, 3, 3), "
            f"got {tuple(erp.shape)} and {tuple(rotation.shape)}"
        )
    check_mode(erp, mode, channel=1)
    rotation = rotation.reshape(-1, 3, 3)
    columns = _whole_columns(rotation, erp.shape[3])
    if columns is None:
        rays = erp_rays(*erp.shape[2:], device=erp.device, dtype=_coordinate_type(erp))
        turned = sample(erp, rotate_rays(rays, rotation), mode)
    elif len(columns) == 1:
        turned = erp.roll(-columns[0], -1)
    else:
        turned = torch.stack([one.roll(-count, -1) for one, count in zip(erp, columns, strict=True)])
    return turn_vectors(turned, rotation.mT) if mode == "vectors" else turned


def turn_vectors(vectors: Tensor, rotation: Tensor) -> Tensor:
    """Rotate a field of vectors (..., 3, H, W) by (..., 3, 3): every v becomes R v and stays at its pixel.

    Example:
        >>> ahead = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
        >>> turn_vectors(ahead, rotation_matrix(yaw=90)).flatten().round().tolist()  # x points right
        [1.0, 0.0, 0.0]
    """
    return rotate_rays(vectors.movedim(-3, -1), rotation).movedim(-1, -3)


def to_cubemap(erp: Tensor, size: int, mode: Mode = "image") -> Tensor:
    """Cut a map (B, C, H, W) into cube faces (B, 6, C, S, S): front, right, back, left, up, down.

    Vectors keep the frame of the panorama.

    Raises:
        InputError: If the map is not (B, C, H, W), the size is not positive, or the mode does not fit.

    Example:
        >>> depth = torch.full((1, 1, 32, 64), 2.0)
        >>> faces = to_cubemap(depth, 16, "depth")
        >>> faces.shape, from_cubemap(faces, 32, 64, "depth").unique().item()
        (torch.Size([1, 6, 1, 16, 16]), 2.0)
    """
    rays = cube_rays(size, device=erp.device, dtype=_coordinate_type(erp))
    return sample(erp, rays[None], mode).movedim(2, 1).contiguous()


def from_cubemap(faces: Tensor, height: int, width: int, mode: Mode = "image") -> Tensor:
    """Assemble an equirectangular map (B, C, H, W) from the cube faces (B, 6, C, S, S) of :func:`to_cubemap`.

    Raises:
        InputError: If the faces are not (B, 6, C, S, S), a side is not positive, or the mode does not fit.

    Example:
        >>> from_cubemap(torch.ones(1, 6, 3, 8, 8), 8, 16).shape
        torch.Size([1, 3, 8, 16])
    """
    if faces.ndim != 5 or faces.shape[1] != 6 or faces.shape[3] != faces.shape[4]:
        raise InputError(f"expected faces (B, 6, C, S, S), got {tuple(faces.shape)}")
    check_mode(faces, mode, channel=2)
    size, dtype = faces.shape[-1], _coordinate_type(faces)
    # Pad every face by one pixel, sampled from its neighbours, so that interpolation does not stop at the edges.
    intrinsics = torch.tensor(
        [[size / 2, 0, (size + 1) / 2], [0, size / 2, (size + 1) / 2], [0, 0, 1]], device=faces.device, dtype=dtype
    )
    turns = cube_rotations(device=faces.device, dtype=dtype)
    around = perspective_rays(size + 2, size + 2, intrinsics=intrinsics, rotation=turns)
    ringed = _sample_faces(faces, around, mode, ring=0).movedim(1, 2)
    ringed[..., 1:-1, 1:-1] = faces
    return _sample_faces(ringed, erp_rays(height, width, device=faces.device, dtype=dtype), mode, ring=1)


def to_perspective(
    erp: Tensor,
    rotation: Tensor,
    height: int,
    width: int,
    *,
    fov: float | Tensor | None = None,
    intrinsics: Tensor | None = None,
    mode: Mode = "image",
    out: Tensor | None = None,
) -> Tensor:
    """Cut perspective views (B, V, C, h, w) from a map (B, C, H, W).

    Depth stays the distance along the ray (see :func:`distance_to_z`). Vectors turn into the frame of their view.

    Args:
        erp: Panorama.
        rotation: Camera-to-world (V, 3, 3), the same views of every panorama, or (B, V, 3, 3); (3, 3) is one view.
        height: Rows of a view.
        width: Columns of a view.
        fov: Horizontal field of view in degrees: a number, (V,) or (B, V).
        intrinsics: Pinhole matrix in pixels in place of ``fov``: (3, 3), (V, 3, 3) or (B, V, 3, 3).
        mode: See :func:`mtpano_zoo.sphere.sample`.
        out: Contiguous memory (B, V, C, h, w) for the views, of the map's type. Reuse it from one panorama to the
            next: allocating it takes about a fifth of the time that the views need.

    Raises:
        InputError: If a shape, a type or the mode does not fit, or not exactly one of fov and intrinsics is passed.

    Example:
        >>> directions = erp_rays(32, 64).movedim(-1, 0)[None]  # every pixel holds the direction it shows
        >>> view = to_perspective(directions, rotation_matrix(pitch=90), 5, 5, fov=90.0)
        >>> round(view[0, 0, 1, 2, 2].item(), 2)  # the centre of a view that looks up; y points down
        -1.0
    """
    if erp.ndim != 4:
        raise InputError(f"expected a map (B, C, H, W), got {tuple(erp.shape)}")
    check_mode(erp, mode, channel=1)
    rotation, intrinsics = _cameras(erp, rotation, height, width, fov, intrinsics)
    ring = padded(erp, mode)
    shape = (erp.shape[0], rotation.shape[1], erp.shape[1], height, width)
    if out is not None and (out.shape != shape or out.dtype != erp.dtype or not out.is_contiguous()):
        raise InputError(f"out must be contiguous {shape} {erp.dtype}, got {tuple(out.shape)} {out.dtype}")
    views = erp.new_empty(shape) if out is None else out
    step = max(1, CHUNK // (height * width))
    for start in range(0, rotation.shape[1], step):
        part = (slice(None), slice(start, start + step))
        rays = perspective_rays(height, width, intrinsics=intrinsics[part], rotation=rotation[part], normalize=False)
        interpolate(ring, padded_points(rays, *erp.shape[2:]), mode, out=views[part].movedim(1, 2))
    if mode == "vectors":
        turned = turn_vectors(views, rotation.mT)
        views = turned if out is None else out.copy_(turned)
    return views


def from_perspective(
    views: Tensor,
    rotation: Tensor,
    height: int,
    width: int,
    *,
    fov: float | Tensor | None = None,
    intrinsics: Tensor | None = None,
    mode: Mode = "image",
) -> tuple[Tensor, Tensor]:
    """Project every view (B, V, C, h, w) onto its own panorama (B, V, C, H, W); also return where it is valid.

    This inverts :func:`to_perspective` with the same cameras; nothing is blended. Pixels that a view does not see are
    false in the mask (B, V, H, W) and hold zero, or 255 in labels. Depth must be the distance along the ray (see
    :func:`z_to_distance`). Vectors turn into the frame of the panorama. The outer half pixel of a view repeats its
    outermost values.

    Raises:
        InputError: If a shape or the mode does not fit, or not exactly one of fov and intrinsics is passed.

    Example:
        >>> maps, valid = from_perspective(torch.ones(1, 1, 3, 32, 32), torch.eye(3), 32, 64, fov=90.0)
        >>> maps.shape, valid[0, 0, 16].sum().item()  # 90 of 360 degrees at the horizon
        (torch.Size([1, 1, 3, 32, 64]), 16)
    """
    if views.ndim != 5:
        raise InputError(f"expected views (B, V, C, h, w), got {tuple(views.shape)}")
    check_mode(views, mode, channel=2)
    batch, count, channels, rows, columns = views.shape
    rotation, intrinsics = _cameras(views, rotation, rows, columns, fov, intrinsics)
    if rotation.shape[1] != count:
        raise InputError(f"{count} views need as many rotations, got {rotation.shape[1]}")
    rays = erp_rays(height, width, device=views.device, dtype=_coordinate_type(views))
    maps = views.new_empty(batch, count, channels, height, width)
    valid = torch.empty(batch, count, height, width, device=views.device, dtype=torch.bool)
    for i in range(count):
        right, down, forward = rotate_rays(rays, rotation[:, i].mT).unbind(-1)
        seen = forward > 0
        right, down = (torch.where(seen, side / torch.where(seen, forward, 1), 2) for side in (right, down))
        k = intrinsics[:, i, :, :, None, None]
        # Normalised to the view: its outer borders are -1 and 1.
        x = (k[:, 0, 0] * right + k[:, 0, 1] * down + k[:, 0, 2] + 0.5) * (2 / columns) - 1
        y = (k[:, 1, 1] * down + k[:, 1, 2] + 0.5) * (2 / rows) - 1
        seen = seen & (x.abs() <= 1) & (y.abs() <= 1)
        fill = NO_LABEL if mode == "label" else 0
        maps[:, i] = torch.where(seen[:, None], interpolate(views[:, i], torch.stack((x, y), dim=-1), mode), fill)
        valid[:, i] = seen
    return (turn_vectors(maps, rotation) if mode == "vectors" else maps), valid


def distance_to_z(distance: Tensor, intrinsics: Tensor) -> Tensor:
    """Convert the distance along the ray (..., h, w) in perspective views to z-depth; no depth (0) stays 0.

    Intrinsics (..., 3, 3) are in pixels; their leading dimensions match the first ones of the views. Integer distances
    become float32.

    Raises:
        InputError: If the intrinsics have more leading dimensions than the views, or are not (..., 3, 3).

    Example:
        >>> intrinsics = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
        >>> distance_to_z(torch.full((3, 3), 2.0), intrinsics)[1].round(decimals=3).tolist()  # at 45, 0, 45 degrees
        [1.4140000343322754, 2.0, 1.4140000343322754]
    """
    return (distance / _stretch(distance, intrinsics)).to(floating(distance).dtype)


def z_to_distance(z: Tensor, intrinsics: Tensor) -> Tensor:
    """Convert z-depth (..., h, w) in perspective views to the distance along the ray: the inverse of distance_to_z.

    Example:
        >>> intrinsics = torch.tensor([[1.0, 0.0, 1.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
        >>> round(z_to_distance(torch.ones(1, 3), intrinsics)[0, 0].item(), 3)
        1.871
    """
    return (z * _stretch(z, intrinsics)).to(floating(z).dtype)


def icosahedron_rotations(*, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return camera-to-world rotations (12, 3, 3) to the corners of an icosahedron: up, five above, five below, down.

    No direction is more than 37.4 degrees from one of them, so square views of 90 degrees cover the sphere.

    Raises:
        InputError: If ``dtype`` is not a floating-point type.

    Example:
        >>> forward = icosahedron_rotations()[:, :, 2]  # where the twelve cameras look
        >>> [round(y, 3) for y in forward[[0, 1, -1], 1].tolist()]  # y points down
        [-1.0, -0.447, 1.0]
    """
    check_floating(dtype)
    ring = math.degrees(math.atan(0.5))
    yaw = torch.arange(5, dtype=torch.float64) * 72
    yaws = torch.cat((yaw.new_zeros(1), yaw, yaw + 36, yaw.new_zeros(1)))
    pitches = torch.tensor([90.0, *[ring] * 5, *[-ring] * 5, -90.0], dtype=torch.float64)
    return rotation_matrix(yaws, pitches).to(dtype).to(device)


def _stretch(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Return the length of the rays with z = 1, shaped for multiplication with depth."""
    leading = intrinsics.ndim - 2
    if not 0 <= leading <= depth.ndim - 2:
        raise InputError(f"intrinsics {tuple(intrinsics.shape)} do not fit views {tuple(depth.shape)}")
    intrinsics = intrinsics.to(depth.device, at_least_float32(depth.dtype))
    rays = perspective_rays(*depth.shape[-2:], intrinsics=intrinsics, normalize=False)
    x, y, z = rays.unbind(-1)  # contiguous planes, which a norm over the last dimension would not exploit
    length = (x * x + y * y + z * z).sqrt()
    return length.reshape(*length.shape[:leading], *[1] * (depth.ndim - 2 - leading), *depth.shape[-2:])


def _coordinate_type(maps: Tensor) -> torch.dtype:
    """Return the type for coordinates; in half precision they would be off by pixels."""
    return torch.float64 if maps.dtype == torch.float64 else torch.float32


def _whole_columns(rotation: Tensor, width: int) -> list[int] | None:
    """Return by how many columns each rotation (N, 3, 3) yaws, or None if one is not a yaw by whole columns."""
    if rotation.requires_grad or torch.compiler.is_compiling() or not len(rotation):
        return None
    exact = rotation.detach().cpu().double()
    columns = (torch.atan2(exact[:, 0, 2], exact[:, 2, 2]) * (width / (2 * math.pi))).round()
    yaw = rotation_matrix(columns * (360 / width))
    return [int(count) for count in columns] if (exact - yaw).abs().max() < 1e-6 else None


def _cameras(
    maps: Tensor, rotation: Tensor, height: int, width: int, fov: float | Tensor | None, intrinsics: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return rotations and intrinsics, both (B or 1, V, 3, 3), on the maps' device and in the type for coordinates."""
    if rotation.shape[-2:] != (3, 3) or rotation.ndim > 4:
        raise InputError(f"rotation must be (3, 3), (V, 3, 3) or (B, V, 3, 3), got {tuple(rotation.shape)}")
    dtype = _coordinate_type(maps)
    if fov is not None and intrinsics is None:
        intrinsics = intrinsics_from_fov(fov, height, width, dtype=dtype)
    elif fov is not None or intrinsics is None:
        raise InputError("pass exactly one of fov and intrinsics")
    if intrinsics.shape[-2:] != (3, 3) or intrinsics.ndim > 4:
        raise InputError(f"intrinsics must be (3, 3), (V, 3, 3) or (B, V, 3, 3), got {tuple(intrinsics.shape)}")
    rotation, intrinsics = (
        cameras[(None,) * (4 - cameras.ndim)].to(maps.device, dtype) for cameras in (rotation, intrinsics)
    )
    batch, count = (max(rotation.shape[i], intrinsics.shape[i]) for i in (0, 1))
    for cameras in (rotation, intrinsics):
        if cameras.shape[0] not in (1, len(maps)) or cameras.shape[1] not in (1, count):
            raise InputError(
                f"rotation {tuple(rotation.shape)} and intrinsics {tuple(intrinsics.shape)} do not fit each other "
                f"and {len(maps)} panoramas"
            )
    return rotation.expand(batch, count, 3, 3), intrinsics.expand(batch, count, 3, 3)


def _sample_faces(faces: Tensor, rays: Tensor, mode: Mode, ring: int) -> Tensor:
    """Sample faces (B, 6, C, s, s), padded by ``ring`` pixels, in the directions (..., 3): values (B, C, ...)."""
    size = faces.shape[-1] - 2 * ring
    x, y, z = rays.unbind(-1)
    ahead, face = torch.stack((z, x, -z, -x, -y, y), dim=-1).max(-1)
    axes = cube_rotations(device=rays.device, dtype=rays.dtype)
    right, down = ((axes[:, :, axis][face] * rays).sum(-1) / ahead for axis in (0, 1))
    if ring == 0:
        # In the strip of all faces, the pixel below a face is not its neighbour on the cube: stay on pixel centres.
        right, down = (side.clamp(1 / size - 1, 1 - 1 / size) for side in (right, down))
    right, down = (side * (size / faces.shape[-1]) for side in (right, down))
    strip = faces.movedim(2, 1).flatten(2, 3)
    return interpolate(strip, torch.stack((right, (2 * face + 1 + down) / 6 - 1), dim=-1)[None], mode)
