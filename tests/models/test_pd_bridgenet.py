import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtpano_zoo.layers import Encoder, ERPTokenMixer, ViTEncoder
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.models.latitude import LatitudePrior
from mtpano_zoo.models.pd_bridgenet import geometry_encoding
from mtpano_zoo.tasks import MAIN_TASKS
from mtpano_zoo.training import MultiTaskModule
from mtpano_zoo.zoo.building import build_network

Build = Callable[..., PDBridgeNet]
THREE = ("semseg", "depth", "normals")
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(THREE, n)] + [("valid",), tuple(MAIN_TASKS)]


def flatten(outputs: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in outputs.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def randomise(network: nn.Module) -> nn.Module:
    """Leave no zero-initialised branch: at the start they hide what stands before them."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


class WrappingEncoder(Encoder):
    """Stands for the vision transformer, which knows where the border of the image is."""

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.stride = self.multiple = patch_size
        self.embed = nn.ModuleList(
            nn.Conv2d(3, channels, patch_size * 3, patch_size, (0, patch_size), padding_mode="circular")
            for _ in range(4)
        )

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        image = nn.functional.pad(image, (0, 0, self.stride, self.stride))
        levels = [embed(image) for embed in self.embed]
        return levels, [level.mean((2, 3)) for level in levels]


@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
@pytest.mark.parametrize("convention", ["sphere", "paper"])
def test_shapes_and_tasks(tiny_network: Build, tasks: tuple[str, ...], convention: str) -> None:
    network = tiny_network(tasks=tasks, convention=convention).eval()
    outputs = flatten(network(torch.rand(2, 3, 32, 64)))
    shapes = {"semseg": (2, 3, 32, 64), "depth": (2, 1, 32, 64), "normals": (2, 3, 32, 64)}
    shapes |= dict.fromkeys(("valid", "disparity"), (2, 1, 32, 64))
    expected = {task: shapes[task] for task in tasks} | {f"aux.{task}": shapes[task] for task in tasks}
    expected |= {"ext.gradient": (2, 2, 32, 64), "ext.edge_distance": (2, 1, 32, 64)}
    if "depth" in tasks:
        expected["ext.point_map"] = (2, 3, 32, 64)
        assert (outputs["depth"] >= 0).all()
    assert {name: tuple(x.shape) for name, x in outputs.items()} == expected


@pytest.mark.parametrize("size", [(8, 8), (24, 56), (40, 72), (32, 64)])
@pytest.mark.parametrize("convention", ["sphere", "paper"])
def test_any_multiple_of_the_patch_size(tiny_network: Build, size: tuple[int, int], convention: str) -> None:
    outputs = tiny_network(convention=convention).eval()(torch.rand(1, 3, *size))
    assert all(x.shape[-2:] == size and x.isfinite().all() for x in flatten(outputs).values())


def test_other_sizes_are_refused(tiny_network: Build) -> None:
    with pytest.raises(ValueError, match="30 x 64, but both must be multiples of 8"):
        tiny_network()(torch.rand(1, 3, 30, 64))


@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shared_stream": True},
        {"encoder": {"name": "xcit_nano_12_p8_224"}},
        {"bridge": None, "token_mixer": None},
        {"convention": "paper"},
        {"convention": "paper", "shared_stream": True},
    ],
    ids=["two", "shared", "xcit", "default", "paper", "shared paper"],
)
def test_every_parameter_learns(tiny_network: Build, tasks: tuple[str, ...], arguments: dict[str, Any]) -> None:
    """Distributed training fails in its second step where a parameter does not take part."""
    network = randomise(tiny_network(tasks=tasks, **arguments))
    outputs = flatten(network(torch.rand(2, 3, 32, 64)))
    sum((x * torch.randn_like(x)).sum() for x in outputs.values()).backward()
    silent = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert silent == set()


def test_by_default_the_published_network_is_whole_and_ours_has_what_pays(tiny_network: Build) -> None:
    defaults = {"bridge": None, "token_mixer": None}
    for convention, whole in (("paper", True), ("sphere", False)):
        network = tiny_network(convention=convention, **defaults)
        assert bool(network.bridges) == whole and list(network.refiners) == ["invariant", "variant"]
        assert any(isinstance(module, ERPTokenMixer) for module in network.modules()) == whole
        assert (network.config["bridge"], network.config["token_mixer"]) == (whole, whole)  # whatever comes later
        assert build_network(network.describe(), "it").state_dict().keys() == network.state_dict().keys()


def test_losses_of_one_stream_do_not_reach_the_task_features_of_the_other(tiny_network: Build) -> None:
    network = randomise(tiny_network())
    outputs = network(torch.rand(1, 3, 32, 64))
    outputs["normals"].square().sum().backward()
    for task in ("semseg", "depth", "gradient", "edge_distance"):
        assert all(p.grad is None for p in network.auxiliary_heads[task].parameters())
        assert network.bridges["variant"].squeeze[task].weight.grad.abs().max() > 0
    assert network.aggregators["invariant"].project.weight.grad is None
    assert network.auxiliary_heads["point_map"].feature[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("columns", [2, 6])
def test_roll_by_patches_leaves_no_seam(tiny_network: Build, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rolling image and geometry rolls every output exactly: no layer after the encoder knows the image's border.

    The coarsest decoder level has one cell per two patches, so that exactness holds for even numbers of patches.
    """
    network = randomise(tiny_network()).double().eval()
    network.encoder = WrappingEncoder(32, 8).double()
    image = torch.rand(1, 3, 32, 64, dtype=torch.float64)
    straight = flatten(network(image))
    monkeypatch.setattr(
        "mtpano_zoo.models.pd_bridgenet.geometry_encoding",
        lambda convention, like: geometry_encoding(convention, like).roll(columns, dims=-1),
    )
    rolled = flatten(network(image.roll(8 * columns, dims=-1)))
    for name, x in straight.items():
        torch.testing.assert_close(rolled[name], x.roll(8 * columns, dims=-1), rtol=1e-9, atol=1e-9, msg=name)


def test_roll_of_the_image_alone_rolls_the_invariant_outputs(tiny_network: Build) -> None:
    """Without the bridge, semseg and depth do not know where north is."""
    network = randomise(tiny_network(bridge=False)).double().eval()
    network.encoder = WrappingEncoder(32, 8).double()
    image = torch.rand(1, 3, 32, 64, dtype=torch.float64)
    straight, rolled = network(image), network(image.roll(16, dims=-1))
    for task in ("semseg", "depth"):
        torch.testing.assert_close(rolled[task], straight[task].roll(16, dims=-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("convention", "has_seam"), [("sphere", False), ("paper", True)])
def test_jump_across_the_border(tiny_network: Build, convention: str, has_seam: bool) -> None:
    """On a smooth image the step across 0/360 degrees is like any other step; with the paper's padding it is not."""
    network = randomise(tiny_network(convention=convention)).eval()
    network.encoder = WrappingEncoder(32, 8)
    longitude = torch.linspace(-torch.pi, torch.pi, 129)[:128]
    image = (0.5 + 0.4 * torch.stack((longitude.sin(), longitude.cos(), (2 * longitude).sin())))[:, None]
    outputs = flatten(network(image.expand(1, 3, 64, 128)))
    ratios = []
    for x in outputs.values():
        steps = (x - x.roll(1, dims=-1)).abs().mean(dim=(0, 1, 2))
        ratios.append(steps[0] / steps[1:].max())
    assert (max(ratios) > 2) if has_seam else (max(ratios) < 1.25), ratios


def test_config_builds_the_same_network(tiny_network: Build) -> None:
    palette = np.arange(9, dtype=np.uint8).reshape(3, 3)
    network = randomise(tiny_network(palette=palette, tasks=("semseg", "depth"))).eval()
    assert json.loads(json.dumps(network.config)) == network.config
    twin = build_network(network.describe(), "the network")
    twin.load_state_dict(network.state_dict(), assign=True)
    image = torch.rand(1, 3, 32, 64)
    ours, theirs = flatten(network(image)), flatten(twin.eval()(image))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert twin.config == network.config


def test_bfloat16_stays_close(tiny_network: Build) -> None:
    network = tiny_network().eval()
    image = torch.rand(1, 3, 32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
    assert (half["depth"].float() - network(image)["depth"]).abs().max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ("semseg", "layout")}, "normals, valid, disparity, each once; got semseg, layout"),
        ({"tasks": ()}, "got none"),
        ({"classes": ()}, "needs the names of its classes"),
        ({"convention": "plane"}, "convention must be sphere or paper"),
        ({"encoder": {"name": "vit_smal_patch16_dinov3"}}, "no architecture 'vit_smal_patch16_dinov3'"),
        ({"encoder": {"depth": 3}}, "3 blocks, but four are tapped"),
        ({"bridge_width": 18}, "multiple of its 4 attention heads"),
        ({"neck_widths": (8, 8)}, "has 4 levels, but 2 widths"),
        ({"palette": [[0, 0, 0]]}, "1 colours for 3 classes"),
    ],
)
def test_bad_arguments(tiny_network: Build, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_network(**arguments)


def test_full_size_has_the_published_number_of_parameters() -> None:
    """589.5 M in the published file, of which ours leaves out what is never used."""
    with torch.device("meta"):
        network = PDBridgeNet(ViTEncoder(), classes=[f"class {i}" for i in range(150)], convention="paper")
    counted = sum(p.numel() for p in network.parameters())
    unused_units = 3 * 2 * (256 * 256 * 9 + 2 * 256)
    unused_encoder = 1024 + 2 * 1024
    assert counted == pytest.approx(589.5e6 - unused_units - unused_encoder, abs=1e5)


@pytest.mark.parametrize("convention", ["sphere", "paper"])
def test_gradient_checkpointing_changes_no_gradient(tiny_network: Build, convention: str) -> None:
    network = randomise(tiny_network(convention=convention)).train()
    twin = tiny_network(convention=convention).train()
    twin.load_state_dict(network.state_dict())
    MultiTaskModule(twin, gradient_checkpointing=True)
    assert twin.gradient_checkpointing and twin.config == network.config
    image, kept = torch.rand(2, 3, 32, 64), []
    for each in (network, twin):
        torch.manual_seed(0)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            outputs = flatten(each(image))
        sum(x.square().mean() for x in outputs.values()).backward()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2
    for (name, plain), again in zip(network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(again.grad, plain.grad, rtol=1e-5, atol=1e-7, msg=name)
    for (name, plain), again in zip(network.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(again, plain), name


def test_networks_without_gradient_checkpointing_are_refused() -> None:
    with pytest.raises(ValueError, match="LatitudePrior has no gradient checkpointing"):
        MultiTaskModule(LatitudePrior(("a", "b"), 8), gradient_checkpointing=True)
