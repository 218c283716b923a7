import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtpano_zoo.layers import CNNEncoder
from mtpano_zoo.layers.lora import add_lora
from mtpano_zoo.layers.winograd import WinogradConv2d
from mtpano_zoo.models import PDBridgeNet, inference, prepare_for_inference
from mtpano_zoo.models.inference import main_outputs

Build = Callable[..., PDBridgeNet]


@pytest.fixture
def build(tiny_network: Build) -> Build:
    """Networks in evaluation mode with no branch at zero and norms that have seen something."""

    def build(**arguments: Any) -> PDBridgeNet:
        network = tiny_network(**arguments)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            for norm in network.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.running_mean.normal_()
                    norm.running_var.uniform_(0.5, 2)
        return network.eval()

    return build


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(float((x - expected[task]).abs().max() / expected[task].abs().max()) for task, x in found.items())


@pytest.mark.parametrize("arguments", [
    {},
    {"convention": "paper"},
    {"convention": "paper", "tasks": ("semseg",)},
    {"tasks": ("normals",)},
    {"bridge": False},
    {"shared_stream": True},
    {"encoder": {"name": "xcit_nano_12_p8_224"}},
], ids=str)  # fmt: skip
def test_computes_the_main_outputs_of_the_network(build: Build, arguments: dict[str, Any]) -> None:
    network = build(**arguments)
    image = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        complete = network(image)
        lean = network(image, auxiliary=False)
        assert lean.keys() == set(network.tasks)
        assert all(torch.equal(lean[task], complete[task]) for task in network.tasks)
        prepared = prepare_for_inference(network)(image)
    assert prepared.keys() == set(network.tasks)
    assert largest_error(prepared, complete) < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_convolutional_encoders_keep_their_padding(build: Build, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where all convolutions that can are computed by Winograd's algorithm, which knows no such padding."""
    monkeypatch.setattr(inference, "WINOGRAD_CHANNELS", 1)
    network = build(encoder=CNNEncoder(name, width=8))
    image = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        expected, prepared = network(image), prepare_for_inference(network, winograd=True)
        assert largest_error(prepared(image), expected) < 1e-4
    assert any(isinstance(module, WinogradConv2d) for module in prepared.modules())


def test_norms_with_an_activation_are_not_folded() -> None:
    """timm has them: batch norm and activation in one layer."""
    image = torch.randn(1, 3, 4, 8)
    for norm, kind in ((BatchNormAct2d(4), BatchNormAct2d), (nn.BatchNorm2d(4), nn.Identity)):
        layers = nn.Sequential(nn.Conv2d(3, 4, 1), norm).eval()
        prepared = prepare_for_inference(layers, winograd=False).network
        assert type(prepared[1]) is kind
        torch.testing.assert_close(prepared(image), layers(image))


@pytest.mark.parametrize(("arguments", "silent"), [
    ({}, {"predictor"}),
    ({"bridge": False}, {"predictor", "auxiliary_heads.gradient", "auxiliary_heads.edge_distance",
                         "auxiliary_heads.point_map"}),
    ({"convention": "paper", "tasks": ("semseg",)}, {"predictor", "refiners.variant", "aggregators.variant",
                                                 "bridges.variant", "stream_injectors.variant"}),
], ids=["full", "without bridge", "published semseg"])  # fmt: skip
def test_what_no_main_output_needs_is_not_computed(build: Build, arguments: dict[str, Any], silent: set[str]) -> None:
    network = build(**arguments)
    called: set[str] = set()
    leaves = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
    for name, module in leaves.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: called.add(name))
    main_outputs(network, torch.rand(1, 3, 32, 64))
    not_called = leaves.keys() - called
    assert not_called == {name for name in leaves if any(part in name for part in silent)}


def test_the_network_itself_stays_as_it_is(build: Build) -> None:
    network = build().train()
    before = copy.deepcopy(network.state_dict())
    prepared = prepare_for_inference(network)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(p.requires_grad for p in prepared.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
    # A hook of one is none of the other's.
    one, other = (
        {id(x) for m in net.modules() for x in vars(m).values() if isinstance(x, dict)} for net in (network, prepared)
    )
    assert not one & other
    shared = network.encoder.vit.blocks[0].mlp.fc1.weight.data_ptr()
    assert prepared.network.encoder.vit.blocks[0].mlp.fc1.weight.data_ptr() == shared


def test_neither_training_mode_of_the_copy_nor_of_the_network_reaches_the_other(build: Build) -> None:
    network = build(encoder={"name": "xcit_nano_12_p8_224"})  # some of its norms cannot be folded
    prepared = prepare_for_inference(network)
    image = torch.rand(2, 3, 32, 64)
    before, state = prepared(image), copy.deepcopy(network.state_dict())
    prepared.train()(image)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    prepared = prepare_for_inference(network)
    network.train()(image)
    assert largest_error(prepared(image), before) == 0


def test_low_rank_updates_are_merged(build: Build) -> None:
    network = build()
    add_lora(network.encoder, 2)
    for name, parameter in network.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter)
    image = torch.rand(1, 3, 32, 64)
    state = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        expected = network(image)
        prepared = prepare_for_inference(network)
        assert largest_error(prepared(image), expected) < 1e-5
        assert largest_error({task: network(image)[task] for task in network.tasks}, expected) == 0
    assert not any(parametrize.is_parametrized(module) for module in prepared.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_winograd_is_kept_from_16_bits(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WINOGRAD_CHANNELS", 1)
    network = build()
    with pytest.raises(ValueError, match="lose too much in bfloat16"):
        prepare_for_inference(network, "bfloat16", winograd=True)
    convolution = nn.Conv2d(64, 64, 3, padding=1)
    fast = WinogradConv2d(convolution)
    x = torch.randn(1, 64, 16, 16, requires_grad=True)
    exact = convolution(x)
    with torch.autocast("cpu", torch.bfloat16):
        found, rough = fast(x), convolution(x)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert (found - exact).abs().max() < 1e-4 < (rough - exact).abs().max()


@pytest.mark.parametrize("convention", ["sphere", "paper"])
def test_with_winograd_everywhere(build: Build, convention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WINOGRAD_CHANNELS", 1)
    network = build(convention=convention)
    image = torch.rand(2, 3, 32, 64)
    prepared = prepare_for_inference(network, winograd=True)
    assert sum(isinstance(module, WinogradConv2d) for module in prepared.modules()) > 60
    with torch.no_grad():
        assert largest_error(prepared(image), network(image)) < 1e-4
    without = prepare_for_inference(network)
    assert not any(isinstance(module, WinogradConv2d) for module in without.modules())


def test_bfloat16_gives_float32_and_loses_little(build: Build) -> None:
    network = build(convention="paper")
    image = torch.rand(2, 3, 32, 64)
    prepared = prepare_for_inference(network, "bfloat16")
    assert prepared.network.encoder.vit.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert prepared.network.aggregators["invariant"].norm.weight.dtype == torch.float32
    with torch.inference_mode():
        found, expected = prepared(image), network(image)
    assert all(x.dtype == torch.float32 for x in found.values())
    assert 0 < largest_error(found, expected) < 0.05


@pytest.mark.slow
def test_compiles_without_graph_breaks(tiny_network: Build) -> None:
    """In bfloat16 and with published padding; `test_networks.py` compiles the networks as they are built."""
    network = tiny_network(convention="paper", tasks=("normals",))  # it has every kind of layer
    prepared = prepare_for_inference(network, "bfloat16")
    image = torch.rand(1, 3, 32, 64)
    compiled = torch.compile(prepared, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), prepared(image))


def test_predicts(build: Build) -> None:
    network = build()
    image = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    expected, found = network.predict(image), prepare_for_inference(network).predict(image)
    assert (found.semseg == expected.semseg).mean() > 0.99
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-4)
    np.testing.assert_allclose(found.normals, expected.normals, atol=1e-3)
    rough = prepare_for_inference(network, "bfloat16").predict(image)
    np.testing.assert_allclose(rough.depth, expected.depth, rtol=0.1)


def test_precisions_that_do_not_fit(tiny_network: Build) -> None:
    with pytest.raises(ValueError, match="float32 or bfloat16, not float16"):
        prepare_for_inference(tiny_network(), "float16")
    image = np.zeros((32, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="prepared for float32: prepare it for bfloat16"):
        prepare_for_inference(tiny_network()).predict(image, precision="bfloat16")
    for kind in (torch.float16, torch.float64):
        halved = tiny_network().to(kind)
        with pytest.raises(ValueError, match=r"weights are float\d\d, which does not work with bfloat16"):
            prepare_for_inference(halved, "bfloat16")
        found, expected = prepare_for_inference(halved).predict(image), halved.predict(image)
        np.testing.assert_allclose(found.depth, expected.depth, rtol=0.01)


class _HostWork(TorchDispatchMode):
    """Notes operations that move data between the host and a device, or read it there."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, output)) if isinstance(x, torch.Tensor) and x.ndim]
        name = func._overloadpacket.__name__
        if len({x.device for x in tensors}) > 1 or name in ("_local_scalar_dense", "nonzero"):
            self.found.append(name)
        return output


@pytest.mark.parametrize("convention", ["sphere", "paper"])
def test_nothing_moves_to_the_device_while_it_is_recorded(tiny_network, convention):
    with torch.device("meta"):
        prepared = prepare_for_inference(tiny_network(convention=convention), winograd=False)
        image = torch.empty(2, 3, 64, 128)
    with torch.no_grad():
        prepared._run(image, None)  # tables that are made once are made before
        with _HostWork() as work:
            prepared._run(image, None)
        with _HostWork() as control:
            (torch.zeros(2).to("meta"), torch.zeros(1).nonzero())
    assert work.found == []
    assert len(control.found) == 2


def test_a_recorded_network_copies_in_and_out(monkeypatch):
    calls = []

    class Graph:
        def replay(self):
            calls.append("replay")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", mock.MagicMock())
    for name in ("current_stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    with torch.inference_mode():
        recorded = inference._Recorded(lambda x: {"depth": x}, torch.zeros(3))
    found = recorded(torch.ones(3))["depth"]
    again = recorded(torch.full((3,), 2.0))["depth"]
    assert (found.tolist(), again.tolist(), calls) == ([1.0] * 3, [2.0] * 3, ["replay"] * 2)
