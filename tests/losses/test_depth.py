"""DAP's losses against loops over pixels, numbers of the published code, and finite differences."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_networks import tiny_dap
from torch import Tensor

from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.losses import DAPLoss, dense_fidelity, depth_edges, mask_error, normals_l1, points_l1, silog
from mtpano_zoo.metrics import DepthMetrics
from mtpano_zoo.sphere import depth_to_points, icosahedron_rotations, points_to_normals, solid_angles

GOLDEN = load_file(Path(__file__).parent / "golden" / "dap_helpers.safetensors")
HEIGHT, WIDTH = 6, 12


@pytest.fixture
def maps() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prediction, target and valid pixels of two panoramas in float64, and weights."""
    target = 1 + 9 * torch.rand(2, HEIGHT, WIDTH, dtype=torch.float64)
    valid = torch.rand(2, HEIGHT, WIDTH) > 0.3
    prediction = target * (0.7 + 0.8 * torch.rand_like(target))
    target = torch.where(valid, target, torch.nan)
    return prediction, target, valid, torch.rand(2, HEIGHT, WIDTH, dtype=torch.float64)


def pixels(valid: Tensor) -> list[tuple[int, ...]]:
    return [place for place in product(*map(range, valid.shape)) if valid[place]]


def brute_silog(prediction: Tensor, target: Tensor, valid: Tensor, weight: Tensor, focus: float) -> float:
    total = mean = square = 0.0
    for place in pixels(valid):
        d, w = math.log(prediction[place] / target[place]), float(weight[place])
        total, mean, square = total + w, mean + w * d, square + w * d * d
    return math.sqrt(square / total - focus * (mean / total) ** 2)


def test_silog_is_the_one_that_was_published() -> None:
    mask = GOLDEN["metrics/mask"][:, 0].bool()
    error = silog(GOLDEN["metrics/pred"][:, 0], GOLDEN["metrics/gt"][:, 0], mask)
    assert error.item() == pytest.approx(0.22041653096675873, rel=1e-5)


def test_silog_by_a_loop(maps: tuple[Tensor, ...]) -> None:
    prediction, target, valid, weight = maps
    expected = brute_silog(prediction, target, valid, weight, 0.3)
    assert silog(prediction, target, valid, weight, 0.3).item() == pytest.approx(expected)


def test_fidelity_by_a_loop(maps: tuple[Tensor, ...]) -> None:
    prediction, target, valid, _ = maps
    fov, size, errors = 70.0, 4, []  # an even size has no pixel on the border of two
    for image, rotation in product(range(2), icosahedron_rotations(dtype=torch.float64)):
        views = np.zeros((2, size, size))
        for row, column in product(range(size), range(size)):
            slope = 2 * math.tan(math.radians(fov / 2)) / size
            x, y, z = (rotation @ torch.tensor([slope * (column - 1.5), slope * (row - 1.5), 1.0]).double()).tolist()
            u = int((math.atan2(x, z) / (2 * math.pi) + 0.5) * WIDTH)
            v = int((math.atan2(y, math.hypot(x, z)) / math.pi + 0.5) * HEIGHT)
            place = (image, min(v, HEIGHT - 1), u % WIDTH)
            if valid[place]:
                views[:, row, column] = prediction[place], target[place]
        if views.any():
            p, t = (view / np.linalg.norm(view) for view in views)
            errors.append(np.linalg.norm(p @ p.T - t @ t.T) ** 2)
    assert dense_fidelity(prediction, target, valid, fov, size).item() == pytest.approx(np.mean(errors))
    assert dense_fidelity(3 * target, target, valid).item() == pytest.approx(0, abs=1e-12)


def test_edges_by_a_loop(maps: tuple[Tensor, ...]) -> None:
    """Sobel on logarithms; over a pole, the neighbour is half a turn away."""
    _, target, _, _ = maps
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[0, 2, 3] = valid[1, 0, 7] = False
    target = torch.where(target.isnan(), 5, target)

    def at(image: int, row: int, column: int) -> tuple[int, int, int]:
        if row in (-1, HEIGHT):
            row, column = max(0, min(row, HEIGHT - 1)), column + WIDTH // 2
        return image, row, column % WIDTH

    found = depth_edges(torch.where(valid, target, torch.nan), valid, 0.15)
    assert 0.1 < found.float().mean() < 0.9
    for image, row, column in product(range(2), range(HEIGHT), range(WIDTH)):
        gx = gy = 0.0
        around = [(a, b, at(image, row + a, column + b)) for a, b in product((-1, 0, 1), (-1, 0, 1))]
        for a, b, place in around:
            gx += b * (2 - abs(a)) * math.log(target[place])
            gy += a * (2 - abs(b)) * math.log(target[place])
        edge = math.hypot(gx, gy) / 8 >= 0.15 and all(valid[place] for *_, place in around)
        assert found[image, row, column] == edge


def test_normals_and_points_by_a_loop(maps: tuple[Tensor, ...]) -> None:
    prediction, target, valid, weight = maps
    points = [depth_to_points(torch.where(valid, x, 0)[:, None]) for x in (prediction, target)]
    normals = [points_to_normals(x, valid[:, None]) for x in points]
    for found, (one, other), unit in (
        (points_l1(prediction, target, valid, weight, unit=4.0), points, 4.0),
        (normals_l1(prediction, target, valid, weight), normals, 1.0),
    ):
        total = count = 0.0
        for image, row, column in pixels(valid):
            if other[image, :, row, column].any():
                difference = one[image, :, row, column] - other[image, :, row, column]
                total += float(weight[image, row, column] * difference.abs().sum()) / unit
                count += float(weight[image, row, column])
        assert found.item() == pytest.approx(total / count)


def test_the_published_points_and_normals_are_ours_in_another_frame() -> None:
    """Published: right-handed, z up, the centre of the image along -x, so (x, y, z) = (-y, -z, -x) of it."""
    depth = GOLDEN["depth2point/depth"]
    x, y, z = GOLDEN["depth2point/points_torch"].unbind(-1)
    assert torch.allclose(depth_to_points(depth[:, None]), torch.stack((y, -z, -x), dim=1), atol=2e-5)


def test_masks_by_a_loop() -> None:
    logits, inside = torch.randn(2, HEIGHT, WIDTH).double(), torch.rand(2, HEIGHT, WIDTH) > 0.4
    known, weight = torch.rand(2, HEIGHT, WIDTH) > 0.2, torch.rand(HEIGHT, 1).double()
    square = both = total = count = 0.0
    for image, row, column in pixels(known):
        w, p = float(weight[row, 0]), 1 / (1 + math.exp(-logits[image, row, column]))
        t = float(inside[image, row, column])
        square, count = square + w * (p - t) ** 2, count + w
        both, total = both + w * p * t, total + w * (p + t)
    expected = square / count + 0.5 * (1 - 2 * both / total)
    assert mask_error(logits, inside, known, weight).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("term", [silog, dense_fidelity, normals_l1, points_l1])
def test_gradients_are_those_of_finite_differences(maps: tuple[Tensor, ...], term: object) -> None:
    prediction, target, valid, _ = maps
    prediction = prediction[:1, :4, :8].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term(x, target[:1, :4, :8], valid[:1, :4, :8]), prediction)


def test_gradients_of_the_masks_are_those_of_finite_differences(maps: tuple[Tensor, ...]) -> None:
    logits, valid = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True), maps[2][:1, :3, :4]
    assert torch.autograd.gradcheck(lambda x: mask_error(x, ~valid, torch.rand_like(x.detach()) > -1), logits)


def batch_of(depth: Tensor, **others: Tensor) -> dict[str, Tensor]:
    return {"image": torch.rand(len(depth), 3, *depth.shape[-2:]), "depth": depth, **others}


def test_the_whole_is_the_weighted_sum_with_the_solid_angle(maps: tuple[Tensor, ...]) -> None:
    prediction, target, valid, _ = (x.float() if x.is_floating_point() else x for x in maps)
    loss = DAPLoss({"points": 0.0, "masks": 3.0}, ranges=(4, 8), max_depth=9.0)
    masks = torch.randn(2, 2, HEIGHT, WIDTH)
    outputs = {"depth": prediction[:, None], "valid": masks[:, 1:], "ext": {"range_masks": masks}}
    terms = loss(outputs, batch_of(torch.where(valid, target, 0)))
    weights = {"silog": 1, "fidelity": 0.4, "edges": 5, "normals": 2, "masks": 3}
    assert terms.keys() == {"total", *weights}
    assert terms["total"].item() == pytest.approx(sum(w * terms[name].item() for name, w in weights.items()))
    near, rows = valid & (target < 9), solid_angles(HEIGHT, WIDTH)
    expected = brute_silog(prediction, target, near, rows.expand_as(prediction), 0.5)
    assert terms["silog"].item() == pytest.approx(expected, rel=1e-5)
    each = [mask_error(masks[:, i], torch.where(valid, target, 0) < r, valid, rows) for i, r in enumerate((4, 8))]
    assert terms["masks"].item() == pytest.approx(sum(each).item() / 2, rel=1e-4)


@pytest.mark.parametrize("tasks", [("depth", "valid"), ("depth",), ("valid",)])
def test_a_batch_without_distances_has_the_same_terms(tasks: tuple[str, ...]) -> None:
    """Several processes average them, and one may have none."""
    outputs = {task: torch.rand(1, 1, HEIGHT, WIDTH, requires_grad=True) for task in tasks}
    loss, batch = DAPLoss({"points": 0.0}), batch_of(torch.full((1, HEIGHT, WIDTH), 3.0))
    terms = loss(outputs, {"image": batch["image"]})
    assert terms.keys() == loss(outputs, batch).keys()
    assert not any(terms.values())
    terms["total"].backward()
    assert all(output.grad is not None and not output.grad.any() for output in outputs.values())


def test_far_pixels_and_labels_out_of_range_train_the_masks_alone() -> None:
    depth = torch.full((1, HEIGHT, WIDTH), 3.0)
    depth[:, :2] = 0
    depth[:, 2] = 250.0
    far = torch.zeros_like(depth, dtype=torch.bool)
    far[:, 0] = True
    outputs = {"depth": torch.full((1, 1, HEIGHT, WIDTH), 7.0), "valid": torch.zeros(1, 1, HEIGHT, WIDTH)}
    for x in outputs.values():
        x.requires_grad_()
    terms = DAPLoss()(outputs, batch_of(depth, far=far))
    assert all(term.isfinite() for term in terms.values())
    terms["total"].backward()
    assert (outputs["depth"].grad[0, 0, :3] == 0).all() and (outputs["depth"].grad[0, 0, 3:] != 0).any()
    rows = outputs["valid"].grad[0, 0].sign()[:, 0].tolist()  # where the loss falls, the logit rises
    assert rows == [1, 0, 1, -1, -1, -1]


@pytest.mark.parametrize("key", ["far", "depth"])
def test_what_a_sample_trains_does_not_depend_on_the_others(key: str) -> None:
    whole = {"image": torch.zeros(3, HEIGHT, WIDTH), "depth": torch.full((HEIGHT, WIDTH), 3.0)}
    whole["far"] = torch.arange(HEIGHT)[:, None].expand(HEIGHT, WIDTH) < 2
    partial = {name: maps for name, maps in whole.items() if name != key}
    found = []
    for samples in ([partial], [partial, whole]):
        mask = torch.zeros(len(samples), 1, HEIGHT, WIDTH).requires_grad_()
        DAPLoss()({"valid": mask}, collate(samples))["total"].backward()
        found.append(mask.grad[0].sign())
    assert torch.equal(*found) and found[0].any() == (key != "depth")


def test_confidence_weighs_pixels_and_takes_them_out() -> None:
    depth = 1 + torch.rand(1, HEIGHT, WIDTH)
    confidence = torch.ones_like(depth)
    confidence[:, 3:] = 0
    outputs = {"depth": torch.rand(1, 1, HEIGHT, WIDTH).add(1).requires_grad_()}
    DAPLoss()(outputs, batch_of(depth, depth_confidence=confidence))["total"].backward()
    assert (outputs["depth"].grad[0, 0, 3:] == 0).all() and (outputs["depth"].grad[0, 0, :3] != 0).any()


def test_what_does_not_fit_is_refused() -> None:
    for wrong in ({"weights": {"edges": -1.0}}, {"dice_weight": -0.5}):
        with pytest.raises(ValueError, match=r"negative, but there is (edges -1|dice_weight -0)"):
            DAPLoss(**wrong)
    with pytest.raises(ValueError, match="There is no term edge: DAPLoss has silog, fidelity, edges"):
        DAPLoss({"edge": 1.0})
    with pytest.raises(ValueError, match="has 1 ranges and the network 3 masks"):
        DAPLoss()(tiny_dap()(torch.rand(1, 3, 32, 64)), batch_of(torch.ones(1, 32, 64)))


def test_meters_are_the_published_ones_and_its_rmse_is_a_mean_absolute_error() -> None:
    """The published evaluation takes the root before the mean; its other function has the root-mean-square errors."""
    mask, prediction, target = (GOLDEN[f"metrics/{name}"] for name in ("mask", "pred", "gt"))
    metric = DepthMetrics(min_depth=1e-6)
    metric.update(prediction, torch.where(mask.bool(), target, 0))
    found = {name: value.item() for name, value in metric.compute().items()}
    published = {
        "AbsRel": 0.22251783311367035,
        "SqRel": 0.03875061124563217,
        "RMSE": 0.1421210914850235,
        "RMSElog": 0.24153529107570648,
        "delta1": 0.6282404661178589,
        "delta2": 0.936017632484436,
        "delta3": 0.9972421526908875,
    }
    assert {name: found[name] for name in published} == pytest.approx(published, rel=1e-5)
    p, t = prediction[mask.bool()].double(), target[mask.bool()].double()
    called_rmse, called_rmse_log = (p - t).abs().mean(), (p.log10() - t.log10()).abs().mean()
    assert (called_rmse.item(), called_rmse_log.item()) == pytest.approx(
        (0.1034315973520279, 0.08454861491918564), rel=1e-5
    )
