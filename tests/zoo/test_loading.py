import hashlib
import inspect
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import assert_holds, files_below
from safetensors.torch import save_file
from torch import Tensor

import mtpano_zoo
from mtpano_zoo import load_model
from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import describe_network
from mtpano_zoo.files.weights import write_weights
from mtpano_zoo.reference import FORMATS, mtpano
from mtpano_zoo.reference.mtpano import describe
from mtpano_zoo.zoo.entries import Entry, entries

NAMES = [f"kind {i}" for i in range(13)]


def tiny_entry(published: dict[str, Tensor], name: str, **origin: Any) -> Entry:
    """An entry for the network of the state dict."""
    network = describe(published)
    network["init_args"] |= {"classes": NAMES, "input_size": [64, 128]}
    return replace(entries()["mtpano-large.408k"], name=name, network=network, **origin)


@pytest.fixture
def entry(hub, published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """An entry of the zoo whose file lies on the loopback Hub."""
    torch.save({"model": published, "iteration": 3}, tmp_path / "tiny.pth.tar")
    hub.commit("user/tiny", {"tiny.pth.tar": (tmp_path / "tiny.pth.tar").read_bytes()})
    entry = tiny_entry(published, "tiny.test", repository="user/tiny", file="tiny.pth.tar")
    monkeypatch.setattr("mtpano_zoo.zoo.places.entries", lambda: entries() | {entry.name: entry})
    return entry


# Names


def test_a_name_is_downloaded_and_converted_once(entry: Entry, hub, hub_cache: Path, converted, tmp_path: Path) -> None:
    network = load_model("tiny.test")
    assert_holds(network, converted)
    assert not network.training and network.input_size == (64, 128) and network.classes == tuple(NAMES)
    assert network.card["source"] == "tiny.test" and network.card["license"] == entry.license
    conversions = [path for path in (tmp_path / "mtpano_cache" / "tiny.test").iterdir() if path.is_dir()]
    assert [files_below(folder) for folder in conversions] == [["config.json", "model.safetensors", "model.sha256"]]

    shutil.rmtree(hub_cache)  # the download is not needed any more, nor is the Hub
    hub.stop()
    assert_holds(load_model("tiny.test"), converted)
    with torch.no_grad():
        assert set(network(torch.rand(1, 3, 64, 128))) >= {"semseg", "depth", "normals"}


def test_weights_in_the_package(
    published: dict[str, Tensor],
    converted: dict[str, Tensor],
    hub_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No Hub is there: half precision in the file becomes float32, counters stay integers; damage is reported."""
    stored = {key: x.half() if x.is_floating_point() else x for key, x in converted.items()}
    path = tmp_path / "packaged.safetensors"
    save_file(stored, path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    origin = {"repository": "", "file": path.name, "sha256": checksum, "size": path.stat().st_size}
    entry = tiny_entry(published, "tiny.packaged", format="mtpano_zoo", **origin)
    monkeypatch.setattr("mtpano_zoo.zoo.places.entries", lambda: entries() | {entry.name: entry})
    monkeypatch.setattr("mtpano_zoo.zoo.reading.shipped", lambda name: tmp_path / name)
    network = load_model("tiny.packaged")
    assert_holds(network, {key: x.float() if x.is_floating_point() else x for key, x in stored.items()})
    assert {x.dtype for x in network.state_dict().values()} == {torch.float32, torch.int64}
    assert network.card["file"] == path.name and not {"repository", "revision"} & network.card.keys()
    assert files_below(tmp_path) == [path.name]  # nothing is cached
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"^packaged.safetensors is not the file that tiny.packaged stands for"):
        load_model("tiny.packaged")


def test_weights_of_our_own_on_the_hub(
    published: dict[str, Tensor], converted: dict[str, Tensor], hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need no conversion, but are as large in memory as if they had been converted."""
    stored = {key: x.half() if x.is_floating_point() else x for key, x in converted.items()}
    save_file(stored, tmp_path / "own.safetensors")
    hub.commit("user/own", {"model.safetensors": (tmp_path / "own.safetensors").read_bytes()})
    origin = {"repository": "user/own", "file": "model.safetensors"}
    entry = tiny_entry(published, "tiny.own", format="mtpano_zoo", **origin)
    monkeypatch.setattr("mtpano_zoo.zoo.places.entries", lambda: entries() | {entry.name: entry})
    network = load_model("tiny.own")
    assert_holds(network, {key: x.float() if x.is_floating_point() else x for key, x in stored.items()})
    assert network.card["source"] == "tiny.own" and network.card["repository"] == "user/own"
    hub.commit("user/own", {"model.safetensors": b"another commit"})  # the first one is kept to
    assert_holds(load_model("tiny.own"), network.state_dict())


def test_an_unknown_format(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = replace(entry, format="mtpano2")
    monkeypatch.setattr("mtpano_zoo.zoo.places.entries", lambda: {"tiny.test": unknown})
    message = r"The entry tiny\.test of checkpoints\.yaml has the format 'mtpano2', which is not one of mtpano_zoo, dap"
    with pytest.raises(InputError, match=message):
        load_model("tiny.test")


def test_what_the_entry_says_holds_for_a_conversion_of_the_past(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model("tiny.test")
    arguments = entry.network["init_args"] | {"classes": [*NAMES[:12], "corrected"]}
    corrected = replace(entry, network=entry.network | {"init_args": arguments})
    monkeypatch.setattr("mtpano_zoo.zoo.places.entries", lambda: {"tiny.test": corrected})
    assert load_model("tiny.test").classes[-1] == "corrected"


def test_another_converter_converts_anew(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model("tiny.test")
    of_today = Path(inspect.getsourcefile(mtpano) or "").read_text()
    (tmp_path / "tomorrow.py").write_text(f"{of_today}# a version of tomorrow\n")
    spec = spec_from_file_location("tomorrow", tmp_path / "tomorrow.py")
    tomorrow = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tomorrow", tomorrow)
    spec.loader.exec_module(tomorrow)
    monkeypatch.setitem(FORMATS, "mtpano", tomorrow.FORMAT)
    load_model("tiny.test")
    assert files_below(tmp_path / "mtpano_cache" / "tiny.test").count("model.safetensors") == 2


def test_a_damaged_conversion_is_made_again(entry: Entry, converted, tmp_path: Path) -> None:
    load_model("tiny.test")
    (kept,) = (tmp_path / "mtpano_cache").rglob("model.safetensors")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-10])
    assert_holds(load_model("tiny.test"), converted)
    assert kept.read_bytes() == whole
    kept.write_bytes(whole[:-100] + bytes(100))  # whole, but not what was written
    assert_holds(load_model("tiny.test"), converted)
    assert kept.read_bytes() == whole


def test_a_conversion_by_another_release_is_made_again(entry: Entry, converted, tmp_path: Path) -> None:
    load_model("tiny.test")
    (kept,) = (tmp_path / "mtpano_cache").rglob("model.safetensors")
    whole = kept.read_bytes()
    save_file({"another.name": torch.zeros(1)}, kept)
    kept.with_name("model.sha256").write_text(hashlib.sha256(kept.read_bytes()).hexdigest())
    assert_holds(load_model("tiny.test"), converted)
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written(entry: Entry, converted, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"tiny\.test is loaded, but could not be kept in .*MTPANO_CACHE") as caught:
        network = load_model("tiny.test")
    assert len(caught) == 1
    assert_holds(network, converted)


def test_a_disk_that_is_full(entry: Entry, converted, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    load_model("tiny.test")
    (kept,) = (tmp_path / "mtpano_cache").rglob("model.safetensors")
    shutil.rmtree(kept.parent)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # files end there as on a full disk
    try:
        with pytest.warns(UserWarning, match="will be converted again next time") as caught:
            network = load_model("tiny.test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(caught) == 1 and files_below(kept.parent) == []
    assert_holds(network, converted)


def test_a_published_file_that_does_not_fit(entry: Entry, hub, published, tmp_path: Path) -> None:
    torch.save({"model": published | {"heads.layout.weight": torch.ones(1)}}, tmp_path / "other.pth.tar")
    hub.commit("user/tiny", {"tiny.pth.tar": (tmp_path / "other.pth.tar").read_bytes()})
    with pytest.raises(ValueError, match=r"tiny\.pth\.tar of user/tiny cannot be loaded: .*heads\.layout\.weight"):
        load_model("tiny.test")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no model 'mtpano-larg\.408' in the zoo; did you mean 'mtpano-large\.408k'"):
        load_model("mtpano-larg.408")


# Repositories and folders


def write(network, folder: Path) -> Path:
    write_weights(folder, network.state_dict(), describe_network(network) | {"card": {"description": "tiny"}})
    return folder


@pytest.mark.parametrize("source", ["local-dir:{}", "{}", "{}/model.safetensors", "{}/renamed.safetensors"])
def test_a_folder(source: str, tmp_path: Path, tiny_network) -> None:
    network = tiny_network()
    folder = write(network, tmp_path / "tiny")
    shutil.copy(folder / "model.safetensors", folder / "renamed.safetensors")
    loaded = load_model(source.format(folder))
    assert_holds(loaded, network.state_dict())
    assert loaded.card == {"description": "tiny"} and not loaded.training


def test_a_folder_without_what_it_takes(tmp_path: Path, tiny_network) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*absent"):
        load_model(f"local-dir:{tmp_path / 'absent'}")
    folder = write(tiny_network(), tmp_path / "tiny")
    shutil.move(folder / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no weight file"):
        load_model(folder)
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*says which network the weights belong to"):
        load_model(tmp_path / "model.safetensors")


def test_a_repository(hub, tmp_path: Path, tiny_network) -> None:
    first, second = tiny_network(), tiny_network(input_size=(64, 128))
    commits = []
    for network, name in ((first, "first"), (second, "second")):
        folder = write(network, tmp_path / name)
        commits.append(hub.commit("user/tiny", {path.name: path.read_bytes() for path in folder.iterdir()}))

    assert_holds(load_model("hf-hub:user/tiny"), second.state_dict())
    loaded = load_model(f"hf-hub:user/tiny@{commits[0]}")
    assert_holds(loaded, first.state_dict())
    assert loaded.input_size == (32, 64)

    before = len(hub.requests)
    assert_holds(load_model(f"hf-hub:user/tiny@{commits[0]}"), first.state_dict())
    assert len(hub.requests) == before  # a commit does not change
    with pytest.raises(FileNotFoundError, match="user/tiny has no revision v2"):
        load_model("hf-hub:user/tiny@v2")
    hub.commit("user/readme", {"README.md": b"# To be done"})
    with pytest.raises(FileNotFoundError, match=r"user/readme has no file config\.json"):
        load_model("hf-hub:user/readme")


def test_weights_of_a_repository_are_verified(hub, tmp_path: Path, tiny_network) -> None:
    folder = write(tiny_network(), tmp_path / "tiny")
    hub.commit("user/tiny", {path.name: path.read_bytes() for path in folder.iterdir()})
    weights = (folder / "model.safetensors").read_bytes()
    hub.spoilt[weights] = weights[:-1] + bytes([weights[-1] ^ 1])
    with pytest.raises(ValueError, match=r"model\.safetensors has the SHA-256 [0-9a-f]{64} instead of [0-9a-f]{64}"):
        load_model("hf-hub:user/tiny")


# What can be changed


@pytest.mark.parametrize("source", ["tiny.test", "folder", "checkpoint"])
def test_other_classes(source: str, entry: Entry, tmp_path: Path, tiny_network, tiny_checkpoint: Path) -> None:
    network = tiny_network(palette=[(0, 0, 0)] * 3)
    sources = {"folder": str(write(network, tmp_path / "tiny")), "checkpoint": str(tiny_checkpoint)}
    address = sources.get(source, source)
    original = load_model(address)
    with pytest.warns(UserWarning, match="your 2 classes.*untrained"):
        changed = load_model(address, classes=["sofa", "wall"])
    assert changed.classes == ("sofa", "wall") and changed.config["classes"] == ["sofa", "wall"]
    assert changed.palette is None
    own, before = changed.state_dict(), original.state_dict()
    new = sorted(key for key in own if own[key].shape != before[key].shape)
    assert new == sorted(
        f"{layer}.{part}"
        for layer in ("auxiliary_heads.semseg.predictor", "heads.semseg.classify")
        for part in ("bias", "weight")
    )
    assert all(torch.equal(own[key], before[key]) for key in own.keys() - set(new))
    assert all(0 < own[key].abs().max() <= 1 for key in new)
    assert all(parameter.requires_grad for parameter in changed.parameters())
    assert not any("results" in line for line in changed.card)


def test_its_own_classes_change_nothing(tiny_checkpoint: Path) -> None:
    network = load_model(tiny_checkpoint)
    assert_holds(load_model(tiny_checkpoint, classes=network.classes), network.state_dict())


def test_colours_of_the_classes(tiny_checkpoint: Path) -> None:
    network = load_model(tiny_checkpoint, classes=["sofa", "wall"], palette=[[1, 2, 3], [4, 5, 6]])
    assert network.palette == network.config["palette"] == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ValueError, match="palette has 1 colours for 3 classes"):
        load_model(tiny_checkpoint, palette=[[1, 2, 3]])


@pytest.mark.filterwarnings("ignore:.*for your 2 classes")
@pytest.mark.parametrize("convention", ["sphere", "paper"])
@pytest.mark.parametrize("tasks", [["semseg"], ["depth"], ["normals", "depth"]])
def test_a_part_of_the_tasks(
    tasks: list[str], convention: str, tiny_network: Callable[..., Any], tmp_path: Path
) -> None:
    whole = tiny_network(convention=convention, palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    whole.save_pretrained(tmp_path)
    network = load_model(tmp_path, tasks=tasks)
    expected = tiny_network(convention=convention, tasks=tasks).state_dict()
    assert_holds(network, {key: value for key, value in whole.state_dict().items() if key in expected})
    assert network.state_dict().keys() == expected.keys()
    outputs = network(torch.rand(1, 3, 32, 64))
    assert outputs.keys() - {"aux", "ext"} == outputs["aux"].keys() == set(tasks)
    assert (network.palette is not None) == ("semseg" in tasks)
    if tasks == ["semseg"]:
        assert load_model(tmp_path, tasks=tasks, classes=["sofa", "wall"]).classes == ("sofa", "wall")
        with pytest.raises(ValueError, match="leave `classes` out"):
            load_model(tmp_path, tasks=["depth"], classes=["sofa", "wall"])
    else:
        network.save_pretrained(tmp_path / "part")
        with pytest.raises(ValueError, match="has no semseg: its tasks are depth"):
            load_model(tmp_path / "part", tasks=["semseg", "depth"])


def test_a_part_of_the_tasks_keeps_no_scores_of_the_whole(tiny_network: Callable[..., Any], tmp_path: Path) -> None:
    network = tiny_network()
    origin = {"description": "rooms", "license": {"weights": "MIT"}}
    network.card = origin | {"results": [{"dataset": "rooms", "normals mean": 9.7}], "limitations": ["mirrors"]}
    network.save_pretrained(tmp_path)
    assert load_model(tmp_path, tasks=["depth"]).card == origin
    assert load_model(tmp_path, tasks=network.tasks).card == network.card


def test_another_input_size(tiny_checkpoint: Path) -> None:
    network = load_model(tiny_checkpoint, input_size=(64, 128))
    assert network.input_size == (64, 128) and network.config["input_size"] == [64, 128]
    assert_holds(network, load_model(tiny_checkpoint).state_dict())


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("palette", (3, "red", [[1, 2]] * 3, [[256, 0, 0]] * 3, [[-1, 0, 0]] * 3, [[0.5, 0, 0]] * 3)),
        ("input_size", (64, "64x128", (64, 128.0), (64,))),
        ("classes", (5, "wall", ["wall", 3])),
        ("tasks", (5, "depth", [3], [], [["depth"]])),
    ],
)
def test_an_option_of_another_kind_is_refused(option: str, values: Sequence[Any], tiny_checkpoint: Path) -> None:
    for value in values:
        with pytest.raises(InputError, match=option):
            load_model(tiny_checkpoint, **{option: value})


def test_an_empty_source_is_not_the_working_directory(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    for source in ("", "local-dir:"):
        with pytest.raises(InputError, match="names no network"):
            load_model(source)
    with pytest.raises(InputError, match=r"did you mean 'mtpano-tiny\.rooms'"):
        load_model("MTPANO-TINY.ROOMS")


def test_what_belongs_to_the_weights_cannot_be_changed(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="bridge_width cannot be changed in a network with weights; load_model takes"):
        load_model(tiny_checkpoint, bridge_width=32)


def test_loading_says_nothing_else(entry: Entry, tiny_checkpoint: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("tiny.test")
        load_model(tiny_checkpoint)


def test_public_names() -> None:
    assert {"load_model", "list_models", "Prediction"} <= set(mtpano_zoo.__all__)
    assert all(getattr(mtpano_zoo, name) is not None for name in mtpano_zoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mtpano_zoo.nothing
