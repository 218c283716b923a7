from pathlib import Path

import pytest
import torch
from PIL import Image

from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.loading import device_for
from mtpano_zoo.machine.device import default_device

RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


@pytest.mark.parametrize(
    ("gpus", "environment", "device"),
    [
        (0, {}, "cpu"),
        (0, {"LOCAL_RANK": "1"}, "cpu"),
        (1, {}, "cuda:0"),
        (4, {}, "cuda:0"),
        (4, {"LOCAL_RANK": "3"}, "cuda:3"),
        (4, {"SLURM_LOCALID": "5"}, "cuda:1"),
    ],
)
def test_processes_of_one_machine_share_its_gpus(
    gpus: int, environment: dict[str, str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert default_device() == device


def test_every_command_chooses_the_gpu_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 64)
    monkeypatch.setenv("LOCAL_RANK", "63")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 32)).save("room.jpg")
    model = ["--model", "mtpano-tiny.rooms"]
    for command in (
        ["run", "room.jpg", *model],
        ["view", "room.jpg", *model, "--html", "page.html"],
        ["eval", "mtpano-tiny.rooms", "--data", "rooms", "--limit", "1"],
    ):
        assert main(command) == 1
        assert "The device 'cuda:63' cannot be used here" in capsys.readouterr().err, command
    with pytest.raises(InputError, match="'cuda:63'"):
        device_for(None)
