"""How well scores of labels find errors: planted failures, large errors of the labeler, the worth of the best third."""

from collections.abc import Callable

import torch
from torch import Tensor

from mtpano_zoo.labeling.curation.scoring import score_of_map
from mtpano_zoo.models.patch_discriminator import PatchDiscriminator
from mtpano_zoo.sphere import solid_angles
from mtpano_zoo.training.label_failures import FAILURES


def plant_failures(depth: Tensor) -> Tensor:
    """Return distances (N, H, W) of which a third are planted failures, of every kind in turn.

    Labels without a sky stay as they are where it is the turn of filling it.
    """
    chance = torch.rand(len(depth), generator=torch.Generator().manual_seed(0))
    planted = depth.clone()
    for number, plant in enumerate(FAILURES.values()):
        chosen = slice(3 * number, None, 3 * len(FAILURES))
        planted[chosen] = plant(depth, chance)[chosen]
    return planted


def error_map(depth: Tensor, truth: Tensor) -> Tensor:
    """Return relative errors; 1 where only one of label and truth has a distance, NaN where neither has."""
    error = torch.where(truth > 0, (depth - truth).abs() / truth.clamp_min(1e-3), 1)
    return torch.where((depth > 0) | (truth > 0), error, torch.nan)


def error_of(depth: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of `error_map` (N,) over the sphere."""
    error = error_map(depth, truth)
    weights = solid_angles(*truth.shape[-2:]).expand_as(truth) * ~error.isnan()
    return (error.nan_to_num() * weights).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1e-9)


@torch.no_grad()
def scores_of(discriminator: PatchDiscriminator, image: Tensor, depth: Tensor) -> Tensor:
    """Return the scores (N,) of labels, computed as in the second stage."""
    maps = torch.cat(
        [discriminator.score_map(i, d[:, None])[:, 0] for i, d in zip(image.split(16), depth.split(16), strict=True)]
    )
    return score_of_map(maps, solid_angles(*depth.shape[-2:]).expand_as(depth))


def auc(good: Tensor, bad: Tensor) -> float:
    """Return the probability that a good label scores higher than a bad one; ties count half.

    Example:
        >>> auc(torch.tensor([0.9, 0.6]), torch.tensor([0.1, 0.6]))
        0.875
    """
    difference = good[:, None] - bad[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def examine(score: Callable[[Tensor], Tensor], depth: Tensor, truth: Tensor) -> dict[str, float]:
    """Return how well scores find planted failures and large errors, and the errors of the best third.

    A sky can be filled in only where label and truth have one; NaN if none has.
    """
    scores, error = score(depth), error_of(depth, truth)
    chance = torch.rand(len(depth), generator=torch.Generator().manual_seed(0))
    sky = ((depth == 0) & (truth == 0)).flatten(1).any(1)
    found = {}
    for name, plant in FAILURES.items():
        possible = sky if name == "filled" else torch.ones_like(sky)
        found[name] = auc(scores[possible], score(plant(depth, chance))[possible])
    some_planted = plant_failures(depth)
    middle, error_with_planted = error.median(), error_of(some_planted, truth)
    ranks = torch.stack((scores.argsort().argsort(), error.argsort().argsort())).double()
    return {
        **found,
        "large own errors": auc(scores[error < middle], scores[error >= middle]),
        "rank correlation with the error": float(torch.corrcoef(ranks)[0, 1]),
        "error of all": float(error.mean()),
        "error of the best third": float(error[best_third(scores)].mean()),
        "error of all, a third of them planted failures": float(error_with_planted.mean()),
        "error of the best third of these": float(error_with_planted[best_third(score(some_planted))].mean()),
    }


def best_third(scores: Tensor) -> Tensor:
    """Return the indices of the best third of the labels by score."""
    return scores.argsort(descending=True)[: max(1, len(scores) // 3)]
