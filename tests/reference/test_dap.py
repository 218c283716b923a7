"""The published DAP at a small size: `golden/dap.safetensors` holds what its code computed in float64.

`golden/dap_keys.json` has shape, offset and width of the fill rule of every key, see `splitmix`.
"""

import copy
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from splitmix import filled
from tiny_networks import published_dap
from torch import Tensor

from mtpano_zoo import load_model
from mtpano_zoo.data import HomesDataset
from mtpano_zoo.models import DAP
from mtpano_zoo.reference.dap import convert_state_dict, describe
from mtpano_zoo.zoo import entries
from mtpano_zoo.zoo.building import build_network

GOLDEN = load_file(Path(__file__).parent / "golden" / "dap.safetensors")
RUNS = ("in64x128_b2", "in80x160_b1")
LAST = "core.depth_head.scratch.output_conv2.2.bias"


def dap(state: dict[str, Tensor], **changes: object) -> DAP:
    """The network of a published state dict. The golden images are normalised already."""
    description = describe(state)
    description["init_args"] |= {"input_size": [64, 128], "image_mean": [0.0] * 3, "image_std": [1.0] * 3} | changes
    network = build_network(description, "golden")
    network.load_state_dict(convert_state_dict(state), assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return published_dap()


@pytest.fixture(scope="module")
def network(published: dict[str, Tensor]) -> DAP:
    return dap(published)


def test_the_fill_rule_is_the_one_of_the_golden_files(published: dict[str, Tensor]) -> None:
    first = filled("equi_encoder.bn1.bias", [3], 201, 0.0, 0.10000000149011612)
    expected = [-0.02764970064163208, 0.015113115310668945, -0.021255088970065117]
    assert first.tolist() == torch.tensor(expected).tolist()
    digest = hashlib.sha256()
    constant = ("bias_mask", "periods")
    names = [n for n in published if not n.endswith(constant) and not n.startswith("core.pretrained.blocks.")]
    for name in sorted(names, key=str.encode):
        digest.update(name.encode())
        digest.update(published[name].numpy().tobytes())
    assert digest.hexdigest() == "b0139f17e85e17f219be4212454179187976d6345261b4fad4ab424a893ffee8"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 8.3e-6), (torch.float64, 1e-7)])
@pytest.mark.parametrize("run", RUNS)
def test_it_computes_what_the_published_code_does(network: DAP, run: str, dtype: torch.dtype, tolerance: float) -> None:
    network = copy.deepcopy(network).to(dtype)
    with torch.no_grad():
        outputs = network(GOLDEN[f"{run}/image"].to(dtype))
    assert torch.allclose((outputs["depth"] / 100).double(), GOLDEN[f"{run}/pred_depth"], rtol=0, atol=tolerance)
    # The published mask says what is out of range.
    assert torch.allclose((-outputs["valid"]).sigmoid().double(), GOLDEN[f"{run}/pred_mask"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("run", RUNS)
def test_its_decoders_get_what_the_published_ones_get(network: DAP, run: str) -> None:
    """Normalised twice, without the first token, resampled: along the sequence, and as a square image at 80 x 160."""
    taken = []
    hook = network.necks["depth"].register_forward_pre_hook(lambda _, inputs: taken.extend(inputs[0]))
    with torch.no_grad():
        network(GOLDEN[f"{run}/image"])
    hook.remove()
    for level in (0, 3):
        assert torch.allclose(taken[level], GOLDEN[f"{run}/adapter_grid_{level}"], atol=5e-5)


def test_a_prediction_is_that_of_the_published_demo(network: DAP) -> None:
    """Which divides by 255 alone, and writes 100 m where the mask says that a pixel is out of range."""
    prediction = network.predict(GOLDEN["infer_raw/image_rgb_u8"].numpy())
    valid = GOLDEN["infer_raw/pred_mask"][0, 0].numpy() < 0.5
    assert 0.1 < (~valid).mean() < 0.4
    assert np.array_equal(prediction.valid, valid)
    assert np.allclose(np.where(valid, prediction.depth / 100, 1), GOLDEN["infer_raw/pred"], atol=3e-5)
    assert (prediction.depth[~valid] == 0).all()


def test_periods_that_were_rounded_are_kept(published: dict[str, Tensor]) -> None:
    """DINOv3's own are rounded to bfloat16."""
    key = "core.pretrained.model.rope_embed.periods"
    periods = published[key].bfloat16().float()
    assert (periods != published[key]).any()
    rounded = dap(published | {key: periods})
    assert torch.equal(rounded.encoder.vit.rope.periods, periods)
    assert torch.equal(copy.deepcopy(rounded).double().encoder.vit.rope.periods, periods.double())
    half = copy.deepcopy(rounded).half()
    assert torch.equal(half.encoder.vit.rope.periods, periods)
    assert half.state_dict().keys() == rounded.state_dict().keys()
    assert copy.deepcopy(rounded).to("meta").to_empty(device="cpu").encoder.vit.rope.periods.device.type == "cpu"


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_file_in_half_precision_is_read_again(network: DAP, precision: torch.dtype, tmp_path: Path) -> None:
    half = copy.deepcopy(network).to(precision)
    half.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {precision}
    image = GOLDEN["infer_raw/image_rgb_u8"].numpy()
    assert np.allclose(loaded.predict(image).depth, half.predict(image).depth, rtol=0.02, atol=0.01)


def test_every_key_is_used_once(published: dict[str, Tensor]) -> None:
    """Every tensor holds a number of its own, the query's and the value's third of a bias one each."""
    once = {name: x for name, x in published.items() if not name.startswith("core.pretrained.blocks.")}
    numbered = {name: torch.full_like(x, i) for i, (name, x) in enumerate(once.items(), start=1)}
    numbered |= {name: x for name, x in once.items() if name.endswith("bias_mask")}
    for name, x in numbered.items():
        if name.endswith("qkv.bias"):
            x[: len(x) // 3] += 0.25
            x[2 * len(x) // 3 :] += 0.5
    found = [x.unique().abs().tolist() for x in convert_state_dict(numbered).values()]
    assert all(len(values) == 1 for values in found)
    unused = r"bias_mask|mask_token|refinenet4\.resConfUnit1"
    expected = [
        i + part
        for i, name in enumerate(once, start=1)
        if not re.search(unused, name)
        for part in ((0.25, 0.5) if name.endswith("qkv.bias") else (0.0,))
    ]
    assert sorted(value for values in found for value in values) == expected


def other_copy(state: dict[str, Tensor], changed: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is changed in a block, in its second copy too."""
    twins = {name.replace("pretrained.model.blocks", "pretrained.blocks"): x for name, x in changed.items()}
    return changed | {name: x for name, x in twins.items() if name in state}


def test_it_loads_with_and_without_the_prefix_and_the_copies(published: dict[str, Tensor], tmp_path: Path) -> None:
    once = {name: x for name, x in published.items() if not name.startswith("core.pretrained.blocks.")}
    expected = convert_state_dict(published)
    for prefix, state in (("", published), ("module.", once)):
        torch.save({prefix + name: x for name, x in state.items()}, tmp_path / f"{prefix}pth")
        loaded = load_model(tmp_path / f"{prefix}pth")
        assert isinstance(loaded, DAP) and loaded.ranges == (100.0,) and loaded.input_size == (512, 1024)
        assert all(torch.equal(x, expected[name]) for name, x in loaded.state_dict().items())


BLOCK = "core.pretrained.model.blocks.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({LAST: None}, rf"missing {re.escape(LAST)}"),
        ({"core.other": torch.ones(1)}, r"unexpected core\.other"),
        ({LAST: torch.ones(2)}, rf"of another shape {re.escape(LAST)} \(2,\) instead of \(1,\)"),
        ({LAST: torch.ones(1, dtype=torch.int64)}, "not of floating point"),
        ({f"{BLOCK}.attn.qkv.bias_mask": torch.ones(384)}, r"masks other biases .*blocks\.0\.attn\.qkv\.bias_mask"),
        (
            {"core.pretrained.blocks.0.norm1.bias": torch.ones(128)},
            r"copies differ: core\.pretrained\.blocks\.0\.norm1",
        ),
        ({"core.pretrained.blocks.0.norm1.bias": None}, r"missing core\.pretrained\.blocks\.0\.norm1\.bias"),
        ({"core.pretrained.model.rope_embed.periods": None}, r"lacks core\.pretrained\.model\.rope_embed\.periods"),
        ({"core.pretrained.model.rope_embed.periods": torch.ones(12)}, "128 wide, not a multiple of a head's 48"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(
    published: dict[str, Tensor], change: dict[str, Tensor | None], message: str
) -> None:
    state = published | {name: x for name, x in change.items() if x is not None}
    state = {name: x for name, x in state.items() if change.get(name, x) is not None}
    if "bias_mask" in message:
        state = state | other_copy(state, {f"{BLOCK}.attn.qkv.bias_mask": state[f"{BLOCK}.attn.qkv.bias_mask"]})
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state)


def test_a_file_that_was_cut_short_is_refused(published: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(published, tmp_path / "model.pth")
    content = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.pth"):
        load_model(tmp_path / "model.pth")


def test_the_entry_describes_the_network_of_the_published_file() -> None:
    """Its parameters are as many as the published code has, and their bytes nearly as many as those of the file."""
    entry = entries()["dap-large.v1"]
    network = build_network(entry.network, entry.name)
    used = sum(parameter.numel() for parameter in network.parameters())
    width, fusion = 1024, 256
    unused = 2 * 2 * (9 * fusion * fusion + fusion) + width + 24 * width  # residual units, mask token, biases of keys
    assert used + unused == 365_050_242
    assert 0 < entry.size - 4 * (used + unused) < 1e6
    assert network.encoder.taps == [4, 11, 17, 23]


def seam_step(depth: Tensor) -> float:
    """Step of log-distance (B, 1, H, W) across the border over that between other neighbours."""
    logarithm = depth[:, 0].clamp(min=1e-3).log()
    steps = (logarithm - logarithm.roll(1, -1)).abs().mean((0, 1))
    return float(steps[0] / steps[1:].mean())


def test_the_published_convention_has_a_seam_and_ours_has_none(network: DAP, published: dict[str, Tensor]) -> None:
    description = describe(published)
    description["init_args"] |= {"input_size": [64, 128], "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    description["init_args"]["convention"] = "sphere"
    ours = build_network(description, "golden")
    converted = convert_state_dict(published)
    ours.load_state_dict({name: converted[name] for name in ours.state_dict()}, assign=True)
    homes = HomesDataset("test", 4, 64, 128)
    images = (torch.stack([homes[i]["image"] for i in range(4)]) - 0.45) / 0.22
    with torch.no_grad():
        assert seam_step(network(images)["depth"]) > 2.5
        assert seam_step(ours.eval()(images)["depth"]) < 1.25
