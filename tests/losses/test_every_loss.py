"""What every loss of a whole network has to do; a new one needs a line in `LOSSES`."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo import losses
from mtpano_zoo.losses import AffineInvariantLoss, DAPLoss, Loss, MultiTaskLoss, PublishedLoss
from mtpano_zoo.tasks import MAIN_TASKS, SAMPLE_MAPS

HEIGHT, WIDTH, CLASSES = 16, 32, 4
CHANNELS = {"semseg": CLASSES, "depth": 1, "normals": 3, "disparity": 1, "valid": 1}
# Every loss, and the outputs that it trains.
LOSSES: dict[type[Loss], tuple[str, ...]] = {
    AffineInvariantLoss: ("disparity",),
    DAPLoss: ("depth", "valid"),
    MultiTaskLoss: tuple(MAIN_TASKS),
    PublishedLoss: ("semseg", "depth", "normals"),
}
every = pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)


def outputs_of(kind: type[Loss]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    maps = {task: torch.randn(2, CHANNELS[task], HEIGHT, WIDTH, generator=draw) for task in LOSSES[kind]}
    if "depth" in maps:
        maps["depth"] = maps["depth"].abs() + 1
    return {task: x.requires_grad_() for task, x in maps.items()}


def labelled() -> dict[str, Tensor]:
    """A batch with all labels, and a band of rows where none counts."""
    draw = torch.Generator().manual_seed(1)
    depth = 1 + 4 * torch.rand(2, HEIGHT, WIDTH, generator=draw)
    batch = {
        "image": torch.rand(2, 3, HEIGHT, WIDTH, generator=draw),
        "semseg": torch.randint(0, CLASSES, (2, HEIGHT, WIDTH), generator=draw),
        "depth": depth,
        "normals": F.normalize(torch.randn(2, 3, HEIGHT, WIDTH, generator=draw), dim=1),
        "disparity": 1 / depth,
        "disparity_valid": torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool),
        "far": torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool),
    }
    for key in batch.keys() - {"image"}:
        batch[key][..., 4:8, :] = SAMPLE_MAPS[key].empty
    batch["far"][..., 0, :] = True
    batch["depth"][..., 0, :] = 0
    return batch


def terms_of(kind: type[Loss], outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
    return kind()(outputs, batch)


def test_every_loss_is_tried() -> None:
    named = [getattr(losses, name) for name in losses.__all__]
    assert {kind for kind in named if isinstance(kind, type) and issubclass(kind, Loss)} - {Loss} == LOSSES.keys()


@every
def test_terms_are_finite_scalars_and_every_output_learns(kind: type[Loss]) -> None:
    outputs = outputs_of(kind)
    terms = terms_of(kind, outputs, labelled())
    assert "total" in terms and len(terms) > 1
    assert all(term.shape == () and term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    terms["total"].backward()
    for task, x in outputs.items():
        assert x.grad is not None and x.grad.isfinite().all() and x.grad.any(), task


@every
def test_without_labels_every_output_gets_a_gradient_of_zero(kind: type[Loss]) -> None:
    empty = {key: torch.full_like(x, SAMPLE_MAPS[key].empty) for key, x in labelled().items() if key != "image"}
    for labels in ({}, empty):
        outputs = outputs_of(kind)
        total = terms_of(kind, outputs, {"image": labelled()["image"], **labels})["total"]
        total.backward()
        assert 0 <= total < 1e-5  # roots are taken above a small number
        assert all(x.grad is not None and not x.grad.any() for x in outputs.values())


@every
@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
def test_where_there_is_no_label_no_prediction_matters(kind: type[Loss], junk: float) -> None:
    clean, soiled = outputs_of(kind), outputs_of(kind)
    with torch.no_grad():
        for x in soiled.values():
            x[..., 4:8, :] = junk
    expected, found = terms_of(kind, clean, labelled()), terms_of(kind, soiled, labelled())
    torch.testing.assert_close(found, expected)
    found["total"].backward()
    assert all(x.grad.isfinite().all() and not x.grad[..., 4:8, :].any() for x in soiled.values())


@every
def test_outputs_in_half_precision_are_compared_in_float32(kind: type[Loss]) -> None:
    outputs = {task: x.detach().bfloat16() for task, x in outputs_of(kind).items()}
    exact = terms_of(kind, {task: x.float() for task, x in outputs.items()}, labelled())
    torch.testing.assert_close(terms_of(kind, outputs, labelled()), exact)
