"""The published network at a small size: `golden/` holds what its code computed in float64 from the fill rule below.

`keys.json` are its names and shapes, `large_keys.json` those of the published checkpoint.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mtpano_zoo.classes import ADE20K_CLASSES
from mtpano_zoo.files.checkpoint import check_weights
from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.models import PDBridgeNet, inference, prepare_for_inference
from mtpano_zoo.reference.mtpano import PUBLISHED_TASKS, class_count, convert_state_dict, describe
from mtpano_zoo.scenes import render, sample_room
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.zoo import entries
from mtpano_zoo.zoo.building import build_network

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


def published_positions(height: int, width: int) -> dict[str, Tensor]:
    """The two buffers as the published code fills them: both ends of the image included, y up, angles in radians."""
    colatitude, longitude = np.meshgrid(
        np.pi * np.arange(height) / (height - 1), 2 * np.pi * np.arange(width) / (width - 1), indexing="ij"
    )
    rays = [np.sin(colatitude) * np.cos(longitude), np.cos(colatitude), np.sin(colatitude) * np.sin(longitude)]
    return {
        "RayDir": torch.tensor(np.stack(rays)[None], dtype=torch.float32),
        "PE": torch.tensor(np.stack([colatitude, longitude])[None], dtype=torch.float32),
    }


def shapes_of(file: str, tasks: Sequence[str] = tuple(PUBLISHED_TASKS)) -> dict[str, list[int]]:
    """Published names and shapes, for a network trained on some of the tasks; the point map comes with depth."""
    absent = set(PUBLISHED_TASKS) - set(tasks) | (set() if "depth" in tasks else {"point"})
    shapes = json.loads((GOLDEN / file).read_text())
    return {key: shape for key, shape in shapes.items() if not absent.intersection(key.split("."))}


def numbered(shapes: dict[str, list[int]]) -> tuple[dict[str, Tensor], dict[int, str]]:
    """A state dict in which every tensor holds one number of its own, and whose number is which."""
    state, keys = {}, dict(enumerate(shapes))
    for number, (key, shape) in enumerate(shapes.items()):
        dtype = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
        state[key] = torch.tensor(number, dtype=dtype).expand(shape)
    return state | published_positions(*shapes["RayDir"][-2:]), keys


def numbers_in(tensor: Tensor) -> list[int]:
    """The number of a numbered tensor, or the three that were joined along the first dimension.

    Signs are those of turned axes.
    """
    rows = tensor.reshape(len(tensor), -1)[:, 0] if tensor.ndim else tensor[None]
    return rows.int().abs().unique_consecutive().tolist()


def network_for(state: Mapping[str, Tensor]) -> PDBridgeNet:
    arguments = describe(state)["init_args"] | {"input_size": (64, 128)}
    return PDBridgeNet(**arguments | {"encoder": ViTEncoder(**arguments["encoder"]["init_args"])})


def in_our_frame(name: str, published: Tensor) -> Tensor:
    """Published normals are forward, up, left; published points right, down, back; ours are right, down, forward."""
    if name.endswith("normals"):
        forward, up, left = published.unbind(1)
        return torch.stack((-left, -up, forward), 1)
    if name == "ext.point":
        right, down, back = published.unbind(1)
        return torch.stack((right, down, -back), 1)
    return published


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    shapes = shapes_of("keys.json")
    return {key: fill(key, shape) for key, shape in shapes.items()} | published_positions(4, 8)


@pytest.fixture(scope="module")
def network(state: dict[str, Tensor]) -> PDBridgeNet:
    network = network_for(state)
    network.load_state_dict(convert_state_dict(state))
    return network.eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "tensors.safetensors")


def image_of(golden: dict[str, Tensor], network: PDBridgeNet) -> Tensor:
    """The stored input is normalised; our networks normalise for themselves."""
    return golden["input"] * network.image_std + network.image_mean


def named_outputs(outputs: dict) -> dict[str, Tensor]:
    named = {task: outputs[task] for task in PUBLISHED_TASKS if task in outputs}
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

    names = {name: name.removeprefix("output.") for name in golden if name != "input"}
    expected = {short: in_our_frame(short, golden[name]) for name, short in names.items()}
    assert set(computed) == set(expected)
    for name, reference in expected.items():
        error = (computed[name] - reference).abs().max() / reference.abs().max()
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize(("published", "ours"), [
    ((-1, 0, 0), (0, 0, -1)),  # a wall straight ahead faces back: (forward, up, left) becomes (right, down, forward)
    ((0, 1, 0), (0, -1, 0)),  # a floor faces up
    ((0, 0, 1), (-1, 0, 0)),  # a wall to the right faces left
])  # fmt: skip
@pytest.mark.parametrize(("layer", "own"), [
    ("heads.normals.head.4", "heads.normals.predict"),
    ("aux_heads.normals.classifier", "auxiliary_heads.normals.predictor"),
])  # fmt: skip
def test_published_normals_are_turned_into_our_frame(
    state: dict[str, Tensor], layer: str, own: str, published: tuple[int, ...], ours: tuple[int, ...]
) -> None:
    """Of a network that predicts the same normal everywhere."""
    weight = torch.zeros_like(state[f"{layer}.weight"])
    constant = {f"{layer}.weight": weight, f"{layer}.bias": torch.tensor(published, dtype=torch.float32)}
    converted = convert_state_dict(state | constant)
    assert tuple(converted[f"{own}.bias"].tolist()) == ours
    assert converted[f"{own}.weight"].abs().max() == 0


def test_what_the_published_network_stores_of_a_room_is_its_truth_in_our_frame(state: dict[str, Tensor]) -> None:
    """Last layers that compute of a room what the published code keeps of one, from features that were made for it."""
    room = render([sample_room(3, "test", 0)], 32, 64)
    outward = -room["normals"][0]  # away from the camera, as the published code keeps them, as (back, down, right)
    normals = torch.stack((-outward[2], outward[1], outward[0]))
    points = erp_rays(32, 64).permute(2, 0, 1) * room["depth"][0]
    published_points = torch.stack((points[0], points[1], -points[2]))  # right, down, back
    converted = convert_state_dict(state)
    for published, own, stored, truth in (
        ("heads.normals.head.4", "heads.normals.predict", normals, room["normals"][0]),
        ("aux_heads.normals.classifier", "auxiliary_heads.normals.predictor", normals, room["normals"][0]),
        ("extended_heads.point.classifier", "auxiliary_heads.point_map.predictor", published_points, points),
    ):
        weight, bias = state[f"{published}.weight"].flatten(1), state[f"{published}.bias"]
        features = torch.linalg.pinv(weight) @ (stored.flatten(1) - bias[:, None])
        torch.testing.assert_close(weight @ features + bias[:, None], stored.flatten(1), rtol=1e-4, atol=1e-4)
        ours = converted[f"{own}.weight"].flatten(1) @ features + converted[f"{own}.bias"][:, None]
        torch.testing.assert_close(ours, truth.flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("winograd", [False, True])
def test_prepared_for_inference_it_computes_the_same(
    network: PDBridgeNet, golden: dict[str, Tensor], winograd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "WINOGRAD_CHANNELS", 1)
    with torch.inference_mode():
        outputs = prepare_for_inference(network, winograd=winograd)(image_of(golden, network))
    for task, computed in outputs.items():
        reference = in_our_frame(task, golden[f"output.{task}"])
        error = (computed - reference).abs().max() / reference.abs().max()
        assert error < 1e-4, f"{task}: relative error {error:.1e}"


def test_gradients_reach_what_they_reach_in_the_published_network(
    network: PDBridgeNet, golden: dict[str, Tensor]
) -> None:
    """With one difference on purpose: our projections of the other stream's features do learn."""
    reach = json.loads((GOLDEN / "gradient_reach.json").read_text())
    foreign = {
        "semseg": {f"bfe_invariant.kv_squeeze.{task}" for task in ("normals", "point")},
        "depth": {f"bfe_invariant.kv_squeeze.{task}" for task in ("normals", "point")},
        "normals": {f"bfe_variant.kv_squeeze.{task}" for task in ("semseg", "depth", "grad", "sdf")},
    }
    modules = {module for reached in (*reach.values(), *foreign.values()) for module in reached}
    numbers, keys = numbered(shapes_of("keys.json"))
    ours_to_module = {
        name: next(module for module in modules if keys[numbers_in(tensor)[0]].startswith(module + "."))
        for name, tensor in convert_state_dict(numbers).items()
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


@pytest.mark.parametrize("tasks", [["semseg"], ["depth"], ["normals"], ["semseg", "normals"], ["depth", "normals"]])
def test_networks_trained_on_some_tasks_have_both_streams_and_load_strictly(
    tasks: list[str], state: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    subset = {key: state[key] for key in shapes_of("keys.json", tasks)}
    assert any("bfe_variant" in key for key in subset) and any("bfe_invariant" in key for key in subset)
    network = network_for(subset).eval()
    network.load_state_dict(convert_state_dict(subset))
    assert list(network.tasks) == tasks and len(network.classes) == (13 if "semseg" in tasks else 0)
    with torch.no_grad():
        outputs = named_outputs(network(image_of(golden, network)))
    before_the_bridge = {name for name in outputs if "." in name}
    assert before_the_bridge == {f"aux.{task}" for task in tasks} | {"ext.grad", "ext.sdf"} | (
        {"ext.point"} if "depth" in tasks else set()
    )
    for name in before_the_bridge:  # it does not see the other tasks yet
        expected = in_our_frame(name, golden[f"output.{name}"])
        torch.testing.assert_close(outputs[name], expected, rtol=1e-5, atol=1e-5)


# What no loss reaches in a published network with these tasks; the point map of depth belongs to the other stream.
UNREACHED = {
    tuple(PUBLISHED_TASKS): None,
    ("semseg",): r"variant_layers(?<!invariant_layers)|^aggregator_var|^bfe_variant|^var_injectors",
    ("depth",): r"^bfe_variant|^var_injectors",
    ("normals",): r"^bfe_invariant|^inv_injectors",
}


@pytest.mark.parametrize("tasks", UNREACHED, ids="+".join)
def test_full_size_uses_every_published_key_once(tasks: tuple[str, ...]) -> None:
    shapes = shapes_of("large_keys.json", tasks)
    state, keys = numbered(shapes)
    with torch.device("meta"):
        network = network_for(state)
    converted = convert_state_dict(state)
    network.load_state_dict(converted, assign=True)
    assert not any(tensor.is_meta for tensor in network.state_dict().values())

    used = [keys[number] for tensor in converted.values() for number in numbers_in(tensor)]
    assert len(used) == len(set(used))
    assert set(shapes) - set(used) == {
        "RayDir", "PE", "backbone.embeddings.mask_token", "backbone.norm.weight", "backbone.norm.bias",
        *(key for key in shapes if "fusion_stage.layers.0.residual_layer1" in key),
        *(key for key in shapes if UNREACHED[tasks] and re.search(UNREACHED[tasks], key)),
    }  # fmt: skip
    if len(tasks) == 3:
        for entry in entries().values():  # what a published name in the zoo builds takes exactly these
            if not entry.repository or not entry.name.startswith("mtpano-"):
                continue
            check_weights(build_network(entry.network, entry.name), converted, entry.name)
        # What the published code counts, less what takes no part.
        assert sum(p.numel() for p in network.parameters()) == sum(
            int(np.prod(shape))
            for key, shape in shapes.items()
            if key in used and "batch" not in key.split(".")[-1] and "running" not in key
        )
        sizes = {"width": 1024, "depth": 24, "heads": 16, "mlp_ratio": 4.0, "patch_size": 16}
        assert describe(state) == {
            "class_path": "PDBridgeNet",
            "init_args": {
                "encoder": {
                    "class_path": "ViTEncoder",
                    "init_args": {"name": "vit_large_patch16_dinov3_qkvb"} | sizes,
                },
                "classes": list(ADE20K_CLASSES),
                "tasks": ["semseg", "depth", "normals"],
                "convention": "paper",
                "bridge_width": 256,
                "neck_widths": [256, 512, 1024, 1024],
                "fusion_width": 256,
            },
        }
        assert network.encoder.taps == [5, 11, 17, 23] and class_count(state) == 150


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32(dtype: torch.dtype, state: dict[str, Tensor]) -> None:
    stored = {key: x.to(dtype) if x.is_floating_point() else x for key, x in state.items()}
    converted = convert_state_dict(stored)
    exact = convert_state_dict(state)
    for name, tensor in converted.items():
        assert tensor.dtype == exact[name].dtype
        torch.testing.assert_close(tensor, exact[name].to(dtype).to(tensor.dtype), rtol=0, atol=0)


KEYS = [
    "RayDir",
    "backbone.embeddings.cls_token",
    "backbone.layer.3.attention.k_proj.weight",
    "backbone.norm.bias",
    "bfe_variant.kv_squeeze.point.bias",
    "heads.semseg.head.4.weight",
    "necks.depth.reassemble_stage.layers.2.projection.weight",
    "necks.normals.fusion_stage.layers.0.residual_layer1.batch_norm2.running_var",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str, state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=rf"network: missing {re.escape(key)}\.$"):
        convert_state_dict({name: tensor for name, tensor in state.items() if name != key})


@pytest.mark.parametrize(
    "key", ["bfe_variant.mlp.fc1.bias", "bfe_variant.kv_squeeze.grad.bias", "inv_injectors.0.bias"]
)
def test_a_missing_key_is_named_even_if_no_loss_reaches_it(key: str, state: dict[str, Tensor]) -> None:
    subset = {name: state[name] for name in shapes_of("keys.json", ["semseg"])}
    assert key in subset
    with pytest.raises(ValueError, match=rf"network: missing {re.escape(key)}\.$"):
        convert_state_dict({name: tensor for name, tensor in subset.items() if name != key})


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_shape_is_named(key: str, state: dict[str, Tensor]) -> None:
    shape = (*state[key].shape[:-1], state[key].shape[-1] + 1)
    with pytest.raises(ValueError, match=rf"{re.escape(key)} \({', '.join(map(str, shape))},?\)"):
        convert_state_dict(state | {key: torch.zeros(shape)})


@pytest.mark.parametrize("key", ["heads.layout.head.0.weight", "backbone.layer.4.norm1.weight", "epoch"])
def test_an_extra_key_is_named(key: str, state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=rf"network: unexpected {re.escape(key)}\.$"):
        convert_state_dict(state | {key: torch.zeros(128)})


def test_many_wrong_keys_are_counted(state: dict[str, Tensor]) -> None:
    without = {name: tensor for name, tensor in state.items() if "residual_layer2" not in name}
    with pytest.raises(ValueError, match=r"missing necks\.depth\.fusion[^;]* and 136 more\.$"):
        convert_state_dict(without)


def test_quantised_weights_are_refused(state: dict[str, Tensor]) -> None:
    key = "bfe_variant.mlp.fc1.weight"
    with pytest.raises(ValueError, match=rf"not of floating point {re.escape(key)} torch\.int8\.$"):
        convert_state_dict(state | {key: state[key].to(torch.int8)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["RayDir", "PE"])
def test_positions_of_another_geometry_are_refused(name: str, dtype: torch.dtype, state: dict[str, Tensor]) -> None:
    other = {"RayDir": state["RayDir"].roll(1, dims=3), "PE": state["PE"].flip(1)}[name]
    with pytest.raises(ValueError, match=rf"^{name} .* differs by up to ") as refused:
        convert_state_dict(state | {name: other.to(dtype)})
    largest = float(str(refused.value).split("up to ")[1].split()[0])
    assert largest == pytest.approx((other - state[name]).abs().max().item(), rel=0.05)
    with pytest.raises(ValueError, match=rf"^{name} .* nan"):
        convert_state_dict(state | {name: torch.full_like(other, torch.nan)})


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    state = {key: torch.zeros([n + (n == 128) for n in shape]) for key, shape in shapes_of("keys.json").items()}
    with pytest.raises(ValueError, match=r"width 129, not a multiple of a head's 64"):
        describe(state)
