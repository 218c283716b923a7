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
from mtpano_zoo.sphere import Mode, erp_angles, erp_rays, pad, rotate, sample, unit
from mtpano_zoo.tasks import MAIN_TASKS

__all__ = ("MAX_TILT", "UNCERTAIN", "edge_rows", "estimate_up", "levelling_rotation", "turned_back")

MAX_TILT = 45.0  # degrees; beyond it, a wall is nearer to the top of the image than the ceiling is
LEVEL = 1.0  # degrees of tilt below which a panorama is left as it is, because turning blurs it a little
UNCERTAIN = 2.0  # the same if up was estimated, which is hardly more accurate
EDGES = {256: 12000, 512: 24000}  # strongest pixels that are used, by image height; most rooms have fewer edges
MIN_EDGES = {256: 130, 512: 520}  # sum of weights below which what looks like edges are rounding errors
MARGIN = 2  # pixels around unseen areas that their darkness affects
WINDOWS = (5, 7)  # pixels over which edges are measured, for sharp ones and for noisy ones
FULL_CONTRAST = 0.1  # change per pixel from which an edge counts fully
BIN = 2.0  # degrees: circles this close are one line, weighted by the square root of its pixels' weights
TOLERANCE = 2.0  # degrees between an edge and the direction that it agrees with
FINE_TOLERANCES = (3.0, 2.0, 1.5, 1.0, 1.0, 1.0)
STEP = 2.0  # degrees between directions that are tried
APART = 6.0  # degrees within which only the best direction is a candidate
PEAKS = 12  # candidates that are refined
VERTICALS = 1.5  # weight of up's agreement; a horizontal direction has 1, which stairs and ramps may outvote
MIN_GAIN = 1.5  # ratio of up's agreement to the average direction's, below which up is unknown


def edge_rows(height: int) -> int:
    """Return the image height at which edges are looked for in an image of any height.

    Example:
        >>> edge_rows(2048), edge_rows(300), edge_rows(64)
        (512, 256, 256)
    """
    return max((rows for rows in EDGES if rows <= height), default=min(EDGES))


def estimate_up(image: Tensor, seen: Tensor | None = None) -> Tensor | None:
    """Return the unit vector (3,) that points up, in the frame of the camera, or None if the edges do not show it.

    Only tilts up to `MAX_TILT` degrees are looked for.

    Args:
        image: RGB (3, H, W) in [0, 1], equirectangular.
        seen: Mask (H, W) of any size, false where no camera looked: borders of a crop are not edges of the world.

    Raises:
        InputError: If the image is not (3, H, W), or not finite everywhere.

    Example:
        >>> estimate_up(torch.full((3, 32, 64), 0.5)) is None
        True
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"levelling needs an image (3, H, W), got {tuple(image.shape)}")
    if not image.isfinite().all():
        raise InputError("levelling needs finite values: fill what is NaN or infinite, and mark it as not `seen`")
    tensor = _structure_tensor(image.detach().float().cpu())
    if seen is not None:
        unseen = resize((~seen).byte()[None], *tensor.shape[-2:])
        beside = F.max_pool2d(pad(unseen[None], (MARGIN,) * 4), 2 * MARGIN + 1, 1)[0]
        tensor = torch.where(beside > 0, 0, tensor)
    found = [_lines(*_edges(tensor, window)) for window in WINDOWS]
    circles, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    if weights.sum() < MIN_EDGES[tensor.shape[-2]]:
        return None
    directions = _cone()
    agreement = _agreement_map(circles, weights)
    shares = _sampled(agreement, directions)
    likely = VERTICALS * shares + _best_partners(directions, agreement)[0]
    around = directions @ directions.T > math.cos(math.radians(APART))
    peaks = torch.where((likely * around).amax(1) <= likely, likely, 0).topk(PEAKS).indices
    candidates = torch.stack([_refined(direction, circles, weights) for direction in directions[peaks]])
    scores = _agreement(candidates, circles, weights)
    partners, horizontal = _best_partners(candidates, agreement)
    within = -candidates[:, 1] >= math.cos(math.radians(MAX_TILT))
    best = torch.where(within, VERTICALS * scores + partners, -1).argmax()
    if not within[best] or scores[best] < MIN_GAIN * shares.mean():
        return None
    return _refined_frame(torch.stack((candidates[best], *horizontal[:, best])), circles, weights)[0]


def levelling_rotation(up: Tensor | None, least: float = LEVEL) -> Tensor | None:
    """Return the smallest camera-to-world rotation (3, 3) to a level camera, for `sphere.rotate`.

    Args:
        up: Unit vector (3,) that points up in the frame of the camera; None if unknown.
        least: Tilt in degrees from which the camera is turned. Below it, or if up is unknown, it stays as it is (None).

    Example:
        >>> turn = levelling_rotation(torch.tensor([0.6, -0.8, 0.0]))
        >>> up = turn @ torch.tensor([0.0, -1.0, 0.0])  # of the level camera, seen by the tilted one
        >>> [round(x, 3) for x in up.tolist()]
        [0.6, -0.8, 0.0]
    """
    if up is None or -float(up[1]) > math.cos(math.radians(least)):
        return None
    x, y, z = up.tolist()
    aside = x * x + z * z
    if y > 0 and aside < 1e-12:  # upside down: any axis will do
        return torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    cross = torch.tensor([[0.0, x, 0.0], [-x, 0.0, -z], [0.0, z, 0.0]])  # cross-product matrix of the rotation axis
    rest = aside / (1 + y) if y > 0 else 1 - y  # the same, but near upside down, 1 - y has lost its digits
    turn: Tensor = torch.eye(3) + cross.T + cross @ cross / rest
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
    """Return the six products of the components of the gradient in space, (6, H, W), H being `edge_rows`.

    The gradient on the sphere, as a vector in space, is the normal of the great circle along an edge. It is the same
    all along a straight edge, so the products can be averaged in space, without a frame for each pixel.
    """
    rows = edge_rows(image.shape[-2])
    grey = resize(image, rows, 2 * rows).mean(0).clamp_min(0).sqrt()
    longitude, latitude = erp_angles(rows, 2 * rows)
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
    first, second = torch.triu_indices(3, 3)
    return gradient[first] * gradient[second]


def _edges(tensor: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the normals (N, 3) of the great circles along edges, and how strong and straight these are (N,)."""
    around = pad(tensor[None], (window // 2,) * 4)
    tensor = F.avg_pool2d(F.avg_pool2d(around, (1, window), 1), (window, 1), 1)[0]
    rows, columns = tensor.shape[-2:]
    _, latitude = erp_angles(rows, columns)
    area = latitude.cos()[:, None].expand_as(tensor[0]).flatten()
    strongest = (tensor[[0, 3, 5]].sum(0).flatten() * area).topk(EDGES[rows]).indices
    matrices = tensor.flatten(1)[[0, 1, 2, 1, 3, 4, 2, 4, 5]][:, strongest]
    values, vectors = torch.linalg.eigh(matrices.T.view(-1, 3, 3))
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


def _agreement(directions: Tensor, circles: Tensor, weights: Tensor) -> Tensor:
    """Return the share (...) of lines that may run in directions (..., 3): those whose circles pass through them."""
    return _closeness(directions @ circles.T, TOLERANCE) @ weights / weights.sum()


def _closeness(sine: Tensor, tolerance: float) -> Tensor:
    """Return how close lines are to directions, 1 to 0, by the sine of the angle between circle and direction."""
    ratio = sine / (math.sqrt(2) * math.sin(math.radians(tolerance)))
    # Exponents far below zero would end in subnormal numbers, which processors handle slowly.
    return ratio.square_().clamp_max_(30).neg_().exp_()


def _agreement_map(circles: Tensor, weights: Tensor) -> Tensor:
    """Return the agreement with every direction, as an equirectangular map (1, 1, H, W) with steps of `STEP`."""
    height = round(180 / STEP)
    upper = erp_rays(height, 2 * height)[: height // 2]  # opposite directions are one
    agreement = torch.stack([_agreement(row, circles, weights) for row in upper])  # by rows, which fit into the cache
    return torch.cat((agreement, agreement.roll(height, 1).flip(0)))[None, None]


def _sampled(agreement: Tensor, directions: Tensor) -> Tensor:
    """Return the agreement (...) of a map with directions (..., 3)."""
    return sample(agreement, directions[None])[0, 0]


def _best_partners(ups: Tensor, agreement: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best two directions (2, N, 3), orthogonal to `ups` (N, 3) and to each other, and their agreement (N,).

    The agreement comes first.
    """
    first = unit(torch.linalg.cross(ups, ups.new_tensor([0.0, 0.0, 1.0]).expand_as(ups)))
    second = torch.linalg.cross(ups, first)
    angle = torch.arange(0, 90, STEP).deg2rad()[:, None, None]
    pairs = torch.stack((first * angle.cos() + second * angle.sin(), second * angle.cos() - first * angle.sin()))
    values, best = _sampled(agreement, pairs.flatten(0, 1)).view(pairs.shape[:-1]).sum(0).max(0)
    return values, pairs[:, best, torch.arange(len(ups))]


def _refined(up: Tensor, circles: Tensor, weights: Tensor) -> Tensor:
    """Return the direction most nearly orthogonal to the circles, by least squares with ever fewer outliers."""
    for tolerance in FINE_TOLERANCES:
        inliers = weights * _closeness(circles @ up, tolerance)
        _, vectors = torch.linalg.eigh((circles * inliers[:, None]).T @ circles)
        up = vectors[:, 0] * torch.sign(vectors[:, 0] @ up)
    return up


def _refined_frame(axes: Tensor, circles: Tensor, weights: Tensor) -> Tensor:
    """Turn three orthogonal axes (3, 3) so that lines run along them, by least squares with ever fewer outliers.

    A turn by a small vector d moves axis a to a + d x a, so the dot product of a circle's normal n and a changes by
    d . (a x n).
    """
    for tolerance in FINE_TOLERANCES:
        distance = circles @ axes.T
        inliers = weights[:, None] * _closeness(distance, tolerance)
        change = torch.linalg.cross(axes[None], circles[:, None])
        matrix = torch.einsum("nk,nki,nkj->ij", inliers, change, change)
        wanted = torch.einsum("nk,nki,nk->i", inliers, change, -distance)
        turn = torch.linalg.lstsq(matrix, wanted[:, None]).solution[:, 0]
        axes = unit(axes + torch.linalg.cross(turn.expand(3, 3), axes))
    return axes
