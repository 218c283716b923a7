"""Training that goes on from a checkpoint."""

import math

import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_training import TinyDataModule, TinyDataset, TinyNetwork, assert_same, snapshot, trainer
from torch.utils.data import DataLoader

from mtpano_zoo.data.loading import training_loader
from mtpano_zoo.training import MultiTaskModule


def test_resumed_training_is_bitwise_the_uninterrupted_one(tmp_path):
    """Shuffled data and dropout: the state of the random generators must be restored as well."""

    def module():
        seed_everything(1, verbose=False)
        return MultiTaskModule(TinyNetwork(dropout=0.5), warmup_steps=1)

    def keep():
        return ModelCheckpoint(tmp_path / "ckpt", filename="{epoch}", save_top_k=-1)

    options = {"max_epochs": 2, "enable_checkpointing": True}
    data = {"train": 4, "batch_size": 2}
    whole = module()
    trainer(tmp_path, callbacks=[keep()], **options).fit(whole, TinyDataModule(**data))
    seed_everything(99, verbose=False)
    resumed = MultiTaskModule(TinyNetwork(dropout=0.5), warmup_steps=1)
    trainer(tmp_path, **options).fit(resumed, TinyDataModule(**data), ckpt_path=tmp_path / "ckpt/epoch=0.ckpt")
    assert_same(snapshot(whole), snapshot(resumed))
    assert_same(whole.optimizers().state_dict()["state"][0], resumed.optimizers().state_dict()["state"][0])


class Resumable(TinyDataModule):
    def train_dataloader(self):
        return training_loader(TinyDataset(self.train), None, batch_size=self.batch_size)


@pytest.mark.parametrize("by_steps", [True, False])
@pytest.mark.parametrize(("steps", "accumulated"), [(3, 1), (4, 1), (5, 1), (1, 3)])
def test_training_that_a_number_of_steps_ended_goes_on_as_if_it_had_not(tmp_path, steps, accumulated, by_steps):
    """From its last checkpoint; an epoch has four batches."""

    class Seen(MultiTaskModule):
        def training_step(self, batch, batch_idx):
            seen.append((self.current_epoch, batch_idx, self.global_step, batch["id"]))
            return super().training_step(batch, batch_idx)

        def on_validation_epoch_end(self):
            seen.append(("validated", self.current_epoch, self.global_step))
            super().on_validation_epoch_end()

    def fit(path=None, **options):
        keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        options |= {"enable_checkpointing": True, "num_sanity_val_steps": 0, "accumulate_grad_batches": accumulated}
        one = trainer(tmp_path, callbacks=[keep], **options)
        one.fit(Seen(TinyNetwork(), schedule="constant"), Resumable(), ckpt_path=path)

    seen = []
    fit(max_epochs=3)
    expected, seen = seen, []
    fit(max_epochs=-1, max_steps=steps)
    end = {"max_epochs": -1, "max_steps": 3 * math.ceil(4 / accumulated)} if by_steps else {"max_epochs": 3}
    fit(tmp_path / "last.ckpt", **end)
    assert seen == expected


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (2, 3), (2, 4), (3, 2)])
def test_batches_of_another_size_go_on_with_the_next_sample_of_the_epoch(tmp_path, before, after):
    """As far as samples fill batches; later epochs are whole, and each epoch ends with a validation."""

    class Seen(MultiTaskModule):
        def training_step(self, batch, batch_idx):
            seen[self.current_epoch].extend(batch["id"])
            return super().training_step(batch, batch_idx)

        def on_validation_epoch_end(self):
            seen[self.current_epoch].append("validated")
            super().on_validation_epoch_end()

    def fit(size, path=None):
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        options = {"enable_checkpointing": True, "num_sanity_val_steps": 0, "max_epochs": 3}
        one = trainer(tmp_path, callbacks=[keep] if path is None else [], **options)
        one.fit(Seen(TinyNetwork(), schedule="constant"), Resumable(batch_size=size), ckpt_path=path)

    seen = {epoch: [] for epoch in range(3)}
    fit(before)
    loader, orders = Resumable(batch_size=1).train_dataloader(), []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        orders.append([name for batch in loader for name in batch["id"]])
    for step in range(1, 8 // before + 2):
        epoch, done = divmod(step, 8 // before)
        expected = []
        for number, first in zip(range(epoch, 3), (done * before, 0, 0), strict=False):
            expected.append(orders[number][first : first + (8 - first) // after * after])
        seen = {number: [] for number in range(3)}
        fit(after, tmp_path / f"step={step}.ckpt")
        found = [[name for name in seen[number] if name != "validated"] for number in range(epoch, 3)]
        assert found == expected, step
        assert all(seen[number][-1:] == ["validated"] for number in range(epoch, 3) if found[number - epoch]), step


class Foreign(DataLoader):
    """A loader with a state of its own."""

    def state_dict(self):
        return {"position": 1}

    def load_state_dict(self, state):
        assert state == {"position": 1}


@pytest.mark.parametrize("options", [{"overfit_batches": 2}, {"limit_train_batches": 2}])
def test_loaders_that_know_no_epoch_leave_it_to_the_trainer(tmp_path, options):
    """Lightning replaces the sampler of ours if it overfits."""

    class Data(TinyDataModule):
        def train_dataloader(self):
            if "overfit_batches" in options:
                return training_loader(TinyDataset(self.train), None, batch_size=self.batch_size)
            return Foreign(TinyDataset(self.train), batch_size=self.batch_size)

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    common = {"max_epochs": 4, "enable_checkpointing": True, "limit_val_batches": 0, **options}
    trainer(tmp_path, callbacks=[keep], **common).fit(MultiTaskModule(TinyNetwork()), Data())
    resumed = trainer(tmp_path, **common)
    resumed.fit(MultiTaskModule(TinyNetwork()), Data(), ckpt_path=tmp_path / "step=5.ckpt")
    assert (resumed.current_epoch, resumed.global_step) == (4, 8)


def test_training_resumes_within_an_epoch(tmp_path):
    """With a schedule that wants to know the length of the training, which makes Lightning build loaders too early."""

    def module(seed):
        seed_everything(seed, verbose=False)
        return MultiTaskModule(TinyNetwork(dropout=0.0))

    options = {"max_epochs": 2, "enable_checkpointing": True}
    whole, resumed = module(1), module(2)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    trainer(tmp_path, callbacks=[keep], **options).fit(whole, Resumable())
    trainer(tmp_path, **options).fit(resumed, Resumable(), ckpt_path=tmp_path / "step=5.ckpt")
    assert_same(snapshot(whole), snapshot(resumed))


def test_a_longer_training_has_its_own_rates_from_the_first_step_after_resuming(tmp_path):
    rates = []

    class Noted(MultiTaskModule):
        def on_train_batch_start(self, batch, batch_idx):
            rates.append(self.optimizers().param_groups[0]["lr"])

    def fit(epochs, **options):
        one = trainer(tmp_path, max_epochs=epochs)
        one.fit(Noted(TinyNetwork(), lr=1.0, encoder_lr=0.1, power=1.0), TinyDataModule(), **options)
        return one

    fit(1).save_checkpoint(tmp_path / "last.ckpt")
    rates.clear()
    fit(2, ckpt_path=tmp_path / "last.ckpt")
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])
