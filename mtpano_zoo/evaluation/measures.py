"""Measures of panoramic predictions: pure functions on the maps of one image.

A measure returns a `Ratio`, a sum and its divisor; over several images, both are added up before the division. Maps are
depth (H, W) in metres along the ray (0 = no value), normals (3, H, W) (zero = no value), and classes (H, W).
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.evaluation.regions import away_from_border, between_poles, core
from mtpano_zoo.losses.validity import valid_depth, valid_normals
from mtpano_zoo.metrics import angular_error
from mtpano_zoo.metrics.pooling import pixel_weights
from mtpano_zoo.sphere import depth_to_points, pad
from mtpano_zoo.tasks import NO_LABEL

__all__ = (
    "Alignment",
    "Ratio",
    "align",
    "away_from_boundaries",
    "border_step",
    "boundaries",
    "class_swaps",
    "edges",
    "error_of",
    "frame_gain",
    "frames",
    "holes",
    "log_ratio",
    "mean_over",
    "planarity",
    "polar_excess",
    "scale",
    "seam_jump",
)

Ratio = tuple[float, float]
STEP = 1e-4  # added above and below a ratio of errors, so that a perfect prediction has 1 and not 0 / 0
EDGE = 0.15  # relative change of the inverse distance that counts as a boundary
FRAME = 10.0  # degrees that another frame of normals must gain to count as the intended one
SWAPPED = 0.5  # share of either class above which a pair counts as swapped
SMALL = 0.005  # share of the pixels below which a class is too rare to be swapped


class Alignment(NamedTuple):
    """Faults of a whole prediction, which are removed before its other measures.

    Attributes:
        log_scale: logarithm of the factor by which the distances are too large.
        frame: matrix (3, 3) that turns predicted normals into the frame of the labels.
        swapped: pairs of classes that are mistaken for one another.
    """

    log_scale: float
    frame: Tensor
    swapped: tuple[tuple[int, int], ...] = ()


def mean_over(values: Tensor, where: Tensor) -> Ratio:
    """Return the sum of values (H, W) over a mask, weighted by solid angle, and the sum of the weights.

    Example:
        >>> total, weight = mean_over(torch.tensor([[1.0, 3.0]]), torch.tensor([[True, True]]))
        >>> total / weight
        2.0
    """
    weights = pixel_weights(where[None], "solid_angle")[0] / where.numel()
    return float((torch.where(where, values, 0).double() * weights).sum()), float(weights.sum())


def log_ratio(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log (H, W) of predicted over true distance, 0 where one is missing, and the mask where both are known.

    Example:
        >>> ratio, known = log_ratio(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 3.0]]))
        >>> ratio.tolist(), known.tolist()
        ([[0.0, 0.0]], [[True, False]])
    """
    known = valid_depth(prediction) & valid_depth(target)
    return torch.where(known, prediction, 1).log() - torch.where(known, target, 1).log(), known


def scale(prediction: Tensor, target: Tensor) -> Ratio:
    """Return the median of predicted over true distance, in the core of the image.

    Example:
        >>> depth = torch.full((16, 32), 2.0)
        >>> round(scale(1.5 * depth, depth)[0], 3)
        1.5
    """
    ratio, known = log_ratio(prediction, target)
    inside = ratio[known & core(*ratio.shape)]
    return (float(inside.double().median().exp()), 1.0) if inside.numel() else (0.0, 0.0)


def holes(has_value: Tensor, labelled: Tensor) -> Ratio:
    """Return the share of the labelled solid angle without a predicted value; masks (H, W).

    Example:
        >>> holes(torch.tensor([[True, False]]), torch.tensor([[True, True]]))
        (0.5, 1.0)
    """
    return mean_over((~has_value).float(), labelled)


def border_step(values: Tensor, known: Tensor) -> tuple[Ratio, Ratio]:
    """Return the mean step of values (C, H, W) across the 0/360 border, and between neighbouring core columns.

    The values are an error, or a prediction. Polar caps do not count. The ratio of both is 1 without a seam.

    Example:
        >>> values = torch.zeros(1, 16, 32)
        >>> values[..., 0] = 0.5
        >>> border_step(values, torch.ones(16, 32, dtype=torch.bool))[0]
        (0.5, 1.0)
    """
    rows = between_poles(*known.shape)
    steps = (values - values.roll(1, -1)).square().sum(0).sqrt()
    both = known & known.roll(1, -1) & rows
    inner = core(*known.shape) & core(*known.shape).roll(1, -1)
    border = both[:, 0]
    means = [steps[:, 0][border], steps[both & inner]]
    one, other = ((float(x.double().mean()), 1.0) if x.numel() else (0.0, 0.0) for x in means)
    return one, other


def seam_jump(values: Tensor, known: Tensor) -> Ratio:
    """Return `border_step` as a ratio: the step across the border over that between other columns; 1 = no seam.

    `mtpano_zoo.generation.quality.seam_jump` does the same for pictures, without a mask and with the polar caps.
    """
    (border, there), (inside, here) = border_step(values, known)
    return (border + STEP, inside + STEP) if there and here else (0.0, 0.0)


def polar_excess(errors: Tensor, known: Tensor) -> Ratio:
    """Return the mean error (H, W) of the polar caps, above 60 degrees of latitude, over that between them.

    Columns near the 0/360 border do not count.

    Example:
        >>> errors = torch.full((18, 36), 0.1)
        >>> errors[0] = 0.2
        >>> high, low = polar_excess(errors, torch.ones(18, 36, dtype=torch.bool))
        >>> high > low
        True
    """
    inside, known = between_poles(*known.shape), known & away_from_border(*known.shape)
    (cap, there), (belt, here) = mean_over(errors, known & ~inside), mean_over(errors, known & inside)
    return (cap / there + STEP, belt / here + STEP) if there and here else (0.0, 0.0)


@cache
def frames() -> Tensor:
    """Return all 48 signed permutations (48, 3, 3) of x, y and z, the identity first."""
    signs = itertools.product((1.0, -1.0), repeat=3)
    eye = torch.eye(3)
    return torch.stack(
        [torch.diag(torch.tensor(s)) @ eye[list(p)] for s in signs for p in itertools.permutations(range(3))]
    )


def frame_gain(prediction: Tensor, target: Tensor) -> tuple[Ratio, Tensor]:
    """Return the degrees that normals (3, H, W) gain in the best of 48 axis frames, and the matrix into that frame.

    Unless the gain exceeds 10 degrees, return 0 and the identity.

    Example:
        >>> target = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=0)
        >>> mirrored = target * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
        >>> frame_gain(mirrored, target)[1].diagonal().tolist()
        [-1.0, 1.0, 1.0]
    """
    prediction, target = prediction.float(), target.float()
    known = valid_normals(prediction) & valid_normals(target)
    if not known.any():
        return (0.0, 0.0), torch.eye(3)
    weights = pixel_weights(known[None], "solid_angle")[0].float()
    there = [torch.where(known, x, 0) for x in (target, prediction)]  # NaN times 0 would be NaN
    products = torch.einsum("ihw,jhw,hw->ij", *there, weights)
    best = frames()[int((frames() * products).sum((1, 2)).argmax())]
    turned = torch.einsum("ij,jhw->ihw", best, prediction)
    (given, weight), (found, _) = (
        mean_over(angular_error(x[None], target[None])[0], known) for x in (prediction, turned)
    )
    gain = (given - found) / weight
    return ((gain, 1.0), best) if gain > FRAME else ((0.0, 1.0), torch.eye(3))


def align(prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Alignment:
    """Find scale, frame and swapped classes of a prediction, from the maps that both it and the labels have."""
    log_scale, frame = 0.0, torch.eye(3)
    if "depth" in prediction and "depth" in target:
        value, known = scale(prediction["depth"], target["depth"])
        log_scale = float(torch.tensor(value).log()) if known else 0.0
    if "normals" in prediction and "normals" in target:
        frame = frame_gain(prediction["normals"], target["normals"])[1]
    swapped: list[tuple[int, int]] = []
    if "semseg" in prediction and "semseg" in target:
        shares = _mutual_shares(prediction["semseg"], target["semseg"])
        swapped = [pair for pair, share in shares.items() if share > SWAPPED]
    return Alignment(log_scale, frame, tuple(swapped))


def error_of(task: str, prediction: Tensor, target: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor, Tensor]:
    """Return signed errors (C, H, W), their magnitudes (H, W), and the mask where both maps have a value.

    `depth`: logarithm of predicted over true distance, without the scale. `normals`: difference of the unit vectors in
    the frame of the labels, and the angle in degrees. `semseg`: 1 where the class is wrong; the mask leaves out 255.
    """
    if task == "depth":
        ratio, known = log_ratio(prediction, target)
        error = torch.where(known, ratio - alignment.log_scale, 0)
        return error[None], error.abs(), known
    if task == "normals":
        known = valid_normals(prediction) & valid_normals(target)
        turned = torch.einsum("ij,jhw->ihw", alignment.frame, prediction.float())
        turned, true = (F.normalize(x.float(), dim=0) for x in (turned, target))
        return turned - true, torch.where(known, angular_error(turned[None], true[None])[0], 0), known
    known = target != NO_LABEL
    meant = prediction
    for i, j in alignment.swapped:
        meant = torch.where(prediction == i, j, torch.where(prediction == j, i, meant))
    wrong = ((meant != target) & known).float()
    return wrong[None], wrong, known


def boundaries(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask (H, W) of pixels in front of something farther, and the mask where that is known.

    The inverse distance of a plane is smooth in the angles, however slanted it is; its second difference jumps only at
    boundaries. The pixel on the near side counts.

    Example:
        >>> depth = torch.full((8, 16), 4.0)
        >>> depth[2:6, 4:8] = 2.0
        >>> boundaries(depth)[0][3].nonzero().flatten().tolist()
        [4, 7]
    """
    known = valid_depth(depth)
    inverse = torch.where(known, 1 / torch.where(known, depth, 1), 0)
    around, known_around = pad(inverse, (1, 1, 1, 1)), pad(known.float(), (1, 1, 1, 1))
    height, width = depth.shape
    parts = {}
    for name, (row, column) in {"up": (0, 1), "down": (2, 1), "left": (1, 0), "right": (1, 2)}.items():
        parts[name] = around[row : row + height, column : column + width]
    curved = torch.maximum(*(2 * inverse - parts[a] - parts[b] for a, b in (("up", "down"), ("left", "right"))))
    told = -F.max_pool2d(-known_around[None], 3, 1)[0] == 1
    return told & (curved > EDGE * inverse), told


def away_from_boundaries(task: str, label: Tensor) -> Tensor:
    """Return the mask (H, W) of labels that resampling keeps: no neighbour in front, of another class or direction.

    Example:
        >>> away_from_boundaries("semseg", torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 3)).tolist()[1]
        [False, True, True, False, False, True, True, False]
    """
    values = boundaries(label)[0][None].float() if task == "depth" else label.reshape(-1, *label.shape[-2:]).float()
    around = pad(values, (1, 1, 1, 1), nearest=True)
    spread = F.max_pool2d(around, 3, 1) + F.max_pool2d(-around, 3, 1)
    mask: Tensor = spread.amax(0) < 0.5
    return mask & ~(values[0] > 0) if task == "depth" else mask


def edges(prediction: Tensor, target: Tensor) -> Ratio:
    """Return the agreement of depth boundaries within one pixel, from 0 to 1 (a Dice score), in the image's core.

    Example:
        >>> depth = torch.full((32, 64), 4.0)
        >>> depth[12:20, 24:40] = 2.0
        >>> hit, count = edges(depth, depth)
        >>> hit / count
        1.0
    """
    (mine, told), (true, known) = boundaries(prediction), boundaries(target)
    # Boundaries match within one pixel, so the neighbours must be known too.
    told = told & known & core(*target.shape)
    told = -F.max_pool2d(-told[None].float(), 3, 1, 1)[0] == 1
    near_mine, near_true = (F.max_pool2d(x[None].float(), 3, 1, 1)[0] > 0 for x in (mine, true))
    hits = (mine & near_true & told).sum() + (true & near_mine & told).sum()
    return float(hits), float((mine & told).sum() + (true & told).sum())


def planarity(prediction: Tensor, target: Tensor, normals: Tensor, walls: Tensor) -> Ratio:
    """Return the deviation of predicted walls from planes, as a share of their distance, in the image's core.

    The labels define the planes: pixels whose planes have the same normal and distance from the camera. A plane is
    fitted to the predicted points of each; its root mean square residual over the mean distance is averaged, weighted
    by pixels.

    Args:
        prediction: depth (H, W).
        target: depth (H, W) of the labels.
        normals: normals (3, H, W) of the labels.
        walls: mask of the walls, bool (H, W).
    """
    known = walls & valid_depth(prediction) & valid_depth(target) & valid_normals(normals) & core(*target.shape)
    points, true = (depth_to_points(x[None, None].double())[0] for x in (prediction, target))
    offset = (true * normals).sum(0)
    keys = torch.cat((normals * 10, offset[None] * 10)).round().long()[:, known].T
    if not len(keys):
        return 0.0, 0.0
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    mine, distance = points[:, known].T, prediction[known].double()
    total, count = 0.0, 0.0
    for number in range(int(group.max()) + 1):
        chosen = group == number
        pixels = int(chosen.sum())
        if pixels < max(12, SMALL * target.numel()):
            continue
        centred = mine[chosen] - mine[chosen].mean(0)
        residual = torch.linalg.svdvals(centred)[-1] / pixels**0.5
        total += pixels * float(residual / distance[chosen].mean())
        count += pixels
    return total, count


def class_swaps(prediction: Tensor, target: Tensor, classes: Sequence[str]) -> dict[str, Ratio]:
    """Return for every pair of classes in the labels how much each is taken for the other: the smaller share.

    Example:
        >>> target = torch.tensor([[0, 0, 1, 1]])
        >>> class_swaps(1 - target, target, ["floor", "wall"])
        {'floor and wall': (1.0, 1.0)}
    """
    shares = _mutual_shares(prediction, target)
    return {f"{classes[i]} and {classes[j]}": (share, 1.0) for (i, j), share in shares.items()}


def _mutual_shares(prediction: Tensor, target: Tensor) -> dict[tuple[int, int], float]:
    """Return for pairs of classes in the labels the smaller of the shares of each that are taken for the other."""
    numbers, pixels = torch.unique(target[target != NO_LABEL], return_counts=True)
    present = numbers[pixels >= max(1, SMALL * target.numel())].tolist()
    masks = {i: target == i for i in present}
    taken = {(i, j): float((prediction[masks[i]] == j).double().mean()) for i in present for j in present}
    return {(i, j): min(taken[i, j], taken[j, i]) for i, j in itertools.combinations(present, 2)}
