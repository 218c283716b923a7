"""Training and validation log the same in two real processes as in one, and after an interruption."""

import json

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from processes import side_by_side
from tiny_training import TinyDataModule, TinyDataset, TinyNetwork
from torch import nn
from torch.utils.data import DataLoader

from mtpano_zoo.data import Augmentation, RoomsDataModule
from mtpano_zoo.training import AuxiliaryWarmup, MultiTaskModule

pytestmark = pytest.mark.slow


class Record(Callback):
    """The logged training losses by step, as rank 0 writes them."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.steps.append({name: float(value) for name, value in trainer.logged_metrics.items() if "train" in name})


def trainer(devices, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    strategy = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto", "accelerator": "cpu"}
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1} | options
    return Trainer(**quiet, **strategy, **options)


def rooms(batch_size):
    """Three validation panoramas, which two processes do not share evenly; some classes and distances are missing."""
    augmentation = Augmentation(tilt=1.0, photometric=1.0)
    return RoomsDataModule(16, 32, 8, 3, 1, batch_size=batch_size, augmentation=augmentation, black_poles=1.0)


def learn(devices):
    """Four steps of two panoramas, and the losses of three others, one at a time."""
    data = rooms(2 // devices)
    seed_everything(0, verbose=False)
    network = TinyNetwork(classes=data.classes, dropout=0.0)
    network.encoder[1] = network.neck[1] = network.aggregators["all"][1] = nn.Identity()  # statistics of one process
    module, record = MultiTaskModule(network, lr=1e-2), Record()
    trainer(devices, limit_val_batches=0, callbacks=[record]).fit(module, data)
    drawn = torch.rand(()).item()
    (scores,) = trainer(devices).validate(module, rooms(1), verbose=False)
    return {"steps": record.steps, "drawn": drawn, "scores": scores}


def work(rank, folder):
    """One of the two processes."""
    (folder / f"found-{rank}.json").write_text(json.dumps(learn(2)))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes has logged."""
    folder = tmp_path_factory.mktemp("processes")
    side_by_side(work, folder, folder=folder, seconds=120)
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_logged_losses_are_those_of_a_single_process(found):
    expected = learn(1)
    assert len(expected["steps"]) == 4
    for each in found:
        assert len(each["steps"]) == 4
        for one, other in zip(each["steps"], expected["steps"], strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
        assert each["scores"] == pytest.approx(expected["scores"], rel=1e-4, abs=1e-6)


def test_processes_drop_different_units(found):
    assert found[0]["drawn"] != found[1]["drawn"]


def test_a_validation_after_an_interrupted_one_counts_its_own_batches_only(tmp_path):
    class Interrupted(Exception):
        pass

    class Interrupting(Callback):
        def on_validation_batch_end(self, *_):
            raise Interrupted

    def validated(module, **options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        return Trainer(default_root_dir=tmp_path, **quiet, **options).validate(module, TinyDataModule(), verbose=False)

    seed_everything(0)
    module = MultiTaskModule(TinyNetwork())
    expected = validated(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    with pytest.raises(Interrupted):
        validated(module, callbacks=[Interrupting()])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.div_(2)
    assert validated(module) == expected


class HalfLabelled(TinyDataModule):
    """Rank 0 gets the even samples, which have no depth."""

    def train_dataloader(self):
        return DataLoader(TinyDataset(4, 0, ["depth"], every=2), batch_size=1)

    def val_dataloader(self):
        return DataLoader(TinyDataset(4, 100, ["depth"], every=2), batch_size=1)


def _train(rank):
    seed_everything(0, verbose=False)
    module = MultiTaskModule(TinyNetwork(), lr=1e-2)
    both = trainer(2, max_epochs=2, callbacks=[AuxiliaryWarmup(steps=2)])
    assert not both.strategy._ddp_kwargs.get("find_unused_parameters")
    both.fit(module, HalfLabelled())
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    gathered = both.strategy.all_gather(weights)
    assert torch.equal(gathered[0], gathered[1]), "ranks have drifted apart"
    metrics = both.strategy.all_gather(torch.tensor([float(both.callback_metrics["val/depth/AbsRel"])]))
    assert metrics[0] == metrics[1]


def test_ranks_stay_together_when_one_lacks_labels(tmp_path):
    side_by_side(_train, folder=tmp_path)
