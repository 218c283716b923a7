"""The losses of DAP (arXiv 2512.16913) for distances in metres and for range masks.

Maps are (B, H, W). Pixels that do not count change neither loss nor gradient, whatever they hold. A weight, (B, H, W)
or (H, 1), makes a pixel count as that fraction of one. The authors have published no code for them; what the paper
leaves open is an argument here, and its docstring justifies the default.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses.auxiliary import sobel
from mtpano_zoo.losses.base import Loss, check_not_negative
from mtpano_zoo.losses.dense import any_around
from mtpano_zoo.losses.means import weighted_mean
from mtpano_zoo.losses.multi_task import connected_zero
from mtpano_zoo.losses.validity import known_range, trusted, valid_depth
from mtpano_zoo.sphere import (
    depth_to_points,
    erp_rays,
    icosahedron_rotations,
    latitude_weights,
    pad,
    perspective_rays,
    points_to_normals,
    sample,
)

__all__ = ("DAPLoss", "dense_fidelity", "depth_edges", "mask_error", "normals_l1", "points_l1", "silog")

SMALLEST = 1e-6  # predictions are clamped to this before their logarithm
WEIGHTS = {"silog": 1.0, "fidelity": 0.4, "edges": 5.0, "normals": 2.0, "points": 2.0, "masks": 2.0}


def silog(
    prediction: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None = None, variance_focus: float = 0.5
) -> Tensor:
    """Return the scale-invariant error sqrt(mean d^2 - variance_focus (mean d)^2), with d = log prediction/target.

    Means are over the valid pixels of the batch, as in the one loss that DAP's authors have published. The
    least error is 1e-6, where the gradient of the root is cut off, also if there are none.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> round(silog(2 * target, target, target > 0, variance_focus=1.0).item(), 3)  # off by one factor
        0.0
    """
    d = torch.where(valid, prediction.clamp(min=SMALLEST), 1).log() - torch.where(valid, target, 1).log()
    weight = None if weight is None else weight.expand_as(d)
    variance = weighted_mean(d.square(), valid, weight) - variance_focus * weighted_mean(d, valid, weight).square()
    return variance.clamp(min=1e-12).sqrt()


def dense_fidelity(
    prediction: Tensor, target: Tensor, valid: Tensor, fov: float = 90.0, size: int | None = None
) -> Tensor:
    """Return the mean squared distance of the Gram matrices D D^T of depth in twelve icosahedral views.

    D holds one view, rows by columns, zero where it is not valid, divided by the root of its sum of squares. A Gram
    matrix then has the trace 1, and the error is between 0 and 2 at any scale and size. The paper says "masked and
    normalised per view", but not how, nor how large the views are. Views without a valid pixel do not count.

    Args:
        prediction: metres.
        target: metres.
        valid: where the target counts.
        fov: horizontal field of view in degrees; with 90, the views cover the sphere.
        size: rows and columns of a view; by default the pixel density of the panorama at its horizon.
    """
    side = size or max(2, round(target.shape[-1] / math.pi * math.tan(math.radians(fov) / 2)))
    rotations = icosahedron_rotations(device=target.device, dtype=target.dtype)
    rays = perspective_rays(side, side, fov=fov, rotation=rotations, dtype=target.dtype)[None]
    maps = torch.stack([torch.where(valid, x, 0) for x in (prediction, target)], dim=1)
    views = sample(maps, rays, "depth").movedim(2, 1)  # (B, 12, 2, S, S)
    seen = sample(valid[:, None], rays, "label").flatten(3).any(-1)[:, 0]
    energy = views.square().sum(dim=(-2, -1), keepdim=True)
    views = views * energy.clamp(min=1e-12).rsqrt()
    grams = views @ views.mT
    error = (grams[:, :, 0] - grams[:, :, 1]).square().sum(dim=(-2, -1))
    return weighted_mean(error, seen)


def depth_edges(target: Tensor, valid: Tensor, threshold: float = 0.1) -> Tensor:
    """Return the mask of pixels where the target's logarithm changes by at least `threshold` per pixel (Sobel).

    The logarithm makes a step count by its ratio; the paper's own threshold is unknown. The filter wraps, and finds
    no edge where it touches a pixel that is not valid.

    Example:
        >>> step = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]).expand(1, 3, 6)
        >>> depth_edges(step, step > 0)[0, 1].tolist()  # the other step is at the seam
        [True, False, True, True, False, True]
    """
    logarithm = torch.where(valid, target, 1).log()[:, None]
    gx, gy = sobel(pad(logarithm, (1, 1, 1, 1)))
    steep = (gx.square() + gy.square()).sqrt() >= 8 * threshold
    return steep[:, 0] & ~any_around(pad((~valid)[:, None].float(), (1, 1, 1, 1)), 3)[:, 0]


def normals_l1(prediction: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the absolute difference, summed over components, of the two surfaces' normals: mean over valid pixels.

    Pixels where the target has no normal, for lack of neighbours, do not count.

    Example:
        >>> depth = torch.full((1, 8, 16), 2.0)
        >>> round(normals_l1(3 * depth, depth, depth > 0).item(), 4)  # a larger sphere has the same normals
        0.0
    """
    surfaces = [
        points_to_normals(depth_to_points(torch.where(valid, x, 0)[:, None]), valid[:, None])
        for x in (prediction, target)
    ]
    known = valid & (surfaces[1] != 0).any(1)
    error = (surfaces[0] - surfaces[1]).abs().sum(1)
    return weighted_mean(error, known, None if weight is None else weight.expand_as(error))


def points_l1(
    prediction: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None = None, unit: float = 100.0
) -> Tensor:
    """Return the absolute difference, summed over components, of the two surfaces' points: mean over valid pixels.

    Args:
        prediction: metres.
        target: metres.
        valid: where the target counts.
        weight: weight of every pixel.
        unit: metres that count as 1; 100 because DAP's own labels are divided by it.

    Example:
        >>> near, far = torch.full((1, 8, 16), 2.0), torch.full((1, 8, 16), 3.0)
        >>> bool(points_l1(near, near, near > 0) < points_l1(near, far, near > 0))
        True
    """
    rays = erp_rays(*target.shape[-2:], device=target.device, dtype=target.dtype)
    error = (torch.where(valid, prediction, 0) - torch.where(valid, target, 0)).abs() * rays.abs().sum(-1) / unit
    return weighted_mean(error, valid, None if weight is None else weight.expand_as(error))


def mask_error(
    logits: Tensor, inside: Tensor, known: Tensor, weight: Tensor | None = None, dice_weight: float = 0.5
) -> Tensor:
    """Return mean squared error of probabilities + `dice_weight` (1 - Dice) over a batch's known pixels (B, H, W).

    If nothing is inside and nothing is predicted to be, Dice is 1.

    Example:
        >>> inside, known = torch.tensor([[[True, False]]]), torch.tensor([[[True, True]]])
        >>> round(mask_error(torch.tensor([[[20.0, -20.0]]]), inside, known).item(), 4)
        0.0
        >>> round(mask_error(torch.tensor([[[-20.0, 20.0]]]), inside, known).item(), 4)
        1.5
    """
    truth = (inside & known).to(logits.dtype)
    said = torch.where(known, torch.where(known, logits, 0).sigmoid(), 0)
    weight = torch.ones_like(said) if weight is None else weight.expand_as(said)
    weight = torch.where(known, weight, 0)
    both, total = (weight * said * truth).sum(), (weight * (said + truth)).sum()
    dice = (2 * both + SMALLEST) / (total + SMALLEST)
    return weighted_mean((said - truth).square(), known, weight) + dice_weight * (1 - dice)


class DAPLoss(Loss):
    """The loss of DAP: six terms of depth and masks, weighted by the solid angle of the pixels.

    Terms are `silog`; `fidelity`, the Gram matrices of perspective views; `edges`, the scale-invariant error where the
    label has an edge; `normals` and `points` of the surface; `masks`, the mean over the ranges. A term of weight 0 is
    not computed. `depth_confidence` in a batch, which pseudo-labels may have, weights its pixels.

    In distributed training every process takes its own means. Batches without depth contribute exactly zero.

    Args:
        weights: weights by term; terms that are not listed have the paper's: 1, 0.4, 5, 2, 2 and 2.
        ranges: ranges of the network's masks, in metres.
        max_depth: labels of this many metres or more do not count as distances; the masks still use them.
        distortion: weight pixels by the solid angle of their row, in all terms but `fidelity`, whose views have no
            poles. The paper's distortion map has no published formula.
        variance_focus: see `silog`.
        fov: field of view of the views of `fidelity` in degrees.
        view_size: rows and columns of these views, see `dense_fidelity`.
        edge_threshold: see `depth_edges`.
        unit: see `points_l1`.
        dice_weight: see `mask_error`.

    Raises:
        InputError: If `weights` holds an unknown term, or a weight is negative.
    """

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        ranges: Sequence[float] = (100.0,),
        max_depth: float = 100.0,
        distortion: bool = True,
        variance_focus: float = 0.5,
        fov: float = 90.0,
        view_size: int | None = None,
        edge_threshold: float = 0.1,
        unit: float = 100.0,
        dice_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if unknown := sorted(set(weights or {}) - set(WEIGHTS)):
            raise InputError(f"There is no term {', '.join(unknown)}: DAPLoss has {', '.join(WEIGHTS)}.")
        check_not_negative({**(weights or {}), "dice_weight": dice_weight})
        self.weights = WEIGHTS | dict(weights or {})
        self.ranges = tuple(ranges)
        self.max_depth = max_depth
        self.distortion = distortion
        self.variance_focus = variance_focus
        self.fov = fov
        self.view_size = view_size
        self.edge_threshold = edge_threshold
        self.unit = unit
        self.dice_weight = dice_weight

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `total` and the terms of weight above 0 by name; all are zero for a batch without `depth`.

        Args:
            outputs: `depth` (B, 1, H, W) in metres; `valid` logits (B, 1, H, W), or `range_masks` (B, R, H, W) in
                `ext`.
            batch: `depth` (B, H, W) in metres, 0 = no measurement, and optionally `far` and `depth_confidence`.

        Raises:
            InputError: If the number of masks differs from the number of ranges.
        """
        predicted = [outputs[task] for task in ("depth", "valid") if task in outputs]
        masks = outputs.get("ext", {}).get("range_masks", outputs.get("valid"))
        predicted += [] if masks is None else [masks]
        total = sum((connected_zero(x) for x in predicted), torch.zeros((), device=batch["image"].device))
        if "depth" not in batch:
            had = {name: masks is not None if name == "masks" else "depth" in outputs for name in WEIGHTS}
            # With the same names in every step, processes can average them.
            return {"total": total} | {name: total.detach() for name in WEIGHTS if self.weights[name] and had[name]}
        terms: dict[str, Tensor] = {}
        # Autocast would compute sums over the image in half precision.
        with torch.autocast(device_type=batch["image"].device.type, enabled=False):
            weight = self._weight(batch)
            if "depth" in outputs:
                terms |= self._of_depth(outputs["depth"][:, 0].float(), batch, weight)
            if masks is not None and self.weights["masks"]:
                terms["masks"] = self._of_masks(masks.float(), batch, weight)
        return {"total": total + sum(self.weights[name] * term for name, term in terms.items()), **terms}

    def _weight(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Return the weight of every pixel, (H, 1) or (B, H, W); None if all are equal."""
        depth, confidence = batch["depth"], batch.get("depth_confidence")
        rows = latitude_weights(depth.shape[-2], device=depth.device) if self.distortion else None
        if confidence is None or rows is None:
            return rows if confidence is None else Tensor.float(confidence)
        return Tensor.float(confidence) * rows

    def _of_depth(self, prediction: Tensor, batch: Mapping[str, Any], weight: Tensor | None) -> dict[str, Tensor]:
        target = batch["depth"].float()
        valid = trusted(valid_depth(target, max_depth=self.max_depth), batch.get("depth_confidence"))
        if "far" in batch:
            valid = valid & ~batch["far"]
        maps = (prediction, torch.where(valid, target, 0), valid)
        terms: dict[str, Callable[[], Tensor]] = {
            "silog": lambda: silog(*maps, weight, self.variance_focus),
            "fidelity": lambda: dense_fidelity(*maps, self.fov, self.view_size),
            "edges": lambda: silog(*maps[:2], depth_edges(*maps[1:], self.edge_threshold), weight, self.variance_focus),
            "normals": lambda: normals_l1(*maps, weight),
            "points": lambda: points_l1(*maps, weight, self.unit),
        }
        return {name: term() for name, term in terms.items() if self.weights[name]}

    def _of_masks(self, logits: Tensor, batch: Mapping[str, Any], weight: Tensor | None) -> Tensor:
        if logits.shape[1] != len(self.ranges):
            raise InputError(
                f"DAPLoss has {len(self.ranges)} ranges and the network {logits.shape[1]} masks: set both to the same "
                "ranges."
            )
        depth = batch["depth"]
        far = batch.get("far", torch.zeros_like(depth, dtype=torch.bool))
        if "has_depth" in batch:  # without distances a sample trains nothing, as in a batch of its own
            far = far & batch["has_depth"][:, None, None]
        errors = []
        for i, limit in enumerate(self.ranges):
            inside, known = known_range(depth, far, limit)
            known = trusted(known, batch.get("depth_confidence"))
            errors.append(mask_error(logits[:, i], inside, known, weight, self.dice_weight))
        return torch.stack(errors).mean()
