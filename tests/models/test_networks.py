"""What every network of the zoo has to do; a new one needs a line in `tiny_networks.TINY`."""

import copy
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import CLASSES, PUBLISHED, TINY, Tiny, randomised
from torch import Tensor, nn

from mtpano_zoo import load_model
from mtpano_zoo.files.card import TEXTS, model_card
from mtpano_zoo.models import NETWORKS, PanoramaNetwork, PDBridgeNet, prepare_for_inference
from mtpano_zoo.prediction import Prediction, output_paths
from mtpano_zoo.reference import FORMATS, recognize
from mtpano_zoo.sphere import erp_rays
from mtpano_zoo.tasks import AUXILIARY_TASKS, MAIN_TASKS, TASKS
from mtpano_zoo.zoo.building import build_network

HEIGHT, WIDTH = 32, 64


def flat(outputs: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in outputs.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def largest_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest error of any map, relative to its largest value."""
    return max(float((x - expected[name]).abs().max() / expected[name].abs().max()) for name, x in found.items())


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


@pytest.fixture(scope="module")
def network(tiny: Tiny) -> PanoramaNetwork:
    """The network in evaluation mode, which no test may change."""
    torch.manual_seed(0)
    return randomised(tiny.build()).eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def same(one: PanoramaNetwork, other: PanoramaNetwork, image: Tensor) -> bool:
    with torch.no_grad():
        ours, theirs = flat(one(image)), flat(other(image))
    return ours.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in ours.items())


def test_every_network_and_every_format_is_tried() -> None:
    assert {type(tiny.build()) for tiny in TINY.values()} == set(NETWORKS.values())
    assert all(name == kind.__name__ for name, kind in NETWORKS.items())
    assert PUBLISHED.keys() == FORMATS.keys()


# What it computes


def check_outputs(network: PanoramaNetwork, size: tuple[int, int]) -> None:
    """Its own tasks and, for training, `aux` and `ext`: float32 maps of the size of the image, with finite values."""
    with torch.no_grad():
        outputs = network(torch.rand(2, 3, *size))
    assert outputs.keys() - {"aux", "ext"} == set(network.tasks)
    assert outputs.get("aux", {}).keys() <= set(network.tasks)
    assert outputs.get("ext", {}).keys() <= AUXILIARY_TASKS.keys()
    for name, values in flat(outputs).items():
        task = name.rpartition(".")[2]
        channels = TASKS[task].channels or len(network.ranges if task == "range_masks" else network.classes)
        assert values.shape == (2, channels, *size), name
        assert values.dtype == torch.float32 and values.isfinite().all(), name


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_maps_of_its_tasks_at_several_sizes(network: PanoramaNetwork, rows: int) -> None:
    multiple = network.multiple * -(-16 // network.multiple)
    height = rows * network.multiple + multiple if rows else HEIGHT
    assert network.input_size == (HEIGHT, WIDTH)
    check_outputs(network, (height, 2 * height))


def test_a_size_off_its_grid_is_refused(network: PanoramaNetwork) -> None:
    if network.multiple == 1:
        pytest.skip("any size fits")
    height = 3 * network.multiple + 1
    with pytest.raises(ValueError, match=rf"{height} x {2 * height}, but both must be multiples of {network.multiple}"):
        network(torch.rand(1, 3, height, 2 * height))


def test_it_states_facts_of_itself(network: PanoramaNetwork) -> None:
    assert network.tasks == tuple(task for task in MAIN_TASKS if task in network.tasks) and network.tasks
    assert network.classes == (CLASSES if "semseg" in network.tasks else ())
    assert network.card == {}
    for part in (network.encoder_part, *network.classifier_parts, *network.auxiliary_parts):
        assert part is None or isinstance(network.get_submodule(part), nn.Module), part
    for part in network.classifier_parts:
        assert network.get_submodule(part).weight.shape[0] == len(network.classes)


def check_learns(network: PanoramaNetwork, image: Tensor, silent: tuple[str, ...]) -> None:
    """Every parameter gets a gradient, but those that are named."""
    network.train().zero_grad()
    outputs = flat(network(image))
    sum((x * torch.randn_like(x)).sum() for x in outputs.values()).backward()
    without = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    named = {n for n, _ in network.named_parameters() if n.startswith(silent)}
    assert without == named


def test_every_parameter_learns(network: PanoramaNetwork, tiny: Tiny, image: Tensor) -> None:
    check_learns(copy.deepcopy(network), image, tiny.silent)


def test_of_its_outputs_only_the_main_ones_are_computed_for_a_prediction(
    network: PanoramaNetwork, image: Tensor
) -> None:
    if not network.takes_auxiliary:
        pytest.skip("forward takes no auxiliary=False")
    with torch.no_grad():
        lean, whole = network(image, auxiliary=False), network(image)
    assert lean.keys() == set(network.tasks)
    assert all(torch.equal(lean[task], whole[task]) for task in network.tasks)


def turned(task: str, maps: Tensor, columns: int) -> Tensor:
    """What maps (B, C, H, W) become when the panorama is rolled to the right by some columns."""
    maps = maps.roll(columns, dims=-1)
    if TASKS[task].stream == "invariant":
        return maps
    x, y, z = maps.unbind(1)
    angle = torch.tensor(2 * np.pi * columns / maps.shape[-1])
    return torch.stack((x * angle.cos() + z * angle.sin(), y, z * angle.cos() - x * angle.sin()), dim=1)


def check_rolls(network: PanoramaNetwork, image: Tensor) -> None:
    """Rolling the panorama by whole columns rolls every output, and turns what is a vector."""
    network, image = copy.deepcopy(network).double(), image.double()
    with torch.no_grad():
        straight = network(image)
        for columns in (network.multiple, 3 * network.multiple, image.shape[-1] // 2):
            rolled = network(image.roll(columns, dims=-1))
            for task in network.tasks:
                expected = turned(task, straight[task], columns)
                error = (rolled[task] - expected).abs().max() / expected.abs().max()
                assert error < 1e-6, f"{task} by {columns} columns: relative error {error:.1e}"


def test_it_rolls_if_it_says_so(network: PanoramaNetwork, image: Tensor) -> None:
    if not network.rolls:
        pytest.skip("it does not promise to")
    check_rolls(network, image)


def test_autocast_in_bfloat16_stays_close(network: PanoramaNetwork, tiny: Tiny, image: Tensor) -> None:
    with torch.no_grad():
        expected = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(image)
    found = {task: rough[task].float() for task in network.tasks}
    assert 0 < largest_error(found, expected) < tiny.rough


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_stay_close(
    network: PanoramaNetwork, tiny: Tiny, image: Tensor, precision: torch.dtype
) -> None:
    with torch.no_grad():
        expected = network(image)
        rough = copy.deepcopy(network).to(precision)(image.to(precision))
    found = {task: rough[task].float() for task in network.tasks}
    assert 0 < largest_error(found, expected) < tiny.rough


def test_bfloat16_does_not_round_what_is_predicted(network: PanoramaNetwork, image: Tensor) -> None:
    """Eight bits would give distances steps that are larger than what neighbouring pixels differ by."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = network(image)
    prepared = prepare_for_inference(network, "bfloat16")(image)
    for found in (rough, prepared):
        for task in set(network.tasks) - {"semseg"}:
            assert (found[task].bfloat16().float() != found[task]).float().mean() > 0.9, task


# What is made of it


def test_prepared_for_inference_it_computes_the_same(network: PanoramaNetwork, tiny: Tiny, image: Tensor) -> None:
    with torch.no_grad():
        expected = network(image)
        found = prepare_for_inference(network)(image)
        rough = prepare_for_inference(network, "bfloat16")(image)
    assert found.keys() == rough.keys() == set(network.tasks)
    assert all(x.dtype == torch.float32 for x in (*found.values(), *rough.values()))
    assert largest_error(found, expected) < 1e-4
    assert largest_error(rough, expected) < tiny.rough


@pytest.fixture
def traced(tiny: Tiny, network: PanoramaNetwork, monkeypatch: pytest.MonkeyPatch) -> PanoramaNetwork:
    """The network, or one with fewer blocks of the same kinds."""
    if not tiny.traced:
        pytest.skip("another network of the class is")
    if not tiny.fewer:
        return network
    for name, value in tiny.fewer.items():
        monkeypatch.setattr(sys.modules[type(network).__module__], name, value)
    smaller = randomised(tiny.build()).eval()
    kinds = [{type(module) for module in one.modules()} for one in (network, smaller)]
    assert kinds[0] == kinds[1]
    return smaller


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.slow
def test_it_compiles_into_one_graph(traced: PanoramaNetwork, image: Tensor) -> None:
    compiled = torch.compile(copy.deepcopy(traced), fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = flat(traced(image))
        for name, x in flat(compiled(image)).items():
            torch.testing.assert_close(x, expected[name], msg=name)


@pytest.mark.slow
def test_it_is_exported_for_any_number_of_images(traced: PanoramaNetwork, image: Tensor) -> None:
    if isinstance(traced, PDBridgeNet):
        pytest.skip("tests/commands/test_export_network.py does it")
    prepared = prepare_for_inference(traced, winograd=False)
    program = torch.export.export(prepared, (image,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for images in (torch.rand(3, 3, HEIGHT, WIDTH), image[:1]):
        with torch.no_grad():
            assert largest_error(program(images), prepared(images)) < 1e-5


# Files


def test_its_description_builds_it_again(network: PanoramaNetwork, image: Tensor) -> None:
    description = json.loads(json.dumps(network.describe()))
    assert description == network.describe() and description["class_path"] in NETWORKS
    twin = build_network(description, "the description")
    assert all(parameter.is_meta for parameter in twin.parameters())
    twin.load_state_dict(network.state_dict(), assign=True)
    assert twin.describe() == description and same(twin.eval(), network, image)


def test_what_is_saved_is_loaded(network: PanoramaNetwork, image: Tensor, tmp_path: Path) -> None:
    network = copy.deepcopy(network)
    network.card = {"description": "Tiny.", "results": [{"mIoU": 1}]}
    network.save_pretrained(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert type(loaded) is type(network)
    weights, own = loaded.state_dict(), network.state_dict()
    assert weights.keys() == own.keys() and all(torch.equal(weights[name], value) for name, value in own.items())
    with torch.no_grad():  # weights that are mapped from a file lie in memory as products on a CPU like them less
        assert largest_error(flat(loaded(image)), flat(network(image))) < 1e-5
    for attribute in ("tasks", "classes", "palette", "input_size", "config", "card"):
        assert getattr(loaded, attribute) == getattr(network, attribute), attribute


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_file_is_loaded(name: str, tmp_path: Path) -> None:
    """By its path alone, to what its format makes of it; `tests/reference` checks that against published numbers."""
    state = PUBLISHED[name]()
    assert recognize(state) == name
    assert [other for other, format in FORMATS.items() if format.recognizes(state)] == [name]
    path = tmp_path / "published.pth"
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path)
    loaded = load_model(path, input_size=(64, 128))
    expected = build_network(FORMATS[name].describe(state), name)
    expected.load_state_dict(FORMATS[name].convert(state), assign=True)
    assert type(loaded) is type(expected) and same(loaded, expected.eval(), torch.rand(1, 3, 64, 128))


def test_its_card_says_what_it_predicts(network: PanoramaNetwork) -> None:
    card = model_card(network, "local-dir:tiny")
    assert f"`{type(network).__name__}`" in card
    for task, text in TEXTS.items():
        assert (text.use in card) == (task in network.tasks)
        assert (text.meaning.partition("{classes}")[0] in card) == (task in network.tasks)
    assert all(name in card for name in network.classes)


# Predictions


def sources(folder: Path) -> dict[str, Any]:
    """The same panorama, of another size than the network's, in every form."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "panorama.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return {
        "path": folder / "panorama.png",
        "text": str(folder / "panorama.png"),
        "PIL image": Image.fromarray(pixels),
        "tensor": tensor,
        "batch": tensor[None].repeat(2, 1, 1, 1),
        "array": pixels,
    }


def test_every_kind_of_source_is_predicted(network: PanoramaNetwork, tmp_path: Path) -> None:
    expected = network.predict(sources(tmp_path)["array"])
    assert isinstance(expected, Prediction) and expected.tasks == network.tasks
    for task, values in expected.maps.items():
        kind = MAIN_TASKS[task].kind
        assert values.shape == ((40, 80, 3) if kind == "direction" else (40, 80)), task
        assert values.dtype == {"classes": np.uint8, "binary": np.bool_}.get(kind, np.float32), task
        assert np.isfinite(values).all(), task
    for kind, source in sources(tmp_path).items():
        found = network.predict(source)
        assert isinstance(found, list) == (kind == "batch")
        for prediction in found if isinstance(found, list) else [found]:
            assert np.array_equal(prediction.image, expected.image), kind
            for task, values in prediction.maps.items():
                close = np.isclose(values.astype(np.float32), expected.maps[task].astype(np.float32), 1e-3, 1e-3)
                assert close.mean() > 0.99, f"{task} of a {kind}"
    files = expected.save(tmp_path / "out")
    assert files == output_paths(tmp_path / "out", "panorama", network.tasks)
    assert all(path.stat().st_size for path in files.values())


# Whether these tests find what they are for


class Rolling(PanoramaNetwork):
    """Distances from a convolution, normals towards the camera of a length that depends on the image."""

    rolls = True

    def __init__(self, padding_mode: str = "circular", turn: bool = True) -> None:
        super().__init__(("depth", "normals"), (HEIGHT, WIDTH))
        self.convolution = nn.Conv2d(3, 1, 3, padding=1, padding_mode=padding_mode)
        self.turn = turn

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        depth = self.convolution(image)
        rays = erp_rays(*image.shape[-2:], dtype=image.dtype).permute(2, 0, 1)
        if not self.turn:
            rays = rays[..., :1]
        return {"depth": depth, "normals": -rays * (1 + image.mean(1, keepdim=True))}


def test_what_rolls_passes_and_what_has_a_seam_or_does_not_turn_fails(image: Tensor) -> None:
    check_rolls(Rolling(), image)
    with pytest.raises(AssertionError, match="depth by 1 columns"):
        check_rolls(Rolling(padding_mode="zeros"), image)
    with pytest.raises(AssertionError, match="normals by 1 columns"):
        check_rolls(Rolling(turn=False), image)


def test_faults_are_found(image: Tensor) -> None:
    network = Rolling()
    check_outputs(network, (HEIGHT, WIDTH))
    check_learns(network, image, ())
    network.unused = nn.Linear(1, 1)
    with pytest.raises(AssertionError):
        check_learns(network, image, ())
    check_learns(network, image, ("unused.",))
    for fault in ({"depth": torch.zeros(2, HEIGHT, WIDTH)}, {"shading": torch.zeros(2, 1, HEIGHT, WIDTH)}):
        faulty = Rolling()
        faulty.forward = lambda image, fault=fault: Rolling.forward(network, image) | fault
        with pytest.raises(AssertionError):
            check_outputs(faulty, (HEIGHT, WIDTH))
