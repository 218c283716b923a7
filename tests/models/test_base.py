from collections.abc import Callable
from typing import Any

import pytest

from mtpano_zoo.models.base import NORMALS_FRAMES


@pytest.mark.parametrize("classes", ["floor", ("floor", "wall", "floor")])
def test_classes_are_different_names(tiny_network: Callable[..., Any], classes: Any) -> None:
    with pytest.raises(ValueError, match=r"classes are different names in a list, not .*floor"):
        tiny_network(classes=classes)


def test_every_network_has_a_card_of_its_own(tiny_network: Callable[..., Any]) -> None:
    first, second = tiny_network(), tiny_network()
    first.card["description"] = "the first"
    assert second.card == {}


@pytest.mark.parametrize("frame", NORMALS_FRAMES)
def test_the_frame_of_the_normals_is_kept(tiny_network: Callable[..., Any], frame: str) -> None:
    network = tiny_network(normals_frame=frame)
    assert network.normals_frame == network.config["normals_frame"] == frame
    assert network.normals_to_camera == NORMALS_FRAMES[frame]
