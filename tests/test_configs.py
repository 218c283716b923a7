"""Every shipped configuration goes through the real command line, at tiny size."""

from pathlib import Path

import pytest
import torch

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.resources import shipped

CONFIGS = sorted(path.name for path in shipped("configs").glob("**/*.yaml"))
TINY = [
    "--data.init_args.height=32",
    "--data.init_args.width=64",
    "--data.init_args.train_count=4",
    "--data.init_args.val_count=2",
    "--data.init_args.test_count=2",
    "--data.init_args.batch_size=2",
]


def test_there_are_configurations() -> None:
    assert "quickstart.yaml" in CONFIGS


@pytest.mark.parametrize("config", CONFIGS)
def test_fit_test_predict(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an empty folder, by the name of the configuration: train, score, predict, load."""
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", config, *TINY]) == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    assert main(["test", "--config", config, *TINY, "--ckpt_path", str(checkpoint)]) == 0
    assert "test/semseg/mIoU" in capsys.readouterr().out
    assert main(["predict", "--config", config, *TINY, "--ckpt_path", str(checkpoint)]) == 0
    assert len(list(Path("runs").glob("*/predictions/*_depth.npy"))) == 2
    network = load_model(checkpoint)
    assert network(torch.rand(1, 3, 32, 64))["depth"].isfinite().all()


@pytest.mark.parametrize("config", CONFIGS)
def test_print_config_names_every_argument(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", config, "--print_config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("encoder_layer_scale", "weight_decay", "gradient_clip_val", "train_count"))
