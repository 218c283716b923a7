import numpy as np
import pytest
import torch

from mtpano_zoo.losses import ValidLoss
from mtpano_zoo.metrics import ValidMetrics, defined_scores


def _scores(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return {name: value.item() for name, value in metric.compute().items()}


def _image(logits, depth, far):
    """Rows of numbers as one image."""
    return torch.tensor([[logits]]).float(), torch.tensor([depth]).float(), torch.tensor([far]).bool()


# Measured at 1 m, 2 m and 9 m, far twice (once with a distance beside it), and unknown.
LOGITS = [[0.5, -0.1, 3.0, -2.0, 0.2, 7.0]]
DEPTH, FAR = [[1.0, 2.0, 9.0, 0.0, 3.0, 0.0]], [[0, 0, 0, 1, 1, 0]]


def test_scores_by_hand():
    # Of three valid pixels two are found, of two far ones one is missed.
    expected = {"IoU": 2 / 4, "IoU/far": 1 / 3, "accuracy": 3 / 5, "nonfinite": 0}
    assert _scores(ValidMetrics(), _image(LOGITS, DEPTH, FAR)) == pytest.approx(expected)


def test_beyond_its_range_nothing_is_valid():
    expected = {"IoU": 1 / 4, "IoU/far": 1 / 4, "accuracy": 2 / 5, "nonfinite": 0}
    assert _scores(ValidMetrics(max_depth=9.0), _image(LOGITS, DEPTH, FAR)) == pytest.approx(expected)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_wrong_whatever_it_would_say(junk):
    prediction, depth, far = _image(LOGITS, DEPTH, FAR)
    for pixel, expected in (
        (0, {"IoU": 1 / 4, "IoU/far": 1 / 4, "accuracy": 2 / 5, "nonfinite": 1 / 5}),  # was right: valid
        (1, {"IoU": 2 / 4, "IoU/far": 1 / 3, "accuracy": 3 / 5, "nonfinite": 1 / 5}),  # was wrong already
        (3, {"IoU": 2 / 5, "IoU/far": 0, "accuracy": 2 / 5, "nonfinite": 1 / 5}),  # was right: far
        (5, {"IoU": 2 / 4, "IoU/far": 1 / 3, "accuracy": 3 / 5, "nonfinite": 0}),  # does not count
    ):
        soiled = prediction.clone()
        soiled[..., pixel] = junk
        assert _scores(ValidMetrics(), (soiled, depth, far)) == pytest.approx(expected)


def test_pooling_weighs_pixels_and_averaging_weighs_images():
    first = _image([[1, 1, 1, 1]], [[1, 1, 1, 0]], [[0, 0, 0, 0]])  # three valid pixels, all found
    second = _image([[1, -1, -1, -1]], [[0, 0, 0, 0]], [[1, 0, 0, 0]])  # one far pixel, missed
    pooled = _scores(ValidMetrics(), first, second)
    assert pooled == pytest.approx({"IoU": 3 / 4, "IoU/far": 0, "accuracy": 3 / 4, "nonfinite": 0})
    # What the first image does not have far is right as far as it goes.
    averaged = _scores(ValidMetrics(reduction="image"), first, second)
    assert averaged == pytest.approx({"IoU": 1 / 2, "IoU/far": 1 / 2, "accuracy": 1 / 2, "nonfinite": 0})
    nothing = _image([[1, 1, 1, 1]], [[0, 0, 0, 0]], [[0, 0, 0, 0]])
    assert _scores(ValidMetrics(reduction="image"), first, nothing, second) == pytest.approx(averaged)
    metric = ValidMetrics()
    metric.update(*nothing)
    assert defined_scores(metric) == {} and all(value.isnan() for value in metric.compute().values())


def test_solid_angles_weigh_rows():
    height, width = 4, 8
    logits = torch.ones(1, 1, height, width)
    logits[:, :, 0] = -1  # the row at the pole is missed
    batch = (logits, torch.ones(1, height, width), torch.zeros(1, height, width, dtype=torch.bool))
    cap = (1 - np.sin(np.pi / 4)) / 2  # its share of the sphere
    assert _scores(ValidMetrics(), batch)["accuracy"] == pytest.approx(0.75)
    assert _scores(ValidMetrics(weighting="solid_angle"), batch)["accuracy"] == pytest.approx(1 - cap)


def test_it_scores_the_pixels_that_are_trained():
    """A network without a loss has perfect scores."""
    g = torch.Generator().manual_seed(0)
    kind = torch.rand(2, 6, 12, generator=g)
    depth, far = (5 * torch.rand(kind.shape, generator=g)).masked_fill(kind < 0.4, 0), (kind > 0.2) & (kind < 0.4)
    logits = torch.where((depth > 0) & (depth < 2), 100.0, -100.0)[:, None].masked_fill(kind[:, None] < 0.2, torch.nan)
    labels = {"depth": depth, "far": far}
    assert ValidLoss(max_depth=2.0)(logits, labels, None, False) < 1e-30
    scores = _scores(ValidMetrics(max_depth=2.0), (logits, depth, far))
    assert scores == {"IoU": 1, "IoU/far": 1, "accuracy": 1, "nonfinite": 0}


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="resize one of them"):
        ValidMetrics().update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 4, 8), torch.zeros(1, 4, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean mask"):
        ValidMetrics().update(torch.zeros(1, 1, 4, 8), torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
