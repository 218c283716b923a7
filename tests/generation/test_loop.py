"""Panoramas are generated, labelled by a network, verified and trained on: each step reads what the last one wrote."""

from pathlib import Path

import pytest
import torch

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule
from mtpano_zoo.generation.tiny import TinyFlux

QUIET = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
SIZE = ["--height=32", "--width=64"]
NETWORK = "mtpano-tiny.rooms"


def test_generate_label_verify_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))
    TinyFlux(["a", "room"], width=32, double_blocks=1, single_blocks=1, text_width=16).pipeline.save_pretrained("base")
    generate = ["generate", "--template", "a {style} {indoor}", "--number", "3", "--height", "32", "--steps", "2"]
    assert main([*generate, "--base", "base", "--out", "generated"]) == 0

    network = f"--network.init_args.source={NETWORK}"
    label = ["curate", "label", "generated/img", "--config", "curation/label.yaml", network, "--num-workers=0"]
    assert main([*label, *SIZE, *QUIET, "--out", "labels"]) == 0
    data = PseudoLabelDataModule("labels", height=32, width=64)
    sample = data.dataset("train")[0]
    said = load_model(NETWORK).predict(sample["image"])
    assert (sample["semseg"].numpy() == said.semseg).mean() > 0.9  # the network sees the JPEG that is stored there

    assert (
        main(["data", "verify", "--data", "pseudolabel", "--root", "labels", "--workers", "1", "height=32", "width=64"])
        == 0
    )

    train = [
        "--model.network.class_path=Pretrained",
        f"--model.network.init_args.source={NETWORK}",
        "--model.network.init_args.input_size=[32,64]",
        "--data=PseudoLabelDataModule",
        "--data.init_args.root=labels",
        "--data.init_args.height=32",
        "--data.init_args.width=64",
        "--data.init_args.batch_size=2",
        "--data.init_args.num_workers=0",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_model_summary=false",
    ]
    assert main(["fit", *train, *QUIET]) == 0
    trained = load_model("runs/version_0/checkpoints/last.ckpt").state_dict()
    before = load_model(NETWORK).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())
