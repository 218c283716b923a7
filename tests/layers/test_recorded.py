"""How modules record what built them."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from mtpano_zoo.layers import RecordedModule
from mtpano_zoo.layers.recorded import plain_data


class Part(RecordedModule):
    def __init__(self, width: int, *, sizes: Sequence[int] = (1, 2), pretrained: str | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)


class Whole(RecordedModule):
    start_arguments: ClassVar[frozenset[str]] = frozenset({"weights", "pretrained"})

    def __init__(self, part: Part, options: Mapping[str, Any] | None = None, weights: object = None) -> None:
        super().__init__()
        self.part = part


class Wider(Part):
    """Its own arguments are recorded, not those that it passes on."""

    def __init__(self, factor: int) -> None:
        super().__init__(4 * factor, sizes=(factor,))


@pytest.mark.parametrize("part", [Part(3), Part(width=3), Part(3, sizes=[1, 2]), Part(3, pretrained="image_net.pth")])
def test_arguments_and_defaults_are_recorded_however_they_were_passed(part: Part) -> None:
    assert part.config == {"width": 3, "sizes": [1, 2]}
    assert part.describe() == {"class_path": "Part", "init_args": part.config}


@pytest.mark.parametrize("options", [{}, {"sizes": (4,)}, {"sizes": (4,), "pretrained": "image_net.pth"}])
def test_options_that_are_passed_on_rebuild_the_module(options: dict[str, Any]) -> None:
    class Deeper(Part):
        def __init__(self, factor: int, **options: Any) -> None:
            super().__init__(4 * factor, **options)

    deeper = Deeper(2, **options)
    assert deeper.config == {"factor": 2} | ({"sizes": [4]} if options else {})
    assert Deeper(**deeper.config).config == deeper.config


def test_parts_appear_as_their_descriptions() -> None:
    whole = Whole(Part(3, sizes=(4,)), {"rate": 0.5, 2: None}, weights=object())
    described = {"class_path": "Part", "init_args": {"width": 3, "sizes": [4]}}
    assert whole.config == {"part": described, "options": {"rate": 0.5, "2": None}}
    assert json.loads(json.dumps(whole.config)) == whole.config
    assert Whole.start_arguments == {"weights", "pretrained"} and Part.start_arguments == {"pretrained"}


def test_a_subclass_records_its_own_arguments() -> None:
    wider = Wider(2)
    assert wider.describe() == {"class_path": "Wider", "init_args": {"factor": 2}}
    assert wider.layer.in_features == 8


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy])
def test_copies_keep_the_record(again: Any) -> None:
    whole = Whole(Part(3))
    twin = again(whole)
    assert twin is not whole and twin.config == whole.config and twin.part.config == whole.part.config
    assert torch.equal(twin.part.layer.weight, whole.part.layer.weight)


def test_the_record_is_neither_a_parameter_nor_in_the_state_dict() -> None:
    assert set(Part(3).state_dict()) == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize(("value", "plain"), [
    (np.float32(0.5), 0.5), (np.int64(3), 3), (np.array([[1, 2]], np.uint8), [[1, 2]]), (Path("a/b"), "a/b"),
    ((1, (2.5, "x")), [1, [2.5, "x"]]), ({"a": (True, None)}, {"a": [True, None]}), (frozenset({7}), [7]),
])  # fmt: skip
def test_arguments_of_any_kind_become_plain_data(value: Any, plain: Any) -> None:
    found = plain_data(value)
    assert found == plain and type(found) is type(plain)
    assert json.loads(json.dumps(found)) == plain


@pytest.mark.parametrize("value", [object(), torch.zeros(1), nn.Linear(1, 1), len, {"a": [1j]}])
def test_what_is_no_plain_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^A (object|Tensor|Linear|builtin_function_or_method|complex) cannot be rec"):
        plain_data(value)
