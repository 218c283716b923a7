"""Trainings and predictions that are interrupted, or asked to end."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch

from mtpano_zoo.cli import main as mtpano
from mtpano_zoo.training import MultiTaskModule
from mtpano_zoo.training.cli import main


@pytest.mark.parametrize(("epoch", "end"), [(0, " No checkpoint was written."), (1, "")])
def test_ctrl_c_ends_training_as_it_ends_other_verbs(folder, monkeypatch, capsys, epoch, end):
    def interrupt(module):
        if module.current_epoch == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(MultiTaskModule, "on_train_epoch_start", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert mtpano(["fit", "--config", "tiny.yaml", "--trainer.callbacks=null"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == f"mtpano: interrupted; finished results are kept.{end}"


@pytest.mark.parametrize(
    "options",
    [
        "--trainer.max_epochs=1 --trainer.check_val_every_n_epoch=2",
        "--trainer.max_epochs=3 --trainer.check_val_every_n_epoch=2",
        "--trainer.max_steps=7 --trainer.val_check_interval=0.5",
    ],
)
def test_every_step_of_a_training_is_in_its_checkpoint(folder, options):
    """Also if it does not end with a validation."""
    cli = main(["fit", "--config", "tiny.yaml", "--trainer.callbacks=null", *options.split()])
    (path,) = folder.rglob("*.ckpt")
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == cli.trainer.global_step > 0
    assert any(key.startswith("ModelCheckpoint{") for key in saved["callbacks"])  # what earlier releases resume from
    for name, value in cli.model.state_dict().items():
        assert torch.equal(saved["state_dict"][name], value), name


def test_a_training_without_checkpoint_says_so(folder, capsys):
    """The user's own callback waits for a validation."""
    best = "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {monitor: val/loss}}]"
    options = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=2"]
    assert mtpano(["fit", "--config", "tiny.yaml", best, *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "No checkpoint was written."
    assert mtpano(["fit", "--config", "tiny.yaml", best, *options, "--trainer.fast_dev_run=true"]) == 0
    assert "checkpoint" not in capsys.readouterr().out  # nobody expects one


@pytest.mark.parametrize(("verb", "step"), [("fit", "training_step"), ("predict", "predict_step")])
def test_a_process_that_is_asked_to_end_does_so(folder, monkeypatch, capsys, verb, step):
    seen = []
    original = getattr(MultiTaskModule, step)

    def last(module, batch, batch_idx):
        seen.append(batch_idx)
        os.kill(os.getpid(), signal.SIGTERM)
        return original(module, batch, batch_idx)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(MultiTaskModule, step, last)
    try:
        assert mtpano([verb, "--config", "tiny.yaml", "--trainer.callbacks=null"]) == 143
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert len(seen) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("mtpano: interrupted; finished results are kept.")


def test_a_training_whose_readers_are_asked_to_end_too_says_what_it_says_otherwise(folder, monkeypatch, capsys):
    """A scheduler may signal all processes of a job."""

    def ended(module, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        readers = [str(process.pid) for process in multiprocessing.active_children()]
        subprocess.run(["kill", *readers], check=True)  # a reader ends quietly if its parent asks for it
        time.sleep(20)  # the loader raises an error long before

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(MultiTaskModule, "training_step", ended)
    try:
        rooms = ["--data=RoomsDataModule", "--data.height=16", "--data.width=32", "--data.num_workers=1"]
        assert mtpano(["fit", "--config", "tiny.yaml", "--trainer.callbacks=null", *rooms]) == 143
    finally:
        signal.signal(signal.SIGTERM, handler)
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "mtpano: interrupted; finished results are kept. No checkpoint was written."
