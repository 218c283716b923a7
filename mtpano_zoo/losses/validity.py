"""Valid pixels of a label, for losses and metrics alike."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.tasks import NO_LABEL, SAMPLE_MAPS

__all__ = (
    "check_batch",
    "known_range",
    "map_shape",
    "trusted",
    "valid_depth",
    "valid_disparity",
    "valid_normals",
    "valid_semseg",
)


def valid_semseg(labels: Tensor, num_classes: int, ignore_index: int = NO_LABEL) -> Tensor:
    """Return the mask of the pixels that have a class: neither ``ignore_index`` nor outside [0, num_classes).

    Example:
        >>> import torch
        >>> valid_semseg(torch.tensor([0, 12, 13, 255]), 13).tolist()
        [True, True, False, False]
    """
    labels = labels.long()  # in a shorter type, the numbers that they are compared with may overflow
    return (labels >= 0) & (labels < num_classes) & (labels != ignore_index)


def valid_depth(depth: Tensor, min_depth: float = 0.0, max_depth: float | None = None) -> Tensor:
    """Return the mask of the finite depths strictly between the two limits in metres.

    Strictly, because 0 means "no measurement" and a sensor that saturates reports its largest value.

    Example:
        >>> import torch
        >>> valid_depth(torch.tensor([0.0, 1.5, 12.0, float("inf")]), max_depth=10.0).tolist()
        [False, True, False, False]
    """
    valid = depth.isfinite() & (depth > min_depth)
    return valid if max_depth is None else valid & (depth < max_depth)


def valid_normals(normals: Tensor) -> Tensor:
    """Return the mask (..., H, W) of finite normals (..., 3, H, W) longer than 0.5: neither zero nor faded.

    Example:
        >>> import torch
        >>> valid_normals(torch.eye(3)[:, :, None] * torch.tensor([1.0, 0.4, 0.0])[:, None]).flatten().tolist()
        [True, False, False]
    """
    return normals.isfinite().all(dim=-3) & (normals.square().sum(dim=-3) > 0.25)


def valid_disparity(disparity: Tensor, valid: Tensor) -> Tensor:
    """Return the mask of the inverse distances (B, H, W) that are finite and marked as valid.

    Example:
        >>> import torch
        >>> valid_disparity(torch.tensor([0.5, torch.inf, 0.2]), torch.tensor([True, True, False])).tolist()
        [True, False, False]
    """
    return disparity.isfinite() & valid


def known_range(depth: Tensor, far: Tensor, max_depth: float | None = None) -> tuple[Tensor, Tensor]:
    """Return where a distance is within range, and where that is known; both (B, H, W).

    Args:
        depth: metres, 0 = no measurement.
        far: true = known to be farther than anything that is measured.
        max_depth: distances of this many metres or more are out of range; by default none is.

    Example:
        >>> import torch
        >>> depth, far = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([False, True, False])
        >>> within, known = known_range(depth, far)
        >>> within.tolist(), known.tolist()
        ([True, False, False], [True, True, False])
    """
    measured = valid_depth(depth)
    inside = measured if max_depth is None else measured & (depth < max_depth)
    return inside & ~far, measured | far


def trusted(valid: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mask of the valid pixels that have a weight: where it is 0 or not finite, there is no label.

    Example:
        >>> import torch
        >>> trusted(torch.tensor([True, True, True]), torch.tensor([0.5, 0.0, torch.nan])).tolist()
        [True, False, False]
    """
    return valid if weight is None else valid & weight.isfinite() & (weight > 0)


def map_shape(key: str, batch: int, height: int, width: int) -> tuple[int, ...]:
    """Return the shape of a map of samples in a batch.

    Example:
        >>> map_shape("depth", 2, 16, 32), map_shape("normals", 2, 16, 32)
        ((2, 16, 32), (2, 3, 16, 32))
    """
    channels = SAMPLE_MAPS[key].channels
    return (batch, channels, height, width) if channels else (batch, height, width)


def check_batch(batch: Mapping[str, Any], num_classes: int) -> None:
    """Refuse a batch that cannot be trained on, before a network sees it.

    Losses and metrics skip classes out of range, because a check there would make the GPU wait for the host; this one
    reads values, so call it while the batch is still on the CPU.

    Raises:
        InputError: If a class is outside [0, num_classes) and not 255, a map has another shape or type than
            `mtpano_zoo.tasks.SAMPLE_MAPS` says, or the image is far outside [0, 1].

    Example:
        >>> import torch
        >>> batch = {"image": torch.zeros(1, 3, 2, 4), "semseg": torch.full((1, 2, 4), 13)}
        >>> check_batch(batch, num_classes=14)
        >>> check_batch(batch, num_classes=13)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    image = batch["image"]
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise InputError(f"image must be floating point (B, 3, H, W) in [0, 1], got {image.dtype} {tuple(image.shape)}")
    for key in batch.keys() & SAMPLE_MAPS.keys():
        _check_map(key, batch[key], map_shape(key, len(image), *image.shape[-2:]))
    low, high = (float(value) for value in image.aminmax())
    if not (low > -0.5 and high < 1.5):  # a filter may leave [0, 1] a little
        raise InputError(
            f"image holds values from {low:.3g} to {high:.3g} instead of [0, 1]: divide 8-bit values by 255, and leave "
            "the normalisation to the network"
        )
    if "semseg" not in batch:
        return
    labels = batch["semseg"]
    wrong = labels[(labels != NO_LABEL) & ~valid_semseg(labels, num_classes)]
    if wrong.numel():
        raise InputError(
            f"semseg labels hold the classes {wrong.unique().tolist()[:10]}, but there are {num_classes} (0 to "
            f"{num_classes - 1}) and {NO_LABEL} for no label: map the labels or set the number of classes"
        )


def _check_map(key: str, values: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(values.shape) != shape:
        raise InputError(f"{key} must be {shape} to fit the image, got {tuple(values.shape)}: resize or reshape it")
    wanted = SAMPLE_MAPS[key].dtype
    if wanted == "float32" and not values.is_floating_point():
        raise InputError(f"{key} must be floating point, got {values.dtype}: convert its unit too")
    if wanted == "int64" and values.is_floating_point():
        raise InputError(f"{key} labels must be integers, got {values.dtype}: convert them with .long()")
    if wanted == "bool" and values.dtype != torch.bool:
        raise InputError(f"{key} must be bool, got {values.dtype}: convert it with .bool()")
