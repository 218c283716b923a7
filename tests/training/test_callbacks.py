import re

import pytest
import torch
from fake_files import write
from fake_houses import SAMPLES, HousesDataModule, files
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import TinyDataModule, TinyDataset, TinyNetwork
from torch.utils.data import DataLoader

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses import MultiTaskLoss, PublishedLoss
from mtpano_zoo.manifest import MANIFEST
from mtpano_zoo.prediction.folder import RECORDS
from mtpano_zoo.training import (
    AuxiliaryWarmup,
    FrozenNorms,
    MultiTaskModule,
    PanelLogger,
    PredictionWriter,
    ProgressBar,
    learning_rate_factor,
)

AUXILIARY = ("aggregators.", "auxiliary_heads.")


def trainer(path, callbacks, **options):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=path, callbacks=callbacks, **(quiet | options))


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


class Recorder(Callback):
    """Weights and learning rates after every optimiser step."""

    def __init__(self):
        self.weights = []
        self.rates = []
        self.moments = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(snapshot(pl_module.network))

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.moments.append({name for name, p in pl_module.network.named_parameters() if p in optimizer.state})


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_frozen_parts_stand_still_in_the_warmup_and_train_after_it(tmp_path, optimizer):
    recorder = Recorder()
    module = MultiTaskModule(TinyNetwork(), lr=1e-2, weight_decay=0.1, optimizer=optimizer)
    start = snapshot(module.network)
    trainer(tmp_path, [AuxiliaryWarmup(steps=3, lr=1e-3), recorder], max_epochs=2).fit(module, TinyDataModule())
    auxiliary = {name for name in start if name.startswith(AUXILIARY)}
    assert changed(start, recorder.weights[2]) == auxiliary  # batch-norm statistics included on both sides
    assert changed(recorder.weights[2], recorder.weights[3]) == set(start)


def test_frozen_norms_keep_their_statistics_and_train_all_the_rest(tmp_path):
    module = MultiTaskModule(TinyNetwork(), lr=1e-2)
    start = snapshot(module.network)
    trainer(tmp_path, [FrozenNorms()], max_epochs=2, limit_val_batches=1).fit(module, TinyDataModule())
    parameters = {name for name, _ in module.network.named_parameters()}
    assert parameters < set(start)  # there are statistics
    assert changed(start, snapshot(module.network)) == parameters


@pytest.mark.parametrize("warmup_first", [True, False])
def test_norms_stay_frozen_when_the_warmup_ends(tmp_path, warmup_first):
    module = MultiTaskModule(TinyNetwork(), lr=1e-2)
    start = snapshot(module.network)
    callbacks = [AuxiliaryWarmup(steps=2), FrozenNorms()]
    callbacks = callbacks if warmup_first else callbacks[::-1]
    trainer(tmp_path, callbacks, max_epochs=2, limit_val_batches=1).fit(module, TinyDataModule())
    parameters = {name for name, _ in module.network.named_parameters()}
    assert changed(start, snapshot(module.network)) == parameters


def test_the_warmup_learns_what_adam_on_the_auxiliary_parts_learns(tmp_path):
    """Reference: a hand-written loop over the same batches in which everything else is frozen."""
    seed_everything(0, verbose=False)
    module = MultiTaskModule(TinyNetwork(dropout=0.0), optimizer="adam", weight_decay=0.0)
    reference = MultiTaskModule(TinyNetwork(dropout=0.0))
    reference.load_state_dict(module.state_dict())
    data = TinyDataModule(shuffle=False, train=6)
    trainer(tmp_path, [AuxiliaryWarmup(steps=3, lr=1e-2)], max_epochs=1).fit(module, data)
    network = reference.network
    for part in network.children():
        part.eval()
    parameters = []
    for name in ("aggregators", "auxiliary_heads"):
        network.get_submodule(name).train()
        parameters += network.get_submodule(name).parameters()
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        reference.loss(network(batch["image"]), batch)["total"].backward()
        optimizer.step()
    found = module.network.state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_the_main_schedule_begins_after_the_warmup_with_fresh_moments(tmp_path):
    recorder = Recorder()
    module = MultiTaskModule(TinyNetwork(), lr=1e-2, warmup_steps=2)
    trainer(tmp_path, [AuxiliaryWarmup(steps=3, lr=1e-3), recorder], max_epochs=2).fit(module, TinyDataModule())
    # Lightning clears gradients before the step, so the n-th record precedes the n-th step.
    main = [1e-2 * learning_rate_factor(step, 5, warmup_steps=2) for step in range(5)]
    assert recorder.rates[3:] == pytest.approx(main)
    assert recorder.moments[2] and all(name.startswith(AUXILIARY) for name in recorder.moments[2])
    assert recorder.moments[3] == set()


@pytest.mark.parametrize("boundary", [2, 3, 4])
def test_a_warmup_resumed_before_at_or_after_its_end_is_bitwise_the_same(tmp_path, boundary):
    def module(seed):
        seed_everything(seed, verbose=False)
        return MultiTaskModule(TinyNetwork(), lr=1e-2)

    def callbacks():
        return [AuxiliaryWarmup(steps=3), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)]

    options = {"max_epochs": 2, "enable_checkpointing": True}
    data = {"train": 2 * boundary}
    whole, resumed = module(1), module(2)
    seed_everything(1, verbose=False)
    trainer(tmp_path, callbacks(), **options).fit(whole, TinyDataModule(**data))
    trainer(tmp_path, callbacks(), **options).fit(resumed, TinyDataModule(**data), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert not changed(snapshot(whole), snapshot(resumed))


@pytest.mark.parametrize("published", [True, False])
def test_the_published_loss_does_not_clamp_during_the_warmup(tmp_path, published):
    class Far(TinyDataModule):
        def train_dataloader(self):
            dataset = super().train_dataloader().dataset
            samples = [dataset[i] for i in range(len(dataset))]
            return DataLoader([sample | {"depth": sample["depth"] + 100} for sample in samples], batch_size=2)

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(float(trainer.callback_metrics["train/loss/depth"]))

    seen = []
    module = MultiTaskModule(TinyNetwork(), PublishedLoss() if published else MultiTaskLoss())
    trainer(tmp_path, [AuxiliaryWarmup(steps=2), Losses()], max_epochs=1, limit_val_batches=0).fit(module, Far())
    assert len(seen) == 4
    assert min(seen[:2]) > 90
    assert seen[2:] == [10, 10] if published else min(seen[2:]) > 90


def test_the_warmup_with_accumulated_gradients_counts_optimiser_steps(tmp_path):
    recorder = Recorder()
    module = MultiTaskModule(TinyNetwork())
    start = snapshot(module.network)
    callbacks = [AuxiliaryWarmup(steps=1), recorder]
    trainer(tmp_path, callbacks, max_epochs=1, accumulate_grad_batches=2).fit(module, TinyDataModule())
    assert not [name for name in changed(start, recorder.weights[1]) if not name.startswith(AUXILIARY)]
    assert "heads.depth.weight" in changed(start, recorder.weights[3])


def test_a_warmup_longer_than_the_training_and_networks_without_the_parts(tmp_path):
    with pytest.warns(UserWarning, match="AuxiliaryWarmup takes all 4 steps"):
        trainer(tmp_path, [AuxiliaryWarmup(5)], max_epochs=1).fit(MultiTaskModule(TinyNetwork()), TinyDataModule())

    class Plain(TinyNetwork):
        auxiliary_parts = ()

    with pytest.raises(ValueError, match="trains auxiliary parts, which Plain does not have"):
        trainer(tmp_path, [AuxiliaryWarmup()], max_epochs=1).fit(MultiTaskModule(Plain()), TinyDataModule())
    with pytest.raises(TypeError, match="needs a PanoramaModule, not a LightningModule"):
        AuxiliaryWarmup().setup(None, LightningModule(), "fit")


def test_the_warmup_trains_every_auxiliary_part_of_pd_bridgenet(tmp_path, tiny_network):
    module = MultiTaskModule(tiny_network())
    start = snapshot(module.network)
    module.schedule = "constant"
    trainer(tmp_path, [AuxiliaryWarmup(steps=1)], max_steps=1, limit_val_batches=0).fit(module, TinyDataModule())
    moved = changed(start, snapshot(module.network))
    assert all(name.startswith(AUXILIARY) for name in moved)
    assert moved == {name for name in start if name.startswith(AUXILIARY)}


def images(directory):
    events = EventAccumulator(str(directory), size_guidance={"images": 0}).Reload()
    return {tag: [(e.step, e.width, e.height) for e in events.Images(tag)] for tag in events.Tags()["images"]}


def test_panels_of_the_same_samples_go_to_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="")
    callbacks = [PanelLogger(count=3, every_n_epochs=2)]
    trainer(tmp_path, callbacks, max_epochs=4, logger=logger, log_every_n_steps=1).fit(
        MultiTaskModule(TinyNetwork()), TinyDataModule()
    )
    found = images(logger.log_dir)
    assert sorted(found) == ["val/panel_0", "val/panel_1", "val/panel_2"]
    assert all([step for step, _, _ in panels] == [8, 16] for panels in found.values())
    assert all(width > 500 for panels in found.values() for _, width, _ in panels)


@pytest.mark.parametrize("wrong", [{"every_n_epochs": 0}, {"every_n_epochs": -1}, {"count": -1}])
def test_panels_of_no_epoch_are_refused(wrong):
    with pytest.raises(InputError, match="PanelLogger needs a count of at least 0 and every_n_epochs of at least 1"):
        PanelLogger(**wrong)


def test_panels_without_tensorboard_say_so(tmp_path):
    with pytest.warns(UserWarning, match="PanelLogger draws nothing"):
        trainer(tmp_path, [PanelLogger()], max_steps=1, logger=CSVLogger(tmp_path)).fit(
            MultiTaskModule(TinyNetwork()), TinyDataModule()
        )


def test_the_progress_bar_reads_the_loss_only_when_it_redraws(tmp_path, monkeypatch):
    reads = []
    bar = ProgressBar(refresh_rate=4)
    original = ProgressBar.__mro__[1].get_metrics
    monkeypatch.setattr(
        ProgressBar.__mro__[1], "get_metrics", lambda self, t, m: reads.append(t.global_step) or original(self, t, m)
    )
    options = {"enable_progress_bar": True, "max_epochs": 1, "limit_val_batches": 0}
    trainer(tmp_path, [bar], **options).fit(MultiTaskModule(TinyNetwork()), TinyDataModule(batch_size=1))
    assert reads
    assert set(reads) <= {1, 4, 8}


class Named(TinyDataModule):
    """Test samples with ids of our choice."""

    def __init__(self, ids=("a", "scene/b"), offset=200):
        super().__init__()
        self.ids, self.offset = ids, offset

    def predict_dataloader(self):
        samples = [dict(TinyDataset(len(self.ids), self.offset)[i], id=name) for i, name in enumerate(self.ids)]
        return DataLoader(samples, batch_size=2)


def predict(path, data, writer=None, network=None):
    torch.manual_seed(0)
    module = MultiTaskModule(TinyNetwork(tasks=("depth",)) if network is None else network)
    writer = PredictionWriter(str(path / "out")) if writer is None else writer
    trainer(path, [writer]).predict(module, data, return_predictions=False)


def results(path):
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return {name: content for name, content in files.items() if name not in (MANIFEST, RECORDS)}


KINDS = ("depth.npy", "depth.png", "panel.png")


@pytest.mark.parametrize(
    "bad", ["../x", "/tmp/x", "a/../../../x", "", ".", "..", "a\\b", "n\0l", "end.", "C:x", "n" * 250]
)
def test_an_id_that_leads_elsewhere_costs_its_sample_only(tmp_path, bad):
    writer = PredictionWriter(str(tmp_path / "in" / "out"))
    with pytest.raises(InputError, match=r"1 of 3 samples were left out; the others are in .*out:\n  The id .*"):
        predict(tmp_path, Named(("a", bad, "scene/b")), writer)
    assert list(writer.failed) == [bad]
    assert sorted(results(tmp_path / "in" / "out")) == sorted(
        f"{name}_{kind}" for name in ("a", "scene/b") for kind in KINDS
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["out"]


def test_the_second_sample_of_an_id_is_told(tmp_path):
    with pytest.raises(InputError, match=r"1 of 3 samples were left out.*\n  Two samples have the id 'a'"):
        predict(tmp_path, Named(("a", "b", "a")))
    predict(tmp_path / "alone", Named(("a", "b")))
    assert results(tmp_path / "out") == results(tmp_path / "alone" / "out")


def test_predictions_of_other_settings_are_refused(tmp_path, capsys):
    predict(tmp_path, Named())
    before = results(tmp_path / "out")
    (tmp_path / "out" / "a_depth.png").unlink()
    predict(tmp_path, Named())  # what is missing is made again
    assert results(tmp_path / "out") == before
    other = TinyNetwork(tasks=("depth",))
    other.gamma.data += 1
    with pytest.raises(
        InputError, match=r"out holds results of other settings \(model\.weights was .*`out`.*`overwrite`"
    ):
        predict(tmp_path, Named(), network=other)
    assert results(tmp_path / "out") == before
    predict(tmp_path, Named(), PredictionWriter(str(tmp_path / "out"), overwrite=True), other)
    after = results(tmp_path / "out")
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in after if "depth" in name)


def test_results_of_another_panorama_or_of_nobody_knows_what_are_kept(tmp_path):
    predict(tmp_path, Named())
    before = results(tmp_path / "out")
    with pytest.raises(InputError, match=r"2 of 3 samples .*\n.*a_depth\.png is the result of another image"):
        predict(tmp_path, Named(("a", "scene/b", "new"), offset=300))
    after = results(tmp_path / "out")
    assert before.items() <= after.items() and after.keys() - before.keys() == {f"new_{kind}" for kind in KINDS}
    (tmp_path / "out" / "mine_depth.npy").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"1 of 1 samples .*\n.*mine_depth\.npy already exists, but .*images\.jsonl"):
        predict(tmp_path, Named(("mine",)))
    assert (tmp_path / "out" / "mine_depth.npy").read_bytes() == b"mine"


def test_many_failures_are_counted_and_ten_are_shown(tmp_path):
    with pytest.raises(InputError) as caught:
        predict(tmp_path, Named([f"../{i}" for i in range(12)]))
    lines = str(caught.value).splitlines()
    assert len(lines) == 12 and lines[0].startswith("12 of 12 samples") and lines[-1] == "  and 2 more"
    assert all(re.search(rf"The id '\.\./{i}' cannot", line) for i, line in enumerate(lines[1:11]))


@pytest.mark.filterwarnings("ignore:left out")
def test_nothing_is_written_or_scored_for_a_panorama_that_cannot_be_read(tmp_path):
    class AllTested(HousesDataModule):
        def split_of(self, fields):
            return "test"

    write(tmp_path / "data", files() | {"Homes/train/b/rgb.png": b"nothing"})
    (tmp_path / "without.txt").write_text("train_b")
    data = AllTested(tmp_path / "data", 32, 64, batch_size=1, on_error="skip")
    module = MultiTaskModule(TinyNetwork(classes=data.classes))
    one = trainer(tmp_path, [PredictionWriter(str(tmp_path / "out"))])
    predictions = one.predict(module, data)
    written = {name.split("_depth")[0] for name in results(tmp_path / "out") if name.endswith("_depth.npy")}
    assert written == {f"{home}_{room}" for home, room in SAMPLES} - {"train_b"}
    assert sorted(len(batch) for batch in predictions) == [0, 1, 1, 1, 1, 1, 1]
    without = AllTested(tmp_path / "data", 32, 64, batch_size=1, exclude=tmp_path / "without.txt")
    (expected,), (scores,) = (one.test(module, each, verbose=False) for each in (without, data))
    assert scores == pytest.approx(expected, nan_ok=True)
