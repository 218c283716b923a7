"""The published network at a small size: `golden/` holds what its code computed in float64 from the fill rule below."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.reference.mtpano import convert_state_dict

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED_NAMES = {"gradient": "grad", "edge_distance": "sdf", "point_map": "point"}


def fill(key: str, shape: list[int]) -> Tensor:
    n = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    rules = [
        (key.endswith("num_batches_tracked"), 0 * n),
        (key.endswith("running_mean"), 0.1 * n),
        (key.endswith("running_var"), 1 + 0.1 * n**2),
        ("lambda1" in key, 0.5 + 0.1 * n),
        (key == "heads.depth.head.4.bias", 0 * n + 1),
        (key.endswith(("_token", "_tokens")), 0.5 * n),
        (len(shape) >= 2, n / np.sqrt(np.prod(shape[1:]))),
        (key.endswith(".weight"), 1 + 0.1 * n),
    ]
    value = next((value for applies, value in rules if applies), 0.1 * n)
    return torch.tensor(np.asarray(value, dtype=np.float32))


@pytest.fixture(scope="module")
def network() -> PDBridgeNet:
    network = PDBridgeNet(
        classes=[f"class {i}" for i in range(13)],
        variant="paper",
        input_size=(64, 128),
        encoder="vit_small_patch16_dinov3_qkvb",
        encoder_width=128,
        encoder_depth=4,
        encoder_heads=2,
        encoder_mlp_ratio=2.0,
        bridge_width=16,
        neck_widths=(16, 32, 64, 128),
        fusion_width=16,
    )
    keys = json.loads((GOLDEN / "keys.json").read_text())
    network.load_state_dict(convert_state_dict({key: fill(key, shape) for key, shape in keys.items()}))
    return network.eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "tensors.safetensors")


def image_of(golden: dict[str, Tensor], network: PDBridgeNet) -> Tensor:
    """The stored input is normalised; our networks normalise for themselves."""
    return golden["input"] * network.image_std + network.image_mean


def named_outputs(outputs: dict) -> dict[str, Tensor]:
    named = {task: outputs[task] for task in ("semseg", "depth", "normals")}
    named |= {f"aux.{task}": x for task, x in outputs["aux"].items()}
    return named | {f"ext.{PUBLISHED_NAMES[task]}": x for task, x in outputs["ext"].items()}


def test_everything_the_published_network_computes(network: PDBridgeNet, golden: dict[str, Tensor]) -> None:
    computed: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: computed.__setitem__(name, output)

    hooks = [module.register_forward_hook(keep(f"agg_{s}")) for s, module in network.aggregators.items()]
    hooks += [module.register_forward_hook(keep(f"bridge_{s}")) for s, module in network.bridges.items()]
    for stream, refiners in network.refiners.items():
        hooks += [refiner.register_forward_hook(keep(f"level{i}_{stream}")) for i, refiner in enumerate(refiners)]
    with torch.no_grad():
        outputs = network(image_of(golden, network))
    for hook in hooks:
        hook.remove()
    computed |= named_outputs(outputs)

    expected = {name.removeprefix("output."): x for name, x in golden.items() if name != "input"}
    assert set(computed) == set(expected)
    for name, reference in expected.items():
        error = (computed[name] - reference).abs().max() / reference.abs().max()
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


def test_gradients_reach_what_they_reach_in_the_published_network(
    network: PDBridgeNet, golden: dict[str, Tensor]
) -> None:
    """With one difference on purpose: our projections of the other stream's features do learn."""
    keys = json.loads((GOLDEN / "keys.json").read_text())
    reach = json.loads((GOLDEN / "gradient_reach.json").read_text())
    modules = sorted({module for reached in reach.values() for module in reached}, key=len, reverse=True)
    foreign = {
        "semseg": {f"bfe_invariant.kv_squeeze.{task}" for task in ("normals", "point")},
        "depth": {f"bfe_invariant.kv_squeeze.{task}" for task in ("normals", "point")},
        "normals": {f"bfe_variant.kv_squeeze.{task}" for task in ("semseg", "depth", "grad", "sdf")},
    }
    modules = sorted(set(modules).union(*foreign.values()), key=len, reverse=True)
    ours_to_module = {
        next(iter(convert_state_dict(_with_partners(key, keys)))): module
        for key in keys
        if (module := next((m for m in modules if key.startswith(m + ".")), None)) and not _is_unused_or_joined(key)
    }
    image = image_of(golden, network)
    for name, expected in reach.items():
        network.zero_grad()
        output = named_outputs(network(image))[name]
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        reached = {
            ours_to_module[parameter_name]
            for parameter_name, parameter in network.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().max() > 0
        }
        assert reached == set(expected) | foreign.get(name, set()), name


def _with_partners(key: str, keys: dict) -> dict[str, Tensor]:
    names = [key] if "q_proj.weight" not in key else [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
    return {name: torch.zeros(keys[name]) for name in names}


def _is_unused_or_joined(key: str) -> bool:
    return not convert_state_dict({key: torch.zeros(1)}) if "q_proj.weight" not in key else False


def test_prefix_of_data_parallel_is_forgotten() -> None:
    converted = convert_state_dict({"module.heads.depth.head.4.bias": torch.ones(1), "RayDir": torch.zeros(1)})
    assert list(converted) == ["heads.depth.predict.bias"]


def test_what_has_no_counterpart_fails_a_strict_load(network: PDBridgeNet) -> None:
    state = convert_state_dict({"heads.layout.head.0.weight": torch.ones(1)}) | network.state_dict()
    with pytest.raises(RuntimeError, match=r"heads\.layout"):
        network.load_state_dict(state)
