"""Training that goes on from a checkpoint."""

import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_training import TinyDataModule, TinyDataset, TinyNetwork, assert_same, snapshot, trainer

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


@pytest.mark.parametrize("end", [{"max_epochs": -1, "max_steps": 12}, {"max_epochs": 3}])
@pytest.mark.parametrize("steps", [3, 4, 5])
def test_training_that_a_number_of_steps_ended_goes_on_with_the_next_sample(tmp_path, steps, end):
    """From its last checkpoint; an epoch has four steps."""

    class Seen(MultiTaskModule):
        def training_step(self, batch, batch_idx):
            seen.append((self.current_epoch, batch["id"]))
            return super().training_step(batch, batch_idx)

    def fit(path=None, **options):
        keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        one = trainer(tmp_path, enable_checkpointing=True, callbacks=[keep], **options)
        one.fit(Seen(TinyNetwork(), schedule="constant"), Resumable(), ckpt_path=path)

    seen = []
    fit(max_epochs=3)
    expected, seen = seen, []
    fit(max_epochs=-1, max_steps=steps)
    fit(tmp_path / "last.ckpt", **end)
    assert seen == expected


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
