"""The best prediction from the latitude alone: a baseline for every network."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.models.base import PanoramaNetwork
from mtpano_zoo.sphere import erp_rays

__all__ = ("LatitudePrior",)

# Depths are binned in equal steps of their logarithm: 1 % each.
MIN_DEPTH, MAX_DEPTH, DEPTH_BINS = 0.05, 100.0, 760


class LatitudePrior(PanoramaNetwork):
    """One class, one depth and one normal per row, whatever the image shows.

    From labelled rooms, `fit` takes the most common class, the depth with the smallest mean relative error (a median
    weighted by the inverse depth) and the direction with the smallest mean angle (among straight up, straight down and
    a grid of 5 degrees).

    Args:
        classes: names of the semantic classes.
        rows: height of the images that it is fitted to.

    Example:
        >>> LatitudePrior(["floor", "wall"], rows=16)(torch.rand(1, 3, 16, 32))["depth"].shape
        torch.Size([1, 1, 16, 32])
    """

    def __init__(self, classes: Sequence[str], rows: int) -> None:
        super().__init__(("semseg", "depth", "normals"), (rows, 2 * rows), classes=classes)
        self.class_scores: Tensor
        self.depths: Tensor
        self.directions: Tensor
        self.register_buffer("class_scores", torch.zeros(rows, len(classes)))
        self.register_buffer("depths", torch.ones(rows))
        self.register_buffer("directions", torch.zeros(rows, 3))

    def fit(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Fit to samples with `semseg` (H, W), `depth` (H, W) in metres and `normals` (3, H, W).

        The depth of a row where none is measured is interpolated between the nearest rows above and below. A row
        without any class or normal is given that of the nearest row that has one.

        Raises:
            InputError: If the samples have no class, no depth or no normal at all.
        """
        rows = self.input_size[0]
        vertical = torch.tensor([(0.0, -1.0, 0.0), (0.0, 1.0, 0.0)])
        candidates = torch.cat((vertical, erp_rays(35, 72).reshape(-1, 3)))
        scores = torch.zeros(rows, len(self.classes))
        depth_weights = torch.zeros(rows, DEPTH_BINS)
        angles = torch.zeros(rows, len(candidates))
        directed = torch.zeros(rows, dtype=torch.bool)
        bins = torch.linspace(0, 1, DEPTH_BINS + 1)
        edges = MIN_DEPTH * (MAX_DEPTH / MIN_DEPTH) ** bins
        for sample in samples:
            labels, depth, normals = sample["semseg"], sample["depth"], sample["normals"]
            scores += torch.stack([(labels == i).sum(1) for i in range(len(self.classes))], dim=1)
            index = (torch.bucketize(depth, edges) - 1).clamp(0, DEPTH_BINS - 1)
            weights = torch.where(depth > 0, 1 / depth.clamp_min(MIN_DEPTH), 0)
            depth_weights.scatter_add_(1, index, weights)
            # Every eighth column is enough: neighbours show the same wall.
            normals = normals[:, :, ::8]
            directed |= normals.any(0).any(1)
            cosines = normals.permute(1, 2, 0) @ candidates.T
            angles += cosines.clamp(-1, 1).acos().mean(1)
        cumulated = depth_weights.cumsum(1)
        middle = (cumulated >= cumulated[:, -1:] / 2).float().argmax(1)
        depths = (edges[middle] * edges[middle + 1]).sqrt()
        measured = _known_rows(cumulated[:, -1] > 0, "depths").numpy()
        self.depths.copy_(torch.from_numpy(np.interp(np.arange(rows), measured, depths[measured])))
        self.class_scores.copy_(scores[_nearest(scores.any(1), "classes")])
        self.directions.copy_(candidates[angles.argmin(1)[_nearest(directed, "normals")]])

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Predict for images (B, 3, H, W), where H is the height that it was fitted to."""
        batch, _, height, width = image.shape
        if height != len(self.depths):
            raise InputError(f"The image has {height} rows, but the prior was fitted to {len(self.depths)}.")
        return {
            "semseg": self.class_scores.T[None, :, :, None].expand(batch, -1, -1, width),
            "depth": self.depths[None, None, :, None].expand(batch, -1, -1, width),
            "normals": self.directions.T[None, :, :, None].expand(batch, -1, -1, width),
        }


def _nearest(known: Tensor, what: str) -> Tensor:
    """Return for every row (H,) the nearest one that is known."""
    rows = _known_rows(known, what)
    return rows[(torch.arange(len(known))[:, None] - rows).abs().argmin(1)]


def _known_rows(known: Tensor, what: str) -> Tensor:
    if not known.any():
        raise InputError(f"The prior is fitted to {what}, but no sample has any: pass other samples.")
    return known.nonzero()[:, 0]
