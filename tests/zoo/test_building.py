"""From descriptions and weights to networks, and what becomes of the weights when classes change."""

import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from mtpano_zoo import load_model
from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import describe_network
from mtpano_zoo.files.weights import write_weights
from mtpano_zoo.models import NETWORKS, PanoramaNetwork, PDBridgeNet
from mtpano_zoo.zoo.building import build_network, transfer, transferred_card

CLASSES = ("wall", "floor", "door", "window", "lamp")
CLASSIFIERS = {
    "heads.semseg.classify.weight", "heads.semseg.classify.bias",
    "auxiliary_heads.semseg.predictor.weight", "auxiliary_heads.semseg.predictor.bias",
}  # fmt: skip


def write(network: Any, folder: Path, **card: Any) -> Path:
    write_weights(folder, network.state_dict(), describe_network(network) | {"card": card})
    return folder


# Building


@pytest.mark.parametrize("convention", ["sphere", "paper"])
@pytest.mark.parametrize("encoder", ["vit_small_patch16_dinov3_qkvb", "vit_small_patch16_224", "xcit_nano_12_p8_224"])
def test_a_network_comes_back_bitwise(tmp_path: Path, tiny_network, convention: str, encoder: str) -> None:
    sizes = {} if "xcit" not in encoder else {"width": None, "heads": None, "depth": None}
    network = tiny_network(convention=convention, encoder={"name": encoder, **sizes}).eval()
    loaded = load_model(write(network, tmp_path, description="tiny"))

    assert type(loaded) is type(network) and not loaded.training
    assert loaded.card == {"description": "tiny"}
    assert (loaded.config, loaded.classes, loaded.tasks) == (network.config, network.classes, network.tasks)
    pairs = [(dict(n.named_parameters()), dict(n.named_buffers())) for n in (network, loaded)]
    for own, others in zip(*pairs, strict=True):
        assert list(own) == list(others)
        assert all(torch.equal(own[name], others[name]) for name in own)  # buffers that no file holds included
        assert all(own[name].requires_grad == others[name].requires_grad for name in own)
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        ours, theirs = network(image), loaded(image)
    for task in network.tasks:  # not bitwise: sums are taken in another order where memory is aligned otherwise
        torch.testing.assert_close(ours[task], theirs[task], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_precision_is_kept(tmp_path: Path, tiny_network, precision: torch.dtype) -> None:
    network = tiny_network().eval().to(precision)
    loaded = load_model(write(network, tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {precision}
    image = torch.rand(3, 32, 64)
    ours, theirs = network.predict(image), loaded.predict(image)
    torch.testing.assert_close(theirs.depth, ours.depth, rtol=0.02, atol=0.01)


def test_reading_neither_draws_random_numbers_nor_leaves_anything_behind(tmp_path: Path, tiny_network) -> None:
    write(tiny_network(), tmp_path)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


class Starts(TorchFunctionMode):
    """Counts the functions that give parameters without memory what they start from."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__ in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_")
        return func(*args, **(kwargs or {}))


def test_parameters_without_memory_are_not_given_numbers(tiny_network: Callable[..., Any]) -> None:
    description = describe_network(tiny_network())
    with Starts() as starts:
        build_network(description, "a test")
        assert starts.count == 0
        torch.nn.Linear(2, 2, device="meta")
    assert starts.count == 2


def test_weights_are_mapped_from_the_file_and_take_no_memory_of_their_own(tmp_path: Path, tiny_network) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    network = load_model(write(tiny_network(), tmp_path))
    lines = [line for line in maps.read_text().splitlines() if line.endswith(str(tmp_path / "model.safetensors"))]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    assert all(any(a <= value.data_ptr() < b for a, b in ranges) for value in network.state_dict().values())


def test_other_threads_build_networks_meanwhile(tmp_path: Path, tiny_network, monkeypatch) -> None:
    """Building without memory is switched on for one thread: here another builds in the middle of it."""
    built: list[torch.nn.Linear] = []

    class Meanwhile(PDBridgeNet):
        def _build_streams(self, *arguments: Any) -> None:
            thread = threading.Thread(target=lambda: built.append(torch.nn.Linear(2, 2)))
            thread.start()
            thread.join()
            super()._build_streams(*arguments)

    write(tiny_network(), tmp_path)
    monkeypatch.setitem(NETWORKS, "PDBridgeNet", Meanwhile)
    network = load_model(tmp_path)
    assert not any(parameter.is_meta for module in (network, *built) for parameter in module.parameters())


def test_networks_are_built_while_another_thread_builds_a_module(tiny_network: Callable[..., Any]) -> None:
    """PyTorch goes through its hooks whenever a parameter is registered: none may come or go meanwhile."""
    description = describe_network(tiny_network())
    built: list[torch.nn.Module] = []

    def build_in_a_thread(*_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and not built:
            thread = threading.Thread(target=lambda: built.append(build_network(description, "a test")))
            thread.start()
            thread.join()

    hooks = (build_in_a_thread, lambda *_: None)  # PyTorch notices only with another hook to go to
    handles = [register_module_parameter_registration_hook(hook) for hook in hooks]
    try:
        own = torch.nn.Linear(2, 2)
    finally:
        for handle in handles:
            handle.remove()
    assert not own.weight.is_meta and all(parameter.is_meta for parameter in built[0].parameters())


def test_training_a_loaded_network_does_not_change_its_file(tmp_path: Path, tiny_network) -> None:
    network = load_model(write(tiny_network(), tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    network.train()(torch.rand(2, 3, 32, 64))["depth"].mean().backward()
    optimizer.step()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert any(not torch.equal(p, torch.as_tensor(load_file(tmp_path / "model.safetensors")[k]))
               for k, p in network.named_parameters())  # fmt: skip


def test_a_network_can_be_written_over_the_file_that_it_was_read_from(tmp_path: Path, tiny_network) -> None:
    network = load_model(write(tiny_network(), tmp_path))
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    write(network, tmp_path)
    again = load_model(tmp_path)
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def descriptions(description: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Descriptions that no network has, by what is wrong, each with the sentence that says so."""
    arguments, encoder = description["init_args"], description["init_args"]["encoder"]

    def described(**changes: Any) -> dict[str, Any]:
        return description | {"init_args": arguments | changes}

    def encoded(**changes: Any) -> dict[str, Any]:
        return described(encoder=encoder | {"init_args": encoder["init_args"] | changes})

    none_of_ours = "which is not one of CNNEncoder, ViTEncoder"
    return {
        "nothing": ({}, "needs the keys class_path and init_args"),
        "class": (description | {"class_path": "os.system"}, "class 'os.system', which is not one of .*PDBridgeNet"),
        "list": (description | {"class_path": ["PDBridgeNet"]}, "which is not one of .*PDBridgeNet"),
        "arguments": (description | {"init_args": [1, 2]}, "must be dictionaries"),
        "card": (description | {"card": "abc"}, "must be dictionaries"),
        "unknown": (described(depht=3), "arguments that PDBridgeNet does not take: .*depht"),
        "missing": (description | {"init_args": {}}, "arguments that PDBridgeNet does not take: .*encoder"),
        "number": (described(bridge_width="wide"), "arguments that PDBridgeNet does not take"),
        "size": (described(input_size=[32]), "arguments that PDBridgeNet does not take"),
        "weights": (described(bridge_width=8), "of another shape"),
        "name": (described(encoder="xcit_nano_12_p8_224"), "PDBridgeNet does not take: encoder must be an Encoder"),
        "plain": (described(encoder=encoder["init_args"]), "PDBridgeNet does not take: encoder must be an Encoder"),
        "part": (described(encoder=encoder | {"class_path": "torch.nn.Linear"}), none_of_ours),
        "network": (described(encoder=description), f"'PDBridgeNet', {none_of_ours}"),
        "parts": (described(encoder=encoder | {"class_path": ["ViTEncoder"]}), none_of_ours),
        "empty": (described(encoder=encoder | {"init_args": None}), "ViTEncoder without its arguments"),
        "patch": (encoded(patch_size=0), "arguments that ViTEncoder does not take"),
        "heads": (encoded(heads=0), "arguments that ViTEncoder does not take"),
        "depth": (encoded(depth="four"), "arguments that ViTEncoder does not take"),
        "timm": (encoded(name=3), "arguments that ViTEncoder does not take"),
        "start": (encoded(pretrained=True), "its ViTEncoder cannot start from others: remove pretrained"),
        "hub": (encoded(name="hf-hub:user/vit"), "timm has no architecture 'hf-hub:user/vit'"),
    }


def test_what_describes_no_network_is_refused(tmp_path: Path, tiny_network: Callable[..., Any]) -> None:
    folder = write(tiny_network(), tmp_path)
    for wrong, (description, sentence) in descriptions(json.loads((folder / "config.json").read_text())).items():
        (folder / "config.json").write_text(json.dumps(description))
        with pytest.raises(InputError, match=sentence) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value), wrong


def test_a_description_builds_what_it_was_taken_from(tiny_network: Callable[..., Any]) -> None:
    network = tiny_network(palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    twin = build_network(json.loads(json.dumps(network.describe())), "it")
    assert twin.describe() == network.describe()
    assert {name: x.shape for name, x in twin.state_dict().items()} == {
        name: x.shape for name, x in network.state_dict().items()
    }
    assert all(parameter.is_meta for parameter in twin.parameters())


class Plain(PanoramaNetwork):
    """A network of one task, which it has no arguments for."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(["depth"], (16, 32))
        self.measure = torch.nn.Conv2d(width, 1, 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"depth": self.measure(image).exp()}


def test_a_network_without_choice_of_tasks_keeps_those_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "Plain", Plain)
    network = Plain()
    loaded = load_model(write(network, tmp_path), tasks=["depth"])
    assert loaded.tasks == ("depth",)
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in network.state_dict().items())
    with pytest.raises(InputError, match="has no normals: its tasks are depth"):
        load_model(tmp_path, tasks=["depth", "normals"])


# Other classes


def test_everything_is_kept_but_the_classifiers(tiny_network: Callable[..., Any]) -> None:
    old, new = tiny_network(), tiny_network(classes=CLASSES)
    weights, start = old.state_dict(), {name: value.clone() for name, value in new.state_dict().items()}
    fitted, names = transfer(weights, new, "old.ckpt")
    assert set(names) == CLASSIFIERS and len(names) == 4
    assert fitted.keys() == start.keys()
    for name, value in fitted.items():
        assert torch.equal(value, start[name] if name in CLASSIFIERS else weights[name]), name
    # The logits change, nothing else does.
    new.load_state_dict(fitted)
    image = torch.rand(1, 3, 32, 64)
    before, after = old.eval()(image), new.eval()(image)
    assert after["semseg"].shape == (1, 5, 32, 64) and after["aux"]["semseg"].shape[1] == 5
    assert torch.equal(before["depth"], after["depth"]) and torch.equal(before["normals"], after["normals"])


def test_classes_of_the_same_name_start_anew_too(tiny_network: Callable[..., Any]) -> None:
    """The new set has as many classes, in another order: nothing of the old classifiers may survive in any row."""
    old, new = tiny_network(), tiny_network(classes=("ceiling", "floor", "wall"))
    fitted, names = transfer(old.state_dict(), new, "old.ckpt")
    assert set(names) == CLASSIFIERS
    for name in CLASSIFIERS:
        assert not torch.isin(fitted[name], old.state_dict()[name]).any()


def test_a_network_without_memory_is_given_its_classifiers(tiny_network: Callable[..., Any]) -> None:
    weights = {name: value.half() for name, value in tiny_network().state_dict().items()}
    with torch.device("meta"):
        new = tiny_network(classes=CLASSES)
    fitted, _ = transfer(weights, new, "old.ckpt")
    for name in CLASSIFIERS:
        value = fitted[name].float()
        assert fitted[name].device.type == "cpu" and fitted[name].dtype == torch.float16
        # PyTorch's start of a convolution: uniform within 1 / sqrt(inputs).
        inputs = weights[name.replace("bias", "weight")].shape[1]
        assert 0.1 * inputs**-0.5 < value.abs().max() <= inputs**-0.5 * 1.001


def test_a_model_for_other_classes_is_trained_saved_and_loaded(
    tiny_network: Callable[..., Any], tmp_path: Path
) -> None:
    """As a user does it: from a saved network to one with other classes, a step of training, and back to a file."""
    old = tiny_network(palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    old.save_pretrained(tmp_path / "old")
    with pytest.warns(UserWarning) as told:
        model = load_model(f"local-dir:{tmp_path / 'old'}", classes=CLASSES)
    assert len(told) == 1
    sentence = str(told[0].message)
    assert all(name in sentence for name in CLASSIFIERS) and "\n" not in sentence and "for your 5 classes" in sentence
    assert told[0].filename == __file__
    assert model.classes == CLASSES and model.palette is None and not model.training
    assert "old" in model.card["description"]
    kept = {name: value.clone() for name, value in model.state_dict().items() if name not in CLASSIFIERS}
    source = old.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in kept.items())

    assert all(parameter.requires_grad for parameter in model.parameters())
    model.train()(torch.rand(2, 3, 32, 64))["semseg"].square().mean().backward()
    before = model.heads.semseg.classify.weight.detach().clone()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(model.heads.semseg.classify.weight, before)
    assert torch.equal(load_model(tmp_path / "old").heads.semseg.classify.weight, old.heads.semseg.classify.weight)
    model.save_pretrained(tmp_path / "new")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_model(tmp_path / "new", classes=CLASSES)  # its own classes: nothing is new
    assert loaded.classes == CLASSES and loaded.predict(torch.rand(3, 32, 64)).classes == CLASSES
    assert torch.equal(loaded.heads.semseg.classify.weight, model.heads.semseg.classify.weight)


def test_what_else_does_not_fit_is_listed(tiny_network: Callable[..., Any]) -> None:
    new, weights = tiny_network(classes=CLASSES), tiny_network().state_dict()
    weights["heads.depth.predict.bias"] = torch.zeros(2)
    weights["extra"] = torch.zeros(1)
    del weights["auxiliary_heads.semseg.predictor.bias"], weights["necks.depth.project.0.weight"]
    with pytest.raises(ValueError, match="do not fit PDBridgeNet") as caught:
        transfer(weights, new, "old.ckpt")
    for part in (
        "missing auxiliary_heads.semseg.predictor.bias, necks.depth.project.0.weight;",
        "unexpected extra;",
        "of another shape heads.depth.predict.bias (2,) instead of (1,)",
    ):
        assert part in str(caught.value)
    assert "classify" not in str(caught.value)


def test_a_network_without_classes(
    tiny_network: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny_network(tasks=("depth", "normals"), classes=())
    with pytest.raises(ValueError, match=r"old\.ckpt predicts depth, normals and no classes: leave `classes` out"):
        transfer(network.state_dict(), network, "old.ckpt")
    monkeypatch.setitem(NETWORKS, "Plain", Plain)
    for other, predicted in ((network, "depth, normals"), (Plain(), "depth")):
        with pytest.raises(InputError, match=f"predicts {predicted} and no classes: leave `classes` out"):
            load_model(write(other, tmp_path), classes=CLASSES)


def test_the_card_does_not_claim_scores_of_the_old_network(tmp_path: Path) -> None:
    card = {
        "description": "Great", "paper": "https://example.org", "results": [{"mIoU": 1}], "sha256": "0" * 64,
        "license": {"code": "MIT", "weights": "CC BY 4.0"}, "upstream": [{"name": "Encoder", "license": "MIT"}],
        "training_data": ["Rooms"],
    }  # fmt: skip
    new = transferred_card(card, "mtpano-large.408k", "with 5 other classes")
    assert "results" not in new and "sha256" not in new
    assert "mtpano-large.408k" in new["description"] and "5 other classes" in new["description"]
    assert new["upstream"] == [*card["upstream"], {"name": "mtpano-large.408k", "license": "CC BY 4.0"}]
    assert (new["license"], new["training_data"]) == (card["license"], card["training_data"])
    (tmp_path / "mine.ckpt").touch()
    for source in (tmp_path / "mine.ckpt", f"local-dir:{tmp_path / 'mine.ckpt'}"):
        new = transferred_card({}, source, "with 5 other classes")
        assert new["upstream"] == [{"name": "mine.ckpt", "license": "unknown"}]
        assert str(tmp_path) not in new["description"]
