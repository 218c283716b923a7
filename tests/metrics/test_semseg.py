import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mtpano_zoo.metrics import SemsegMetrics

GOLDEN = Path(__file__).parents[1] / "losses" / "golden"


def _score(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {name: value.item() for name, value in metric.compute().items()}


def _iou_by_hand(prediction, target, classes, weights=None):
    weights = np.ones(target.shape) if weights is None else weights
    known = (target >= 0) & (target < classes)
    values = []
    for c in range(classes):
        hit = weights[known & (prediction == c) & (target == c)].sum()
        either = weights[known & ((prediction == c) | (target == c))].sum()
        values.append(hit / either if either else np.nan)
    return values, (weights * (known & (prediction == target))).sum() / (weights * known).sum()


@pytest.mark.parametrize("weighting", ["pixel", "solid_angle"])
def test_scores_agree_with_loops(weighting):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 8, 16, generator=g)
    logits[:, 3] = -10
    target = torch.randint(0, 7, (3, 8, 16), generator=g)
    target[target == 3] = 255
    metric = SemsegMetrics(("wall", "floor", "chair", "beam", "sofa"), weighting=weighting)
    scores = _score(metric, (logits, target))
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, 9))
    weights = {"pixel": None, "solid_angle": np.broadcast_to((edges[:-1] - edges[1:])[:, None], target.shape)}
    iou, accuracy = _iou_by_hand(logits.argmax(1).numpy(), target.numpy(), 5, weights[weighting])
    np.testing.assert_allclose([scores[f"IoU/{name}"] for name in metric.classes], iou, rtol=1e-6)
    assert np.isnan(scores["IoU/beam"])
    assert scores["mIoU"] == pytest.approx(np.nanmean(iou))
    assert scores["pixel_accuracy"] == pytest.approx(accuracy)
    assert list(scores)[:2] == ["mIoU", "pixel_accuracy"]


def test_published_meter_is_reproduced():
    with np.load(GOLDEN / "published.npz") as arrays:
        prediction = torch.from_numpy(arrays["prediction_semseg"]).long()
        target = torch.from_numpy(arrays["target_semseg"])[:, 0].long()
    expected = json.loads((GOLDEN / "expected.json").read_text())["metrics_semseg"]
    metric = SemsegMetrics(13, absent_classes="zero")
    scores = _score(metric, (prediction, target))
    assert scores["mIoU"] == pytest.approx(expected["mIoU"], rel=1e-6)
    hits = metric.confusion.diagonal()
    assert hits.tolist() == expected["tp"]
    assert (metric.confusion.sum(1) - hits).tolist() == expected["fn"]
    assert (metric.confusion[:, :-1].sum(0) - hits).tolist() == expected["fp"]


def test_iou_is_that_of_the_whole_set_and_not_the_mean_of_images():
    # One image with 1 of 2 pixels of the class found, one with 98 of 98.
    target = torch.zeros(2, 10, 10, dtype=torch.long)
    target[0, 0, :2] = 1
    target[1].flatten()[:98] = 1
    prediction = target.clone()
    prediction[0, 0, 0] = 0
    scores = _score(SemsegMetrics(2), (prediction[:1], target[:1]), (prediction[1:], target[1:]))
    assert scores["IoU/1"] == pytest.approx(99 / 100)


def test_absent_classes_are_skipped_or_count_as_zero():
    target = torch.zeros(1, 2, 4, dtype=torch.long)
    scores = {rule: _score(SemsegMetrics(4, absent_classes=rule), (target, target)) for rule in ("skip", "zero")}
    assert scores["skip"]["mIoU"] == 1.0
    assert scores["zero"]["mIoU"] == 0.25
    assert scores["zero"]["IoU/3"] == 0.0
    # A class that is only predicted is not absent.
    wrong = target.clone()
    wrong[0, 0, 0] = 3
    assert _score(SemsegMetrics(4), (wrong, target))["IoU/3"] == 0.0


@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_unscored_classes_are_out_of_the_mean_but_their_pixels_are_not(absent):
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 8, 16), generator=g)
    prediction = torch.randint(0, 4, (2, 8, 16), generator=g)
    names = ("wall", "floor", "blinds", "chair", "books")
    metric = SemsegMetrics(names, unscored=["books", "blinds", "floor"], absent_classes=absent)
    scores = _score(metric, (prediction, target))
    iou, accuracy = _iou_by_hand(prediction.numpy(), target.numpy(), 5)
    assert scores["mIoU"] == pytest.approx((iou[0] + iou[3]) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(accuracy)
    assert scores["IoU/blinds"] == pytest.approx(iou[2])
    target[target == 3] = prediction[prediction == 3] = 0
    halved = _score(SemsegMetrics(names, unscored=["books"], absent_classes=absent), (prediction, target))
    iou, _ = _iou_by_hand(prediction.numpy(), target.numpy(), 5)
    assert halved["mIoU"] == pytest.approx(sum(iou[:3]) / {"skip": 3, "zero": 4}[absent])


def test_classes_may_be_named_later():
    target = torch.tensor([[[0, 1, 1, 255]]])
    metric = SemsegMetrics(unscored=["floor"])
    with pytest.raises(ValueError, match="needs classes"):
        metric.update(target, target)
    with pytest.raises(ValueError, match="unscored names floor, but the classes are a, b"):
        metric.name_classes(["a", "b"])
    metric.name_classes(["wall", "floor"])
    perfect = {"mIoU": 1, "pixel_accuracy": 1, "IoU/wall": 1, "IoU/floor": 1, "nonfinite": 0}
    assert _score(metric, (target, target)) == perfect


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@pytest.mark.parametrize("predicted", INTEGERS)
@pytest.mark.parametrize("labelled", INTEGERS)
@pytest.mark.parametrize(("classes", "ignore_index"), [(40, 255), (100, -1), (300, 255)])
def test_integers_of_any_length_are_classes(classes, ignore_index, labelled, predicted):
    largest = min(classes, *(torch.iinfo(dtype).max for dtype in (labelled, predicted)))
    target = torch.arange(4 * largest).reshape(1, 4, largest) % largest
    target = torch.where(target == ignore_index, 0, target)
    scores = _score(SemsegMetrics(classes, ignore_index), (target.to(predicted), target.to(labelled)))
    assert scores["mIoU"] == scores["pixel_accuracy"] == 1.0
    one_hot = torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    assert _score(SemsegMetrics(classes, ignore_index), (one_hot.half(), target.to(labelled)))["mIoU"] == 1.0
    # The next class is wrong everywhere, and no label of it is mistaken for "no label".
    wrong = ((target + 1) % largest).to(predicted)
    scores = _score(SemsegMetrics(classes, ignore_index), (wrong, target.to(labelled)))
    assert scores["mIoU"] == scores["pixel_accuracy"] == 0.0


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_of_no_class(junk):
    target = torch.zeros(1, 8, 16, dtype=torch.long)
    logits = torch.zeros(1, 3, 8, 16)
    logits[:, 0] = 1
    assert _score(SemsegMetrics(3), (logits, target))["mIoU"] == 1.0
    scores = _score(SemsegMetrics(3), (torch.full_like(logits, junk), target))
    assert scores["mIoU"] == scores["pixel_accuracy"] == scores["IoU/0"] == 0.0
    assert scores["nonfinite"] == 1.0
    # A quarter of the picture, of which half has a label; one logit is enough, that of the right class or of another.
    for channel in range(3):
        dirty, labels = logits.clone(), target.clone()
        dirty[:, channel, :4, :8] = junk
        labels[:, :2] = 255
        scores = _score(SemsegMetrics(3), (dirty, labels))
        assert scores["nonfinite"] == pytest.approx(16 / 96)
        assert scores["IoU/0"] == scores["pixel_accuracy"] == pytest.approx(80 / 96)
        assert np.isnan(scores["IoU/1"])


def test_predictions_outside_the_classes_are_wrong():
    target = torch.zeros(1, 2, 4, dtype=torch.long)
    prediction = target.clone()
    prediction[0, 0] = 255
    prediction[0, 1, 0] = -1
    scores = _score(SemsegMetrics(2), (prediction, target))
    assert scores["pixel_accuracy"] == pytest.approx(3 / 8)
    assert scores["IoU/0"] == pytest.approx(3 / 8)


def test_a_further_mask_restricts_the_pixels():
    target = torch.tensor([[[0, 0, 1, 1], [0, 1, 0, 255]]])
    prediction = torch.tensor([[[0, 1, 1, 0], [0, 1, 1, 1]]])
    valid = prediction == target
    assert _score(SemsegMetrics(2), (prediction, target, valid))["mIoU"] == 1.0


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_an_error_in_a_polar_cap_weighs_as_much_as_the_cap(rows):
    height, width = 32, 64
    target = torch.zeros(1, height, width, dtype=torch.long)
    prediction = target.clone()
    prediction[:, :rows] = 1
    scores = _score(SemsegMetrics(2, weighting="solid_angle"), (prediction, target))
    cap = (1 - np.cos(np.pi * rows / height)) / 2
    assert 1 - scores["pixel_accuracy"] == pytest.approx(cap, abs=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="classes must be different names"):
        SemsegMetrics(["a", "a"])
    with pytest.raises(ValueError, match="classes must be different names"):
        SemsegMetrics(0)
    with pytest.raises(ValueError, match="unscored names every class"):
        SemsegMetrics(["a", "b"], unscored=["a", "b"])
    with pytest.raises(ValueError, match="absent_classes must be one of skip, zero"):
        SemsegMetrics(3, absent_classes="drop")
    with pytest.raises(ValueError, match="prediction has 4 channels, but there are 3 classes"):
        SemsegMetrics(3).update(torch.zeros(1, 4, 2, 4), torch.zeros(1, 2, 4, dtype=torch.long))
