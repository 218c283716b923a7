import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mtpano_zoo import load_model
from mtpano_zoo.files.sharing import FILES
from mtpano_zoo.layers import add_lora

# Of the Hub's client, about its own HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = {"description": "A network for tests", "license": {"weights": "CC BY 4.0"}, "results": [{"mIoU": 0.5}]}


@pytest.fixture
def network(tiny_network: Callable[..., Any]) -> Any:
    """Return a network with weights that no start gives, and with a card."""
    network = tiny_network(convention="paper", palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn_like(value).abs())
    network.card = CARD
    return network


def check_same(loaded: Any, network: Any) -> None:
    assert type(loaded) is type(network) and not loaded.training
    for name in ("config", "card", "tasks", "classes", "palette", "input_size", "multiple"):
        assert json.dumps(getattr(loaded, name)) == json.dumps(getattr(network, name)), name
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) and value.dtype == theirs[name].dtype for name, value in ours.items())


def test_a_folder_is_read_back_to_the_last_bit(network: Any, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "new" / "model")
    assert {path.name for path in (tmp_path / "new" / "model").iterdir()} == set(FILES)
    check_same(load_model(f"local-dir:{tmp_path / 'new' / 'model'}"), network)
    assert len({path.stat().st_mode for path in (tmp_path / "new" / "model").iterdir()}) == 1  # readable for all alike
    card = (tmp_path / "new" / "model" / "README.md").read_text()
    assert 'load_model("local-dir:model")' in card and str(tmp_path) not in card


def test_the_snippet_of_the_card_runs(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network.save_pretrained(tmp_path / "model")
    snippets = re.findall(r"```python\n(.*?)```", (tmp_path / "model" / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 1
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((32, 64, 3), 90, np.uint8)).save("room.jpg")
    names: dict[str, Any] = {}
    exec(snippets[0].replace("local-dir:model", f"local-dir:{tmp_path / 'model'}"), names)
    assert names["prediction"].depth.shape == (32, 64) and (tmp_path / "results" / "panorama_normals.png").exists()


def test_files_are_overwritten_only_when_asked(network: Any, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"README\.md already exists: .* overwrite=True"):
        network.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "notes.txt"]
    assert (tmp_path / "README.md").read_text() == "mine"
    network.save_pretrained(tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(NotADirectoryError, match="is a file"):
        network.save_pretrained(tmp_path / "notes.txt")


def test_a_card_that_cannot_be_written(network: Any, tmp_path: Path) -> None:
    network.card = {"trained_on": tmp_path}
    with pytest.raises(ValueError, match=r"card must be plain data that JSON can hold: .*PosixPath"):
        network.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_failure_leaves_what_was_there(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on the disk")

    monkeypatch.setattr(Path, "write_text", full)  # after gigabytes have been written
    network.card = {}
    with pytest.raises(OSError, match="no space left"):
        network.save_pretrained(tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_low_rank_updates_are_merged(tiny_network: Callable[..., Any], tmp_path: Path) -> None:
    network = tiny_network().eval()
    add_lora(network.encoder, 2)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(".up"):
                nn.init.normal_(value)
    network.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 32, 64)
    loaded = load_model(f"local-dir:{tmp_path}")
    with torch.no_grad():
        torch.testing.assert_close(loaded(image)["depth"], network(image)["depth"], rtol=1e-4, atol=1e-4)
    assert loaded.state_dict().keys() == tiny_network().state_dict().keys()


def test_a_repository_is_read_back_to_the_last_bit(network: Any, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address = network.push_to_hub("user/model", token=hub.token, private=True, message="First")
    assert hub.created == {"user/model": {"visibility": "private"}}
    assert address.startswith(f"{hub.address}/user/model/commit/")
    assert set(hub.commits["user/model"]["main"]) == set(FILES)
    card = hub.content("user/model", "README.md").decode()
    assert 'load_model("hf-hub:user/model")' in card and "\n# model\n" in card
    check_same(load_model("hf-hub:user/model"), network)

    # Again, to the repository that exists now, with the token of the environment: a second commit, the first is kept.
    first = address.rpartition("/")[2]
    with torch.no_grad():
        network.heads.depth.predict.bias.fill_(7)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    second = network.push_to_hub("model").rpartition("/")[2]
    assert second != first and set(hub.commits["user/model"]) == {first, second, "main"}
    check_same(load_model("hf-hub:user/model"), network)
    assert load_model(f"hf-hub:user/model@{first}").heads.depth.predict.bias.item() != 7


@pytest.mark.parametrize(("repository", "token", "error", "sentence"), [
    ("user/model", "hf_wrong", PermissionError, "not accept your token for user/model: log in with `hf auth login`"),
    ("user/model", None, PermissionError, "does not accept your token for user/model"),
    ("other/none", "hf_somebody", PermissionError, "You may not write to other/none .* of your own, or a token"),
    ("other/theirs", "hf_somebody", PermissionError, "You may not write to other/theirs"),
    ("a/b/c", "hf_somebody", ValueError, "must be in the form 'repo_name' or 'namespace/repo_name': 'a/b/c'"),
])  # fmt: skip
def test_what_the_hub_refuses(
    network: Any, hub: Any, repository: str, token: str | None, error: type[Exception], sentence: str
) -> None:
    hub.commit("other/theirs", {"README.md": b"theirs"})
    with pytest.raises(error, match=sentence) as caught:
        network.push_to_hub(repository, token=token)
    assert "\n" not in str(caught.value)
    assert list(hub.commits) == ["other/theirs"] and hub.content("other/theirs", "README.md") == b"theirs"
    assert not hub.uploaded


def test_an_upload_that_breaks_off_changes_nothing(network: Any, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network.push_to_hub("user/model", token=hub.token)
    before = dict(hub.commits["user/model"])
    with torch.no_grad():
        network.heads.depth.predict.bias.fill_(7)
    hub.refuse_uploads = True
    with pytest.raises(PermissionError, match="You may not write to user/model"):
        network.push_to_hub("user/model", token=hub.token)
    assert hub.commits["user/model"] == before


def test_without_a_network(network: Any, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    with pytest.raises(
        ConnectionError, match=r"user/model could not be uploaded to the .* at http://127\.0\.0\.1"
    ) as caught:
        network.push_to_hub("user/model", token=hub.token)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"user/model could not be uploaded .* offline mode") as caught:
        network.push_to_hub("user/model", token=hub.token)
    assert "\n" not in str(caught.value)
