import hashlib
import json
from pathlib import Path

import pytest
import torch

import mtpano_zoo
from mtpano_zoo import list_models, load_model
from mtpano_zoo.models.base import NORMALS_FRAMES
from mtpano_zoo.zoo import entries

REQUIRED = {
    "description", "paper", "repository", "file", "revision", "sha256", "format", "network", "arguments",
    "depth_unit", "license", "upstream", "training_data",
}  # fmt: skip


@pytest.mark.parametrize("name", list_models())
def test_entries_are_complete(name: str) -> None:
    entry = entries()[name]
    assert set(entry) == REQUIRED
    assert set(entry["license"]) == {"code", "weights"}
    assert all(set(upstream) == {"name", "license"} for upstream in entry["upstream"])
    with torch.device("meta"):
        network = mtpano_zoo.models.NETWORKS[entry["network"]](**entry["arguments"])
    assert len(network.classes) == len(set(network.classes)) == 150
    assert json.dumps(network.config)


def test_patterns() -> None:
    assert list_models("mtpano*") == list_models() == ["mtpano-large.140k", "mtpano-large.408k"]
    assert list_models("*.408k") == ["mtpano-large.408k"]
    assert list_models("resnet*") == []


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no model 'mtpano-larg\.408' in the zoo; did you mean 'mtpano-large\.408k'"):
        load_model("mtpano-larg.408")


def test_a_path_without_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*best\.ckpt"):
        load_model(tmp_path / "best.ckpt")


def test_weights_that_training_did_not_write(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "other.pth.tar")
    with pytest.raises(ValueError, match=r"`mtpano fit` has not written it: published checkpoints are loaded by their"):
        load_model(tmp_path / "other.pth.tar")
    with pytest.raises(ValueError, match="weights without their network"):
        load_model(tmp_path / "model.safetensors")


def test_published_normals_are_turned_into_our_frame() -> None:
    """A wall straight ahead faces back: (-1, 0, 0) in (forward, up, left), (0, 0, -1) in ours; a floor faces up."""
    turn = torch.tensor(NORMALS_FRAMES["forward-up-left"])
    assert (turn @ torch.tensor([-1.0, 0.0, 0.0])).tolist() == [0, 0, -1]
    assert (turn @ torch.tensor([0.0, 1.0, 0.0])).tolist() == [0, -1, 0]
    assert (turn @ torch.tensor([0.0, 0.0, 1.0])).tolist() == [-1, 0, 0]
    assert torch.linalg.det(turn) == -1  # the published frame is left-handed


def test_a_published_file_is_downloaded_and_loaded_strictly(
    tmp_path: Path, tiny_network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's names are those of the published code: here a renamed copy of one of our own networks."""
    network = tiny_network(variant="paper")
    file = tmp_path / "mtpano_model_408k.pth.tar"
    torch.save({"model": network.state_dict()}, file)
    entry = {"repository": "user/repo", "file": file.name, "revision": "abc", "network": "PDBridgeNet"}
    entry["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    entry["arguments"] = network.config
    asked: list[tuple] = []

    def download(*arguments, **options) -> str:
        asked.append((*arguments, options))
        return str(file)

    monkeypatch.setattr("mtpano_zoo.zoo.loading.hf_hub_download", download)
    monkeypatch.setattr("mtpano_zoo.zoo.loading.entries", lambda: {"mtpano-tiny.test": entry})
    monkeypatch.setattr("mtpano_zoo.zoo.loading.convert_state_dict", lambda state: state)
    loaded = load_model("mtpano-tiny.test")
    assert asked == [("user/repo", file.name, {"revision": "abc"})]
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in network.state_dict().items())

    entry["sha256"] = "0" * 64
    with pytest.raises(ValueError, match=r"has the checksum [0-9a-f]{64} instead of 0{64}; delete it"):
        load_model("mtpano-tiny.test")
    entry["sha256"] = None
    state = network.state_dict()
    del state["necks.depth.project.0.weight"]
    torch.save({"model": state}, file)
    with pytest.raises(ValueError, match=r"missing necks\.depth\.project\.0\.weight"):
        load_model("mtpano-tiny.test")


def test_public_names() -> None:
    assert {"load_model", "list_models", "Prediction"} <= set(mtpano_zoo.__all__)
    assert all(getattr(mtpano_zoo, name) is not None for name in mtpano_zoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mtpano_zoo.nothing
