"""The students of Depth Anywhere: `golden/depth_anywhere` holds what the published code computed, weights by a rule."""

import hashlib
from collections.abc import Mapping

import pytest
import torch
from published_students import GOLDEN, key_table, published_student, weights
from safetensors.torch import load_file
from torch import Tensor

from mtpano_zoo.models import PanoramaNetwork, UniFuse, prepare_for_inference
from mtpano_zoo.reference.depth_anywhere import FORMATS
from mtpano_zoo.zoo.building import build_network

# The published float32 results differ from the float64 ones by up to a tenth of this.
TOLERANCES = {"unifuse": 1.9e-4, "bifuse": 9.8e-5, "hohonet": 7.6e-5, "egformer": 1e-3}
STUDENTS = tuple(FORMATS)


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


def output(network: PanoramaNetwork, golden: Mapping[str, Tensor]) -> Tensor:
    """Compute what the golden file keeps of the output; its inputs are normalised."""
    like = next(network.parameters())
    inputs = {key.rpartition("/")[2]: x.to(like) for key, x in golden.items() if "/in/" in key}
    with torch.no_grad():
        if isinstance(network, UniFuse):
            whole = network.fuse(inputs["equi"], inputs["cube"])
        else:
            whole = network(inputs["image"] * network.image_std + network.image_mean)[network.tasks[0]]
    return whole[..., ::4, ::4]


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
    error = (output(network, golden).double() - golden["b2/out64"]).abs().max()
    assert error < TOLERANCES[student]


def test_float64_is_exact(network: PanoramaNetwork, golden: dict[str, Tensor]) -> None:
    found = output(network.double(), golden)
    network.float()
    assert (found - golden["b2/out64"]).abs().max() < 1e-6 * golden["b2/out64"].abs().max()


def test_prepared_for_inference_it_computes_the_same(
    student: str, network: PanoramaNetwork, golden: dict[str, Tensor]
) -> None:
    images = next(x for key, x in golden.items() if key.endswith(("in/equi", "in/image")))
    image = images * network.image_std + network.image_mean
    with torch.no_grad():
        expected = network(image)[network.tasks[0]]
        found = prepare_for_inference(network, winograd=False)(image)[network.tasks[0]]
    assert (found - expected).abs().max() < TOLERANCES[student]


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
