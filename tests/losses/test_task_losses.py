import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.losses import (
    TASK_LOSSES,
    DisparityLoss,
    LogDepthLoss,
    MultiTaskLoss,
    PublishedLoss,
    ValidLoss,
    affine_invariant_l1,
)
from mtpano_zoo.tasks import MAIN_TASKS, SAMPLE_MAPS

SIZE = (2, 6, 12)
JUNK = (torch.nan, torch.inf, -torch.inf)


def _range_labels():
    """Distances up to 5 m, pixels without any and some that are known to be far: a few measured ones among them."""
    g = torch.Generator().manual_seed(0)
    kind = torch.rand(SIZE, generator=g)
    depth = (0.1 + 5 * torch.rand(SIZE, generator=g)).masked_fill(kind < 0.3, 0)
    return {"depth": depth, "far": (kind > 0.2) & (kind < 0.4)}


def _cross_entropy(logits, inside, known):
    """Mean over the known pixels, by torch."""
    target = inside.double()[known]
    return F.binary_cross_entropy_with_logits(logits[:, 0].double()[known], target).item()


@pytest.mark.parametrize("max_depth", [None, 2.0])
def test_valid_is_measured_and_in_range(max_depth):
    labels = _range_labels()
    depth, far = labels["depth"], labels["far"]
    logits = torch.randn(2, 1, *SIZE[1:])
    inside = (depth > 0) & ~far & (depth < (max_depth or 99))
    expected = _cross_entropy(logits, inside, (depth > 0) | far)
    assert ((depth == 0) & ~far).any() and ((depth > 0) & far).any()  # unknown, and both at once: far
    assert ValidLoss(max_depth)(logits, labels, None, False).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("junk", JUNK)
def test_valid_learns_from_what_is_known_alone(junk):
    labels = _range_labels()
    unknown = (labels["depth"] == 0) & ~labels["far"]
    logits = torch.randn(2, 1, *SIZE[1:])
    clean = ValidLoss()(logits, labels, None, False)
    holes = labels | {"depth": labels["depth"].masked_fill(labels["depth"] == 0, junk)}
    soiled = logits.masked_fill(unknown[:, None], torch.nan).requires_grad_()
    loss = ValidLoss()(soiled, holes, None, False)
    loss.backward()
    torch.testing.assert_close(loss, clean)
    gradient = soiled.grad[:, 0]
    assert torch.equal(gradient != 0, ~unknown)
    # d/dx BCE(sigmoid(x), y) = sigmoid(x) - y, over the number of known pixels.
    inside = (labels["depth"] > 0) & ~labels["far"]
    expected = (logits[:, 0].sigmoid() - inside.float()) / (~unknown).sum()
    torch.testing.assert_close(gradient[~unknown], expected[~unknown])


def test_gradient_of_valid_is_that_of_finite_differences():
    labels = _range_labels()
    logits = torch.randn(2, 1, *SIZE[1:], dtype=torch.float64, requires_grad=True)
    weight = torch.rand(SIZE, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ValidLoss()(x, labels, weight, False), logits)


def test_weights_of_valid_make_a_weighted_mean():
    labels = _range_labels()
    depth, far = labels["depth"], labels["far"]
    logits, weight = torch.randn(2, 1, *SIZE[1:]), torch.rand(SIZE).masked_fill(torch.rand(SIZE) < 0.2, torch.nan)
    counts = ((depth > 0) | far) & weight.isfinite()
    per_pixel = F.softplus(torch.where((depth > 0) & ~far, -logits[:, 0], logits[:, 0]))
    expected = np.average(per_pixel[counts].numpy(), weights=weight[counts].numpy())
    assert ValidLoss()(logits, labels, weight, False).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [MultiTaskLoss, PublishedLoss])
@pytest.mark.parametrize("key", ["far", "depth", "disparity", "disparity_valid"])
def test_a_sample_without_a_map_of_a_task_takes_no_part_beside_others(key, kind):
    tasks = ("depth", "valid", "disparity")
    labels = _range_labels() | dict(zip(("disparity", "disparity_valid"), _disparities()[1:], strict=True))
    samples = [{"image": torch.rand(3, *SIZE[1:])} | {name: maps[i] for name, maps in labels.items()} for i in (0, 1)]
    del samples[0][key]
    outputs = {task: torch.randn(2, 1, *SIZE[1:]).requires_grad_() for task in tasks}
    losses = kind()(outputs, collate(samples))
    losses["total"].backward()
    alone = {task: prediction.detach()[1:].clone().requires_grad_() for task, prediction in outputs.items()}
    expected = kind()(alone, collate(samples[1:]))
    expected["total"].backward()
    for task in tasks:
        lost = key in MAIN_TASKS[task].labels
        assert outputs[task].grad[0].any().item() != lost, task
        if lost:
            torch.testing.assert_close(losses[task], expected[task])
            torch.testing.assert_close(outputs[task].grad[1:], alone[task].grad)


def _disparities():
    g = torch.Generator().manual_seed(1)
    target = torch.rand(SIZE, generator=g)
    valid = torch.rand(SIZE, generator=g) > 0.2
    return target + 0.3 * torch.randn(SIZE, generator=g), target, valid


def _normalised(values):
    """Median 0 and mean absolute deviation 1; of an even number of values the lower one in the middle counts."""
    centred = values - np.sort(values)[(len(values) - 1) // 2]
    return centred / np.abs(centred).mean()


def test_affine_invariant_error_agrees_with_loops():
    p, t, valid = _disparities()
    errors = [
        np.abs(_normalised(a[v].double().numpy()) - _normalised(b[v].double().numpy()))
        for a, b, v in zip(p, t, valid, strict=True)
    ]
    assert affine_invariant_l1(p, t, valid).item() == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)
    weight = torch.rand(SIZE)
    expected = np.average(np.concatenate(errors), weights=weight[valid].numpy())
    assert affine_invariant_l1(p, t, valid, weight).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (0.2, -3.0), (7.0, 40.0)])
def test_scale_and_shift_of_any_image_of_either_map_do_not_matter(scale, shift):
    p, t, valid = _disparities()
    expected = affine_invariant_l1(p, t, valid)
    for which in range(2):
        for image in range(2):
            maps = [p.clone(), t.clone()]
            maps[which][image] = scale * maps[which][image] + shift
            torch.testing.assert_close(affine_invariant_l1(*maps, valid), expected, rtol=1e-4, atol=0)
    assert affine_invariant_l1(-p, t, valid) > 1.5 * expected  # near must stay near
    assert affine_invariant_l1(0.5 * t - 4, t, valid).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("degenerate", ["target", "no pixel", "one pixel"])
def test_an_image_without_variation_contributes_nothing(degenerate):
    p, t, valid = _disparities()
    if degenerate == "target":
        t[1] = 0.7
    else:
        valid[1] = False
        valid[1, 2, 3] = degenerate == "one pixel"
    expected = affine_invariant_l1(p[:1], t[:1], valid[:1])
    p.requires_grad_()
    loss = affine_invariant_l1(p, t, valid)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert p.grad.isfinite().all() and p.grad[0].any() and not p.grad[1].any()


@pytest.mark.parametrize("junk", JUNK)
def test_disparity_learns_from_valid_pixels_alone(junk):
    p, t, valid = _disparities()
    clean, soiled = (x.clone()[:, None].requires_grad_() for x in (p, p.masked_fill(~valid, junk)))
    holes, marked = t.masked_fill(~valid, junk), valid.clone()
    holes[0, 0, 0], marked[0, 0, 0] = junk, True  # marked as valid, but no number
    valid[0, 0, 0] = False
    losses = [
        DisparityLoss()(x, {"disparity": labels, "disparity_valid": mask}, None, False)
        for x, labels, mask in ((clean, t, valid), (soiled, holes, marked))
    ]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(soiled.grad, clean.grad)
    assert soiled.grad.isfinite().all() and not soiled.grad[:, 0][~valid].any()


def test_gradient_of_disparity_is_that_of_finite_differences():
    p, t, valid = (x[..., :6] for x in _disparities())
    labels = {"disparity": t, "disparity_valid": valid}
    prediction = p[:, None].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: DisparityLoss()(x, labels, None, False), prediction, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("task", TASK_LOSSES)
def test_without_a_label_loss_and_gradient_are_zero(task):
    labels = {}
    for key in MAIN_TASKS[task].labels:
        kind = SAMPLE_MAPS[key]
        shape = (2, kind.channels, 8, 16) if kind.channels else (2, 8, 16)
        labels[key] = torch.full(shape, kind.empty, dtype=getattr(torch, kind.dtype))
    prediction = torch.randn(2, MAIN_TASKS[task].channels or 5, 8, 16, requires_grad=True)
    loss = TASK_LOSSES[task]()(prediction, labels, None, False)
    loss.backward()
    assert loss.item() == 0 and prediction.grad.isfinite().all() and not prediction.grad.any()


def _distances():
    """Predicted and true distances of 1 to 100 m, and the mask of the true ones."""
    g = torch.Generator().manual_seed(3)
    prediction, target = (10 ** (2 * torch.rand(2, 9, 10, generator=g)) for _ in range(2))
    return prediction, target, torch.rand(2, 9, 10, generator=g) > 0.3


def test_errors_of_log_depth_agree_with_loops():
    prediction, target, valid = _distances()
    error = (prediction.double() / target.double()).log().numpy()
    expected = np.abs(error[valid.numpy()]).mean()
    rows, columns = error.shape[1:]
    for step in (1, 2, 4, 8):
        for down, right in ((0, step), (step, 0)):
            differences = [
                abs(error[b, y + down, (x + right) % columns] - error[b, y, x])
                for b, y, x in np.ndindex(2, rows - down, columns)
                if valid[b, y, x] and valid[b, y + down, (x + right) % columns]
            ]
            expected += 0.5 / 8 * np.mean(differences)
    labels = {"depth": torch.where(valid, target, 0)}
    assert LogDepthLoss()(prediction[:, None], labels, None, False).item() == pytest.approx(expected, rel=1e-5)


def test_log_depth_counts_what_is_relative():
    prediction, target, valid = _distances()
    loss = LogDepthLoss(max_depth=1e4)
    labels = [{"depth": torch.where(valid, x, 0)} for x in (target, 50 * target)]
    values = [loss(scale * prediction[:, None], x, None, False) for scale, x in zip((1, 50), labels, strict=True)]
    torch.testing.assert_close(values[1], values[0])
    wrong = loss(1.2 * target[:, None], labels[0], None, False)  # everywhere by the same factor: no second term
    assert wrong.exp().item() == pytest.approx(1.2, rel=1e-5)
    near = LogDepthLoss(max_depth=10)(prediction[:, None], labels[0], None, False)
    only_near = {"depth": torch.where(valid & (target < 10), target, 0)}
    torch.testing.assert_close(near, LogDepthLoss()(prediction[:, None], only_near, None, False))


@pytest.mark.parametrize("junk", JUNK)
def test_log_depth_learns_from_measured_pixels_alone(junk):
    prediction, target, valid = _distances()
    clean, soiled = (x.clone()[:, None].requires_grad_() for x in (prediction, prediction.masked_fill(~valid, junk)))
    losses = [
        LogDepthLoss()(x, {"depth": target.masked_fill(~valid, hole)}, None, False)
        for x, hole in ((clean, 0.0), (soiled, junk))
    ]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(soiled.grad, clean.grad)
    assert soiled.grad.isfinite().all() and not soiled.grad[:, 0][~valid].any()


def test_log_depth_pulls_predictions_up_that_are_almost_zero():
    """They would stay where they are without a gradient; it is bounded by that at a centimetre."""
    prediction = torch.tensor([0.0, 0.0067, 0.01, 0.010001, 2.0]).view(1, 1, 1, 5).requires_grad_()
    loss = LogDepthLoss(gradient_weight=0.0)
    loss(prediction, {"depth": torch.full((1, 1, 5), 2.1)}, None, False).backward()
    slopes = 5 * prediction.grad.flatten()
    torch.testing.assert_close(slopes, torch.tensor([-100.0, -100.0, -100.0, -100.0, -0.5]), rtol=1e-3, atol=0)
    each = [
        loss(torch.full((1, 1, 1, 1), metres), {"depth": torch.full((1, 1, 1), 2.1)}, None, False).item()
        for metres in (0.0, 0.005, 0.01, 0.02)
    ]
    assert each == sorted(each, reverse=True) and each[2] == pytest.approx(math.log(210), rel=1e-5)


def test_weights_of_log_depth_leave_pixels_out():
    prediction, target, valid = _distances()
    loss = LogDepthLoss(gradient_weight=0.0)
    weighted = loss(prediction[:, None], {"depth": target}, valid.float(), False)
    torch.testing.assert_close(
        weighted, loss(prediction[:, None], {"depth": torch.where(valid, target, 0)}, None, False)
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_weights_of_log_depth_do_not_depend_on_the_side(axis):
    """A pair of pixels counts by the less trusted one, whichever it is."""
    prediction, target, valid = _distances()
    target, weight = torch.where(valid, target, 0), torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    maps = [(x, x.flip(axis)) for x in (prediction, target, weight)]
    plain, mirrored = (LogDepthLoss()(p[:, None], {"depth": t}, w, False) for p, t, w in zip(*maps, strict=True))
    torch.testing.assert_close(mirrored, plain, rtol=1e-5, atol=0)
