"""The score of a label: the mean of its map over the worst third of what is labelled."""

import pytest
import torch

from mtpano_zoo.labeling.curation.domains import DomainClassifier
from mtpano_zoo.labeling.curation.scoring import Scorer, score_of_map
from mtpano_zoo.models.patch_discriminator import PatchDiscriminator
from mtpano_zoo.sphere import solid_angles

SIZE = (16, 32)


class Indoor(DomainClassifier):
    """Every place is indoors."""

    domains = ("indoor",)

    def __call__(self, sample, classes):
        return "indoor"


def worst_third(scores, weights):
    left, total = sum(weights) / 3, 0.0
    for score, weight in sorted(zip(scores, weights, strict=True)):
        part = min(weight, left)
        left, total = left - part, total + part * score
    return total / (sum(weights) / 3)


def test_the_worst_third_by_weight_counts():
    generator = torch.Generator().manual_seed(0)
    scores, weights = torch.rand(2, 3, 4, 5, generator=generator).unbind(0)
    weights[:, 1] = 0
    found = score_of_map(scores, weights)
    for one, score, weight in zip(found, scores, weights, strict=True):
        assert float(one) == pytest.approx(worst_third(score.flatten().tolist(), weight.flatten().tolist()), rel=1e-5)
    assert score_of_map(scores, torch.zeros_like(scores)).tolist() == [0, 0, 0]


def test_pixels_without_any_label_do_not_count():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(SIZE, width=4, levels=2)
    generator = torch.Generator().manual_seed(1)
    image, depth = torch.rand(3, *SIZE, generator=generator), 1 + torch.rand(SIZE, generator=generator)
    depth[:5] = 0
    far = torch.zeros(SIZE, dtype=torch.bool)
    far[:3] = True
    found = Scorer(discriminator, Indoor(), ()).label("a", {"image": image, "depth": depth, "far": far})
    with torch.no_grad():
        patches = discriminator.score_map(image[None], depth[None, None])[0, 0]
    covered = far | (depth > 0)
    torch.testing.assert_close(found.score_map, torch.where(covered, patches, 0))
    weights = solid_angles(*SIZE).expand(SIZE)
    worst = worst_third(patches[covered].tolist(), weights[covered].tolist())
    assert found.score == pytest.approx(worst, rel=1e-5)
    assert found.valid == pytest.approx(float(weights[covered].sum() / weights.sum()))
