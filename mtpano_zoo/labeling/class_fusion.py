"""Fusion of the views' class probabilities to one class per pixel of the panorama.

The probabilities of all views are far larger than the panorama (32 views, 150 classes and 512 x 512 pixels are 5 GB),
so they are read once, a few views at a time, and never resampled as a whole. A pixel of the panorama is a weighted sum
of rows, the probabilities of the four neighbours in every view that sees it; a single call computes it for all views.
"""

import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.labeling.back_projection import Footprint
from mtpano_zoo.labeling.teachers.base import ViewLabels
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("fuse_classes",)

# Bytes of probabilities to rearrange at once, and pixels of the panorama to process at once.
TABLE_BYTES = 2**29
PIXELS_AT_ONCE = {"cpu": 2**14, "cuda": 2**18}


class _Buffers(threading.local):
    """Buffers that a thread reuses in every fusion, because allocating them takes as long as filling them."""

    def __init__(self) -> None:
        self.known: dict[object, Tensor] = {}

    def empty(self, key: object, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an uninitialised tensor (rows, columns), which the next one of this key may overwrite."""
        if device.type != "cpu":  # PyTorch itself keeps the memory of a GPU
            return torch.empty(rows, columns, dtype=dtype, device=device)
        if (known := self.known.get(key)) is None or known.numel() < rows * columns:
            with torch.inference_mode(False):  # a tensor made in this mode could only be changed in this mode
                known = self.known[key] = torch.empty(rows * columns, dtype=dtype)
        return known[: rows * columns].view(rows, columns)


_buffers = _Buffers()


@torch.no_grad()
def fuse_classes(
    labels: Sequence[ViewLabels],
    weights: Sequence[Sequence[Tensor]],
    feet: Sequence[Footprint],
    pixels: int,
    keep_views: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Average the probabilities of all views of all teachers.

    Args:
        labels: Labels of the teachers that have probabilities.
        weights: Weights (n,) by teacher and view.
        feet: Footprints of the views.
        pixels: Number of pixels of the panorama.
        keep_views: Also return the classes of every view.

    Returns:
        Class of every pixel, uint8 (pixels,), 255 = none; its share of all probability, (pixels,); and by view the
        classes of the pixels that it sees, uint8 (n,).
    """
    maps = [one.probabilities for one in labels if one.probabilities is not None]
    device, classes = maps[0].device, maps[0].shape[1]
    step = max(1, TABLE_BYTES // (4 * sum(one[0].numel() for one in maps)))
    semseg = torch.empty(pixels, dtype=torch.uint8, device=device)
    share = torch.empty(pixels, device=device)
    # If all views are one group, the sums of a few pixels at a time are enough.
    sums = torch.zeros(pixels, classes, device=device) if step < len(feet) else None
    own: list[Tensor] = []
    for first in range(0, len(feet), step):
        group = slice(first, min(first + step, len(feet)))
        tables = [
            _Table(number, one[group], feet[group], weight[group])
            for number, (one, weight) in enumerate(zip(maps, weights, strict=True))
        ]
        bags = [table.bags(pixels) for table in tables]
        at_once = PIXELS_AT_ONCE.get(device.type, 2**16)
        for start in range(0, pixels, at_once):
            part = slice(start, min(start + at_once, pixels))
            total = tables[0].sums(bags[0], part)
            for table, bag in zip(tables[1:], bags[1:], strict=True):
                total += table.sums(bag, part)
            if sums is not None:
                total = sums[part].add_(total)
            if group.stop == len(feet):
                most, index = _largest(total)
                mass = total.sum(1)
                semseg[part] = torch.where(mass > 0, index, NO_LABEL).to(torch.uint8)
                share[part] = torch.where(mass > 0, most / mass, 0)
        if keep_views:
            own += [_own_classes(tables, i) for i in range(group.stop - group.start)]
    return semseg, share, own


class _Table:
    """The probabilities of one teacher in a few views, one row of classes for every pixel of a view.

    Args:
        number: Distinguishes the tables of one fusion.
        probabilities: Probabilities (v, C, h, w).
        feet: Footprints of these views.
        weights: Weights of the pixels that they see.
    """

    def __init__(
        self, number: int, probabilities: Tensor, feet: Sequence[Footprint], weights: Sequence[Tensor]
    ) -> None:
        count, classes, height, width = probabilities.shape
        self.number = number
        self.size = height * width
        self.feet = feet
        self.weights = weights
        self.rows = self._empty("probabilities", count * self.size, classes, torch.float32, probabilities.device)
        for i in range(count):
            self.view(i).copy_(probabilities[i].flatten(1).t())
        self.points = [foot.points_in(height, width) for foot in feet]

    def view(self, index: int) -> Tensor:
        """Return the rows of one view."""
        return self.rows[index * self.size : (index + 1) * self.size]

    def mixtures(self, index: int, chosen: Tensor) -> Tensor:
        """Return probabilities times weight where this view sees the chosen pixels, (n, C)."""
        points, shares = self.points[index].chosen(chosen), self.weights[index].index_select(0, chosen)
        return F.embedding_bag(points.rows(), self.view(index), mode="sum", per_sample_weights=points.weights(shares))

    def shortcut(self, index: int) -> tuple[Tensor, Tensor]:
        """Return this view's classes uint8 (n,), and the indices int64 (m,) of pixels that few scores cannot decide.

        Only the largest classes of the four neighbours are scored. Any other class has at most the mixture of the
        neighbours' second largest probabilities, so a class that scores more is the largest.
        """
        points, rows = self.points[index], self.view(index)
        most, largest = _largest(rows)
        given = torch.where(most > 0, largest, NO_LABEL).to(torch.uint8)
        found = given.index_select(0, points.corner)
        # If all neighbours have the same class, so has every mixture of them.
        corners = len(rows) - points.offsets[3]
        same, *others = (given[offset : offset + corners] for offset in points.offsets)
        differ = (others[0] != same) | (others[1] != same) | (others[2] != same)
        mixed = differ.index_select(0, points.corner).nonzero().squeeze(1)
        second = rows.scatter_(1, largest[:, None], 0).amax(1)
        rows.scatter_(1, largest[:, None], most[:, None])
        # For each corner where they differ: their four classes, and of each neighbour the probabilities of
        # these and the second largest one.
        neighbours = differ.nonzero() + torch.tensor(points.offsets, device=rows.device)
        classes = largest[neighbours]
        scores = torch.empty(len(classes), 4, 5, device=rows.device)
        for j, row in enumerate(neighbours.unbind(1)):
            scores[:, j, :4] = rows.take(row[:, None] * rows.shape[1] + classes)
        scores[..., 4] = second[neighbours]
        chosen = points.chosen(mixed)
        row_of_point = (differ.cumsum(0) - 1).index_select(0, chosen.corner)
        scores = scores.index_select(0, row_of_point)
        right, down = chosen.right[:, None], chosen.down[:, None]
        upper = torch.lerp(scores[:, 0], scores[:, 1], right)
        scores = torch.lerp(upper, torch.lerp(scores[:, 2], scores[:, 3], right), down)
        score, best = scores[:, :4].max(1)
        found[mixed] = classes.flatten().index_select(0, 4 * row_of_point + best).to(torch.uint8)
        return found, mixed[score <= scores[:, 4]]

    def bags(self, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows and weights (N, 4) of all views, sorted by pixel of the panorama, and where each pixel begins."""
        device = self.rows.device
        begin = torch.zeros(pixels + 1, dtype=torch.int32, device=device)
        for foot in self.feet:
            begin[1:].index_add_(0, foot.pixels, torch.ones_like(foot.points.corner))
        begin = begin.cumsum(0, dtype=torch.int32)
        rows = self._empty("rows", int(begin[-1]), 4, torch.int32, device)
        shares = self._empty("shares", len(rows), 4, torch.float32, device)
        free = begin.clone()
        for i, foot in enumerate(self.feet):
            place = free.index_select(0, foot.pixels)
            free.index_copy_(0, foot.pixels, place + 1)
            place = place.long()
            points = self.points[i]
            for whole, part in ((rows, points.rows(i * self.size)), (shares, points.weights(self.weights[i]))):
                # Four numbers of 32 bits are moved as one of 128.
                whole.view(torch.complex128).index_copy_(0, place, part.view(torch.complex128))
        return rows, shares, begin

    def _empty(self, name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return _buffers.empty((name, self.number), rows, columns, dtype, device)

    def sums(self, bags: tuple[Tensor, Tensor, Tensor], part: slice) -> Tensor:
        """Return the sums of these pixels, (n, C)."""
        rows, shares, begin = bags
        begin = begin[part.start : part.stop + 1]
        first, last = int(begin[0]), int(begin[-1])
        shares = shares[first:last].flatten()
        return F.embedding_bag(
            rows[first:last].flatten(), self.rows, 4 * (begin[:-1] - first), mode="sum", per_sample_weights=shares
        )


def _own_classes(tables: Sequence[_Table], index: int) -> Tensor:
    """Return the class of every pixel that one view sees, uint8 (n,), from all teachers."""
    if len(tables) == 1:
        found, rest = tables[0].shortcut(index)
    else:
        rest = torch.arange(len(tables[0].weights[index]), device=tables[0].rows.device)
        found = torch.empty_like(rest, dtype=torch.uint8)
    for part in torch.split(rest, PIXELS_AT_ONCE.get(rest.device.type, 2**16)):
        if not len(part):
            break
        total = tables[0].mixtures(index, part)
        for table in tables[1:]:
            total += table.mixtures(index, part)
        found[part] = _classes(total)
    known = tables[0].weights[index] > 0
    for table in tables[1:]:
        known |= table.weights[index] > 0
    return torch.where(known, found, NO_LABEL)


def _classes(rows: Tensor) -> Tensor:
    """Return the class of every row, uint8; 255 where all are zero."""
    most, index = _largest(rows)
    return torch.where(most > 0, index, NO_LABEL).to(torch.uint8)


def _largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest number of every row (n, C), the first of equal ones, and its index."""
    if rows.device.type != "cpu":
        most, index = rows.max(1)
        return most, index
    index = torch.from_numpy(rows.detach().numpy().argmax(1))  # on one thread three times as fast as PyTorch's
    return rows.gather(1, index[:, None]).squeeze(1), index
