"""Two real processes share mixtures and shards: who sees what in an epoch, after a resumption and in a test."""

import json
from itertools import chain

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from processes import side_by_side
from tiny_training import TinyNetwork

from mtpano_zoo.data import MixedDataModule, RoomsDataModule, ShardsDataModule, write_shards
from mtpano_zoo.training import MultiTaskModule

pytestmark = pytest.mark.slow


def mixture(root):
    a, b = RoomsDataModule(16, 32, 5, 2, 1), RoomsDataModule(16, 32, 4, 1, 1, seed=1)
    return MixedDataModule({"a": a, "b": b}, batch_size=1)


def shards(root):
    return ShardsDataModule(root / "shards", batch_size=1, buffer=3)


class Record(Callback):
    def __init__(self, root):
        self.root, self.seen = root, {}

    def see(self, key, batch):
        self.seen.setdefault(key, []).extend(batch["id"])

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.see(f"train {trainer.current_epoch}", batch)
        if trainer.global_step == 7:
            trainer.save_checkpoint(self.root / "step-7.ckpt")

    def on_validation_batch_end(self, trainer, module, outputs, batch, index):
        self.see(f"val {trainer.current_epoch}", batch)

    def on_test_batch_end(self, trainer, module, outputs, batch, index):
        self.see("test", batch)


def run(root, verb, module, data, **options):
    record = Record(root)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options_of_all = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 2, "num_sanity_val_steps": 0}
    getattr(Trainer(callbacks=[record], **options_of_all, **quiet), verb)(module, data, **options)
    return record.seen


def train(rank, root):
    """One of the two processes."""
    told = {}
    resume = {"ckpt_path": root / "step-7.ckpt", "weights_only": True}
    for make in (mixture, shards):
        data = make(root)
        seed_everything(0, verbose=False)
        whole, resumed = (MultiTaskModule(TinyNetwork(classes=data.classes, dropout=0.0)) for _ in range(2))
        told[make.__name__] = run(root, "fit", whole, data)
        told[make.__name__ + " resumed"] = run(root, "fit", resumed, make(root), **resume)
        assert all(torch.equal(x, y) for x, y in zip(whole.parameters(), resumed.parameters(), strict=True))
    told["test"] = run(root, "test", whole, data, verbose=False)
    (root / f"rank-{rank}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of the two processes has seen, by run and epoch."""
    root = tmp_path_factory.mktemp("distributed")
    # Of 11 samples in 6 files, 5 go to one process and 6 to the other; one has no file for the test.
    write_shards(RoomsDataModule(16, 32, 11, 3, 2), root / "shards", shard_size=2, progress=False)
    side_by_side(train, root, folder=root)
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(2)]


def ids(told, run, when):
    return [one[run].get(when, []) for one in told]


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_of_a_mixture_is_shared(told, epoch):
    first, second = ids(told, "mixture", f"train {epoch}")
    assert len(first) == len(second) == 5
    # Of 5 + 4 samples and two processes, one set gives one more.
    assert {*first, *second} == {f"a/train-{i:06d}" for i in range(5)} | {f"b/train-{i:06d}" for i in range(4)}
    evaluated = sorted(chain(*ids(told, "mixture", f"val {epoch}")))
    assert evaluated == ["a/val-000000", "a/val-000001", "b/val-000000"]


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
