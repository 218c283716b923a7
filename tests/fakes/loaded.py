"""What a network and a folder hold."""

from pathlib import Path

import torch
from torch import Tensor


def assert_holds(network, weights: dict[str, Tensor]) -> None:
    own = network.state_dict()
    assert own.keys() == weights.keys()
    assert [key for key in own if not torch.equal(own[key], weights[key])] == []


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
