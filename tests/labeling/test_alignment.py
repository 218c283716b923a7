import pytest
import torch

from mtpano_zoo.labeling.alignment import Observations, align_views


def scene(count, pixels=600, seen=0.4, seed=0):
    """Distances of pixels, and for `count` views, the cosines and weights with which they see them."""
    random = torch.Generator().manual_seed(seed)
    distance = torch.exp(0.5 * torch.randn(pixels, 1, generator=random, dtype=torch.float64)) + 0.5
    cosines = 0.6 + 0.4 * torch.rand(pixels, count, generator=random, dtype=torch.float64)
    weights = torch.rand(pixels, count, generator=random, dtype=torch.float64)
    weights = torch.where(torch.rand(pixels, count, generator=random) < seen, weights + 0.1, 0)
    return distance, cosines, weights, random


def draw(count, random, spread):
    return torch.exp(spread * torch.randn(count, generator=random, dtype=torch.float64))


def draw_around_one(count, random):
    """Factors whose mean is one, however outliers are weighted."""
    half = draw(count // 2, random, 0.2)
    return torch.cat((half, 1 / half))


def test_scales_of_metric_views_are_recovered_up_to_their_mean():
    distance, cosines, weights, random = scene(8)
    wrong = draw_around_one(8, random)
    scales, shifts = align_views(Observations(wrong / (distance * cosines), cosines, weights, ["metric"] * 8))
    assert torch.allclose(scales * wrong, torch.ones(8, dtype=torch.float64), atol=1e-4) and not shifts.any()


def test_scale_invariant_views_follow_the_metric_ones():
    distance, cosines, weights, random = scene(8)
    wrong = draw(8, random, 2.0)
    wrong[:3] = 1
    kinds = ["metric"] * 3 + ["scale_invariant"] * 5
    scales, _ = align_views(Observations(wrong / (distance * cosines), cosines, weights, kinds))
    assert torch.allclose(scales * wrong, torch.ones(8, dtype=torch.float64), atol=1e-4)


def test_without_a_metric_view_the_median_distance_is_about_one():
    distance, cosines, weights, random = scene(8)
    wrong = draw(8, random, 2.0)
    scales, _ = align_views(Observations(wrong / (distance * cosines), cosines, weights, ["scale_invariant"] * 8))
    factor = scales * wrong
    assert torch.allclose(factor, factor.mean().expand(8), rtol=1e-4)
    assert float((distance / factor.mean()).median()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("anchored", [True, False])
def test_scale_and_shift_of_disparity_are_recovered(anchored):
    distance, cosines, weights, random = scene(8)
    scale, shift = draw(8, random, 1.0), torch.rand(8, generator=random, dtype=torch.float64)
    inverse = 1 / (distance * cosines)
    kinds = ["disparity"] * 8
    values = scale * (inverse + shift)
    if anchored:
        kinds[:2] = ["metric"] * 2
        values[:, :2] = inverse[:, :2]
        scale[:2], shift[:2] = 1, 0
    scales, shifts = align_views(Observations(values, cosines, weights, kinds))
    found = 1 / ((scales * values + shifts) * cosines)
    ratio = (found / distance)[weights > 0]
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-4)
    if anchored:
        assert torch.allclose(scales * scale, torch.ones(8, dtype=torch.float64), rtol=1e-4)
        assert torch.allclose(-shifts, shift, atol=1e-4)
    else:
        assert float((distance * ratio.mean()).median()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("size", [0.01, 30.0])
def test_disparity_beside_metric_views_of_small_and_large_scenes(size):
    """A street is ten times as large as a room, so an optimisation that starts at distance 1 has a long way to go."""
    distance, cosines, weights, random = scene(8)
    shift = torch.rand(4, generator=random, dtype=torch.float64)
    inverse = 1 / (size * distance * cosines)
    values = torch.cat((draw(4, random, 1.0) * (size * inverse[:, :4] + shift), inverse[:, 4:]), dim=1)
    scales, shifts = align_views(Observations(values, cosines, weights, ["disparity"] * 4 + ["metric"] * 4))
    found = 1 / ((scales * values + shifts) * cosines)
    assert torch.allclose((found / (size * distance))[weights > 0], torch.ones((), dtype=torch.float64), rtol=1e-3)


def test_noise_in_disparity_does_not_flatten_it():
    distance, cosines, weights, random = scene(12, pixels=4000)
    inverse = 1 / (distance * cosines)
    noise = torch.exp(0.05 * torch.randn(inverse.shape, generator=random, dtype=torch.float64))
    values = draw(12, random, 1.0) * (inverse * noise + torch.rand(12, generator=random, dtype=torch.float64))
    scales, shifts = align_views(Observations(values, cosines, weights, ["disparity"] * 12))
    found = -((scales * values + shifts) * cosines).log()
    known = weights > 0
    x = distance.log().expand_as(found)[known]
    x, y = x - x.mean(), found[known] - found[known].mean()
    # The slope of what is found over the truth in log-distance.
    assert float((x * y).sum() / (x * x).sum()) == pytest.approx(1, abs=0.03)


def test_gross_errors_do_not_count():
    distance, cosines, weights, random = scene(8, pixels=2000)
    wrong = draw_around_one(8, random)
    values = wrong / (distance * cosines)
    bad = torch.rand(values.shape, generator=random) < 0.15
    values = torch.where(bad, values * 3, values)
    scales, _ = align_views(Observations(values, cosines, weights, ["metric"] * 8))
    assert torch.allclose(scales * wrong, torch.ones(8, dtype=torch.float64), atol=5e-3)


def test_a_metric_view_that_is_far_off_does_not_decide():
    distance, cosines, weights, random = scene(9)
    wrong = torch.cat((draw_around_one(8, random), torch.tensor([8.0])))
    scales, _ = align_views(Observations(wrong / (distance * cosines), cosines, weights, ["metric"] * 9))
    factor = scales * wrong
    assert torch.allclose(factor, factor[:1].expand(9), atol=1e-4)
    assert float(factor[0]) == pytest.approx(1, abs=0.08)  # a mean would be off by 8^(1/9) = 1.26


def test_groups_without_overlap_are_solved_each():
    distance, cosines, weights, random = scene(8)
    weights[:300, :4] = 0
    weights[300:, 4:] = 0
    wrong = torch.cat((draw_around_one(4, random), draw_around_one(4, random)))
    scales, _ = align_views(Observations(wrong / (distance * cosines), cosines, weights, ["metric"] * 8))
    assert torch.allclose(scales * wrong, torch.ones(8, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("kind", ["metric", "scale_invariant", "disparity"])
def test_nothing_to_compare_is_no_error(kind):
    distance, cosines, weights, _ = scene(4)
    values = 1 / (distance * cosines)
    weights[:, 1] = 0  # a view that sees nothing
    for some in (weights, torch.zeros_like(weights), (torch.rand(600, 1) * 4).long() == torch.arange(4)):
        scales, shifts = align_views(Observations(values, cosines, some, [kind] * 4))
        assert scales.isfinite().all() and (scales > 0).all() and shifts.isfinite().all()
        if kind == "metric":
            assert torch.allclose(scales, torch.ones(4, dtype=torch.float64), atol=1e-6)
    scales, shifts = align_views(Observations(values[:, :1], cosines[:, :1], weights[:, :1], [kind]))
    assert scales.isfinite().all() and shifts.isfinite().all()


def test_the_order_of_the_views_does_not_matter():
    distance, cosines, weights, random = scene(6)
    values = draw(6, random, 0.3) / (distance * cosines) * (1 + 0.05 * torch.randn(600, 6, generator=random))
    kinds = ["metric", "disparity", "scale_invariant"] * 2
    order = torch.randperm(6, generator=random)
    scales, shifts = align_views(Observations(values, cosines, weights, kinds))
    other = align_views(Observations(values[:, order], cosines[:, order], weights[:, order], [kinds[i] for i in order]))
    assert torch.allclose(other[0], scales[order], rtol=1e-5) and torch.allclose(other[1], shifts[order], atol=1e-5)
