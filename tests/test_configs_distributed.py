"""Shipped trainings take their steps in two processes, with their own network, loss and data at tiny size.

Distributed training fails in the second step if a parameter takes no part in the loss. Which parameters do depends on
network, loss and tasks: one configuration stands for those that share all three.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_deep360
import fake_matterport3d
import fake_pseudo_labels
import fake_structured3d
import fake_synpass
import numpy as np
import pytest
import torch
import yaml
from fake_files import write
from PIL import Image
from processes import side_by_side
from tiny_experiment import TINY_SIZES

from mtpano_zoo.cli import main
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.resources import shipped

FINETUNED = {
    "structured3d.yaml": fake_structured3d,  # so do Stanford2D3D and Matterport3D
    "synpass.yaml": fake_synpass,
    "deep360.yaml": fake_deep360,
}
FROM_THE_START = ("label_free/pretrain.yaml", "rooms-tiny.yaml")
DISTILLED = ("depth_anywhere/base.yaml", "depth_anywhere/structured3d.yaml", "depth_anywhere/unifuse.yaml")
STEPS = 3  # the first one warms up, and the last one would notice what the second left out
TRAINER = {
    "accelerator": "cpu",
    "devices": 2,
    "strategy": "ddp",
    "max_epochs": -1,
    "max_steps": STEPS,
    "limit_val_batches": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "callbacks": [
        {"class_path": "mtpano_zoo.training.AuxiliaryWarmup", "init_args": {"steps": 1}},
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"save_last": True}},
    ],
}


def rooms(name: str) -> bool:
    return name.startswith("rooms")


def distilled() -> dict[str, Any]:
    """What makes the recipe of Depth Anywhere small; one of three unlabelled panoramas cannot be read.

    Of the six of three steps it is two: in these steps one of the processes has labelled panoramas only.
    """
    size = {"height": 32, "width": 64}
    teacher = {"class_path": "mtpano_zoo.labeling.teachers.OracleTeacher", "init_args": {"tasks": ["depth"]}}
    network = {"encoder": "test_resnet", "pretrained": False, "input_size": [32, 64]}
    unlabelled = size | {"root": "data/unlabelled", "tasks": ["depth"], "on_error": "skip"}
    sets = {"labelled": {"init_args": size | {"root": "data/labelled"}}, "unlabelled": {"init_args": unlabelled}}
    labels = {"teacher": teacher, "views": {"init_args": {"size": 16}}}
    return {
        "trainer": {key: value for key, value in TRAINER.items() if key != "callbacks"},
        "model": {"init_args": {"network": {"init_args": network}, "labels": {"init_args": labels}}},
        "data": {"init_args": {"batch_size": 1, "num_workers": 0} | sets},
    }


def write_distilled(folder: Path) -> None:
    """Write the data of `distilled`."""
    write(folder / "data" / "labelled", fake_matterport3d.files())
    write(folder / "data" / "unlabelled", fake_structured3d.files())
    (lost,) = (folder / "data" / "unlabelled").rglob("scene_00001/**/full/rgb_rawlight.png")
    lost.write_bytes(b"")


def tiny(name: str) -> dict[str, Any]:
    """What a configuration is made small by."""
    size = {"height": 32, "width": 64, "batch_size": 1, "num_workers": 0}
    data = size | ({"train_count": 8} if rooms(name) else {"root": f"data/{name}"})
    network: dict[str, Any] = {"class_path": "Pretrained", "init_args": {"source": "published", "input_size": [32, 64]}}
    if name not in FINETUNED:
        chosen = {} if rooms(name) else TINY_SIZES
        network = {"class_path": "PDBridgeNet", "init_args": chosen | {"input_size": [32, 64]}}
    return {"trainer": TRAINER, "model": {"network": network}, "data": {"init_args": data}}


def train(rank: int, folder: Path, runs: list[list[str]]) -> None:
    """One of the two processes."""
    os.chdir(folder)
    for run in runs:
        print("begins", run)
        assert main(["fit", *run]) == 0


@pytest.mark.slow
def test_shipped_trainings_in_two_processes(tmp_path: Path, tiny_network: Callable[..., PDBridgeNet]) -> None:
    known = {path.relative_to(shipped("configs")).as_posix() for path in shipped("configs").glob("**/*.yaml")}
    assert known >= {*FINETUNED, *FROM_THE_START}
    tiny_network(convention="paper").save_pretrained(tmp_path / "published")
    runs = []
    for name in (*FINETUNED, *FROM_THE_START):
        if not rooms(name):
            write(tmp_path / "data" / name, FINETUNED.get(name, fake_pseudo_labels).files())
        (tmp_path / f"tiny_{len(runs)}.yaml").write_text(yaml.safe_dump(tiny(name)))
        base = [] if rooms(name) else ["--config", "base.yaml"]
        runs.append([*base, "--config", name, "--config", f"tiny_{len(runs)}.yaml"])
    write_distilled(tmp_path)
    (tmp_path / "distilled.yaml").write_text(yaml.safe_dump(distilled()))
    runs.append([f"--config={name}" for name in (*DISTILLED, "distilled.yaml")])
    side_by_side(train, tmp_path, runs, folder=tmp_path, seconds=600)
    for version, _ in enumerate(runs):
        checkpoint = torch.load(tmp_path / f"runs/version_{version}/checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == STEPS


@pytest.mark.slow
def test_adapter_in_two_processes(tmp_path: Path) -> None:
    """The adapter is whole and the same, whether every process has all weights or a part of them."""
    pytest.importorskip("diffusers")
    from safetensors.torch import load_file

    from mtpano_zoo.generation.tiny import TinyFlux

    torch.manual_seed(0)
    sizes = {"width": 32, "double_blocks": 1, "single_blocks": 1, "text_width": 16, "text_layers": 1}
    TinyFlux(["a", "room"], **sizes).pipeline.save_pretrained(tmp_path / "base")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 64, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    lines = [json.dumps({"image": f"{i}.png", "caption": "a room"}) for i in range(4)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    cut_up = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
    }
    runs = []
    for strategy in ("ddp", cut_up):
        trainer = {
            "strategy": strategy,
            "max_steps": 2,
            "accumulate_grad_batches": 1,
            "callbacks": TRAINER["callbacks"][1:],
        }
        model = {"base": {"init_args": {"source": "base", "prefix": ""}}, "rank": 2, "dropout": 0.0, "lr": 0.01}
        data = {"height": 32, "num_workers": 0, "mirror": 0.0}
        values = {"trainer": TRAINER | trainer, "model": {"init_args": model}, "data": {"init_args": data}}
        (tmp_path / f"tiny_{len(runs)}.yaml").write_text(yaml.safe_dump(values))
        runs.append(["--config", "dit360/train.yaml", "--config", f"tiny_{len(runs)}.yaml"])
    side_by_side(train, tmp_path, runs, folder=tmp_path, seconds=600)
    whole, gathered = (load_file(tmp_path / f"runs/version_{i}/adapter/adapter_model.safetensors") for i in range(2))
    assert any(value.any() for name, value in whole.items() if "lora_B" in name)
    torch.testing.assert_close(gathered, whole, atol=1e-4, rtol=0)  # steps of 0.01
