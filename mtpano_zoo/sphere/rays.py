"""Rays of a panorama, a camera and a cube, and the pixels where they land.

One frame everywhere: right-handed, x right, y down, z forward. Pixel coordinates start at the centre of the first
pixel, so integers are pixel centres and the image spans [-0.5, width - 0.5].
"""

import math

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere.precision import at_least_float32, check_floating, floating, widest

__all__ = (
    "cube_rays",
    "cube_rotations",
    "erp_angles",
    "erp_latitudes",
    "erp_rays",
    "intrinsics_from_fov",
    "longitude_and_down",
    "perspective_rays",
    "rays_to_angles",
    "rays_to_pixels",
    "rotate_rays",
    "rotation_matrix",
    "unit",
)


def erp_angles(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return the longitude of every column (W,) and the latitude of every row (H,) in radians.

    Longitude is positive to the right, latitude positive up.

    Raises:
        InputError: If a side is not positive, or ``dtype`` is not a floating-point type.

    Example:
        >>> longitude, latitude = erp_angles(2, 4)
        >>> longitude.rad2deg().tolist(), latitude.rad2deg().tolist()
        ([-135.0, -45.0, 45.0, 135.0], [45.0, -45.0])
    """
    _check_size(height, width)
    check_floating(dtype)
    columns = torch.arange(width, dtype=widest(device), device=device)
    longitude = ((columns + 0.5) / width - 0.5) * (2 * math.pi)
    return longitude.to(dtype), erp_latitudes(height, device=device, dtype=dtype)


def erp_latitudes(
    height: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the latitude of every row (H,) in radians, positive up.

    Example:
        >>> erp_latitudes(2).rad2deg().tolist()
        [45.0, -45.0]
    """
    rows = torch.arange(height, dtype=widest(device), device=device)
    return ((0.5 - (rows + 0.5) / height) * math.pi).to(dtype)


def erp_rays(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the unit rays (H, W, 3) through the pixel centres of an equirectangular image.

    Raises:
        InputError: If a side is not positive, or ``dtype`` is not a floating-point type.

    Example:
        >>> rays = erp_rays(3, 3)
        >>> (rays[1, 1] + 0.0).tolist()  # the centre looks along z
        [0.0, 0.0, 1.0]
    """
    check_floating(dtype)
    # The two short axes are computed in double precision; the outer product then costs one rounding.
    longitude, latitude = erp_angles(height, width, device=device, dtype=widest(device))
    sin_lon, cos_lon = longitude.sin().to(dtype), longitude.cos().to(dtype)
    sin_lat = latitude.sin().to(dtype)[:, None].expand(height, width)
    cos_lat = latitude.cos().to(dtype)[:, None]
    return torch.stack((cos_lat * sin_lon, -sin_lat, cos_lat * cos_lon), dim=-1)


def intrinsics_from_fov(
    fov: float | Tensor,
    height: int,
    width: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the pinhole matrix (..., 3, 3) in pixels for a horizontal field of view in degrees and square pixels.

    A tensor of fields of view yields one matrix each, on its device. The principal point is the image centre,
    ((width - 1) / 2, (height - 1) / 2).

    Raises:
        InputError: If a side is not positive, ``fov`` is a number outside (0, 180), or ``dtype`` is not a
            floating-point type.

    Example:
        >>> intrinsics_from_fov(90.0, 64, 64).round(decimals=3).tolist()
        [[32.0, 0.0, 31.5], [0.0, 32.0, 31.5], [0.0, 0.0, 1.0]]
    """
    _check_size(height, width)
    check_floating(dtype)
    if isinstance(fov, Tensor):
        device = fov.device if device is None else device
    elif not 0 < fov < 180:
        raise InputError(f"a perspective view needs a field of view between 0 and 180 degrees, got {fov}")
    half = torch.as_tensor(fov, dtype=widest(device), device=device).deg2rad() / 2
    focal = (width / (2 * torch.tan(half))).to(dtype)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = (
        torch.stack((focal, zero, one * ((width - 1) / 2)), dim=-1),
        torch.stack((zero, focal, one * ((height - 1) / 2)), dim=-1),
        torch.stack((zero, zero, one), dim=-1),
    )
    return torch.stack(rows, dim=-2)


def perspective_rays(
    height: int,
    width: int,
    *,
    fov: float | Tensor | None = None,
    intrinsics: Tensor | None = None,
    rotation: Tensor | None = None,
    normalize: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the rays (..., H, W, 3) of a pinhole camera through its pixel centres.

    They are in the camera's frame or, with its camera-to-world rotation (..., 3, 3), in the frame of the panorama.
    Leading dimensions of camera and rotation broadcast.

    Args:
        height: Rows of the view.
        width: Columns of the view.
        fov: Horizontal field of view in degrees, a number or a tensor (...).
        intrinsics: Pinhole matrix (..., 3, 3) in pixels in place of ``fov``; sets device and type of the rays
            (float32 if it holds integers).
        rotation: See above.
        normalize: Return unit rays; otherwise z = 1 in the camera frame, so that z-depth times ray is the point.
        device: Device of the rays with ``fov``; by default that of the rotation.
        dtype: Type of the rays with ``fov``.

    Raises:
        InputError: If not exactly one of fov and intrinsics is passed, or an argument has a wrong value or shape.

    Example:
        >>> perspective_rays(1, 2, fov=90.0, normalize=False).round(decimals=3).tolist()
        [[[-0.5, 0.0, 1.0], [0.5, 0.0, 1.0]]]
    """
    _check_size(height, width)
    if device is None and rotation is not None:
        device = rotation.device
    if fov is not None and intrinsics is None:
        check_floating(dtype)
        intrinsics = intrinsics_from_fov(fov, height, width, device=device, dtype=at_least_float32(dtype))
    elif fov is not None or intrinsics is None:
        raise InputError("pass exactly one of fov and intrinsics")
    else:
        dtype = floating(intrinsics).dtype
    if intrinsics.shape[-2:] != (3, 3):
        raise InputError(f"intrinsics must be (..., 3, 3), got {tuple(intrinsics.shape)}")
    # In half precision, column numbers beyond 2048 would be rounded.
    intrinsics = intrinsics.to(at_least_float32(dtype))
    if rotation is None:
        rotation = torch.eye(3, device=intrinsics.device)
    _check_rotation(rotation)
    right, down, forward = rotation.to(intrinsics)[..., None].unbind(-2)
    k = intrinsics[..., None, None]
    column = (torch.arange(width, device=k.device, dtype=k.dtype) - k[..., 0, 2, :, :]) / k[..., 0, 0, :, :]
    row = (torch.arange(height, device=k.device, dtype=k.dtype) - k[..., 1, 2, :, :]) / k[..., 1, 1, :, :]
    # A ray is a part that varies along the row plus one that varies along the column. Each component is one plane in
    # memory, so that arithmetic on x, y and z runs over contiguous numbers.
    along_row = right * column
    along_column = (down - right * (k[..., 0, 1, :, :] / k[..., 0, 0, :, :])) * row + forward
    rays = (along_column[..., :, None] + along_row[..., None, :]).movedim(-3, -1)
    return (unit(rays) if normalize else rays).to(dtype)


def cube_rays(size: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the unit rays (6, S, S, 3) through the pixel centres of the faces front, right, back, left, up, down.

    Each face spans 90 degrees. The bottom edge of the up face and the top edge of the down face touch the front face.

    Raises:
        InputError: If the size is not positive.

    Example:
        >>> (cube_rays(1).view(6, 3) + 0.0).tolist()[:3]  # front, right, back
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]
    """
    rays = perspective_rays(size, size, fov=90.0, device=device, dtype=dtype)
    return rotate_rays(rays, cube_rotations(device=device, dtype=dtype))


def cube_rotations(*, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return camera-to-world rotations (6, 3, 3) of the cube faces front, right, back, left, up, down.

    Example:
        >>> cube_rotations().shape
        torch.Size([6, 3, 3])
    """
    yaw = torch.tensor([0.0, 90.0, 180.0, -90.0, 0.0, 0.0], dtype=torch.float64)
    pitch = torch.tensor([0.0, 0.0, 0.0, 0.0, 90.0, -90.0], dtype=torch.float64)
    # Quarter turns consist of 0 and 1; rounding removes the 6e-17 that cos(90 degrees) leaves.
    return rotation_matrix(yaw, pitch).round().to(dtype).to(device)


def rotation_matrix(
    yaw: float | Tensor = 0.0,
    pitch: float | Tensor = 0.0,
    roll: float | Tensor = 0.0,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the camera-to-world rotation (..., 3, 3) for angles in degrees, which may be tensors that broadcast.

    A positive yaw turns the camera to the right, a positive pitch up, a positive roll clockwise (its right side
    drops). The camera rolls first, then pitches, then yaws: R = R_y(yaw) R_x(pitch) R_z(roll).

    Raises:
        InputError: If ``dtype`` is not a floating-point type.

    Example:
        >>> forward = torch.tensor([0.0, 0.0, 1.0])
        >>> (rotation_matrix(yaw=90) @ forward).round().tolist()  # to the right
        [1.0, 0.0, 0.0]
        >>> (rotation_matrix(pitch=90) @ forward).round().tolist()  # up
        [0.0, -1.0, 0.0]
    """
    tensors = [angle for angle in (yaw, pitch, roll) if isinstance(angle, Tensor)]
    if device is None and tensors:
        device = tensors[0].device
    if dtype is None:
        dtype = tensors[0].dtype if tensors and tensors[0].is_floating_point() else torch.float32
    check_floating(dtype)
    # Sines and cosines are computed in double precision, and on the device only if an angle is already there.
    place = device if tensors else None
    angles = [torch.as_tensor(a, dtype=widest(place), device=place).deg2rad() for a in (yaw, pitch, roll)]
    shape = (angles[0] + angles[1] + angles[2]).shape
    sy, sp, sr = (a.sin().expand(shape) for a in angles)
    cy, cp, cr = (a.cos().expand(shape) for a in angles)
    rows = (
        torch.stack((cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, sy * cp), dim=-1),
        torch.stack((cp * sr, cp * cr, -sp), dim=-1),
        torch.stack((-sy * cr + cy * sp * sr, sy * sr + cy * sp * cr, cy * cp), dim=-1),
    )
    return torch.stack(rows, dim=-2).to(dtype).to(device)


def rotate_rays(rays: Tensor, rotation: Tensor) -> Tensor:
    """Rotate rays (..., H, W, 3) by rotations (..., 3, 3) from the frame of a camera to that of the panorama.

    Leading dimensions broadcast: one image of rays and N rotations become (N, H, W, 3).

    Raises:
        InputError: If the rotation is not (..., 3, 3) or the rays are not (..., H, W, 3).

    Example:
        >>> forward = torch.tensor([[[0.0, 0.0, 1.0]]])
        >>> rotate_rays(forward, cube_rotations()[1]).round().abs().tolist()  # the right face looks along x
        [[[1.0, 0.0, 0.0]]]
    """
    _check_rotation(rotation)
    if rays.ndim < 3 or rays.shape[-1] != 3:
        raise InputError(f"rays must be (..., H, W, 3), got {tuple(rays.shape)}")
    rays = floating(rays)
    # Written out, because a matrix product may run in TF32 or bfloat16 when the user allows that for networks.
    matrix = rotation.to(rays.dtype)[..., None, None]
    x, y, z = rays[..., None, :, :, :].unbind(-1)
    turned = matrix[..., 0, :, :] * x + matrix[..., 1, :, :] * y + matrix[..., 2, :, :] * z
    return turned.movedim(-3, -1)


def rays_to_angles(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return longitude (...), positive to the right, and latitude (...), positive up, of rays (..., 3) in radians.

    Example:
        >>> longitude, latitude = rays_to_angles(torch.tensor([1.0, 0.0, 1.0]))
        >>> longitude.rad2deg().item(), abs(latitude.item())
        (45.0, 0.0)
    """
    longitude, down = longitude_and_down(rays)
    return longitude, -down


def longitude_and_down(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return longitude and angle below the horizon, which become pixel coordinates without a change of sign.

    Example:
        >>> longitude, down = longitude_and_down(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        >>> longitude.rad2deg().round().tolist(), down.rad2deg().round().tolist()
        ([90.0, 0.0], [0.0, 90.0])
    """
    x, y, z = floating(rays).unbind(-1)
    level = torch.hypot(x, z)
    if rays.requires_grad:
        # At a pole every longitude is right, but the gradients of hypot(0, 0) and atan2(0, 0) are not finite.
        pole = level == 0
        z = torch.where(pole, 1, z)
        level = torch.where(pole, 0, torch.hypot(x, z))
    return torch.atan2(x, z), torch.atan2(y, level)


def rays_to_pixels(rays: Tensor, height: int, width: int) -> Tensor:
    """Return the pixel coordinates (u, v), (..., 2), where rays (..., 3) of any length meet an H x W panorama.

    u runs over [-0.5, W - 0.5], v over [-0.5, H - 0.5]; integers are pixel centres.

    Raises:
        InputError: If a side is not positive or the last dimension is not 3.

    Example:
        >>> rays_to_pixels(torch.tensor([0.0, 0.0, 5.0]), 512, 1024).tolist()  # between the middle columns and rows
        [511.5, 255.5]
    """
    _check_size(height, width)
    if rays.shape[-1] != 3:
        raise InputError(f"rays must be (..., 3), got {tuple(rays.shape)}")
    longitude, down = longitude_and_down(rays.to(at_least_float32(rays.dtype)))
    u = longitude * (width / (2 * math.pi)) + (width / 2 - 0.5)
    v = down * (height / math.pi) + (height / 2 - 0.5)
    return torch.stack((u, v), dim=-1)


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Scale vectors to length one; a zero vector stays zero, and its gradient is zero.

    Example:
        >>> unit(torch.tensor([[0.0, 3.0, 4.0], [0.0, 0.0, 0.0]])).tolist()
        [[0.0, 0.6000000238418579, 0.800000011920929], [0.0, 0.0, 0.0]]
    """
    vectors = floating(vectors)
    square = (vectors * vectors).sum(dim, keepdim=True)
    nonzero = square > 0
    return vectors * torch.where(nonzero, torch.where(nonzero, square, 1).rsqrt(), 0)


def _check_rotation(rotation: Tensor) -> None:
    if rotation.shape[-2:] != (3, 3):
        raise InputError(f"a rotation must be (..., 3, 3), got {tuple(rotation.shape)}")


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise InputError(f"height and width must be at least 1 pixel, got {height} x {width}")
