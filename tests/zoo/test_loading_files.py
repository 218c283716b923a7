"""`load_model` with the path of a file: our checkpoints, published ones, and what is none."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loaded import assert_holds, files_below

from mtpano_zoo import load_model
from mtpano_zoo.files.checkpoint import describe_network
from mtpano_zoo.layers import add_lora
from mtpano_zoo.reference.mtpano import convert_state_dict
from mtpano_zoo.zoo.entries import entries

CLASSIFIERS = ("heads.semseg.head.4.", "aux_heads.semseg.classifier.")


def test_a_checkpoint_of_training(tiny_checkpoint: Path) -> None:
    stored = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    network = load_model(tiny_checkpoint)
    assert_holds(network, {key.removeprefix("network."): value for key, value in stored.items()})
    assert not network.training and all(parameter.requires_grad for parameter in network.parameters())


def test_low_rank_updates_are_merged(tiny_network, tmp_path: Path) -> None:
    network = tiny_network()
    description, plain = describe_network(network), network.state_dict().keys()
    add_lora(network.encoder, 2)
    adapted = {
        f"network.{key}": torch.randn_like(x) for key, x in network.state_dict().items() if x.is_floating_point()
    }
    weights = {f"network.{key}": x for key, x in network.state_dict().items()} | adapted
    torch.save({"network": description, "state_dict": weights}, tmp_path / "adapted.ckpt")
    network.load_state_dict({key.removeprefix("network."): x for key, x in weights.items()})
    loaded = load_model(tmp_path / "adapted.ckpt")
    assert loaded.state_dict().keys() == plain
    tokens = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected, _ = network.eval().encoder(tokens)
        given, _ = loaded.encoder(tokens)
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(("suffix", "zipped"), [(".pth", False), (".pth.tar", True)])
def test_a_published_file_by_its_path(
    suffix: str, zipped: bool, published, converted, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / f"found{suffix}"
    state = {f"module.{key}": value for key, value in published.items()}
    torch.save({"model": state}, file, _use_new_zipfile_serialization=zipped)
    network = load_model(file)
    assert_holds(network, converted)
    assert network.classes[0] == "class_0" and network.card == {}
    assert network.input_size == (512, 1024) and network.convention == "paper"
    assert files_below(tmp_path) == [file.name]


def test_half_precision_becomes_single(published, tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in published.items()}
    torch.save({"model": half | {key: published[key] for key in ("RayDir", "PE")}}, tmp_path / "half.pth")
    network = load_model(tmp_path / "half.pth")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert_holds(network, convert_state_dict(half | {key: published[key] for key in ("RayDir", "PE")}))


def test_a_published_file_with_150_classes_has_those_of_ade20k(published, tmp_path: Path) -> None:
    state = {key: x[:1].expand(150, *x.shape[1:]) if key.startswith(CLASSIFIERS) else x for key, x in published.items()}
    torch.save({"model": state}, tmp_path / "ade.pth")
    assert load_model(tmp_path / "ade.pth").classes == entries()["mtpano-large.408k"].classes


class Surprise:
    def __init__(self, run: Callable[..., object], *arguments: object) -> None:
        self.call = run, arguments

    def __reduce__(self) -> tuple:
        return self.call


def test_a_file_with_code_is_refused_and_not_run(published, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for zipped in (True, False):
        surprise = Surprise(shutil.copy, __file__, str(ran))
        torch.save({"model": published, "x": surprise}, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"bad\.pth holds more than tensors and plain data.*none of it was run"):
            load_model(tmp_path / "bad.pth")
    assert not ran.exists()


def test_a_truncated_file(published, tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"model": published}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
        content = (tmp_path / "whole.pth").read_bytes()
        for size in (0, 1000, len(content) // 2, len(content) - 1000):
            (tmp_path / "part.pth").write_bytes(content[:size])
            with pytest.raises(ValueError, match=r"part\.pth cannot be read as a checkpoint: it is .*truncated"):
                load_model(tmp_path / "part.pth")


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02}", b"PK\x03\x04", pickle.dumps({"model": Path("x")})])
def test_a_file_that_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.pth (cannot be read as a checkpoint|holds more than tensors).* run"):
        load_model(tmp_path / "text.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "sky"}, "classes are names in a list"),
        ({"classes": [1, 2]}, "classes are names in a list"),
        ({"input_size": (0, 0)}, "input_size is height and width"),
        ({"input_size": (64,)}, "input_size is height and width"),
        ({"input_size": (63, 126)}, "input_size is 63 x 126, but both must be multiples of 16"),
        ({"input_size": (64, 96)}, "input_size"),
        ({"device": "nonsense"}, "The device 'nonsense' cannot be used here"),
    ],
)
def test_arguments_that_cannot_be(options, message: str, published, tmp_path: Path) -> None:
    torch.save({"model": published}, tmp_path / "own.pth")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "own.pth", **options)


def test_weights_of_an_unknown_network(tmp_path: Path) -> None:
    torch.save({"model": {"stem.weight": torch.zeros(1)}}, tmp_path / "other.pth.tar")
    with pytest.raises(ValueError, match=r"other\.pth\.tar cannot be loaded: No published format has its keys"):
        load_model(tmp_path / "other.pth.tar")
    torch.save({"epoch": 3}, tmp_path / "other.pth.tar")
    with pytest.raises(ValueError, match=r"other\.pth\.tar cannot be loaded: The checkpoint holds no weights"):
        load_model(tmp_path / "other.pth.tar")


def test_a_path_without_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*best\.ckpt"):
        load_model(tmp_path / "best.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at best\.safetensors"):
        load_model("best.safetensors")
