"""The students of Depth Anywhere: `golden/depth_anywhere` holds what the published code computed, weights by a rule.

That is one case of each, small and in part. Beside the checkout, `shared/golden` may hold all of them whole: every
image and every pixel of the small cases, and the published size.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from published_students import GOLDEN, constants, fill, key_table, published_student, weights
from safetensors.torch import load_file
from splitmix import filled
from torch import Tensor

from mtpano_zoo.models import PanoramaNetwork, UniFuse, prepare_for_inference
from mtpano_zoo.reference.depth_anywhere import FORMATS
from mtpano_zoo.zoo.building import build_network

# The published float32 results differ from the float64 ones by up to a tenth of this.
TOLERANCES = {"unifuse": 1.9e-4, "bifuse": 9.8e-5, "hohonet": 7.6e-5, "egformer": 1e-3}
STUDENTS = tuple(FORMATS)
SHARED = Path(__file__).parents[3] / "shared" / "golden"
CASES = {"unifuse": "r18_h128", "bifuse": "r34_h128", "hohonet": "r50_h64", "egformer": "h64"}
# Where our networks have the activations that are kept, by the published names of the modules.
ACTIVATIONS = {
    "unifuse": {
        **{"equi_encoder.layer4": "encoders.erp.layer4", "cube_encoder.layer4": "encoders.cube.layer4"},
        **{"projectors.0": "from_cube.4", "projectors.2": "from_cube.2"},
        **{"equi_decoder.0": "fusions.4", "equi_decoder.5": "fusions.2"},
        **{"equi_decoder.13": "enlarge.0", "equi_decoder.15": "predict_distance"},
    },
    "bifuse": {
        **{f"dnet.resnet_equi.layer{i}": f"encoders.erp.layer{i}" for i in (1, 4)},
        **{f"dnet.resnet_cube.layer{i}": f"encoders.cube.layer{i}" for i in (1, 4)},
        **{f"dnet.f{i}.conv_cat": f"fusions.{i - 1}.join" for i in range(1, 5)},
        **{f"dnet.deconv{i}": f"decoders.{i - 1}" for i in (2, 3, 4)},
    },
    "hohonet": {
        **{f"encoder.encoder.layer{i}": f"encoder.layer{i}" for i in (1, 4)},
        **{f"decoder.ghc_lst.{i}": f"compress.{i}" for i in range(4)},
        **{
            "horizon_refine.transen": "attend",
            "emb_shared_latent.3": "embed",
            "modalities.0.estimator": "coefficients",
        },
    },
    "egformer": {
        **{"patch_embed": "embed_norm", "tune_final": "refine"},
        **{"stage1.0": "encoders.0.1", "stage1.1": "encoders.0.2", "dec_stage8.1": "decoders.0.2"},
        **{
            f"{name}.{i}": f"encoders.{level}.{i}" for name, level in (("stage3", 2), ("bottleneck", 4)) for i in (0, 1)
        },
    },
}
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the whole golden files are not beside the checkout")

on_demand = pytest.mark.skipif("MTPANO_GOLDEN_FLOAT64" not in os.environ, reason="80 s: set MTPANO_GOLDEN_FLOAT64")


@pytest.fixture(scope="module", params=STUDENTS)
def student(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def state(student: str) -> dict[str, Tensor]:
    return published_student(student)


@pytest.fixture(scope="module")
def network(student: str, state: Mapping[str, Tensor]) -> PanoramaNetwork:
    network = build_network(FORMATS[student].describe(state), student)
    network.load_state_dict(FORMATS[student].convert(state), assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def golden(student: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{student}.safetensors")


def output(network: PanoramaNetwork, inputs: Mapping[str, Tensor]) -> Tensor:
    """Compute the distances of inputs that are normalised."""
    like = next(network.parameters())
    given = {key.rpartition("/")[2]: x.to(like) for key, x in inputs.items()}
    with torch.no_grad():
        if isinstance(network, UniFuse):
            return network.fuse(given["equi"], given["cube"])
        return network(given["image"] * network.image_std + network.image_mean)[network.tasks[0]]


def inputs_of(golden: Mapping[str, Tensor], run: str = "b2") -> dict[str, Tensor]:
    return {key: x for key, x in golden.items() if key.startswith(f"{run}/in/")}


def test_the_rule_gives_the_published_weights(student: str) -> None:
    table = key_table(student)
    digest = hashlib.sha256()
    for key, tensor in sorted(weights(student).items()):
        digest.update(key.encode())
        digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == table["sha256"]


def test_float32_is_within_the_published_tolerance(
    student: str, network: PanoramaNetwork, golden: dict[str, Tensor]
) -> None:
    found = output(network, inputs_of(golden))[..., ::4, ::4]
    assert (found - golden["b2/out64"]).abs().max() < TOLERANCES[student]


def test_float64_is_exact(network: PanoramaNetwork, golden: dict[str, Tensor]) -> None:
    found = output(network.double(), inputs_of(golden))[..., ::4, ::4]
    network.float()
    assert (found - golden["b2/out64"]).abs().max() < 1e-6 * golden["b2/out64"].abs().max()


@shared
def test_every_run_is_exact_in_every_pixel(student: str, network: PanoramaNetwork) -> None:
    golden = load_file(SHARED / student / f"{CASES[student]}.safetensors")
    for run in sorted({key.partition("/")[0] for key in golden}):
        expected = golden[f"{run}/out64/pred_depth"]
        with watched(network.double(), student) as seen:
            found = output(network, inputs_of(golden, run))
        assert (found - expected).abs().max() < 1e-6 * expected.abs().max(), run
        for name, activation in seen.items():  # which are kept in float32, rounded by up to 6e-5
            kept = golden.pop(f"{run}/act/{name}")
            assert (arranged(activation, name, kept) - kept).abs().max() < 1e-4 * kept.abs().max(), (run, name)
        found = output(network.float(), inputs_of(golden, run))
        assert (found - golden[f"{run}/out/pred_depth"]).abs().max() < TOLERANCES[student], run
    assert not [key for key in golden if "/act/" in key]


@contextmanager
def watched(network: PanoramaNetwork, student: str) -> Iterator[dict[str, Tensor]]:
    """Keep the activations that are published, by the published names."""
    seen: dict[str, Tensor] = {}
    modules = {name: network.get_submodule(own) for name, own in ACTIVATIONS[student].items()}
    hooks = [
        module.register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
        for name, module in modules.items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def arranged(found: Tensor, name: str, kept: Tensor) -> Tensor:
    """Bring an activation of ours into the order of axes and of cube faces of the published one."""
    if name == "cube_encoder.layer4":  # the first faces of all images come first
        return found.unflatten(0, (-1, 6)).transpose(0, 1).flatten(0, 1)
    if name == "horizon_refine.transen":
        return found.permute(1, 0, 2)
    if name == "tune_final":
        return found.permute(0, 3, 1, 2)
    return found.reshape(kept.shape)


@shared
def test_stored_coordinates_are_those_of_the_published_code(student: str, state: Mapping[str, Tensor]) -> None:
    if student == "egformer":
        pytest.skip("its state dict has none")
    for key, value in load_file(SHARED / student / f"{CASES[student]}.consts.safetensors").items():
        expected = value.double()
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(state[key].double(), expected, rtol=0, atol=tolerance, msg=key)


@shared
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=on_demand)])
def test_at_the_published_size_it_computes_the_same(student: str, dtype: torch.dtype) -> None:
    facts = json.loads((SHARED / student / "full.json").read_text())
    keys = json.loads((SHARED / student / "full.keys.json").read_text())["keys"]
    numbers = {key: [entry["shape"], *(entry[x] for x in "ab" if x in entry)] for key, entry in keys.items()}
    table = {"seed": facts["seed"], "keys": numbers}
    state = fill(table) | constants(student, table)
    network = build_network(FORMATS[student].describe(state), student)
    network.load_state_dict(FORMATS[student].convert(state), assign=True)
    assert network.input_size == (512, 1024)
    inputs = {
        name: filled(f"input.{name}", given["shape"], facts["seed"], 0.0, 1.5)
        for name, given in facts["inputs"].items()
    }
    found = output(network.to(dtype).eval(), inputs)[..., ::8, ::8]
    expected = load_file(SHARED / student / "full.safetensors")["out64/pred_depth"]
    tolerance = {
        torch.float32: facts["outputs"]["pred_depth"]["suggested_atol"],
        torch.float64: 1e-6 * expected.abs().max(),
    }
    assert (found - expected).abs().max() < tolerance[dtype]


def test_prepared_for_inference_it_computes_the_same(
    student: str, network: PanoramaNetwork, golden: dict[str, Tensor]
) -> None:
    images = next(x for key, x in golden.items() if key.endswith(("in/equi", "in/image")))
    image = images * network.image_std + network.image_mean
    with torch.no_grad():
        expected = network(image)[network.tasks[0]]
        found = prepare_for_inference(network, winograd=False)(image)[network.tasks[0]]
    assert (found - expected).abs().max() < TOLERANCES[student]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_in_half_precision_hold_the_same_weights_rounded(
    student: str, state: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    rounded = {key: x.to(dtype) if x.is_floating_point() else x for key, x in state.items()}
    expected, found = FORMATS[student].convert(state), FORMATS[student].convert(rounded)
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        assert torch.equal(found[key], x.to(dtype).float() if x.is_floating_point() else x), key


def test_keys_that_do_not_fit_are_named(student: str, state: dict[str, Tensor]) -> None:
    missing, reshaped = sorted(key for key in weights(student) if key.endswith(".weight"))[-2:]
    wrong = {key: x for key, x in state.items() if key != missing} | {"epoch": torch.zeros(1), reshaped: torch.zeros(3)}
    with pytest.raises(ValueError, match=f"missing {missing}; unexpected epoch; of another shape {reshaped} "):
        FORMATS[student].convert(wrong)
    with pytest.raises(ValueError, match="checkpoint: it lacks keys that start with"):
        FORMATS[student].describe({missing: state[missing]})


@pytest.mark.parametrize(
    ("student", "key"),
    [("unifuse", "projectors.2.sample_grid"), ("hohonet", "horizon_refine.pos")],
    indirect=["student"],
)
def test_other_coordinates_than_ours_are_refused(student: str, state: dict[str, Tensor], key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} of this .* differs by up to .* other coordinates"):
        FORMATS[student].convert(state | {key: state[key] + 0.01})


def test_unifuse_makes_its_cube_as_the_published_code_does() -> None:
    """From 8-bit pixels, by SciPy, rounded to 8 bits; a rounding may fall the other way."""
    geometry = load_file(GOLDEN / "geometry.safetensors")
    network = UniFuse("test_resnet", convention="paper", input_size=(32, 64))
    image = geometry["preprocess/resized_u8"].permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(network.normalize(image), geometry["preprocess/rgb"], rtol=0, atol=1e-6)
    faces = (network.to_cube(image) * 255).round() / 255
    beside = torch.cat(list(network.normalize(faces)), dim=-1)[None]
    difference = (beside - geometry["preprocess/cube"]).abs()
    assert difference.max() < 0.0176 and (difference > 1e-4).float().mean() < 1e-3
