import numpy as np
import pytest
import torch

from mtpano_zoo.metrics import DisparityMetrics, defined_scores
from mtpano_zoo.metrics.disparity import align_affine

NAMES = ("AbsRel/affine_aligned", "RMSE/affine_aligned", "delta1/affine_aligned")


def _scores(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {name: value.item() for name, value in metric.compute().items()}


def _case(seed=0, images=3):
    g = torch.Generator().manual_seed(seed)
    target = 0.05 + torch.rand(images, 8, 16, generator=g)
    prediction = 40 * target + 7 + 8 * torch.randn(target.shape, generator=g)
    valid = torch.rand(target.shape, generator=g) > 0.2
    target[torch.rand(target.shape, generator=g) < 0.05] = torch.nan
    target[torch.rand(target.shape, generator=g) < 0.05] = 0  # infinitely far: no relative error
    return prediction[:, None], target, valid


def _by_hand(prediction, target, valid, reduction, weighting):
    height = target.shape[1]
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, height + 1))
    area = (edges[:-1] - edges[1:])[:, None] if weighting == "solid_angle" else np.ones((height, 1))
    parts = []
    for p, t, v in zip(prediction[:, 0].double().numpy(), target.double().numpy(), valid.numpy(), strict=True):
        known = v & np.isfinite(t) & (t > 0)
        p, t, w = p[known], t[known], np.broadcast_to(area, known.shape)[known]
        line, root = np.stack((p, np.ones_like(p)), -1), np.sqrt(w)
        p = line @ np.linalg.lstsq(line * root[:, None], t * root, rcond=None)[0]
        ratio = np.maximum(p / t, t / np.maximum(p, 1e-12))
        parts.append((w, np.stack((np.abs(p - t) / t, (p - t) ** 2, ratio < 1.25))))
    if reduction == "pixel":
        parts = [tuple(np.concatenate(x, axis=-1) for x in zip(*parts, strict=True))]
    means = np.array([terms @ w / w.sum() for w, terms in parts])
    means[:, 1] **= 0.5
    return means.mean(0)


@pytest.mark.parametrize("weighting", ["pixel", "solid_angle"])
@pytest.mark.parametrize("reduction", ["pixel", "image"])
def test_scores_agree_with_least_squares_per_image(reduction, weighting):
    case = _case()
    scores = _scores(DisparityMetrics(reduction=reduction, weighting=weighting), case)
    assert scores.pop("nonfinite") == 0 and tuple(scores) == NAMES
    np.testing.assert_allclose(list(scores.values()), _by_hand(*case, reduction, weighting), rtol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (3.0, -5.0), (-1.0, 0.0)])
def test_scale_and_shift_of_a_prediction_do_not_matter(scale, shift):
    prediction, target, valid = _case()
    changed = prediction.clone()
    changed[1] = scale * changed[1] + shift
    expected = _scores(DisparityMetrics(), (prediction, target, valid))
    assert _scores(DisparityMetrics(), (changed, target, valid)) == pytest.approx(expected, rel=1e-4)


def test_a_prediction_without_variation_becomes_the_mean():
    target = torch.tensor([[[1.0, 1.0, 2.0, 4.0]]])
    aligned = align_affine(torch.full((1, 1, 4), 3.0), target, torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]))
    torch.testing.assert_close(aligned, torch.full((1, 1, 4), 4 / 3, dtype=torch.float64))
    known = torch.tensor([[[True, True, True, False]]])
    scores = _scores(DisparityMetrics(), (torch.full((1, 1, 1, 4), 3.0), target, known))
    assert scores == pytest.approx(
        {
            "AbsRel/affine_aligned": (1 / 3 + 1 / 3 + 1 / 3) / 3,
            "RMSE/affine_aligned": ((1 / 9 + 1 / 9 + 4 / 9) / 3) ** 0.5,
            "delta1/affine_aligned": 0,
            "nonfinite": 0,
        }
    )


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_no_score_and_does_not_decide_the_alignment(junk):
    prediction, target, valid = _case()
    expected = _scores(DisparityMetrics(), (prediction, target, valid))
    ignored = prediction.masked_fill(~(valid & target.isfinite())[:, None], junk)
    assert _scores(DisparityMetrics(), (ignored, target, valid)) == pytest.approx(expected)
    pixel = tuple((valid & (target > 0)).nonzero()[0].tolist())
    count = (valid & (target > 0)).sum().item()
    soiled = prediction.clone()
    soiled[pixel[0], 0, pixel[1], pixel[2]] = junk
    metric = DisparityMetrics()
    scores = _scores(metric, (soiled, target, valid))
    assert scores.pop("nonfinite") == pytest.approx(1 / count)
    assert (
        all(np.isnan(value) for value in scores.values()) and defined_scores(metric).keys() == metric.compute().keys()
    )
    weights = (valid & soiled[:, 0].isfinite() & (target > 0)).double()
    rest = align_affine(soiled[:, 0], target, weights)
    without = align_affine(prediction[:, 0], target, weights)
    assert torch.equal(rest[weights > 0], without[weights > 0]) and rest[weights > 0].isfinite().all()


def test_without_valid_pixels_there_is_no_score():
    prediction, target, valid = _case()
    metric = DisparityMetrics(reduction="image")
    metric.update(prediction, target, torch.zeros_like(valid))
    assert defined_scores(metric) == {} and all(value.isnan() for value in metric.compute().values())
    expected = _scores(DisparityMetrics(reduction="image"), (prediction, target, valid))
    assert _scores(metric, (prediction, target, valid)) == pytest.approx(expected)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="resize one of them"):
        DisparityMetrics().update(torch.zeros(1, 1, 2, 4), torch.ones(1, 4, 8), torch.ones(1, 4, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean mask"):
        DisparityMetrics().update(torch.zeros(1, 1, 4, 8), torch.ones(1, 4, 8), torch.ones(1, 4, 8))
