import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtpano_zoo.metrics import DepthMetrics

GOLDEN = Path(__file__).parents[1] / "losses" / "golden"
NAMES = ("AbsRel", "SqRel", "RMSE", "RMSElog", "delta1", "delta2", "delta3")


def _all_scores(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {name: value.item() for name, value in metric.compute().items()}


def _score(metric, *batches):
    scores = _all_scores(metric, *batches)
    assert scores.pop("nonfinite") == 0
    return scores


def _case(seed=0, images=3):
    g = torch.Generator().manual_seed(seed)
    target = 0.5 + 12 * torch.rand(images, 8, 16, generator=g)
    prediction = target * torch.exp(0.3 * torch.randn(target.shape, generator=g)) * 1.4
    holes = torch.rand(target.shape, generator=g)
    target[holes < 0.1] = 0
    target[holes > 0.95] = torch.nan
    return prediction[:, None], target


def _scores_by_hand(p, t, w):
    def mean(x):
        return (w * x).sum() / w.sum()

    ratio = np.maximum(p / t, t / p)
    return [
        mean(np.abs(p - t) / t),
        mean((p - t) ** 2 / t),
        mean((p - t) ** 2) ** 0.5,
        mean(np.log(p / t) ** 2) ** 0.5,
        *(mean(ratio < 1.25**k) for k in (1, 2, 3)),
    ]


def _by_hand(prediction, target, alignment, reduction, weighting, max_depth):
    height = target.shape[1]
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, height + 1))
    area = (edges[:-1] - edges[1:])[:, None] if weighting == "solid_angle" else np.ones((height, 1))
    parts = []
    for p, t in zip(prediction[:, 0].double().numpy(), target.double().numpy(), strict=True):
        known = np.isfinite(t) & (t > 1e-3) & (t < max_depth)
        p, t, w = p[known], t[known], np.broadcast_to(area, known.shape)[known]
        if alignment == "median":
            p = p * np.median(t) / np.median(p)
        elif alignment == "scale":
            p = p * np.linalg.lstsq(p[:, None], t, rcond=None)[0]
        parts.append((p.clip(1e-3, max_depth), t, w))
    if reduction == "image":
        return np.mean([_scores_by_hand(*part) for part in parts], axis=0)
    return _scores_by_hand(*(np.concatenate(x) for x in zip(*parts, strict=True)))


@pytest.mark.parametrize("max_depth", [None, 10.0])
@pytest.mark.parametrize("weighting", ["pixel", "solid_angle"])
@pytest.mark.parametrize("reduction", ["pixel", "image"])
@pytest.mark.parametrize("alignment", [None, "median", "scale"])
def test_scores_agree_with_loops(alignment, reduction, weighting, max_depth):
    prediction, target = _case()
    metric = DepthMetrics(max_depth=max_depth, alignment=alignment, reduction=reduction, weighting=weighting)
    scores = _score(metric, (prediction, target))
    suffix = f"/{alignment}_aligned" if alignment else ""
    assert tuple(scores) == tuple(name + suffix for name in NAMES)
    expected = _by_hand(prediction, target, alignment, reduction, weighting, max_depth or np.inf)
    np.testing.assert_allclose(list(scores.values()), expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("dataset", "max_depth", "log_base"), [("Structured3D", None, "e"), ("Matterport3D", 10.0, "10")]
)
def test_published_meters_are_reproduced(dataset, max_depth, log_base):
    with np.load(GOLDEN / "published.npz") as arrays:
        prediction, target = (torch.from_numpy(arrays[name]) for name in ("pred_depth", "target_depth"))
    target = target.masked_fill(target == 255, 0)
    expected = json.loads((GOLDEN / "expected.json").read_text())[f"metrics_depth_{dataset}"]
    scores = _score(DepthMetrics(max_depth=max_depth, log_base=log_base), (prediction, target))
    theirs = ("abs_rel", "sq_rel", "rmse", "log_rmse", "a1", "a2", "a3")
    np.testing.assert_allclose(list(scores.values()), [expected[name] for name in theirs], rtol=1e-6)


def _without_log(scores):
    return [value for name, value in scores.items() if name != "RMSElog"]


def test_depth_anywheres_meter_is_reproduced():
    with np.load(Path(__file__).parent / "golden" / "depth_anywhere.npz") as golden:
        prediction, target, mask = (torch.from_numpy(golden[name]) for name in ("pred", "gt", "mask"))
        expected = golden["unaligned"]
    target = target.clamp(max=10 - 1e-6)  # there, farther labels count as 10 m; its logarithm is of depth plus one
    scores = _score(DepthMetrics(min_depth=0.1, max_depth=10.0), (prediction, target, mask))
    np.testing.assert_allclose(_without_log(scores), expected, rtol=1e-5)


@pytest.mark.parametrize(("rows", "name"), [(0, "whole"), (3, "cropped")])
def test_depth_anywheres_crop_is_reproduced(rows, name):
    with np.load(Path(__file__).parent / "golden" / "depth_anywhere.npz") as golden:
        disparity, target, mask, expected = (golden[key] for key in ("pred_disparity", "gt", "mask", name))
    inside = mask.copy()
    inside[:, :rows] = inside[:, 16 - rows :] = False
    # It fits scale and shift of the disparities of every image, then the median of all of them.
    depth = np.empty_like(target)
    for i, known in enumerate(inside):
        line = np.stack((disparity[i][known], np.ones(known.sum())), -1)
        scale, shift = np.linalg.lstsq(line, 1 / target[i][known], rcond=None)[0]
        depth[i] = (1 / (scale * disparity[i] + shift)).clip(0, 10)
    depth *= np.quantile(target[inside], 0.5, method="lower") / np.quantile(depth[inside], 0.5, method="lower")
    metric = DepthMetrics(min_depth=0.1, max_depth=10.0, crop=rows / 16)
    batch = (torch.from_numpy(depth), torch.from_numpy(target).clamp(max=10 - 1e-6), torch.from_numpy(mask))
    np.testing.assert_allclose(_without_log(_score(metric, batch)), expected, rtol=1e-5)


@pytest.mark.parametrize("height", [8, 64])
@pytest.mark.parametrize("alignment", [None, "median", "scale"])
def test_what_is_cropped_counts_for_nothing_whatever_the_size(alignment, height):
    prediction, target = _case()
    prediction, target = (x.repeat_interleave(height // 8, -2) for x in (prediction, target))
    crop = 68 / 512  # one row of eight
    expected = _score(
        DepthMetrics(alignment=alignment),
        (prediction[:, :, height // 8 : -height // 8], target[:, height // 8 : -height // 8]),
    )
    assert _score(DepthMetrics(alignment=alignment, crop=crop), (prediction, target)) == pytest.approx(expected)


def test_pooling_weighs_pixels_and_averaging_weighs_images():
    target = torch.ones(2, 2, 4)
    target[1, 0] = 0
    target[1, 1, 1:] = 0
    prediction = target.clone().masked_fill(target == 0, 1)
    prediction[1] = 2
    assert _score(DepthMetrics(), (prediction, target))["AbsRel"] == pytest.approx(1 / 9)
    assert _score(DepthMetrics(reduction="image"), (prediction, target))["AbsRel"] == pytest.approx(1 / 2)
    # An image without any label is no image.
    target[1] = 0
    assert _score(DepthMetrics(reduction="image"), (prediction, target))["AbsRel"] == 0


@settings(max_examples=20, deadline=None)
@given(factors=st.lists(st.floats(0.01, 100), min_size=3, max_size=3), seed=st.integers(0, 100))
@pytest.mark.parametrize("alignment", ["median", "scale"])
def test_aligned_scores_ignore_the_scale_of_every_image(alignment, factors, seed):
    prediction, target = _case(seed)
    scaled = prediction * torch.tensor(factors)[:, None, None, None]
    expected = _score(DepthMetrics(alignment=alignment), (prediction, target))
    assert _score(DepthMetrics(alignment=alignment), (scaled, target)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rows", [1, 4, 10])
def test_an_error_in_a_polar_cap_weighs_as_much_as_the_cap(rows):
    height, width = 32, 64
    target = torch.ones(1, height, width)
    prediction = target.clone()
    prediction[:, :rows] = 2.0
    cap = (1 - np.cos(np.pi * rows / height)) / 2
    scores = _score(DepthMetrics(weighting="solid_angle"), (prediction, target))
    assert scores["AbsRel"] == pytest.approx(cap)
    assert scores["RMSE"] == pytest.approx(cap**0.5)
    assert 1 - scores["delta3"] == pytest.approx(cap, abs=1e-6)


def test_invalid_pixels_take_no_part_whatever_they_hold():
    prediction, target = _case()
    expected = _score(DepthMetrics(alignment="median"), (prediction, target))
    unknown = ~(target > 0)
    for junk in (torch.nan, torch.inf, -5.0):
        dirty = prediction.masked_fill(unknown[:, None], junk)
        assert _score(DepthMetrics(alignment="median"), (dirty, target.masked_fill(unknown, junk))) == expected


def test_a_further_mask_restricts_the_pixels():
    prediction, target = _case()
    valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    scores = _score(DepthMetrics(), (prediction, target, valid))
    assert scores == _score(DepthMetrics(), (prediction, target.masked_fill(~valid, 0)))


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reduction", ["pixel", "image"])
@pytest.mark.parametrize("alignment", [None, "median", "scale"])
def test_distances_that_are_not_finite_make_the_scores_nan(alignment, reduction, junk):
    prediction, target = _case()
    prediction[1, 0, 3, 3:5], target[1, 3, 3:5] = junk, 1.0
    prediction[2, 0, 0, 0], target[2, 0, 0] = junk, 0.0  # without a label, it counts for nothing
    metric = DepthMetrics(max_depth=12.0, alignment=alignment, reduction=reduction)
    scores = _all_scores(metric, (prediction, target))
    known = [((t > 0) & (t < 12)).sum().item() for t in target]
    share = 2 / sum(known) if reduction == "pixel" else 2 / known[1] / 3
    assert scores.pop("nonfinite") == pytest.approx(share)
    assert len(scores) == 7 and all(map(np.isnan, scores.values()))


def test_infinity_is_no_distance_even_in_half_precision():
    target = torch.full((1, 2, 4), 8.0)
    prediction = torch.full((1, 2, 4), 7e4).half()  # more than the type holds
    scores = _all_scores(DepthMetrics(max_depth=10.0), (prediction, target))
    assert scores.pop("nonfinite") == 1
    assert all(map(np.isnan, scores.values()))


def test_predictions_of_zero_stay_finite():
    _, target = _case()
    for alignment in (None, "median", "scale"):
        scores = _score(DepthMetrics(alignment=alignment), (torch.zeros_like(target), target))
        assert np.isfinite(list(scores.values())).all()


@pytest.mark.parametrize("alignment", ["median", "scale"])
def test_pixels_without_a_prediction_count_as_wrong_and_do_not_decide_the_alignment(alignment):
    target = torch.rand(2, 40, 80) * 5 + 1
    holes = torch.rand(2, 40, 80) < 0.6
    holes[1] = True  # nothing at all is predicted
    metric = DepthMetrics(alignment=alignment)
    metric.update((3 * target).masked_fill(holes, 0), target)
    assert metric.compute()[f"delta1/{alignment}_aligned"] == pytest.approx(1 - holes.float().mean().item(), abs=1e-4)


def test_half_precision_predictions_are_scored():
    prediction, target = _case()
    half = prediction.bfloat16()
    assert _score(DepthMetrics(), (half, target)) == _score(DepthMetrics(), (half.float(), target))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="alignment must be one of median, scale"):
        DepthMetrics(alignment="mean")
    with pytest.raises(ValueError, match="log_base must be one of e, 10"):
        DepthMetrics(log_base="2")
    for limits in ((0.0, None), (1.0, 1.0)):
        with pytest.raises(ValueError, match="depths must range"):
            DepthMetrics(*limits)
    for crop in (-0.1, 0.5, float("nan")):
        with pytest.raises(ValueError, match="crop must be a fraction of the height"):
            DepthMetrics(crop=crop)
    with pytest.raises(ValueError, match=r"depth must be \(B, 1, H, W\) or \(B, H, W\)"):
        DepthMetrics().update(torch.ones(1, 3, 2, 4), torch.ones(1, 2, 4))
