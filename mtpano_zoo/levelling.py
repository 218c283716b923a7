"""The up direction of a panorama, from the straight edges in it.

A straight edge of the world lies on a great circle of the panorama. The normal of that circle is orthogonal to the
direction of the edge, so the normals of all vertical edges are orthogonal to up. The search is for the direction that
most edges agree with, in a world of three orthogonal directions (J. Coughlan and A. Yuille, "Manhattan World", ICCV
1999). It needs no network: one that was trained with upright cameras says upright whatever it sees.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.resize import resize
from mtpano_zoo.sphere import erp_angles, pad, unit

__all__ = ("EDGE_ROWS", "MAX_TILT", "estimate_up", "levelling_rotation")

MAX_TILT = 45.0  # degrees; beyond it, a wall is nearer to the top of the image than the ceiling is
EDGE_ROWS = 256  # rows in which edges are looked for
WINDOW = 5  # pixels over which an edge is measured
EDGES = 12000  # the strongest pixels; most rooms have fewer that are edges
FULL_CONTRAST = 0.1  # change per pixel from which an edge counts fully
BIN = 2.0  # degrees: circles this close are one line, which counts with the root of its pixels
TOLERANCE = 2.0  # degrees between an edge and the direction that it agrees with
FINE_TOLERANCES = (2.0, 1.5, 1.0, 1.0, 1.0)
STEP = 2.0  # degrees between directions that are tried
CANDIDATES = 40  # directions whose horizontal partners are looked for
MIN_GAIN = 1.5  # agreement of up over that of the average direction, below which nothing is said


def estimate_up(image: Tensor) -> Tensor | None:
    """Return the unit vector (3,) that points up, in the frame of the camera, or None if the edges do not tell.

    Only tilts up to `MAX_TILT` degrees are looked for.

    Args:
        image: RGB (3, H, W) in [0, 1], equirectangular.

    Raises:
        InputError: If the image is not (3, H, W).

    Example:
        >>> estimate_up(torch.full((3, 32, 64), 0.5)) is None
        True
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"levelling needs an image (3, H, W), got {tuple(image.shape)}")
    circles, weights = _lines(*_edges(image.detach().float().cpu()))
    if weights.sum() == 0:
        return None
    directions = _cone()
    agreement = _agreement(directions, circles, weights)
    best = agreement.topk(CANDIDATES).indices
    partners = torch.stack([_best_partners(direction, circles, weights) for direction in directions[best]])
    chosen = best[(agreement[best] + partners).argmax()]
    if agreement[chosen] < MIN_GAIN * agreement.mean():
        return None
    return _refined(directions[chosen], circles, weights)


def levelling_rotation(up: Tensor) -> Tensor:
    """Return the smallest camera-to-world rotation (3, 3) to a camera whose up is `up` (3,), for `sphere.rotate`.

    Example:
        >>> levelling_rotation(torch.tensor([0.0, -1.0, 0.0])).equal(torch.eye(3))
        True
    """
    upright = up.new_tensor([0.0, -1.0, 0.0])
    axis = torch.linalg.cross(upright, unit(up))
    zero = axis.new_zeros(())
    x, y, z = axis
    turn = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero)).view(3, 3)
    return torch.eye(3, dtype=up.dtype) + turn + turn @ turn / (1 + upright @ unit(up))


def _edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normals (N, 3) of the great circles along edges, and how strong and straight these are (N,).

    The gradient on the sphere, as a vector in space, is the normal of the circle along the edge. It is the same all
    along a straight edge, so the structure tensor can be averaged in space, without a frame for each pixel.
    """
    grey = resize(image, EDGE_ROWS, 2 * EDGE_ROWS).mean(0).clamp_min(0).sqrt()
    longitude, latitude = (
        angle.view(shape) for angle, shape in zip(erp_angles(EDGE_ROWS, 2 * EDGE_ROWS), ((1, -1), (-1, 1)), strict=True)
    )
    around = pad(grey[None, None], (1, 1, 1, 1))
    smooth, slope = torch.tensor([3.0, 10.0, 3.0]) / 16, torch.tensor([-0.5, 0.0, 0.5])
    east = F.conv2d(around, torch.outer(smooth, slope)[None, None])[0, 0] / latitude.cos()
    north = -F.conv2d(around, torch.outer(slope, smooth)[None, None])[0, 0]
    gradient = torch.stack(
        (
            east * longitude.cos() - north * latitude.sin() * longitude.sin(),
            -north * latitude.cos(),
            -east * longitude.sin() - north * latitude.sin() * longitude.cos(),
        )
    )
    tensor = (gradient[:, None] * gradient[None]).flatten(0, 1)
    tensor = F.avg_pool2d(pad(tensor[None], (WINDOW // 2,) * 4), WINDOW, 1)[0]
    area = latitude.cos().expand_as(grey).flatten()
    strongest = (tensor[[0, 4, 8]].sum(0).flatten() * area).topk(EDGES).indices
    values, vectors = torch.linalg.eigh(tensor.flatten(1)[:, strongest].T.view(-1, 3, 3))
    straight = ((values[:, 2] - values[:, 1]) / values.sum(1).clamp_min(1e-12)).clamp(0, 1)
    strength = (values[:, 2].clamp_min(0).sqrt() / FULL_CONTRAST).clamp_max(1)
    return vectors[:, :, 2], straight**2 * strength * area[strongest]


def _lines(normals: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Join edges on nearly the same great circle: one long edge must not outvote many short ones."""
    normals = torch.where(normals[:, :1] < 0, -normals, normals)
    _, index = (normals / math.radians(BIN)).round().unique(dim=0, return_inverse=True)
    total = weights.new_zeros(int(index.max()) + 1).index_add(0, index, weights)
    mean = normals.new_zeros(len(total), 3).index_add(0, index, normals * weights[:, None])
    return unit(mean), total.sqrt()


def _cone() -> Tensor:
    """Return unit vectors (N, 3) about `STEP` apart, at most `MAX_TILT` away from the top of the image."""
    rings = [torch.tensor([[0.0, -1.0, 0.0]])]
    for degrees in torch.arange(STEP, MAX_TILT + 1e-6, STEP).tolist():
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        count = round(2 * math.pi * sine / math.radians(STEP))
        angle = torch.arange(count) * (2 * math.pi / count)
        rings.append(torch.stack((sine * angle.cos(), torch.full_like(angle, -cosine), sine * angle.sin()), dim=-1))
    return torch.cat(rings)


def _agreement(directions: Tensor, circles: Tensor, weights: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return which share (...) of the lines may run in directions (..., 3): those whose circles pass through them."""
    width = math.sin(math.radians(tolerance))
    return torch.exp(-((directions @ circles.T / width) ** 2) / 2) @ weights / weights.sum()


def _best_partners(up: Tensor, circles: Tensor, weights: Tensor) -> Tensor:
    """Return the agreement with the best two directions that are orthogonal to `up` (3,) and to each other."""
    first = unit(torch.linalg.cross(up, up.new_tensor([0.0, 0.0, 1.0])))
    second = torch.linalg.cross(up, first)
    angle = torch.arange(0, 180, STEP).deg2rad()[:, None]
    agreement = _agreement(first * angle.cos() + second * angle.sin(), circles, weights)
    return (agreement + agreement.roll(len(agreement) // 2)).max()


def _refined(up: Tensor, circles: Tensor, weights: Tensor) -> Tensor:
    """Return the direction most nearly orthogonal to the circles, by least squares with ever fewer outliers."""
    for tolerance in FINE_TOLERANCES:
        width = math.sin(math.radians(tolerance))
        inliers = weights * torch.exp(-((circles @ up / width) ** 2) / 2)
        _, vectors = torch.linalg.eigh((circles * inliers[:, None]).T @ circles)
        up = vectors[:, 0] * torch.sign(vectors[:, 0] @ up)
    return up
