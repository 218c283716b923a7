import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.models import PanoramaNetwork


@pytest.mark.parametrize("classes", ["floor", ("floor", "wall", "floor")])
def test_classes_are_different_names(tiny_network: Callable[..., Any], classes: Any) -> None:
    with pytest.raises(ValueError, match=r"classes are different names in a list, not .*floor"):
        tiny_network(classes=classes)


def test_every_network_has_a_card_of_its_own(tiny_network: Callable[..., Any]) -> None:
    first, second = tiny_network(), tiny_network()
    first.card["description"] = "the first"
    assert second.card == {}


class Toy(PanoramaNetwork):
    """A network that defines what it must and nothing else."""

    def __init__(
        self, encoder: ViTEncoder, width: int = 4, sizes: Sequence[int] = (1, 2), pretrained: bool = False
    ) -> None:
        super().__init__(("depth",), (32, 64))


def test_a_network_records_its_arguments_as_plain_data(tiny_network: Callable[..., Any]) -> None:
    encoder = tiny_network().encoder
    network = Toy(encoder, sizes=(3, 4), pretrained=True)
    assert network.config == {"encoder": encoder.describe(), "width": 4, "sizes": [3, 4]}  # not `pretrained`
    assert json.loads(json.dumps(network.describe())) == {"class_path": "Toy", "init_args": network.config}
    assert encoder.describe()["init_args"] == {
        "name": "vit_small_patch16_dinov3_qkvb", "width": 32, "depth": 4, "heads": 2, "patch_size": 8,
        "mlp_ratio": None, "layer_scale": None, "taps": None,
    }  # fmt: skip
    assert copy.deepcopy(network).config == network.config


def test_tasks_and_input_size_are_enough() -> None:
    network = Toy(ViTEncoder("vit_tiny_patch16_dinov3_qkvb", depth=4, width=8, heads=1))
    assert (network.tasks, network.input_size, network.classes, network.palette) == (("depth",), (32, 64), (), None)


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(TypeError, match="object cannot be recorded"):
        Toy(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{"widht": 3}, {"encoder": None, "width": 1, "other": 2}])
def test_an_unknown_argument_is_a_type_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        Toy(**arguments)
