import json
from pathlib import Path

import pytest
import torch
import yaml

from mtpano_zoo.cli import main
from mtpano_zoo.models import NETWORKS
from mtpano_zoo.models.base import NORMALS_FRAMES
from mtpano_zoo.reference import FORMATS
from mtpano_zoo.resources import shipped
from mtpano_zoo.zoo.entries import entries, list_models, parse_entry

VALUES = yaml.safe_load(shipped("checkpoints.yaml").read_text(encoding="utf-8"))["mtpano-large.408k"]


@pytest.mark.parametrize("name", list_models())
def test_entries_build_their_networks(name: str) -> None:
    entry = entries()[name]
    packaged, classes = not entry.repository, 150 if entry.repository else 13
    assert entry.format == "mtpano_zoo" if packaged else entry.format in FORMATS
    description = entry.network_description()
    assert json.loads(json.dumps(description)) == description
    with torch.device("meta"):
        network = NETWORKS[description["class"]](**description["config"])
    assert len(network.classes) == len(set(network.classes)) == classes
    for attribute in ("tasks", "classes", "input_size", "normals_frame"):
        assert getattr(network, attribute) == getattr(entry, attribute)
    assert set(entry.arguments).isdisjoint({"classes", "input_size", "image_mean", "image_std", "pretrained"})


@pytest.mark.parametrize("name", list_models())
def test_entries_are_pinned_together_or_not_at_all(name: str) -> None:
    entry = entries()[name]
    if not entry.repository:  # in the package, whose own revision it has
        assert entry.revision is None and len(entry.sha256 or "") == 64 and entry.size
        return
    assert {entry.revision is None, entry.sha256 is None, entry.size is None} in ({True}, {False})
    if entry.revision:
        assert len(entry.revision) == 40 and len(entry.sha256 or "") == 64


def test_the_list_of_classes_is_that_of_ade20k() -> None:
    """Positions that the published code names: 2 is the sky, 8 the window."""
    classes = entries()["mtpano-large.408k"].classes
    assert (classes[0], classes[2], classes[8], classes[149]) == ("wall", "sky", "windowpane", "flag")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paper": ...}, "The entry tiny of checkpoints.yaml lacks paper"),
        ({"colour": "red"}, "The entry tiny of checkpoints.yaml has the unknown key colour"),
        ({"license": {"code": "MIT"}}, r"lacks license\.weights"),
        ({"upstream": [{"name": "DINOv3", "licence": "?", "license": "?"}]}, r"has the unknown key upstream\.licence"),
        ({"results": [{"dataset": "Rooms", "mIoU": 3}]}, r"lacks results\.protocol"),
    ],
)
def test_unknown_and_missing_keys(change: dict, message: str) -> None:
    values = {key: value for key, value in (VALUES | change).items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        parse_entry("tiny", values)


def test_patterns() -> None:
    assert list_models("mtpano-large*") == ["mtpano-large.140k", "mtpano-large.408k"]
    assert list_models("mtpano*") == list_models() == [*list_models("mtpano-large*"), "mtpano-tiny.rooms"]
    assert list_models("*.408k") == ["mtpano-large.408k"]
    assert list_models("tiny") == list_models("TINY") == list_models("tiny.r") == ["mtpano-tiny.rooms"]
    assert list_models("tiny*") == []  # a pattern is the whole name
    assert list_models("resnet*") == []


def test_published_normals_are_turned_into_our_frame() -> None:
    """A wall straight ahead faces back: (-1, 0, 0) in (forward, up, left), (0, 0, -1) in ours; a floor faces up."""
    turn = torch.tensor(NORMALS_FRAMES["forward-up-left"])
    assert (turn @ torch.tensor([-1.0, 0.0, 0.0])).tolist() == [0, 0, -1]
    assert (turn @ torch.tensor([0.0, 1.0, 0.0])).tolist() == [0, -1, 0]
    assert (turn @ torch.tensor([0.0, 0.0, 1.0])).tolist() == [-1, 0, 0]
    assert torch.linalg.det(turn) == -1  # the published frame is left-handed


def test_the_readme_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--markdown"]) == 0
    printed = capsys.readouterr().out
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    _, _, after = readme.partition("<!-- printed by `mtpano models --markdown` -->\n")
    table, end, _ = after.partition("<!-- end -->")
    assert end and table.strip() == printed.strip()


def test_the_command_says_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "*408k"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mtpano-large.408k"
    values = {line[:26].strip(): line[26:] for line in lines[1:]}
    assert values["size"] == values["licence of the weights"] == "unknown"
    assert (values["tasks"], values["classes"]) == ("semseg, depth, normals", "150")
