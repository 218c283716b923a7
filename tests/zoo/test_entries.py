import json
import re
from pathlib import Path

import pytest
import yaml

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.reference import FORMATS
from mtpano_zoo.resources import shipped
from mtpano_zoo.zoo.building import build_network
from mtpano_zoo.zoo.entries import entries, generators, list_models, parse_entry

VALUES = yaml.safe_load(shipped("checkpoints.yaml").read_text(encoding="utf-8"))["mtpano-large.408k"]


@pytest.mark.parametrize("name", list_models())
def test_entries_build_their_networks(name: str) -> None:
    entry = entries()[name]
    assert entry.format == "mtpano_zoo" or (entry.format in FORMATS and not entry.packaged)
    description = {**entry.network, "card": entry.card()}
    assert json.loads(json.dumps(description)) == description
    network = build_network(entry.network, name)
    assert len(set(network.classes)) == len(network.classes) and bool(network.classes) == ("semseg" in entry.tasks)
    for attribute in ("tasks", "classes", "input_size"):
        assert getattr(network, attribute) == getattr(entry, attribute)
    for argument, stated in entry.network["init_args"].items():
        built = network.config[argument]
        if isinstance(stated, dict) and "init_args" in stated:  # a part: its class, and what it is built with
            assert built["class_path"].endswith(stated["class_path"])
            built, stated = built["init_args"], built["init_args"] | stated["init_args"]
        assert built == stated, argument


@pytest.mark.parametrize("name", list_models())
def test_entries_are_pinned_together_or_not_at_all(name: str) -> None:
    entry = entries()[name]
    if entry.packaged:  # in the package, whose own revision it has
        assert entry.revision is None and len(entry.sha256 or "") == 64 and entry.size
        return
    assert (entry.sha256 is None) == (entry.size is None)
    if entry.sha256:
        assert len(entry.sha256) == 64
    if entry.revision:
        assert len(entry.revision) == 40 and entry.sha256


BY_HAND = [name for name, entry in entries().items() if entry.page]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_file_on_no_hub_is_downloaded_by_hand(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of the files are those of the authors' list, whose folders are those of the students."""
    entry = entries()[name]
    folder, file = entry.file.split("/")
    listed = "HoHoNet" if folder == "EGFormer" else folder  # the list repeats the names
    assert (
        re.fullmatch(rf"{listed}(_st3d|_SpatialAudioGen)?\.pth", file) and entry.license["weights"] == "none published"
    )
    kinds = {"": "matterport3d", "_st3d": "structured3d", "_SpatialAudioGen": "spatialaudiogen"}
    assert name.split(".")[1] == kinds[file.removeprefix(listed).removesuffix(".pth")]
    with pytest.raises(FileNotFoundError, match="is not on the Hub") as error:
        load_model(name)
    assert entry.page in str(error.value) and f'load_model("/path/to/{entry.file}")' in str(error.value)
    assert main(["models", name]) == 0
    assert f"download by hand, {entry.page}" in capsys.readouterr().out


def test_the_list_of_classes_is_that_of_ade20k() -> None:
    """Positions that the published code names: 2 is the sky, 8 the window."""
    classes = entries()["mtpano-large.408k"].classes
    assert (classes[0], classes[2], classes[8], classes[149]) == ("wall", "sky", "windowpane", "flag")


def test_a_generator_is_listed_and_is_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    """What the published file is, of which nobody here could read the licence: 64 ranks on FLUX.1-dev."""
    (entry,) = generators().values()
    assert entry.name == "dit360.flux-dev-lora" and entry.name not in list_models()
    assert entry.license["weights"].startswith("unknown") and entry.sha256 is None
    assert entry.prefix == "This is a panorama. The image shows "
    assert main(["models", "dit360"]) == 0
    assert "panoramas from texts" in capsys.readouterr().out
    with pytest.raises(InputError, match="mtpano generate TEXT --base FLUX --adapter dit360"):
        load_model("dit360.flux-dev-lora")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paper": ...}, "The entry tiny of checkpoints.yaml lacks paper"),
        ({"kind": "painter"}, "The entry tiny of checkpoints.yaml has the kind 'painter'"),
        ({"kind": "generator"}, "The entry tiny of checkpoints.yaml lacks base"),
        ({"colour": "red"}, "The entry tiny of checkpoints.yaml has the unknown key colour"),
        ({"license": {"code": "MIT"}}, r"lacks license\.weights"),
        ({"upstream": [{"name": "DINOv3", "licence": "?", "license": "?"}]}, r"has the unknown key upstream\.licence"),
        ({"results": [{"dataset": "Rooms", "mIoU": 3}]}, r"lacks results\.protocol"),
        ({"network": {"class_path": "PDBridgeNet"}}, r"lacks network\.init_args"),
        ({"network": VALUES["network"] | {"config": {}}}, r"has the unknown key network\.config"),
    ],
)
def test_unknown_and_missing_keys(change: dict, message: str) -> None:
    values = {key: value for key, value in (VALUES | change).items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        parse_entry("tiny", values)


def test_patterns() -> None:
    assert list_models("mtpano-large*") == ["mtpano-large.140k", "mtpano-large.408k"]
    assert list_models() == sorted(entries()) and set(list_models("mtpano-large*")) < set(list_models())
    assert list_models("*.408k") == ["mtpano-large.408k"]
    assert list_models("tiny") == list_models("TINY") == list_models("tiny.r") == ["mtpano-tiny.rooms"]
    assert list_models("tiny*") == []  # a pattern is the whole name
    assert list_models("resnet*") == []


def test_frames_and_the_unit_of_depth_need_not_be_stated() -> None:
    entry = parse_entry("tiny", {key: value for key, value in VALUES.items() if key not in ("frames", "depth_unit")})
    assert (entry.frames, entry.depth_unit) == ({}, "")
    stated = parse_entry("tiny", VALUES)
    assert stated.frames["normals"] == "forward-up-left" and "frames" not in stated.card()  # converting has turned them


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
