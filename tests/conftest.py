import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import tiny_bridgenet, tiny_vit

from mtpano_zoo.files.checkpoint import describe_network
from mtpano_zoo.layers import Encoder
from mtpano_zoo.models import NETWORKS, PDBridgeNet

# Workers of pytest-xdist share the cores: more threads each would only make them wait for one another.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images in a folder and its folders, beside what is none."""
    from run_files import save

    for level, name in enumerate(("b.jpg", "A.PNG", "sub/b.webp", "sub/deep/c.tif", "d.v2.bmp")):
        save(tmp_path / "photos" / name, 40 * level)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    save(tmp_path / "photos" / ".hidden" / "x.png")
    save(tmp_path / "photos" / "._b.jpg")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., PDBridgeNet]:
    """Build a PD-BridgeNet of 0.3 M parameters with all its parts; keyword arguments override them.

    `encoder` is an encoder, or overrides the arguments of the `ViTEncoder` that is built by default.
    """

    def build(encoder: Encoder | Mapping[str, Any] | None = None, **overrides: Any) -> PDBridgeNet:
        return tiny_bridgenet(encoder if isinstance(encoder, Encoder) else tiny_vit(**(encoder or {})), **overrides)

    return build


@pytest.fixture
def tiny_network_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a checkpoint name the network that training is tested with."""
    from tiny_training import TinyNetwork  # it imports Lightning, which few tests need

    monkeypatch.setitem(NETWORKS, "TinyNetwork", TinyNetwork)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_network: Callable[..., PDBridgeNet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as training writes it, as far as loading reads it; `tests/training` checks that training does write so."""
    torch.manual_seed(0)
    network = tiny_network()
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt"
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"network": describe_network(network), "state_dict": weights}, path)
    return path
