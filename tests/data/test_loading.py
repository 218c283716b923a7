"""The same samples in the same order, whichever process loads them and wherever a training was interrupted."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from torch.utils.data import Dataset

from mtpano_zoo.data.augmentation import Augmentation
from mtpano_zoo.data.loading import EvaluationLoaders, training_loader
from mtpano_zoo.errors import InputError

COUNT = 7


class Numbers(Dataset):
    """Sample i is an image of columns counted from 100 i, so that its augmentation can be read off."""

    def __init__(self, augmentation, count=COUNT):
        self.augmentation, self.count = augmentation, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = (torch.arange(64.0) + 100 * index).expand(3, 2, 64)
        sample = {"image": image, "id": f"sample-{index}"}
        return sample if self.augmentation is None else self.augmentation(sample)


def build(seed=0, batch_size=2, **options):
    augmentation = Augmentation(seed=seed)
    return training_loader(Numbers(augmentation), augmentation, batch_size=batch_size, seed=seed, **options)


def read(batch):
    """Ids with the first and second column of each image: the shift, and whether it is mirrored."""
    return [(name, *image[0, 0, :2].tolist()) for name, image in zip(batch["id"], batch["image"], strict=True)]


def epochs(loader, numbers):
    seen = []
    for epoch in numbers:
        loader.sampler.set_epoch(epoch)
        seen.append([sample for batch in loader for sample in read(batch)])
    return seen


WORKERS = [
    {},
    {"num_workers": 1},
    {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3},
    pytest.param(
        {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow
    ),
]


@pytest.fixture(scope="module")
def plain():
    return epochs(build(), range(4))


def test_every_epoch_differs(plain):
    orders = [tuple(name for name, *_ in epoch) for epoch in plain]
    assert len(set(orders)) == 4
    assert all(len(set(order)) == 6 for order in orders)
    for index in range(COUNT):
        views = [view for epoch in plain for name, *view in epoch if name == f"sample-{index}"]
        assert len({tuple(view) for view in views}) == len(views)


@pytest.mark.parametrize("options", WORKERS, ids=["main process", "1 worker", "persistent", "spawned"])
def test_workers_do_not_matter(plain, options):
    assert epochs(build(**options), range(3)) == plain[:3]


def test_neither_the_batch_size_nor_the_order_of_the_epochs_matters(plain):
    last, first = epochs(build(batch_size=3, num_workers=2, persistent_workers=True), (3, 0))
    assert (first, last) == (plain[0], plain[3])


def test_another_seed_gives_other_samples(plain):
    other = epochs(build(seed=1), range(1))[0]
    assert [name for name, *_ in other] != [name for name, *_ in plain[0]]
    assert not set(other) & set(plain[0])


def test_an_epoch_that_was_broken_off_leaves_nothing_behind(plain):
    loader = build(num_workers=2, persistent_workers=True, prefetch_factor=2)
    loader.sampler.set_epoch(2)
    assert read(next(iter(loader))) == plain[2][:2]  # the workers have fetched more than was asked for
    assert epochs(loader, (1, 2)) == plain[1:3]


def test_a_loader_goes_on_where_another_one_was(plain):
    loader = build()
    loader.sampler.set_epoch(1)
    batches = iter(loader)
    next(batches), next(batches)
    resumed = build(num_workers=1)
    resumed.load_state_dict(loader.state_dict())
    assert [sample for batch in resumed for sample in read(batch)] == plain[1][4:]
    assert epochs(resumed, (1, 2)) == plain[1:3]
    assert len(resumed) == 3


def test_incomplete_batches():
    assert [len(batch["id"]) for batch in build(batch_size=3)] == [3, 3]
    assert [len(batch["id"]) for batch in build(batch_size=9)] == [7]


class Recorder(lightning.LightningModule):
    """Keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch):
        self.seen.append((self.current_epoch, read(batch)))
        return self.weight * 0

    def validation_step(self, batch):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, checkpoint=None, callbacks=(), options=None, validate=False):
    recorder = Recorder()
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = build(**(options or {}))
    validation = torch.utils.data.DataLoader(Numbers(None, 2)) if validate else None
    trainer.fit(recorder, loader, validation, ckpt_path=checkpoint)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("validate", [False, True])
def test_lightning_resumes_anywhere(plain, tmp_path, validate):
    every_step = ModelCheckpoint(tmp_path, "step-{step}", every_n_train_steps=1, save_top_k=-1)
    every_epoch = ModelCheckpoint(tmp_path, "epoch-{step}", save_on_train_epoch_end=True, save_top_k=-1)
    whole = fit(tmp_path, callbacks=[every_step, every_epoch], validate=validate)
    assert [sample for _, batch in whole for sample in batch] == [s for epoch in plain[:3] for s in epoch]
    assert [epoch for epoch, _ in whole] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) == 12
    for path in checkpoints:
        steps = int(path.stem.rpartition("=")[2])
        assert fit(tmp_path, path, validate=validate) == whole[steps:], path.name


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_loader_with_batches_of_another_size_goes_on_with_the_next_sample(plain, size):
    loader, resumed = build(batch_size=3), build(batch_size=size)
    loader.sampler.set_epoch(1)
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    assert resumed.done == 3 // size
    order = epochs(build(batch_size=1), [1])[0]
    assert [sample for batch in resumed for sample in read(batch)] == order[3 : 3 + 4 // size * size]


def test_a_state_that_counts_batches_is_continued(plain):
    resumed = build()
    resumed.load_state_dict({"epoch": 1, "batches": 2})
    assert [sample for batch in resumed for sample in read(batch)] == plain[1][4:]


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_with_persistent_workers(tmp_path):
    options = {"num_workers": 2, "persistent_workers": True}
    whole = fit(tmp_path, None, [ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4)], options)
    assert fit(tmp_path, next(tmp_path.glob("*.ckpt")), options=options) == whole[-1:]


def test_processes_share_the_samples(monkeypatch):
    alone = epochs(build(batch_size=1), [1])[0]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        seen.append(epochs(build(batch_size=1), [1])[0])
    assert len(seen[0]) == len(seen[1]) == 4  # one sample more than there are, so that all do equally many steps
    assert {name for share in seen for name, *_ in share} == {f"sample-{index}" for index in range(COUNT)}
    assert set(seen[0]) | set(seen[1]) == set(alone)


def test_processes_evaluate_every_sample_once(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    module, seen = EvaluationLoaders(), []
    module.trainer = SimpleNamespace(strategy=DDPStrategy(), world_size=2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda *_, rank=rank: rank)
        seen += module.evaluation_sampler(Numbers(None), "test")
        # No process may be without a sample: Lightning's own sampler repeats one, but a prediction is not repeated.
        assert module.evaluation_sampler(Numbers(None, 1), "test") is None
        with pytest.raises(InputError, match="only 1: start at most 1"):
            len(module.evaluation_sampler(Numbers(None, 1), "predict"))
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize(("strategy", "processes"), [(DDPStrategy, 1), (SingleDeviceStrategy, 1), (FSDPStrategy, 2)])
def test_only_processes_of_this_trainer_share_samples(strategy, processes, monkeypatch):
    """The group of an earlier training of several processes lives until the program ends."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    module = EvaluationLoaders()
    assert module.evaluation_sampler(Numbers(None), "test") is None
    module.trainer = SimpleNamespace(strategy=strategy.__new__(strategy), world_size=processes)
    assert module.evaluation_sampler(Numbers(None), "test") is None
