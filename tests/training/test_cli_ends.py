"""Trainings and predictions that are interrupted, or asked to end."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from mtpano_zoo.cli import main as mtpano
from mtpano_zoo.training import MultiTaskModule


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
