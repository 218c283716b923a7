"""Handling of views for which a teacher returned NaN or infinite values: the whole view is left out.

If a network's numbers overflow, the rest of that view cannot be trusted either, and a NaN would spread to every pixel
that the view contributes to.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.base import ViewLabels

__all__ = ("leave_out_broken_views",)

# The largest share of a teacher's views that may be broken: with more, the rest says little about the panorama.
MOST_BROKEN = 0.5


def leave_out_broken_views(labels: Sequence[ViewLabels], height: int, width: int) -> tuple[list[ViewLabels], int]:
    """Replace all labels of a broken view by "no label".

    A view is broken if its probabilities, normals or confidence hold a value that is not finite, or its depth a NaN.
    Infinite depth means no depth, as in the sky; but a view with infinite depth and no valid depth is broken too.

    Args:
        labels: Labels of every teacher.
        height: Rows of a view.
        width: Columns of a view.

    Returns:
        The labels, and the number of views that are broken for at least one teacher.

    Raises:
        InputError: If more than half of the views of a teacher are broken.
    """
    kept: list[ViewLabels] = []
    broken_for_any: Tensor | None = None
    for number, one in enumerate(labels, start=1):
        found = _broken_views(one)
        broken = torch.stack(list(found.values())).any(0) if found else torch.zeros(1, dtype=torch.bool)
        if not broken.any():
            kept.append(one)
            continue
        count = int(broken.sum())
        if count > MOST_BROKEN * len(broken):
            what = " and ".join(key for key, views in found.items() if views.any())
            raise InputError(
                f"{what} of teacher {number} are NaN or infinite in {count} of {len(broken)} views, so that too few "
                "are left: check its weights and its precision"
            )
        kept.append(_without(one, broken, height, width))
        broken_for_any = broken if broken_for_any is None else broken_for_any | broken
    return kept, 0 if broken_for_any is None else int(broken_for_any.sum())


def _broken_views(labels: ViewLabels) -> dict[str, Tensor]:
    """Return which views are broken, bool (V,), by the name of the map that breaks them."""
    found: dict[str, Tensor] = {}
    for key in ("probabilities", "normals", "confidence"):
        value = getattr(labels, key)
        if value is not None and value.is_floating_point():
            found[key] = _not_finite(value)
    if labels.depth is not None:
        found["depth"] = _may_be_broken(labels.depth)
        if found["depth"].any():
            flat = labels.depth.flatten(1)
            low, high = flat.aminmax(dim=1)
            found["depth"] = low.isnan() | (high.isinf() & ~((flat > 0) & (flat < math.inf)).any(1))
    return found


def _not_finite(maps: Tensor) -> Tensor:
    """Return which of the maps (V, ...) hold a value that is not finite, bool (V,)."""
    found = _may_be_broken(maps)
    if found.any():
        low, high = maps.flatten(1).aminmax(dim=1)  # both are NaN if any value is
        found = ~(low.isfinite() & high.isfinite())
    return found


def _may_be_broken(maps: Tensor) -> Tensor:
    """Return which of the maps (V, ...) have a sum that is not finite, bool (V,); the sum alone may have overflowed.

    A sum is ten times as fast as a search, and finite only if all values are.
    """
    return ~maps.flatten(1).sum(1, dtype=torch.promote_types(maps.dtype, torch.float32)).isfinite()


def _without(labels: ViewLabels, broken: Tensor, height: int, width: int) -> ViewLabels:
    changed = {"confidence": torch.ones(len(broken), height, width, device=broken.device)} | {
        key: value
        for key in ("probabilities", "depth", "normals", "confidence")
        if (value := getattr(labels, key)) is not None
    }
    for key, value in changed.items():
        changed[key] = torch.where(broken.view(-1, *[1] * (value.ndim - 1)), value.new_zeros(()), value)
    return dataclasses.replace(labels, **changed)
