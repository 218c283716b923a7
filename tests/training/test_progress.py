import re

import pytest
import rich
from lightning.pytorch import Trainer
from tiny_training import TinyDataModule, TinyNetwork

from mtpano_zoo.training import MultiTaskModule, ProgressBar
from mtpano_zoo.training.progress import ProgressLines, progress_bar


def trainer(seconds):
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**options, max_epochs=2, num_sanity_val_steps=0, callbacks=[ProgressLines(seconds)])


@pytest.mark.filterwarnings("ignore")
def test_lines_tell_how_far_it_is(capsys):
    module, data = MultiTaskModule(TinyNetwork()), TinyDataModule(batch_size=2)
    trainer(0).fit(module, data)
    lines = capsys.readouterr().err.splitlines()
    steps = [re.match(r"epoch (\d), step (\d) of 4, train/loss [\d.]+", line) for line in lines]
    assert [found.groups() for found in steps if found] == [(str(e), str(s)) for e in (0, 1) for s in (1, 2, 3, 4)]
    assert sum(line.startswith("validation, batch 2 of 2") for line in lines) == 2
    assert all(line.endswith(" min") for line in lines if line.startswith(("epoch", "validation")))
    trainer(0).test(module, data, verbose=False)
    assert [line[:18] for line in capsys.readouterr().err.splitlines()] == ["test, batch 1 of 2", "test, batch 2 of 2"]
    trainer(0).predict(module, data)
    assert capsys.readouterr().err.count("prediction, batch") == 2


@pytest.mark.filterwarnings("ignore")
def test_there_are_no_more_lines_than_the_time_allows(capsys):
    trainer(60).fit(MultiTaskModule(TinyNetwork()), TinyDataModule())
    assert "epoch" not in capsys.readouterr().err


@pytest.mark.parametrize(("terminal", "kind"), [(True, ProgressBar), (False, ProgressLines)])
def test_a_bar_in_a_terminal_and_lines_elsewhere(terminal, kind, monkeypatch):
    monkeypatch.setattr(rich, "get_console", lambda: rich.console.Console(force_terminal=terminal))
    assert type(progress_bar()) is kind
