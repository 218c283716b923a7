"""Fusion of the views' labels to one map per task.

Every pixel of the panorama is the mean over the views that see it, weighted by how far inside the view it lies (1 in
the middle, smoothly 0 at the border, so that no border shows) times the teacher's confidence there:

- classes: mean of the probabilities; the class is the largest, its share of all is the agreement;
- distance: exp of the mean log-distance after aligning all views (`alignment`); the agreement is exp(-e / 0.1) with e
  the standard error of that mean, computed with one additional view that is off by 0.1;
- normals: mean vector, scaled to length one; its length before is the agreement.

The confidence of a task is the agreement times the mean of the teachers' confidence; it lies in [0, 1]. A single view
agrees with itself and proves nothing, so the agreement of classes and normals is multiplied by n / (n + 1), where n is
the sum of the weights of the views that see the pixel.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.alignment import Observations, align_views
from mtpano_zoo.labeling.back_projection import (
    Footprint,
    SparseLabels,
    footprints,
    inverse_depth,
    sample_inverse,
    sample_normals,
)
from mtpano_zoo.labeling.class_fusion import fuse_classes
from mtpano_zoo.labeling.finite import leave_out_broken_views
from mtpano_zoo.labeling.teachers.base import DepthKind, ViewLabels
from mtpano_zoo.labeling.views import Views
from mtpano_zoo.sphere import unit
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("PanoramaLabels", "fuse")

# Number of pixels of the panorama on which the views' scales are compared.
COMPARED = 8192
# Error of the log-distance at which the confidence in the distance is 1 / e.
SPREAD = 0.1
TINY = 1e-30


@dataclass(frozen=True)
class PanoramaLabels:
    """The labels of a panorama, on the device of the views' labels; None if no teacher predicted a task.

    Args:
        semseg: Class, uint8 (H, W); 255 = none.
        depth: Metres along the ray, (H, W); 0 = none. Without a metric teacher, the unit is about its median.
        normals: In the frame of the panorama, towards the camera, (3, H, W); zero = none.
        confidence: By task, (H, W) in [0, 1]; zero where the task has no label.
        far: Mask of pixels that are known to be farther than any measurement, bool (H, W).
        scales: Factors on the depth or disparity of every view, (V,), or (T * V,) with T teachers of depth one after
            another.
        shifts: Offsets that were then added to disparities, likewise.
        views: Labels of every view, after the alignment.
        broken_views: Number of views that were left out because a teacher returned NaN or infinite values.
        masks: Masks of pixels without any label, bool (H, W), by the name of the reason; `merged` for any reason.
    """

    semseg: Tensor | None = None
    depth: Tensor | None = None
    normals: Tensor | None = None
    confidence: dict[str, Tensor] = field(default_factory=dict)
    far: Tensor | None = None
    scales: Tensor | None = None
    shifts: Tensor | None = None
    views: Sequence[SparseLabels] = ()
    broken_views: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)


def fuse(
    labels: Sequence[ViewLabels],
    views: Views,
    height: int,
    width: int,
    *,
    invalid: Tensor | None = None,
    no_depth_classes: Sequence[int] = (),
    keep_views: bool = True,
) -> PanoramaLabels:
    """Merge the labels of the views of a panorama; views with NaN or infinite values are left out.

    Args:
        labels: Labels of every teacher; a task uses all teachers that have it.
        views: The cameras.
        height: Rows of the panorama.
        width: Columns of the panorama.
        invalid: Pixels without any label, bool (H, W), such as a watermark or the tripod.
        no_depth_classes: Classes whose pixels have neither depth nor normals, such as the sky. The merged class
            applies to the merged maps and to every view.
        keep_views: Also return every view's own labels.

    Raises:
        InputError: If shapes do not fit, or teachers differ in the number of classes.
        InputError: If more than half of the views of a teacher are left out.
    """
    _check(labels, views, height, width, invalid)
    labels, broken_views = leave_out_broken_views(labels, views.height, views.width)
    device = next((tensor.device for one in labels for tensor in _tensors(one)), torch.device("cpu"))
    pixels = height * width
    feet = footprints(views, height, width, invalid=invalid, device=device)
    weights = [_weights(one, feet) for one in labels]
    merged: dict[str, Any] = {"confidence": {}, "broken_views": broken_views}
    own: dict[str, list[Tensor]] = {}
    means: dict[tuple[bool, ...], tuple[Tensor, Tensor]] = {}  # of the confidence, by which teachers have a task
    hidden = None

    def keep(task: str, values: Tensor, agreement: Callable[[Tensor], Tensor], given: Sequence[bool]) -> None:
        merged[task] = values.view(*values.shape[:-1], height, width)
        if (which := tuple(given)) not in means:
            means[which] = _mean_confidence(list(compress(weights, given)), feet, pixels)
        confidence, count = means[which]
        merged["confidence"][task] = (confidence * agreement(count)).clamp(0, 1).view(height, width)

    if any(given := [one.probabilities is not None for one in labels]):
        semseg, share, own["semseg"] = fuse_classes(
            list(compress(labels, given)), list(compress(weights, given)), feet, pixels, keep_views
        )
        keep("semseg", semseg, lambda count: share * count / (count + 1), given)
        if len(no_depth_classes):
            hidden = torch.isin(semseg, torch.tensor(list(no_depth_classes), dtype=torch.uint8, device=device))
    if any(given := [one.depth is not None for one in labels]):
        samples = [
            sample
            for one, weight in zip(labels, weights, strict=True)
            for sample in _sample_depth(one, weight, feet, views, hidden)
        ]
        compared = _spread_pixels(height, width).to(device)
        merged["scales"], merged["shifts"] = _align(samples, feet, compared, pixels)
        depth, variance, own["depth"] = _blend_depth(samples, feet, pixels)
        keep("depth", depth, lambda count: (-_standard_error(variance, count) / SPREAD).exp() * (depth > 0), given)
    if any(given := [one.normals is not None for one in labels]):
        normals, length, own["normals"] = _blend_normals(labels, weights, feet, views, hidden, pixels)
        keep("normals", normals, lambda count: length * count / (count + 1), given)
    if keep_views:
        merged["views"] = [
            SparseLabels(foot.pixels, **{task: values[index] for task, values in own.items()})
            for index, foot in enumerate(feet)
        ]
    return PanoramaLabels(**merged)


@dataclass
class _Depth:
    """A teacher's depth in one view, at the pixels of its footprint.

    Args:
        view: Index of the view.
        kind: See `ViewLabels`.
        values: Inverse z-depth, or disparity, (n,); 0 = none. After the alignment, log-distance.
        cosine: Cosine of ray and camera axis, (n,); 1 where the values refer to the distance along the ray.
        weight: Weight (n,); zero = none.
    """

    view: int
    kind: DepthKind
    values: Tensor
    cosine: Tensor
    weight: Tensor


def _sample_depth(
    labels: ViewLabels, weights: Sequence[Tensor], feet: Sequence[Footprint], views: Views, hidden: Tensor | None
) -> list[_Depth]:
    """Return one entry per view; none if the teacher has no depth."""
    if labels.depth is None:
        return []
    found = []
    for index, (foot, weight) in enumerate(zip(feet, weights, strict=True)):
        depth = labels.depth[index].float()
        if labels.confidence is not None:
            depth = torch.where(labels.confidence[index] > 0, depth, 0)
        cosine = 1 / foot.stretch
        if labels.depth_kind == "disparity":
            depth = torch.where((depth > 0) & depth.isfinite(), depth, 0)
            cosine = torch.ones_like(cosine) if labels.along_ray else cosine
        else:
            depth = inverse_depth(depth, views, index, labels.along_ray)
        values = sample_inverse(depth, foot.points)
        known = values > 0 if hidden is None else (values > 0) & ~hidden.index_select(0, foot.pixels)
        found.append(_Depth(index, labels.depth_kind, values, cosine, weight * known))
    return found


def _align(
    samples: Sequence[_Depth], feet: Sequence[Footprint], compared: Tensor, pixels: int
) -> tuple[Tensor, Tensor]:
    """Solve for scales and shifts, and convert the samples to log-distance."""
    device = compared.device
    slots = torch.full((pixels,), -1, device=device)
    slots[compared] = torch.arange(len(compared), device=device)
    table = torch.zeros(3, len(compared), len(samples), device=device)
    for column, one in enumerate(samples):
        slot = slots.index_select(0, feet[one.view].pixels)
        chosen = (slot >= 0).nonzero().squeeze(1)
        for plane, values in enumerate((one.values, one.cosine, one.weight)):
            table[plane, slot[chosen], column] = values[chosen]
    scales, shifts = align_views(Observations(table[0], table[1], table[2], [one.kind for one in samples]))
    for one, scale, shift in zip(samples, scales.tolist(), shifts.tolist(), strict=True):
        inverse = (one.values * scale + shift) * one.cosine
        known = inverse > 0
        one.weight = one.weight * known
        one.values = -torch.where(known, inverse, 1).log()
    disparity = torch.tensor([one.kind == "disparity" for one in samples])
    return torch.where(disparity, scales, 1 / scales).float().to(device), shifts.float().to(device)


def _blend_depth(
    samples: Sequence[_Depth], feet: Sequence[Footprint], pixels: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return distance and variance of the views' log-distances, both (pixels,), and every view's own distance (n,)."""
    device = samples[0].values.device
    total, mean, square = torch.zeros(3, pixels, device=device)
    for one in samples:
        total.index_add_(0, feet[one.view].pixels, one.weight)
        mean.index_add_(0, feet[one.view].pixels, one.weight * one.values)
    known = total > 0
    total = total.clamp(min=TINY)
    mean /= total
    for one in samples:
        seen = feet[one.view].pixels
        square.index_add_(0, seen, one.weight * (one.values - mean.index_select(0, seen)) ** 2)
    own = []
    for index in range(len(feet)):
        mine = [one for one in samples if one.view == index]
        weight = sum((one.weight for one in mine), torch.zeros(()))
        value = sum((one.weight * one.values for one in mine), torch.zeros(()))
        own.append(torch.where(weight > 0, (value / weight.clamp(min=TINY)).exp(), 0))
    return torch.where(known, mean.exp(), 0), square / total, own


def _standard_error(variance: Tensor, count: Tensor) -> Tensor:
    """Return the standard error of a mean of `count` values and one more that is off by `SPREAD`."""
    return ((count * variance + SPREAD**2) / (count * (count + 1)).clamp(min=TINY)).sqrt()


def _blend_normals(
    labels: Sequence[ViewLabels],
    weights: Sequence[Sequence[Tensor]],
    feet: Sequence[Footprint],
    views: Views,
    hidden: Tensor | None,
    pixels: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return normals (3, pixels), agreement (pixels,) and every view's own normals (n, 3)."""
    device = feet[0].pixels.device
    total, mean, own = torch.zeros(pixels, device=device), torch.zeros(3, pixels, device=device), []
    for index, foot in enumerate(feet):
        mine = torch.zeros(3, len(foot.pixels), device=device)
        for one, weight in zip(labels, weights, strict=True):
            if one.normals is None:
                continue
            normals = one.normals[index].float()
            if one.confidence is not None:
                normals = normals * (one.confidence[index] > 0)
            found = sample_normals(normals, foot.points, views.rotations[index])
            share = weight[index] * (found != 0).any(0)
            if hidden is not None:
                share *= ~hidden.index_select(0, foot.pixels)
            mine += share * found
            total.index_add_(0, foot.pixels, share)
        for axis in range(3):
            mean[axis].index_add_(0, foot.pixels, mine[axis])
        own.append(unit(mine, dim=0).movedim(0, 1).contiguous())
    length = (mean * mean).sum(0).sqrt()
    return unit(mean, dim=0), length / total.clamp(min=TINY), own


def _weights(labels: ViewLabels, feet: Sequence[Footprint]) -> list[Tensor]:
    """Return the weight of every view at the pixels that it sees: border weight times the teacher's confidence."""
    if labels.confidence is None:
        return [foot.weight for foot in feet]
    found = []
    for foot, confidence in zip(feet, labels.confidence.float(), strict=True):
        found.append(foot.weight * foot.points.nearest(confidence))
    return found


def _mean_confidence(
    weights: Sequence[Sequence[Tensor]], feet: Sequence[Footprint], pixels: int
) -> tuple[Tensor, Tensor]:
    """Return the mean of the teachers' confidence, and the number of views, counted by their weights."""
    given, full = torch.zeros(2, pixels, device=feet[0].pixels.device)
    for index, foot in enumerate(feet):
        for weight in weights:
            given.index_add_(0, foot.pixels, weight[index])
            full.index_add_(0, foot.pixels, foot.weight)
    return given / full.clamp(min=TINY), full / len(weights)


def _spread_pixels(height: int, width: int) -> Tensor:
    """Return distinct pixels of a panorama that lie evenly on the sphere: those under a Fibonacci lattice."""
    k = torch.arange(COMPARED, dtype=torch.float64)
    down = torch.acos(1 - (2 * k + 1) / COMPARED) / math.pi
    right = (k * ((math.sqrt(5) - 1) / 2)) % 1
    found: Tensor = torch.unique((down * height).long() * width + (right * width).long())
    return found


def _tensors(labels: ViewLabels) -> Iterator[Tensor]:
    for value in (labels.probabilities, labels.depth, labels.normals, labels.confidence):
        if value is not None:
            yield value


def _check(labels: Sequence[ViewLabels], views: Views, height: int, width: int, invalid: Tensor | None) -> None:
    if not labels or not len(views):
        raise InputError("there is nothing to fuse: pass the labels of at least one teacher and one view")
    for one in labels:
        for key, channels in (("probabilities", None), ("depth", ()), ("normals", (3,)), ("confidence", ())):
            value = getattr(one, key)
            if value is None:
                continue
            wanted = (len(views), *(channels or ()), views.height, views.width)
            if channels is None and (value.ndim != 4 or len(value) != len(views)):
                raise InputError(f"probabilities of {len(views)} views are (V, C, h, w), got {tuple(value.shape)}")
            if channels is not None and value.shape != wanted:
                raise InputError(f"{key} of these views is {wanted}, got {tuple(value.shape)}")
    classes = {one.probabilities.shape[1] for one in labels if one.probabilities is not None}
    if len(classes) > 1 or max(classes, default=0) > NO_LABEL:
        raise InputError(f"teachers must predict the same number of classes, at most 255, got {sorted(classes)}")
    if invalid is not None and (invalid.shape != (height, width) or invalid.dtype != torch.bool):
        raise InputError(f"invalid must be bool {(height, width)}, got {invalid.dtype} {tuple(invalid.shape)}")
