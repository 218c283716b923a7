"""The up direction of a panorama, from the straight edges in it.

A straight edge of the world lies on a great circle of the panorama. The normal of that circle is orthogonal to the
direction of the edge, so the normals of all vertical edges are orthogonal to up. The search is for the direction that
most edges agree with, in a world of three orthogonal directions (J. Coughlan and A. Yuille, "Manhattan World", ICCV
1999). No network is used: one trained on upright cameras answers "upright" whatever it sees.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.resize import resize
from mtpano_zoo.sphere import Mode, erp_angles, pad, rotate, unit
from mtpano_zoo.tasks import MAIN_TASKS

__all__ = ("EDGE_ROWS", "MAX_TILT", "estimate_up", "levelling_rotation", "turned_back")

MAX_TILT = 45.0  # degrees; beyond it, a wall is nearer to the top of the image than the ceiling is
LEVEL = 1.0  # degrees of tilt below which a panorama is left as it is
EDGE_ROWS = 256  # rows in which edges are looked for
MARGIN = 2  # pixels around unseen areas that their darkness affects
WINDOWS = (5, 7)  # pixels over which edges are measured, for sharp ones and for noisy ones
EDGES = 12000  # the strongest pixels; most rooms have fewer that are edges
FULL_CONTRAST = 0.1  # change per pixel from which an edge counts fully
BIN = 2.0  # degrees: circles this close are one line, weighted by the square root of its pixels' weights
TOLERANCE = 2.0  # degrees between an edge and the direction that it agrees with
FINE_TOLERANCES = (3.0, 2.0, 1.5, 1.0, 1.0, 1.0)
STEP = 2.0  # degrees between directions that are tried
APART = 6.0  # degrees within which only the best direction is a candidate
PEAKS = 12  # candidates whose horizontal partners are looked for
MIN_GAIN = 1.5  # ratio of up's agreement to the average direction's, below which up is unknown


def estimate_up(image: Tensor, seen: Tensor | None = None) -> Tensor | None:
    """Return the unit vector (3,) that points up, in the frame of the camera, or None if the edges do not show it.

    Only tilts up to `MAX_TILT` degrees are looked for.

    Args:
        image: RGB (3, H, W) in [0, 1], equirectangular.
        seen: Mask (H, W) of any size, false where no camera looked: borders of a crop are not edges of the world.

    Raises:
        InputError: If the image is not (3, H, W).

    Example:
        >>> estimate_up(torch.full((3, 32, 64), 0.5)) is None
        True
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"levelling needs an image (3, H, W), got {tuple(image.shape)}")
    tensor = _structure_tensor(image.detach().float().cpu())
    if seen is not None:
        unseen = resize((~seen).byte()[None], EDGE_ROWS, 2 * EDGE_ROWS)
        beside = F.max_pool2d(pad(unseen[None], (MARGIN,) * 4), 2 * MARGIN + 1, 1)[0]
        tensor = torch.where(beside > 0, 0, tensor)
    found = [_lines(*_edges(tensor, window)) for window in WINDOWS]
    circles, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    if weights.sum() < 1e-3 * image[0].numel():  # rounding errors of an image without edges
        return None
    directions = _cone()
    agreement = _agreement(directions, circles, weights)
    around = directions @ directions.T > math.cos(math.radians(APART))
    peaks = torch.where((agreement * around).amax(1) <= agreement, agreement, 0).topk(PEAKS).indices
    candidates = torch.stack([_refined(direction, circles, weights) for direction in directions[peaks]])
    scores = _agreement(candidates, circles, weights)
    partners = torch.stack([_best_partners(direction, circles, weights) for direction in candidates])
    best = (scores + partners).argmax()
    return None if scores[best] < MIN_GAIN * agreement.mean() else candidates[best]


def levelling_rotation(up: Tensor | None) -> Tensor | None:
    """Return the smallest camera-to-world rotation (3, 3) to a level camera, for `sphere.rotate`.

    Args:
        up: Unit vector (3,) that points up in the frame of the camera. The camera stays as it is (None) if this is
            unknown or less than `LEVEL` degrees off, because turning an image blurs it a little.

    Example:
        >>> turn = levelling_rotation(torch.tensor([0.6, -0.8, 0.0]))
        >>> up = turn @ torch.tensor([0.0, -1.0, 0.0])  # of the level camera, seen by the tilted one
        >>> [round(x, 3) for x in up.tolist()]
        [0.6, -0.8, 0.0]
    """
    if up is None or -float(up[1]) > math.cos(math.radians(LEVEL)):
        return None
    x, y, z = up.tolist()
    if y > 1 - 1e-6:  # upside down: any axis will do
        return torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    cross = torch.tensor([[0.0, x, 0.0], [-x, 0.0, -z], [0.0, z, 0.0]])  # cross-product matrix of the rotation axis
    turn: Tensor = torch.eye(3) + cross.T + cross @ cross / (1 - y)
    return turn


def turned_back(task: str, values: Tensor, turn: Tensor) -> Tensor:
    """Return a map (C, h, w) of a task, seen by a camera turned by `turn` (3, 3), in the frame of the unturned one.

    Distances are interpolated like logits, as `resize` does: a prediction has no measured values to preserve.

    Example:
        >>> turned_back("depth", torch.full((1, 8, 16), 2.0), torch.eye(3)).unique().tolist()
        [2.0]
    """
    directions = MAIN_TASKS[task].kind == "direction"
    mode: Mode = "vectors" if directions else "image"
    return rotate((unit(values, dim=0) if directions else values)[None], turn.T.to(values.device), mode)[0]


def _structure_tensor(image: Tensor) -> Tensor:
    """Return the products of the components of the gradient in space, (9, EDGE_ROWS, 2 EDGE_ROWS).

    The gradient on the sphere, as a vector in space, is the normal of the great circle along an edge. It is the same
    all along a straight edge, so the products can be averaged in space, without a frame for each pixel.
    """
    grey = resize(image, EDGE_ROWS, 2 * EDGE_ROWS).mean(0).clamp_min(0).sqrt()
    longitude, latitude = erp_angles(EDGE_ROWS, 2 * EDGE_ROWS)
    latitude = latitude[:, None]
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
    return (gradient[:, None] * gradient[None]).flatten(0, 1)


def _edges(tensor: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the normals (N, 3) of the great circles along edges, and how strong and straight these are (N,)."""
    tensor = F.avg_pool2d(pad(tensor[None], (window // 2,) * 4), window, 1)[0]
    _, latitude = erp_angles(EDGE_ROWS, 2 * EDGE_ROWS)
    area = latitude.cos()[:, None].expand_as(tensor[0]).flatten()
    strongest = (tensor[[0, 4, 8]].sum(0).flatten() * area).topk(EDGES).indices
    values, vectors = torch.linalg.eigh(tensor.flatten(1)[:, strongest].T.view(-1, 3, 3))
    straight = ((values[:, 2] - values[:, 1]) / values.sum(1).clamp_min(1e-12)).clamp(0, 1)
    strength = (values[:, 2].clamp_min(0).sqrt() / FULL_CONTRAST).clamp_max(1)
    return vectors[:, :, 2], straight**2 * strength * area[strongest]


def _lines(normals: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Join edges on nearly the same great circle: one long edge must not outvote many short ones."""
    normals = torch.where(normals[:, :1] < 0, -normals, normals)
    _, index = torch.unique((normals / math.radians(BIN)).round(), dim=0, return_inverse=True)
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
    """Return the share (...) of lines that may run in directions (..., 3): those whose circles pass through them."""
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
