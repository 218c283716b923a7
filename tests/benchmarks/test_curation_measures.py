"""Measures of curation against analytic values."""

import math

import pytest
import torch


def test_error_and_area_under_the_curve(benchmark):
    truth = torch.full((2, 16, 32), 2.0)
    depth = truth.clone()
    depth[1, :8] = 3.0
    assert benchmark.error_of(depth, truth).tolist() == pytest.approx([0, 0.25])
    depth[0, :4] = 0  # a hole around the upper pole
    hole = (1 - math.cos(math.pi / 4)) / 2
    assert benchmark.error_of(depth, truth).tolist() == pytest.approx([hole, 0.25])
    truth[0, :4] = 0  # or a sky
    assert benchmark.error_of(depth, truth).tolist() == pytest.approx([0, 0.25])
    truth[0, 8:] = 0  # that the label fills in: 8 of its 12 rows
    assert benchmark.error_of(depth, truth).tolist() == pytest.approx([1 / (1 + math.cos(math.pi / 4)), 0.25])
    nothing = torch.zeros_like(truth)
    assert benchmark.error_of(nothing, truth)[1] == 1 and benchmark.error_of(nothing, nothing).tolist() == [0, 0]
    good, bad = torch.tensor([0.9, 0.6, 0.4]), torch.tensor([0.5, 0.6])
    pairs = [(g > b) + 0.5 * (g == b) for g in good.tolist() for b in bad.tolist()]
    assert benchmark.auc(good, bad) == pytest.approx(sum(pairs) / 6)


def test_a_third_of_the_labels_are_planted_failures(benchmark):
    depth = 1 + torch.rand(36, 16, 32, generator=torch.Generator().manual_seed(0))
    depth[:, :2] = 0  # a sky that can be filled
    planted = benchmark.plant_failures(depth)
    changed = [i for i in range(36) if not torch.equal(planted[i], depth[i])]
    assert changed == list(range(0, 36, 3))
    assert (planted[0] / depth[0])[2:].unique().round(decimals=3).tolist() in ([0.5], [2.0])


def test_a_filled_sky_is_looked_for_where_label_and_truth_have_one(benchmark):
    """Other labels would hide how well it is found: they stay as they are, or become better."""
    depth = 1 + torch.rand(6, 16, 32, generator=torch.Generator().manual_seed(0))
    truth = depth.clone()
    depth[:3, :4], truth[:2, :4] = 0, 0
    without_distance = lambda labels: (labels == 0).float().mean((1, 2))  # noqa: E731
    assert benchmark.examine(without_distance, depth, truth)["filled"] == 1
    assert math.isnan(benchmark.examine(without_distance, depth[2:], truth[2:])["filled"])
