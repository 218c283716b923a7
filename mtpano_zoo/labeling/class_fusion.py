"""Views' class probabilities to one class per pixel of the panorama.

The probabilities of all views are far larger than the panorama (32 views, 150 classes and 512 x 512 pixels are 5 GB),
so they are read once, a few views at a time, and never resampled as a whole: a pixel of the panorama is a weighted sum
of rows, the probabilities of the four neighbours in every view that sees it, which is one call for all views.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.labeling.back_projection import Footprint, Taps, taps
from mtpano_zoo.labeling.teachers.base import ViewLabels
from mtpano_zoo.labeling.views import Views

NO_CLASS = 255
# Bytes of probabilities that are rearranged at once, and pixels of the panorama that are worked on at once.
TABLE_BYTES = 2**29
PIXELS_AT_ONCE = {"cpu": 2**14, "cuda": 2**18}


def fuse_classes(
    labels: Sequence[ViewLabels],
    weights: Sequence[Sequence[Tensor]],
    feet: Sequence[Footprint],
    views: Views,
    pixels: int,
    keep_views: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Average the probabilities of all views of all teachers.

    Args:
        labels: of the teachers that give probabilities.
        weights: of every teacher and view, (n,).
        feet: where every view sees the panorama.
        views: the cameras.
        pixels: of the panorama.
        keep_views: also return the classes of every view.

    Returns:
        Class of every pixel, uint8 (pixels,), 255 = none; its share of all probability, (pixels,); and the class that
        every view gives to the pixels that it sees, uint8 (n,).
    """
    maps = [one.probabilities for one in labels if one.probabilities is not None]
    device, classes = maps[0].device, maps[0].shape[1]
    wheres = [[taps(foot, views, *one.shape[2:]) for foot in feet] for one in maps]
    bytes_per_view = 4 * sum(one[0].numel() for one in maps)
    step = max(1, TABLE_BYTES // bytes_per_view)
    semseg = torch.full((pixels,), NO_CLASS, dtype=torch.uint8, device=device)
    share = torch.zeros(pixels, device=device)
    # With one group of views, the sums of a few pixels at a time are enough.
    sums = torch.zeros(pixels, classes, device=device) if step < len(feet) else None
    own: list[Tensor] = []
    for first in range(0, len(feet), step):
        group = range(first, min(first + step, len(feet)))
        tables = [_table(one[group.start : group.stop]) for one in maps]
        last = group.stop == len(feet)
        at_once = PIXELS_AT_ONCE.get(device.type, 2**16)
        for start in range(0, pixels, at_once):
            part = slice(start, min(start + at_once, pixels))
            total = torch.zeros(part.stop - part.start, classes, device=device) if sums is None else sums[part]
            for table, where, weight in zip(tables, wheres, weights, strict=True):
                _add(total, table, group, where, weight, feet, part)
            if last:
                most, index = total.max(1)
                mass = total.sum(1)
                known = mass > 0
                semseg[part] = torch.where(known, index, NO_CLASS).to(torch.uint8)
                share[part] = torch.where(known, most / mass.clamp(min=1e-30), 0)
        if keep_views:
            size = [len(table) // len(group) for table in tables]
            best = [_best(table) for table in tables]
            for i in group:
                place = [slice((i - first) * n, (i - first + 1) * n) for n in size]
                rows = [table[p] for table, p in zip(tables, place, strict=True)]
                own.append(
                    _own_classes(
                        rows,
                        [b[p] for b, p in zip(best, place, strict=True)],
                        [where[i] for where in wheres],
                        [weight[i] for weight in weights],
                    )
                )
    return semseg, share, own


def _table(probabilities: Tensor) -> Tensor:
    """One row of classes for every pixel of views (v, C, h, w)."""
    return probabilities.permute(0, 2, 3, 1).reshape(-1, probabilities.shape[1]).float()


def _best(table: Tensor) -> Tensor:
    """Class of every row, uint8; 255 where all are zero."""
    most, index = table.max(1)
    return torch.where(most > 0, index, NO_CLASS).to(torch.uint8)


def _add(
    total: Tensor,
    table: Tensor,
    group: range,
    where: Sequence[Taps],
    weight: Sequence[Tensor],
    feet: Sequence[Footprint],
    part: slice,
) -> None:
    """Add to total (part, C) what the views of a group say of these pixels."""
    entries, size = [], len(table) // len(group)
    for i in group:
        begin, end = torch.searchsorted(feet[i].pixels, torch.tensor([part.start, part.stop])).tolist()
        if end > begin:
            entries.append((i, slice(begin, end)))
    if not entries:
        return
    places = torch.cat([feet[i].pixels[some] for i, some in entries]) - part.start
    rows = torch.cat(
        [torch.stack([c[some] for c in where[i].corners], 1) + (i - group.start) * size for i, some in entries]
    )
    shares = torch.cat([torch.stack([w[some] * weight[i][some] for w in where[i].weights], 1) for i, some in entries])
    order = places.argsort()
    counts = torch.bincount(places, minlength=len(total))
    offsets = 4 * (counts.cumsum(0) - counts)
    total += F.embedding_bag(
        rows[order].flatten(), table, offsets, mode="sum", per_sample_weights=shares[order].flatten()
    )


def _own_classes(
    tables: Sequence[Tensor], best: Sequence[Tensor], where: Sequence[Taps], weights: Sequence[Tensor]
) -> Tensor:
    """Class of every pixel that one view sees, uint8 (n,), from all teachers."""
    first = best[0][where[0].corners[0]]
    same = torch.ones_like(first, dtype=torch.bool)
    for one, taps_ in zip(best, where, strict=True):
        for corner in taps_.corners:
            same &= one[corner] == first
    # Where all neighbours have the same class, so has every mixture of them.
    rest = (~same).nonzero().squeeze(1)
    if len(rest):
        total = sum(
            F.embedding_bag(
                torch.stack([c[rest] for c in taps_.corners], 1),
                table,
                mode="sum",
                per_sample_weights=torch.stack([w[rest] * weight[rest] for w in taps_.weights], 1),
            )
            for table, taps_, weight in zip(tables, where, weights, strict=True)
        )
        first[rest] = _best(torch.as_tensor(total))
    known = sum(weights, torch.zeros(())) > 0
    return torch.where(known, first, NO_CLASS)
