"""What DAP has beside what every network has; `tests/reference/test_dap.py` compares it with published numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_networks import randomised, tiny_bridgenet, tiny_dap, tiny_vit

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.losses import MultiTaskLoss
from mtpano_zoo.models import DAP, prepare_for_inference
from mtpano_zoo.models.dap import shifted


@pytest.fixture(scope="module")
def network() -> DAP:
    """With masks that say yes for half of the pixels of an image."""
    torch.manual_seed(0)
    network = randomised(tiny_dap()).eval()
    with torch.no_grad():
        masks = network(torch.rand(1, 3, 32, 64))["ext"]["range_masks"]
        for i, head in enumerate(network.range_heads):
            head.predict.bias -= masks[0, i].median()
    return network


def test_distances_are_between_zero_and_the_largest_and_start_at_two_metres() -> None:
    with torch.no_grad():
        depth = tiny_dap()(torch.rand(2, 3, 32, 64))["depth"]
        wild = randomised(tiny_dap())(torch.rand(2, 3, 32, 64))["depth"]
    assert depth.median().item() == pytest.approx(2, abs=0.5)
    assert (wild > 0).all() and (wild < 10).all()


def test_every_range_has_its_mask_and_the_last_is_the_default(network: DAP) -> None:
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        masks = network(image)["ext"]["range_masks"]
        assert len({round(mask.sum().item(), 3) for mask in masks[0]}) == 3
        for ask in (network, prepare_for_inference(network)):
            for limit, expected in ((None, masks[:, 2:]), (2, masks[:, :1]), (3.0, masks[:, 1:2]), (5, masks[:, 2:])):
                outputs = ask(image, max_distance=limit)
                assert torch.allclose(outputs["valid"], expected, atol=1e-5)
    one = tiny_dap(ranges=None)
    assert one.ranges == (10.0,) and one(image).keys() == {"depth", "valid"}


def test_predictions_have_no_depth_out_of_range(network: DAP, tmp_path: Path) -> None:
    image = torch.rand(3, 32, 64)
    far, near = network.predict(image), network.predict(image, max_distance=2)
    assert (near.valid != far.valid).any()
    for prediction in (far, near):
        assert ((prediction.depth > 0) == prediction.valid).all()
    network.save_pretrained(tmp_path / "saved")
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    arguments = ["run", str(tmp_path / "a.png"), "--model", str(tmp_path / "saved"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--max-distance", "2", "--depth-range", "0", "10"]) == 0
    expected = network.predict(pixels, max_distance=2)
    found = np.load(tmp_path / "out" / "a_depth.npy")
    assert np.allclose(found, expected.depth, atol=1e-4) and (found == 0).any()
    assert main([*arguments, "--max-distance", "3"]) == 1  # the folder is of another range


def test_what_no_mask_is_about_is_refused(network: DAP) -> None:
    with pytest.raises(ValueError, match=r"cannot be 4 m; the network has masks at 2, 3, 5 m"):
        network.predict(torch.rand(3, 32, 64), max_distance=4)
    with pytest.raises(ValueError, match="max_distance is a number of metres, not 'near'"):
        network.predict(torch.rand(3, 32, 64), max_distance="near")
    with pytest.raises(ValueError, match="this network has no range masks"):
        tiny_bridgenet().predict(torch.rand(3, 32, 64), max_distance=4)
    with pytest.raises(ValueError, match="DAPLoss trains range_masks"):
        MultiTaskLoss()(network(torch.rand(1, 3, 32, 64)), {"image": torch.rand(1, 3, 32, 64)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranges": (3, 2)}, "ascending and at most max_distance, 10; got 3, 2"),
        ({"ranges": (2, 2)}, "got 2, 2"),
        ({"ranges": (0, 2)}, "got 0, 2"),
        ({"ranges": (2, 11)}, "got 2, 11"),
        ({"ranges": ()}, "got none"),
        ({"ranges": (math.nan,)}, "got nan"),
        ({"max_distance": math.inf}, "at most max_distance, inf"),
        ({"tasks": ("depth", "normals")}, "depth and valid, not normals"),
        ({"convention": "other"}, "sphere or paper"),
        ({"encoder": None}, "must be an Encoder"),
        ({"encoder": lambda: tiny_vit(taps=(0, 1, 2, 4))}, "four blocks from 0 to 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_dap(**{key: value() if callable(value) else value for key, value in arguments.items()})


def test_taps_choose_the_blocks() -> None:
    encoder = tiny_vit(depth=6, taps=(0, 1, 2, 3)).eval()
    usual = tiny_vit(depth=6).eval()
    usual.load_state_dict(encoder.state_dict())
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        ours, theirs = encoder(image)[0], usual(image)[0]
    assert (encoder.taps, usual.taps) == ([0, 1, 2, 3], [0, 2, 3, 5])
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[2], theirs[1]) and torch.equal(ours[3], theirs[2])


def test_published_tokens_are_shifted_along_the_sequence() -> None:
    """Token j comes from max(0, (j + 1/2) (N - 1) / N - 1/2), counted without the first."""
    level = torch.rand(2, 3, 4, 8, dtype=torch.float64)
    tokens = level.flatten(2)
    for j in range(32):
        place = max(0.0, (j + 0.5) * 31 / 32 - 0.5)
        low = int(place)
        expected = torch.lerp(tokens[..., 1 + low], tokens[..., min(2 + low, 31)], place - low)
        assert torch.allclose(shifted(level).flatten(2)[..., j], expected)
    square = torch.rand(1, 3, 5, 10)
    expected = F.interpolate(square.flatten(2)[..., 1:].view(1, 3, 7, 7), (5, 10), mode="bilinear")
    assert torch.equal(shifted(square), expected)


def test_a_part_of_its_tasks_is_loaded(network: DAP, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "saved")
    depth = load_model(tmp_path / "saved", tasks=["depth"])
    assert depth.tasks == ("depth",) and depth.ranges == ()
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.allclose(depth(image)["depth"], network(image)["depth"], atol=1e-5)


def test_gradients_are_the_same_with_less_memory(network: DAP) -> None:
    image, gradients = torch.rand(1, 3, 32, 64), []
    for enabled in (False, True):
        network.set_gradient_checkpointing(enabled)
        network.train().zero_grad()
        network(image)["depth"].sum().backward()
        gradients.append(next(network.encoder.parameters()).grad.clone())
    network.set_gradient_checkpointing(False)
    network.eval().zero_grad()
    assert torch.allclose(*gradients)
