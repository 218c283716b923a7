from datetime import timedelta

import pytest
import torch
from processes import side_by_side

from mtpano_zoo.metrics import (
    DepthMetrics,
    DisparityMetrics,
    NormalsMetrics,
    SemsegMetrics,
    ValidMetrics,
    defined_scores,
)
from mtpano_zoo.metrics.pooling import check_choice, check_maps, pixel_weights

METRICS = {
    "semseg": lambda: SemsegMetrics(4),
    "semseg_weighted": lambda: SemsegMetrics(("a", "b", "c", "d"), weighting="solid_angle"),
    "depth": lambda: DepthMetrics(),
    "depth_image": lambda: DepthMetrics(max_depth=4.0, alignment="median", reduction="image", weighting="solid_angle"),
    "depth_scale": lambda: DepthMetrics(alignment="scale", log_base="10"),
    "normals": lambda: NormalsMetrics(),
    "normals_image": lambda: NormalsMetrics(reduction="image", weighting="solid_angle"),
    "valid": lambda: ValidMetrics(),
    "valid_image": lambda: ValidMetrics(max_depth=2.0, reduction="image", weighting="solid_angle"),
    "disparity": lambda: DisparityMetrics(),
    "disparity_image": lambda: DisparityMetrics(reduction="image", weighting="solid_angle"),
}


NAN_IF_NOT_FINITE = ("depth", "disparity")  # the others have a worst value


def _maps(name):
    """Prediction and labels of six images; the labels have holes, and those of the last image nothing else."""
    g = torch.Generator().manual_seed(0)
    holes = torch.rand(6, 8, 16, generator=g) < torch.linspace(0, 1, 6)[:, None, None]
    if name.startswith("semseg"):
        labels = torch.randint(0, 4, (6, 8, 16), generator=g).masked_fill(holes, 255)
        return torch.randn(6, 4, 8, 16, generator=g), labels
    if name.startswith("normals"):
        p, t = torch.randn(2, 6, 3, 8, 16, generator=g)
        return p, torch.nn.functional.normalize(t, dim=1).masked_fill(holes[:, None], 0)
    p, t = torch.rand(2, 6, 1, 8, 16, generator=g) * 5 + 0.1
    if name.startswith("depth"):
        return p, t.masked_fill(holes[:, None], 0)
    if name.startswith("valid"):
        far = holes & (torch.rand(holes.shape, generator=g) < 0.5)
        far[5] = False
        return p - 2.5, t[:, 0].masked_fill(holes, 0), far
    return p, t[:, 0], ~holes


def _update(name, metric, images):
    """Update with some of the six images."""
    metric.update(*(x[images] for x in _maps(name)))


@pytest.mark.parametrize("name", METRICS)
def test_batches_do_not_matter_and_memory_is_constant(name):
    whole, parts = METRICS[name](), METRICS[name]()
    _update(name, whole, slice(0, 6))
    size = {key: value.shape for key, value in parts.metric_state.items()}
    for images in (slice(4, 6), slice(0, 1), slice(1, 4)):
        _update(name, parts, images)
    assert size == {key: value.shape for key, value in parts.metric_state.items()}
    assert all(value.isfinite() for value in whole.compute().values())
    torch.testing.assert_close(parts.compute(), whole.compute(), rtol=1e-6, atol=0)
    parts.reset()
    _update(name, parts, slice(0, 6))
    torch.testing.assert_close(parts.compute(), whole.compute(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", METRICS)
def test_without_valid_pixels_all_scores_are_nan(name):
    metric = METRICS[name]()
    _update(name, metric, slice(5, 6))
    assert all(value.isnan() for value in metric.compute().values())


@pytest.mark.parametrize("name", METRICS)
def test_scores_without_a_value_are_not_defined_and_those_of_junk_are(name):
    metric = METRICS[name]()
    _update(name, metric, slice(5, 6))
    assert defined_scores(metric) == {}
    _update(name, metric, slice(0, 2))
    assert defined_scores(metric).keys() == metric.compute().keys()
    prediction, *labels = (x[:1] for x in _maps(name))
    metric.update(prediction * torch.nan, *labels)
    scores = defined_scores(metric)
    assert scores.keys() == metric.compute().keys() and 0 < scores["nonfinite"] < 1
    becomes_nan = name.startswith(NAN_IF_NOT_FINITE)
    assert all(value.isnan() == (becomes_nan and key != "nonfinite") for key, value in scores.items())


def test_a_class_that_does_not_occur_has_no_score_whatever_else_is_wrong():
    metric = SemsegMetrics(("wall", "floor", "beam"))
    labels = torch.tensor([[[0, 0, 1, 255]]])
    logits = torch.nn.functional.one_hot(labels.clamp(max=2), 3).movedim(-1, 1).float()
    logits[..., 0] = torch.nan
    metric.update(logits, labels)
    scores = {name: value.item() for name, value in defined_scores(metric).items()}
    expected = {"mIoU": 0.75, "pixel_accuracy": 2 / 3, "nonfinite": 1 / 3, "IoU/wall": 0.5, "IoU/floor": 1.0}
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_keep_their_precision_in_a_module_of_less(name, dtype):
    module = torch.nn.ModuleDict({"metric": METRICS[name](), "expected": METRICS[name]()})
    for turn in range(3):
        module["metric"].to(dtype) if turn else module.to(dtype)  # between two batches too
        for metric in module.values():
            _update(name, metric, slice(turn, turn + 1))
    assert all(state.dtype == torch.float64 for state in module["metric"].metric_state.values())
    torch.testing.assert_close(module["metric"].compute(), module["expected"].compute(), rtol=0, atol=0)
    module["metric"].reset()
    assert all(state.dtype == torch.float64 for state in module["metric"].metric_state.values())


@pytest.mark.parametrize("name", METRICS)
def test_an_update_does_not_wait_for_the_host(name):
    # Values of meta tensors do not exist: reading one, or a shape that depends on one, is an error.
    metric = METRICS[name]().to("meta")
    restriction = {"valid": torch.empty(6, 8, 16, dtype=torch.bool, device="meta")}
    metric.update(*(x.to("meta") for x in _maps(name)), **({} if len(_maps(name)) > 2 else restriction))
    assert metric.update_count == 1


@pytest.mark.parametrize("name", METRICS)
def test_an_update_in_inference_mode_can_be_followed_by_one_outside(name):
    metric = METRICS[name]()
    with torch.inference_mode():
        metric.reset()
        _update(name, metric, slice(0, 2))
    _update(name, metric, slice(2, 4))
    assert all(value.isfinite() for value in metric.compute().values())


def _worker(rank, folder):
    """One of two processes: scores a part of the images (the other one has the rest, and one of them has no batch)."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    scores = {}
    for name, make in METRICS.items():
        metric = make()
        _update(name, metric, slice(0, 2) if rank == 0 else slice(2, 6))
        scores[name] = metric.compute()
        metric = make()
        if rank == 0:
            _update(name, metric, slice(0, 3))
        scores[f"{name}_uneven"] = metric.compute()
    torch.save(scores, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_like_one(tmp_path):
    side_by_side(_worker, tmp_path, folder=tmp_path)
    for rank in range(2):
        scores = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, make in METRICS.items():
            for suffix, images in (("", slice(0, 6)), ("_uneven", slice(0, 3))):
                metric = make()
                _update(name, metric, images)
                torch.testing.assert_close(scores[name + suffix], metric.compute(), rtol=1e-6, atol=0)


def test_solid_angle_weights_average_one():
    valid = torch.ones(2, 8, 16, dtype=torch.bool)
    weights = pixel_weights(valid, "solid_angle")
    assert weights.mean().item() == pytest.approx(1)
    assert weights[0, 4, 0] > 4 * weights[0, 0, 0]
    assert torch.equal(pixel_weights(~valid, "solid_angle"), torch.zeros(2, 8, 16, dtype=torch.float64))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="reduction must be one of pixel, image, got 'batch'"):
        NormalsMetrics(reduction="batch")
    with pytest.raises(ValueError, match="weighting must be one of"):
        DepthMetrics(weighting="cosine")
    check_choice("a", "b", ("b",))


def test_maps_that_do_not_fit_are_refused():
    target = torch.zeros(2, 4, 8)
    with pytest.raises(ValueError, match=r"\(2, 2, 4\), the label \(2, 4, 8\)"):
        check_maps(torch.zeros(2, 3, 2, 4), target, None)
    with pytest.raises(ValueError, match="boolean mask"):
        check_maps(target, target, torch.ones(2, 4, 8))
    with pytest.raises(ValueError, match="boolean mask"):
        check_maps(target, target, torch.ones(1, 4, 8, dtype=torch.bool))
