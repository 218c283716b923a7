"""Scores of inverse distances: `golden/relative_depth` holds those of the published evaluator of Depth Anywhere."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtpano_zoo.metrics.relative_depth import DepthAnywhereMetrics, RelativeDepthMetrics, affine_depth, depth_terms

GOLDEN = Path(__file__).parent / "golden"
MAPS = load_file(GOLDEN / "relative_depth.safetensors")
SCALARS = json.loads((GOLDEN / "relative_depth.json").read_text())
PUBLISHED = ("abs_rel", "mae", "sq_rel", "rmse", "rmse_log", "log10", "a1", "a2", "a3")
# The evaluator calls some of its scores by other names.
EVALUATOR = (
    "err/abs_rel",
    "err/mae",
    "err/sq_rel",
    "err/rms",
    "err/log_rms",
    "err/log10",
    "acc/a1",
    "acc/a2",
    "acc/a3",
)


def published(name: str, keys: tuple[str, ...]) -> torch.Tensor:
    return torch.tensor([SCALARS[name][key] for key in keys], dtype=torch.float64)


def together(x: torch.Tensor) -> torch.Tensor:
    """A batch as one tall image: the published code takes medians and means over the whole batch."""
    return x.flatten(0, 1)[None]


@pytest.mark.parametrize("median", [True, False])
@pytest.mark.parametrize("limit", [10.0, 5.0])
def test_depth_scores_are_the_published_ones(median: bool, limit: float) -> None:
    target, known = MAPS["gt"][:, 0], MAPS["mask"][:, 0].bool()
    terms = depth_terms(together(MAPS["pred"][:, 0]), together(target), together(known), limit, median)
    scores = DepthAnywhereMetrics().scores(known.sum(), terms)[0]
    expected = published(f"compute_depth_metrics_median_align_{median}_max_depth_{limit}", PUBLISHED)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("crop", [0, 3])
@pytest.mark.parametrize("limit", [10.0, 7.0])
def test_scores_of_disparities_are_the_published_ones(crop: int, limit: float) -> None:
    rows = slice(crop, MAPS["gt"].shape[2] - crop)
    disparity, target, mask = (MAPS[key][:, 0, rows] for key in ("pred_disparity", "gt", "mask"))
    depth = affine_depth(disparity, target, mask.bool(), limit)
    terms = depth_terms(together(depth), together(target), together(mask.bool()), limit)
    scores = DepthAnywhereMetrics().scores(mask.bool().sum(), terms)[0]
    torch.testing.assert_close(
        scores, published(f"affine_inv_eval_crop{crop}_max_depth_{limit}", EVALUATOR), rtol=1e-5, atol=0
    )


def test_the_metric_averages_over_images() -> None:
    disparity, target, known = MAPS["pred_disparity"], MAPS["gt"][:, 0], MAPS["mask"][:, 0].bool()
    whole = DepthAnywhereMetrics()
    whole.update(disparity, target, known)
    singles = []
    for i in range(len(target)):
        one = DepthAnywhereMetrics()
        one.update(disparity[i : i + 1], target[i : i + 1], known[i : i + 1])
        singles.append(one.compute())
    for name, value in whole.compute().items():
        torch.testing.assert_close(value, torch.stack([scores[name] for scores in singles]).mean())


@pytest.mark.parametrize("kind", [DepthAnywhereMetrics, RelativeDepthMetrics])
def test_both_crop_a_part_of_the_height(kind: type[DepthAnywhereMetrics] | type[RelativeDepthMetrics]) -> None:
    disparity, target, known = MAPS["pred_disparity"], MAPS["gt"][:, 0], MAPS["mask"][:, 0].bool()
    inner = slice(3, target.shape[1] - 3)
    cropped, without = kind(crop=3 / target.shape[1]), kind()
    cropped.update(disparity, target, known)
    without.update(disparity[:, :, inner], target[:, inner], known[:, inner])
    for name, value in without.compute().items():
        torch.testing.assert_close(cropped.compute()[name], value)


def test_what_is_right_up_to_scale_and_shift_is_right() -> None:
    target = torch.rand(2, 8, 16) * 8 + 1
    aligned, median = DepthAnywhereMetrics(), RelativeDepthMetrics()
    aligned.update((3 / target - 0.1)[:, None], target)
    median.update((3 / target)[:, None], target)
    assert aligned.compute()["AbsRel/affine_and_median_aligned"] < 1e-5
    assert median.compute()["AbsRel/median_aligned"] < 1e-5
    shifted = RelativeDepthMetrics()
    shifted.update((3 / target - 0.1)[:, None], target)
    assert shifted.compute()["AbsRel/median_aligned"] > 0.01


def test_labels_count_up_to_ten_metres_and_holes_do_not() -> None:
    target = torch.full((1, 4, 8), 2.0)
    prediction = torch.full((1, 1, 4, 8), 0.5)
    target[0, 0, :3] = torch.tensor([0.0, 10.0, 10.1])
    for metric in (RelativeDepthMetrics(), DepthAnywhereMetrics()):
        metric.update(prediction, target)
        # Of 32 pixels one has no label, one is too far; one of the others lies at ten metres and is wrong.
        score = next(value for name, value in metric.compute().items() if name.startswith("delta1"))
        assert score == pytest.approx(29 / 30)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", [DepthAnywhereMetrics, RelativeDepthMetrics])
def test_a_prediction_that_is_not_finite_is_not_skipped(
    kind: type[DepthAnywhereMetrics] | type[RelativeDepthMetrics], broken: float
) -> None:
    target, prediction = torch.full((1, 4, 8), 2.0), torch.rand(1, 1, 4, 8) + 0.5
    prediction[0, 0, 1, 1] = broken
    metric = kind()
    metric.update(prediction, target)
    scores = metric.compute()
    assert scores["nonfinite"] == pytest.approx(1 / 32)
    assert next(value for name, value in scores.items() if name.startswith("AbsRel")).isnan()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_depth must be above"):
        DepthAnywhereMetrics(max_depth=0.0)
    with pytest.raises(ValueError, match="crop must be a fraction of the height"):
        DepthAnywhereMetrics(crop=4)
