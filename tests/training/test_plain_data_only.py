"""A checkpoint is a file of this machine that holds plain data: nothing else is read, and nothing in it is executed."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_training import TinyDataModule, TinyNetwork

from mtpano_zoo.cli import main
from mtpano_zoo.training import MultiTaskModule
from mtpano_zoo.training.resuming import read_plain_data_only

VERBS = ("fit", "validate", "test", "predict")
CONFIG = {
    "model": {"network": {"class_path": "TinyNetwork"}},
    "data": {"class_path": "TinyDataModule"},
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False},
}


class Payload:
    """Makes a file when it is unpickled by anything that executes what it reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Handler(SimpleHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a configuration and a whole checkpoint that makes the file `ran` when it is executed."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    module = MultiTaskModule(TinyNetwork())
    trainer = Trainer(accelerator="cpu", barebones=True)
    trainer.strategy.connect(module)
    trainer.save_checkpoint("evil.ckpt")
    content = torch.load("evil.ckpt", weights_only=True)
    torch.save(content | {"payload": Payload(tmp_path / "ran")}, "evil.ckpt")
    return tmp_path


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of the folder and the requests so far; whatever is fetched would be kept in the folder."""
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch_home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    requests: list[str] = []
    handler = type("BoundHandler", (Handler,), {"requests": requests})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error that the command ends with."""
    assert main([*arguments, "--config", "tiny.yaml"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_payload_works(folder: Path, server: tuple[str, list[str]]) -> None:
    """Without a guard, Lightning fetches the file and runs what is in it."""
    strategy = SingleDeviceStrategy()
    strategy.load_checkpoint(f"{server[0]}/evil.ckpt")
    assert (folder / "ran").exists() and server[1]
    (folder / "ran").unlink()
    read_plain_data_only(strategy)
    with pytest.raises(ValueError, match="is a URL"):
        strategy.load_checkpoint(f"{server[0]}/evil.ckpt")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("options", [[], ["--weights_only=false"], ["--weights_only=true"]])
@pytest.mark.parametrize("verb", VERBS)
def test_addresses_on_the_command_line(
    verb: str, options: list[str], folder: Path, server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, requests = server
    for path in (f"{address}/evil.ckpt", f"file://{folder}/evil.ckpt", f"simplecache::file://{folder}/evil.ckpt"):
        line = refusal(capsys, verb, f"--ckpt_path={path}", *options)
        assert ("never allowed here" if "--weights_only=false" in options else "is a URL") in line
    assert requests == [] and not (folder / "ran").exists() and not (folder / "torch_home").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_local_file_with_code(verb: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Neither an option nor an environment variable of PyTorch lets it run."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert "none of it was run" in refusal(capsys, verb, "--ckpt_path=evil.ckpt")
    assert "never allowed here" in refusal(capsys, verb, "--ckpt_path=evil.ckpt", "--weights_only=false")
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG | {"ckpt_path": "evil.ckpt"}))
    assert "none of it was run" in refusal(capsys, verb)
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG | {"ckpt_path": "evil.ckpt", "weights_only": False}))
    assert "never allowed here" in refusal(capsys, verb)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_from_python(verb: str, folder: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    paths = (f"{server[0]}/evil.ckpt", f"file://{folder}/evil.ckpt", "evil.ckpt", folder / "evil.ckpt")
    for path in paths:
        for options in ({}, {"weights_only": False}, {"weights_only": True}):
            trainer = Trainer(accelerator="cpu", barebones=True, max_epochs=1)
            with pytest.raises(ValueError, match=r"is a URL|none of it was run|never allowed here"):
                getattr(trainer, verb)(MultiTaskModule(TinyNetwork()), TinyDataModule(), ckpt_path=path, **options)
    assert server[1] == [] and not (folder / "ran").exists()


@pytest.mark.parametrize("keyword", ["last", "best"])
def test_keywords_of_lightning(keyword: str, folder: Path, server: tuple[str, list[str]]) -> None:
    """The file that Lightning finds is read no other way, nor is one whose path was read from a checkpoint."""
    Path("kept").mkdir()
    (folder / "evil.ckpt").rename("kept/last.ckpt")
    for path in (f"{server[0]}/kept/last.ckpt", f"file://{folder}/kept/last.ckpt", "kept/last.ckpt"):
        keep = ModelCheckpoint("kept", save_last=True)
        keep.best_model_path = path
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[keep], default_root_dir=folder, **quiet)
        with pytest.raises(ValueError, match=r"is a URL|none of it was run"):
            trainer.test(MultiTaskModule(TinyNetwork()), TinyDataModule(), ckpt_path=keyword)
    assert server[1] == [] and not (folder / "ran").exists()


def test_a_module_is_not_built_from_a_file(folder: Path, server: tuple[str, list[str]]) -> None:
    for path in (f"{server[0]}/evil.ckpt", "evil.ckpt"):
        with pytest.raises(ValueError, match=r"`load_model\(path\)` reads the network"):
            MultiTaskModule.load_from_checkpoint(path, network=TinyNetwork(), weights_only=False)
    assert server[1] == [] and not (folder / "ran").exists()


def test_a_checkpoint_does_not_configure_the_run(folder: Path) -> None:
    """Lightning would let the file name another network, such as one to download."""
    content = torch.load("evil.ckpt", weights_only=False)
    del content["payload"]
    named = {"class_path": "Pretrained", "init_args": {"source": "hf-hub:somebody/else"}}
    torch.save(content | {"hyper_parameters": {"network": named}}, "named.ckpt")
    assert main(["test", "--config", "tiny.yaml", "--ckpt_path=named.ckpt"]) == 0
    saved = yaml.safe_load(Path("runs/version_0/config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["class_path"] == "tiny_training.TinyNetwork"


@pytest.mark.parametrize("source", ["mtpano-tiny.rooms", "hf-hub:user/name", "local-dir:x", "x", "x/a.safetensors"])
def test_what_load_model_reads_is_given_as_a_network(
    source: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x").mkdir()
    Path("x/config.json").write_text("{}")
    Path("x/a.safetensors").touch()
    line = refusal(capsys, "test", f"--ckpt_path={source}")
    assert f"--model.network=Pretrained --model.network.init_args.source={source}" in line


def test_the_advice_works(folder: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    network = ["--model.network=Pretrained", "--model.network.init_args.source=mtpano-tiny.rooms"]
    data = ["--data=RoomsDataModule", *(f"--data.{name}" for name in ("height=32", "width=64", "test_count=1"))]
    Path("tiny.yaml").write_text(yaml.safe_dump({"trainer": CONFIG["trainer"]}))
    assert main(["test", "--config", "tiny.yaml", *network, *data]) == 0
    assert "test/semseg/mIoU" in capsys.readouterr().out
    assert not any("untrained" in str(warning.message) for warning in recwarn)


def test_a_published_file_is_no_checkpoint_of_a_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"weight": torch.ones(1)}}, "published.pth.tar")
    line = refusal(capsys, "test", "--ckpt_path=published.pth.tar")
    assert "published.pth.tar is not a training checkpoint" in line
