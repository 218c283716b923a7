"""What a file says of a network makes nobody read another file, ask another repository or download anything."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mtpano_zoo import load_model
from mtpano_zoo.files.checkpoint import describe_network
from mtpano_zoo.files.weights import write_weights
from mtpano_zoo.models import PDBridgeNet

OPENED: list[str] | None = None


def note(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED is not None and event in ("open", "os.listdir", "os.scandir"):
        OPENED.append(str(arguments[0]))


sys.addaudithook(note)  # once: it cannot be taken away


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder and a repository, `somebody/else`, that timm would take an architecture from."""
    folder = tmp_path / "trap"
    folder.mkdir()
    config = {
        "architecture": "vit_small_patch16_dinov3_qkvb",
        "num_classes": 0,
        "pretrained_cfg": {"input_size": [3, 256, 256]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def watched(hub, trap: Path) -> Iterator[Callable[[], list[str]]]:
    """What of the trap was opened, and what the Hub was asked for, since the last call."""
    global OPENED
    hub.commit("somebody/else", {"config.json": (trap / "config.json").read_bytes()})
    OPENED = []

    def seen() -> list[str]:
        found = [path for path in OPENED or () if path.startswith(str(trap))]
        found += [path for _, path in hub.requests if path != "/" and not path.startswith(("/user/tiny/", "/cdn/"))]
        (OPENED or []).clear()
        hub.requests.clear()
        return found

    yield seen
    OPENED = None


def names(trap: Path) -> list[str]:
    addresses = ["hf-hub:somebody/else", "hf_hub:somebody/else", "HF-HUB:somebody/else@main", "timm:somebody/else"]
    folders = [f"local-dir:{trap}", f"LOCAL-DIR:{trap}", f"file://{trap}", str(trap), f"{trap}/config.json"]
    hidden = ["vit_small_patch16_dinov3_qkvb.hf-hub:somebody/else", f"local-dir:{trap}#vit_small_patch16_dinov3_qkvb"]
    return [*addresses, *folders, *hidden, "somebody/else", "/etc", ""]


def test_timm_would_look(watched: Callable[[], list[str]], trap: Path) -> None:
    timm.create_model(f"local-dir:{trap}")
    assert watched()
    timm.create_model("hf-hub:somebody/else")
    assert watched()


def hostile(network: PDBridgeNet, trap: Path) -> Iterator[dict[str, Any]]:
    """Descriptions of the network that name something else to read, in every place where a name can stand."""
    description = describe_network(network)
    encoder = network.config["encoder"]

    def with_encoder(value: Any) -> dict[str, Any]:
        return description | {"init_args": network.config | {"encoder": value}}

    for name in names(trap):
        yield with_encoder(name)
        yield with_encoder(encoder | {"class_path": name})
        yield with_encoder(encoder | {"init_args": encoder["init_args"] | {"name": name}})
    for value in ({"class_path": "Pretrained"}, ["hf-hub:somebody/else"], 5, None):
        yield with_encoder(value)
    for key in ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "source", "file"):
        yield description | {"init_args": network.config | {key: str(trap / "config.json")}}
    for key, value in (("pretrained", True), ("pretrained", str(trap / "config.json")), ("source", str(trap))):
        yield with_encoder({"class_path": "CNNEncoder", "init_args": {key: value}})
        yield with_encoder(encoder | {"init_args": encoder["init_args"] | {key: value}})
    for name in ("Pretrained", "mtpano_zoo.zoo.pretrained.Pretrained", "timm.create_model", "ViTEncoder"):
        yield description | {"class_path": name, "init_args": {"source": "hf-hub:somebody/else"}}


@pytest.mark.slow
def test_a_description_that_names_something_else_is_refused(
    watched: Callable[[], list[str]], hub, trap: Path, tmp_path: Path, tiny_network: Callable[..., PDBridgeNet]
) -> None:
    network = tiny_network(tasks=["depth"], bridge=False)
    # A few weights, since it is refused before they are read: what is not refused would lack the others.
    few = dict([*network.state_dict().items()][:3])
    weights = {f"network.{name}": value for name, value in few.items()}
    for description in hostile(network, trap):
        write_weights(tmp_path / "folder", few, description)
        torch.save({"network": description, "state_dict": weights}, tmp_path / "training.ckpt")
        hub.commit("user/tiny", {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()})
        watched()
        for read, source in (
            (load_model, tmp_path / "folder"),
            (load_model, tmp_path / "training.ckpt"),
            (load_model, "hf-hub:user/tiny"),
        ):
            refusals = r"does not take|which is not one of|cannot start from others|without its arguments"
            with pytest.raises(ValueError, match=refusals) as told:
                read(source)
            assert "\n" not in str(told.value)
        assert watched() == [], description


@pytest.fixture(scope="module")
def sound(tiny_network: Callable[..., PDBridgeNet]) -> dict[str, Any]:
    """What a checkpoint holds; no test may change it."""
    network = tiny_network(tasks=["depth"], bridge=False)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    return {"network": describe_network(network) | {"card": {}}, "state_dict": weights}


@pytest.mark.parametrize(
    "change",
    [
        {key: value}
        for key in ("class_path", "init_args", "tasks", "classes", "card")
        for value in (None, 5, "a", ["a"], {"a": 1})
    ]
    + [{"state_dict": value} for value in (None, 5, "a", ["a"], {"network.a": 5}, {5: torch.ones(1)})]
    + [{"network": value} for value in (None, 5, "a", ["a"], {})],
    ids=str,
)
def test_a_checkpoint_that_makes_no_sense_is_told_in_one_line(
    change: dict[str, Any], tmp_path: Path, sound: dict[str, Any]
) -> None:
    odd = change if change.keys() <= sound.keys() else {"network": sound["network"] | change}
    torch.save(sound | odd, tmp_path / "odd.ckpt")
    try:
        load_model(tmp_path / "odd.ckpt")
    except ValueError as error:
        assert re.fullmatch(r".*(odd\.ckpt|The checkpoint holds no weights).*", str(error))
