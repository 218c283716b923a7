"""Two real processes share mixtures and shards: who sees what in an epoch, after a resumption and in a test."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from mtpano_zoo.data import RoomsDataModule, write_shards

pytestmark = pytest.mark.slow

SCRIPT = """
import json
import sys
from pathlib import Path
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from tiny_training import TinyNetwork
from mtpano_zoo.data import MixedDataModule, RoomsDataModule, ShardsDataModule
from mtpano_zoo.training import MultiTaskModule

ROOT = Path(sys.argv[1])

def mixture():
    a, b = RoomsDataModule(16, 32, 5, 2, 1), RoomsDataModule(16, 32, 4, 1, 1, seed=1)
    return MixedDataModule({"a": a, "b": b}, batch_size=1)

def shards():
    return ShardsDataModule(ROOT / "shards", batch_size=1, buffer=3)

class Record(Callback):
    def __init__(self):
        self.seen = {}
    def see(self, key, batch):
        self.seen.setdefault(key, []).extend(batch["id"])
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.see(f"train {trainer.current_epoch}", batch)
        if trainer.global_step == 7:
            trainer.save_checkpoint(ROOT / "step-7.ckpt")
    def on_validation_batch_end(self, trainer, module, outputs, batch, index):
        self.see(f"val {trainer.current_epoch}", batch)
    def on_test_batch_end(self, trainer, module, outputs, batch, index):
        self.see("test", batch)

def run(verb, module, data, **options):
    record = Record()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, num_sanity_val_steps=0,
                      callbacks=[record], **quiet)
    getattr(trainer, verb)(module, data, **options)
    return record.seen, trainer

told = {}
for make in (mixture, shards):
    data = make()
    seed_everything(0, verbose=False)
    whole, resumed = (MultiTaskModule(TinyNetwork(classes=data.classes, dropout=0.0)) for _ in range(2))
    told[make.__name__], _ = run("fit", whole, data)
    told[make.__name__ + " resumed"], _ = run("fit", resumed, make(), ckpt_path=ROOT / "step-7.ckpt", weights_only=True)
    assert all(torch.equal(x, y) for x, y in zip(whole.parameters(), resumed.parameters())), "not the same weights"
told["test"], trainer = run("test", whole, data, verbose=False)
(ROOT / f"rank-{trainer.global_rank}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of the two processes has seen, by run and epoch."""
    root = tmp_path_factory.mktemp("distributed")
    # Of 11 samples in 6 files, 5 go to one process and 6 to the other; one has no file for the test.
    write_shards(RoomsDataModule(16, 32, 11, 3, 2), root / "shards", shard_size=2, progress=False)
    script = root / "train.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests / "fakes"), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script, root],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(2)]


def ids(told, run, when):
    return [one[run].get(when, []) for one in told]


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_of_a_mixture_is_shared(told, epoch):
    first, second = ids(told, "mixture", f"train {epoch}")
    assert len(first) == len(second) == 5
    # Of 5 + 4 samples and two processes, one set gives one more.
    assert {*first, *second} == {f"a/train-{i:06d}" for i in range(5)} | {f"b/train-{i:06d}" for i in range(4)}
    evaluated = [*chain(*ids(told, "mixture", f"val {epoch}"))]
    assert set(evaluated) == {"a/val-000000", "a/val-000001", "b/val-000000"}
    assert len(evaluated) == 4


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_of_shards_is_shared_though_one_process_has_more(told, epoch):
    first, second = ids(told, "shards", f"train {epoch}")
    assert len(first) == len(second) == 5
    assert not {*first} & {*second}
    assert len({*first, *second}) >= 9
    assert sorted(chain(*ids(told, "shards", f"val {epoch}"))) == [f"val-{i:06d}" for i in range(3)]


@pytest.mark.parametrize("run", ["mixture", "shards"])
def test_a_training_resumes_within_an_epoch(told, run):
    for whole, resumed in zip(ids(told, run, "train 1"), ids(told, f"{run} resumed", "train 1"), strict=True):
        assert resumed == whole[2:]


def test_a_single_shard_is_shared_too(told):
    assert sorted(chain(*ids(told, "test", "test"))) == ["test-000000", "test-000001"]
    assert all(len(one) == 1 for one in ids(told, "test", "test"))
