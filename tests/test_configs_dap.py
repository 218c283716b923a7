"""The configurations of DAP through the real command line, at tiny size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_deep360
import fake_pano3d
import fake_stanford2d3d
import fake_structured3d
import numpy as np
import pytest
import yaml
from fake_files import write
from PIL import Image
from tiny_experiment import TINY_EXPERIMENT

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.resources import shipped

# The training and the evaluations, with the miniatures of their data sets by folder.
DAP_CONFIGS = {
    "dap/tiny.yaml": {},
    "dap/train.yaml": {"Structured3D": fake_structured3d},
    "dap/stanford2d3d.yaml": {"Stanford2D3D": fake_stanford2d3d},
    "dap/matterport3d.yaml": {"Pano3D": fake_pano3d},
    "dap/deep360.yaml": {"Deep360": fake_deep360},
}


@pytest.fixture
def dap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a verb on a configuration of DAP at tiny size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))

    def run(verb: str, name: str, *arguments: str) -> int:
        for folder, miniature in DAP_CONFIGS[name].items():
            if not Path("data", folder).exists():
                write(tmp_path / "data" / folder, miniature.files())
        config = yaml.safe_load((shipped("configs") / name).read_text())
        size = {"height": 32, "width": 64}
        sizes: dict[str, Any] = {"neck_widths": [8, 8, 16, 16], "fusion_width": 8, "input_size": [32, 64]}
        vit = TINY_EXPERIMENT["model"]["network"]["init_args"]["encoder"]["init_args"] | {"taps": None}
        if "network" in config["model"] and config["model"]["network"]["class_path"] == "Pretrained":
            sizes["tasks"] = ["depth"]
        encoder = {"class_path": "ViTEncoder", "init_args": vit}
        network = {"class_path": "DAP", "init_args": sizes | {"encoder": encoder}}
        ranges = config["model"]["network"]["init_args"].get("ranges")
        network["init_args"] |= {"ranges": ranges} if ranges else {}
        tiny = {
            "trainer": TINY_EXPERIMENT["trainer"] | {"check_val_every_n_epoch": None},
            "model": {"network": network},
        }
        modules = config["data"]["init_args"].get("modules", {})
        for module in modules.values():
            module["init_args"] |= size
            if "train_count" in module["init_args"]:
                module["init_args"] |= {"train_count": 4, "val_count": 1, "test_count": 1}
        data = {"modules": modules, "batch_size": 2, "num_workers": 0} if modules else size | {"num_workers": 0}
        tiny["data"] = {"init_args": data}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
        return main([verb, "--config", name, *arguments, "--config", "tiny.yaml"])

    for number in range(4):
        for folder in ("images", "depth"):
            (tmp_path / "data" / "outdoor" / folder).mkdir(parents=True, exist_ok=True)
        pixels = np.full((32, 64, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "outdoor" / "images" / f"{number}.png")
        np.save(tmp_path / "data" / "outdoor" / "depth" / f"{number}.npy", np.full((32, 64), 80.0, np.float32))
    return run


@pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:.*panoramas have no")
@pytest.mark.parametrize("name", ["dap/tiny.yaml", "dap/train.yaml"])
def test_dap_is_trained(name: str, dap: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert dap("fit", name) == 0
    (checkpoint,) = Path("runs").glob("version_0/checkpoints/last.ckpt")
    network = load_model(checkpoint)
    assert (network.ranges, network.tasks) == ((10.0, 20.0, 50.0, 100.0), ("depth", "valid"))
    assert dap("validate", name, "--ckpt_path", str(checkpoint)) == 0
    assert "val/depth/AbsRel" in capsys.readouterr().out


@pytest.mark.filterwarnings(
    "ignore:.*panoramas of the release", "ignore:.*panoramas have no", "ignore:`test` takes the network"
)
@pytest.mark.parametrize("name", ["dap/stanford2d3d.yaml", "dap/matterport3d.yaml", "dap/deep360.yaml"])
def test_dap_is_scored(name: str, dap: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    protocol = "evaluate-unaligned-100m-per-image.yaml"
    assert dap("test", name, "--config", protocol) == 0
    assert "test/depth/AbsRel" in capsys.readouterr().out


def test_dap_is_trained_as_its_paper_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "dap/train.yaml", "--print_config"])
    assert end.value.code == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert (model["lr"], model["encoder_lr"], model["optimizer"]) == (5e-5, 5e-6, "adam")
    assert model["loss"]["init_args"]["ranges"] == model["network"]["init_args"]["ranges"] == [10, 20, 50, 100]
