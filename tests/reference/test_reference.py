import pytest
import torch
from torch import Tensor

from mtpano_zoo.reference import FORMATS, identify, recognize, unwrap

ONE = torch.ones(1)
MTPANO = (
    "backbone.embeddings.cls_token",
    "feature_grouping.0.invariant_layers.0.conv1.bias",
    "bfe_invariant.norm2.bias",
)
OTHER = ("other.cls_token", "other.head")


def state_of(names: tuple[str, ...], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: ONE for name in names}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_formats_are_recognised_by_their_keys(prefix: str) -> None:
    assert recognize(state_of(MTPANO, prefix)) == identify(state_of(MTPANO, prefix)) == "mtpano"
    assert "mtpano" in FORMATS
    assert recognize(state_of(OTHER, prefix)) is None
    assert recognize(state_of(MTPANO[:2], prefix)) is None
    assert recognize({}) is None


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (tuple(f"module.{name}" for name in OTHER), r"other\.cls_token, other\.head"),
        (("fc.weight", "fc.bias"), r"fc\.weight, fc\.bias"),
        ((), "nothing"),
    ],
)
def test_what_cannot_be_loaded_is_described(names: tuple[str, ...], keys: str) -> None:
    with pytest.raises(ValueError, match=rf"No published format .* start with {keys}; dap, .* can be loaded\.$"):
        identify(state_of(names))
    with pytest.raises(ValueError, match="no MTPano checkpoint"):
        FORMATS["mtpano"].convert(state_of(names))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_state_dict_is_found(prefix: str) -> None:
    inner = state_of(MTPANO, prefix)
    for checkpoint in (inner, {"model": inner, "epoch": 3}, {"state_dict": inner, "optimizer": {}}):
        assert unwrap(checkpoint) == state_of(MTPANO)


@pytest.mark.parametrize(
    ("checkpoint", "keys"),
    [
        ({}, "none"),
        ({"epoch": 3, "lr": 0.1}, "epoch, lr"),
        ({"model": {}}, "model"),
        ({"state_dict": {"a": 1}}, "state"),
    ],
)
def test_a_checkpoint_without_weights_is_refused(checkpoint: dict, keys: str) -> None:
    with pytest.raises(ValueError, match=f"holds no weights: .* its keys are {keys}"):
        unwrap(checkpoint)


def test_keys_that_are_there_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="occur twice"):
        unwrap({"model": {"a": ONE, "module.a": ONE}})
