import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mtpano_zoo import load_model
from mtpano_zoo.zoo.building import transfer, transferred_card

CLASSES = ("wall", "floor", "door", "window", "lamp")
CLASSIFIERS = {
    "heads.semseg.classify.weight", "heads.semseg.classify.bias",
    "auxiliary_heads.semseg.predictor.weight", "auxiliary_heads.semseg.predictor.bias",
}  # fmt: skip


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
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in kept.items())

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


def test_a_network_without_classes(tiny_network: Callable[..., Any]) -> None:
    network = tiny_network(tasks=("depth", "normals"), classes=())
    with pytest.raises(ValueError, match=r"old\.ckpt predicts depth, normals and no classes: leave `classes` out"):
        transfer(network.state_dict(), network, "old.ckpt")


def test_the_card_does_not_claim_scores_of_the_old_network(tmp_path: Path) -> None:
    card = {
        "description": "Great", "paper": "https://example.org", "results": [{"mIoU": 1}], "sha256": "0" * 64,
        "license": {"code": "MIT", "weights": "CC BY 4.0"}, "upstream": [{"name": "Encoder", "license": "MIT"}],
        "training_data": ["Rooms"],
    }  # fmt: skip
    new = transferred_card(card, "mtpano-large.408k", CLASSES)
    assert "results" not in new and "sha256" not in new
    assert "mtpano-large.408k" in new["description"] and "5 other classes" in new["description"]
    assert new["upstream"] == [*card["upstream"], {"name": "mtpano-large.408k", "license": "CC BY 4.0"}]
    assert (new["license"], new["training_data"]) == (card["license"], card["training_data"])
    (tmp_path / "mine.ckpt").touch()
    for source in (tmp_path / "mine.ckpt", f"local-dir:{tmp_path / 'mine.ckpt'}"):
        new = transferred_card({}, source, CLASSES)
        assert new["upstream"] == [{"name": "mine.ckpt", "license": "unknown"}]
        assert str(tmp_path) not in new["description"]
