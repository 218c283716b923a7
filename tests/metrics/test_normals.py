import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mtpano_zoo.metrics import NormalsMetrics, angular_error

GOLDEN = Path(__file__).parents[1] / "losses" / "golden"


def _all_scores(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {name: value.item() for name, value in metric.compute().items()}


def _score(metric, *batches):
    scores = _all_scores(metric, *batches)
    assert scores.pop("nonfinite") == 0
    return scores


def _case(images=3, height=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    target = F.normalize(torch.randn(images, 3, height, 2 * height, generator=g), dim=1)
    noise = torch.randn(target.shape, generator=g) * torch.tensor([0.1, 0.4, 1.0])[:images, None, None, None]
    holes = torch.rand(images, 1, height, 2 * height, generator=g) < 0.2
    return 5 * (target + noise), target.masked_fill(holes, 0)


def _turned(angle):
    """A pair of normals per angle in degrees (N,), as maps (1, 3, 1, N)."""
    radians = torch.deg2rad(torch.as_tensor(angle, dtype=torch.float64))
    prediction = torch.stack((radians.sin(), torch.zeros_like(radians), -radians.cos()))
    target = torch.zeros_like(prediction)
    target[2] = -1
    return prediction[None, :, None].float(), target[None, :, None].float()


def test_angles_are_exact_from_zero_to_a_half_turn():
    angle = torch.tensor([0.0, 1e-3, 0.1, 11.25, 45.0, 90.0, 135.0, 179.9, 180.0])
    prediction, target = _turned(angle)
    for length in (1e-30, 1e-3, 1.0, 1e3, 1e30):  # squares of the outer ones are no numbers in single precision
        torch.testing.assert_close(angular_error(length * prediction, target)[0, 0], angle, atol=2e-5, rtol=0)
    assert angular_error(torch.zeros_like(target), target)[0, 0, 0].item() == pytest.approx(90)


def _median_by_hand(angle, weights):
    order = np.argsort(angle)
    share = np.cumsum(weights[order]) / weights.sum()
    return angle[order][np.searchsorted(share, 0.5 - 1e-9)]


def _scores_by_hand(angle, weights):
    def mean(x):
        return (weights * x).sum() / weights.sum()

    below = [100 * mean(angle < limit) for limit in (11.25, 22.5, 30)]
    return [mean(angle), _median_by_hand(angle, weights), mean(angle**2) ** 0.5, *below]


@pytest.mark.parametrize("weighting", ["pixel", "solid_angle"])
@pytest.mark.parametrize("reduction", ["pixel", "image"])
def test_scores_agree_with_loops(reduction, weighting):
    prediction, target = _case()
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, 9))
    area = (edges[:-1] - edges[1:])[:, None] if weighting == "solid_angle" else np.ones((8, 1))
    parts = []
    for p, t in zip(prediction.double().numpy(), target.double().numpy(), strict=True):
        known = np.linalg.norm(t, axis=0) > 0.5
        cosine = (p * t).sum(0)[known] / np.linalg.norm(p, axis=0)[known]
        parts.append((np.rad2deg(np.arccos(cosine.clip(-1, 1))), np.broadcast_to(area, known.shape)[known]))
    if reduction == "image":
        expected = np.mean([_scores_by_hand(*part) for part in parts], axis=0)
    else:
        expected = _scores_by_hand(*(np.concatenate(x) for x in zip(*parts, strict=True)))
    scores = _score(NormalsMetrics(reduction, weighting), (prediction, target))
    assert tuple(scores) == ("mean", "median", "RMSE", "11.25", "22.5", "30")
    assert scores.pop("median") == pytest.approx(expected[1], abs=0.00501)
    np.testing.assert_allclose(list(scores.values()), np.delete(expected, 1), rtol=1e-5)


def test_published_meter_is_reproduced():
    with np.load(GOLDEN / "published.npz") as arrays:
        prediction, target = (torch.from_numpy(arrays[name]) for name in ("pred_normals", "target_normals"))
    expected = json.loads((GOLDEN / "expected.json").read_text())["metrics_normals"]
    scores = _score(NormalsMetrics(), (prediction, target.masked_fill(target == 255, 0)))
    assert scores.pop("median") == pytest.approx(expected["median"], abs=0.00501)
    theirs = [expected[name] for name in ("mean", "rmse", "11.25", "22.5", "30")]
    np.testing.assert_allclose(list(scores.values()), theirs, rtol=1e-6)


def test_invalid_pixels_are_not_counted_as_perfect():
    prediction, target = _turned([60.0, 60.0, 60.0, 60.0])
    target[..., 1:] = 0
    scores = _score(NormalsMetrics(), (prediction, target))
    assert scores["mean"] == pytest.approx(60)
    assert scores["30"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_median_keeps_its_bound(seed):
    angle = torch.rand(4001, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** (seed + 1) * 180
    scores = _score(NormalsMetrics(), _turned(angle))
    assert scores["median"] == pytest.approx(angle.median().item(), abs=0.00501)


@pytest.mark.parametrize("angle", [0.0, 180.0])
def test_the_ends_of_the_histogram_count(angle):
    assert _score(NormalsMetrics(), _turned([angle] * 3))["median"] == pytest.approx(angle, abs=0.00501)


def test_pooling_weighs_pixels_and_averaging_weighs_images():
    prediction, target = (x.repeat(2, 1, 1, 1) for x in _turned([0.0, 0.0, 0.0, 0.0]))
    prediction[1], _ = _turned([40.0] * 4)
    target[1, ..., 1:] = 0
    assert _score(NormalsMetrics(), (prediction, target))["mean"] == pytest.approx(8, abs=1e-4)
    assert _score(NormalsMetrics(reduction="image"), (prediction, target))["mean"] == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 4, 10])
def test_an_error_in_a_polar_cap_weighs_as_much_as_the_cap(rows):
    height, width = 32, 64
    target = torch.zeros(1, 3, height, width)
    target[:, 2] = -1
    prediction = target.clone()
    prediction[:, :, :rows] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    cap = (1 - np.cos(np.pi * rows / height)) / 2
    scores = _score(NormalsMetrics(weighting="solid_angle"), (prediction, target))
    assert scores["mean"] == pytest.approx(90 * cap)
    assert 100 - scores["30"] == pytest.approx(100 * cap, abs=1e-4)


def test_invalid_pixels_take_no_part_whatever_they_hold():
    prediction, target = _case()
    expected = _score(NormalsMetrics(), (prediction, target))
    unknown = ~target.any(1, keepdim=True)
    for junk in (torch.nan, torch.inf):
        dirty = (prediction.masked_fill(unknown, junk), target.masked_fill(unknown, junk))
        assert _score(NormalsMetrics(), dirty) == expected
    valid = torch.rand(3, 8, 16, generator=torch.Generator().manual_seed(1)) > 0.5
    masked = _score(NormalsMetrics(), (prediction, target, valid))
    assert masked == _score(NormalsMetrics(), (prediction, target.masked_fill(~valid[:, None], 0)))


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
def test_predictions_that_are_not_finite_are_all_wrong(junk):
    prediction, target = _case()
    prediction[:, 1] = junk  # one component is enough
    scores = _all_scores(NormalsMetrics(), (prediction, target))
    assert scores.pop("median") == pytest.approx(180, abs=0.00501)
    assert scores == {"mean": 180, "RMSE": 180, "11.25": 0, "22.5": 0, "30": 0, "nonfinite": 1}


@pytest.mark.parametrize("reduction", ["pixel", "image"])
def test_one_that_is_not_finite_counts_as_one_that_is_turned_round(reduction):
    prediction, target = _case()
    known = target.any(1)
    spots = torch.rand(known.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    opposite = _score(NormalsMetrics(reduction), (torch.where(spots[:, None], -target, prediction), target))
    scores = _all_scores(NormalsMetrics(reduction), (prediction.masked_fill(spots[:, None], torch.nan), target))
    hit = known & spots
    share = hit.sum() / known.sum() if reduction == "pixel" else (hit.sum((1, 2)) / known.sum((1, 2))).mean()
    assert scores.pop("nonfinite") == pytest.approx(share.item())
    assert scores == pytest.approx(opposite, rel=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"target must be \(B, 3, H, W\), got \(1, 1, 2, 4\)"):
        NormalsMetrics().update(torch.ones(1, 3, 2, 4), torch.ones(1, 1, 2, 4))
