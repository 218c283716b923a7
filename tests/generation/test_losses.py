"""Losses, compared with those of the published trainers, and with properties that must hold."""

import json
import re

import golden_dit360 as golden
import pytest
import torch
from golden_dit360 import filled

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.losses import FlowLoss, dit360_cube, published_yaw

TABLES = json.loads((golden.FOLDER / "training.json").read_text())
PLAIN = {"cube": 0.5, "yaw": 0.5, "cube_sampling": "published", "first_epoch": 2}
MIXED = {"cube": 0.5, "yaw": 0.5, "cube_sampling": "published", "epochs": 3, "masking": "published"}


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    return golden.tensors("training")


@pytest.mark.parametrize("name", [name for name in TABLES["losses"] if name.startswith("plain")])
def test_published_training_of_panoramas(stored: dict[str, torch.Tensor], name: str) -> None:
    padding, epoch, angle = (int(part) for part in re.findall(r"\d+", name))
    found = FlowLoss(**PLAIN)(stored[f"pad{padding}/pred"], stored["target"], epoch=epoch, angle=angle)
    expected = TABLES["losses"][name]
    assert found["total"].item() == pytest.approx(expected["train_loss"], rel=1e-5)
    assert found["flow"].item() == pytest.approx(expected["loss_v"], rel=1e-5)
    assert ("yaw" in found) == ("cube" in found) == (epoch >= 2)
    if epoch >= 2:
        assert found["yaw"].item() == pytest.approx(expected["loss_yaw"], rel=1e-5)
        assert found["cube"].item() == pytest.approx(expected["loss_cube"], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in TABLES["losses"] if name.startswith("mixed")])
def test_published_training_with_photographs(stored: dict[str, torch.Tensor], name: str) -> None:
    mask = None
    if "mask/" in name:
        mask = stored["in/mask"].bool()
    elif "perspective" in name:
        mask = stored["in/mask_mixed_batch"].bool()
    else:
        mask = torch.ones(2, 8, 16, dtype=torch.bool)
    epoch = int(re.search(r"epoch(\d)", name)[1]) if "epoch" in name else 0
    found = FlowLoss(**MIXED)(stored["pad1/pred"], stored["target"], mask=mask, epoch=epoch, angle=180)
    assert found["total"].item() == pytest.approx(TABLES["losses"][name], rel=1e-5)


def test_right_rules(stored: dict[str, torch.Tensor]) -> None:
    expected = TABLES["independent_float64"]
    loss, predicted, target = FlowLoss(cube=0.5), stored["pad1/pred"], stored["target"]
    found = loss(predicted, target)
    assert found["cube"].item() == pytest.approx(expected["loss_cube pixel-centre"], rel=1e-5)
    assert found["total"].item() == pytest.approx(found["flow"].item() + 0.5 * found["cube"].item())
    masked = loss(predicted, target, mask=stored["in/mask"].bool())
    key = "masked loss, mean over all masked elements of the batch, no factor"
    assert masked["flow"].item() == pytest.approx(expected[key], rel=1e-5)
    whole = stored["in/mask_mixed_batch"].bool().flatten(1).all(1)
    mixed = loss(predicted, target, mask=stored["in/mask_mixed_batch"].bool())
    assert mixed["cube"].item() == pytest.approx(loss(predicted[whole], target[whole])["cube"].item())


def test_a_turn_by_columns_changes_nothing(stored: dict[str, torch.Tensor]) -> None:
    """Why there is no yaw term by default."""
    predicted, target = stored["pad1/pred"], stored["target"]
    turned = FlowLoss()(predicted.roll(5, -1), target.roll(5, -1))["flow"]
    assert turned.item() == pytest.approx(FlowLoss()(predicted, target)["flow"].item())
    assert TABLES["independent_float64"]["loss_yaw exact roll (by 3 columns), angle60"] == pytest.approx(turned.item())


def test_weights_multiply_the_error(stored: dict[str, torch.Tensor]) -> None:
    predicted, target = stored["pad1/pred"], stored["target"]
    each = [FlowLoss()(predicted[i : i + 1], target[i : i + 1])["flow"].item() for i in range(2)]
    found = FlowLoss()(predicted, target, weight=torch.tensor([2.0, 0.5]))["flow"].item()
    assert found == pytest.approx((2 * each[0] + 0.5 * each[1]) / 2)


def test_published_sampling(stored: dict[str, torch.Tensor]) -> None:
    geometry = golden.tensors("geometry")
    erp = filled("geo.erp", (2, 16, 32), b=1.0)[None]
    for degrees in (60, 300):
        found = published_yaw(erp, degrees)[0]
        torch.testing.assert_close(found, geometry[f"yaw{degrees}/published"], atol=1e-5, rtol=0)
        inner = geometry[f"yaw{degrees}/published_rule64"][:, 1:-1].float()
        torch.testing.assert_close(found[:, 1:-1], inner, atol=1e-5, rtol=0)
        assert torch.equal(erp[0].roll(-round(32 * degrees / 360), -1), geometry[f"yaw{degrees}/right_roll"])
    torch.testing.assert_close(dit360_cube(erp, 8)[0], geometry["cube/published"], atol=1e-5, rtol=0)
    right = sphere.to_cubemap(erp.double(), 8)[0]
    torch.testing.assert_close(right, geometry["cube/right64"], atol=1e-9, rtol=0)
    for name in ("pred", "target"):
        maps = stored["pad1/pred" if name == "pred" else "target"]
        torch.testing.assert_close(dit360_cube(maps, 4), stored[f"cube/{name}"], atol=3e-5, rtol=0)
        for degrees in (60, 180, 300):
            found = published_yaw(maps, degrees)
            torch.testing.assert_close(found, stored[f"yaw{degrees}/{name}"], atol=3e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cube": -1}, "negative"),
        ({"cube_sampling": "ends"}, "cube_sampling must be one of"),
        ({"masking": "x"}, "masking"),
    ],
)
def test_what_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        FlowLoss(**options)
