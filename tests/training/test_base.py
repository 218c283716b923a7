import copy
import re
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler
from tiny_training import TinyDataModule, TinyDataset, TinyNetwork, assert_same, snapshot, trainer
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.data import DataLoader, IterableDataset

from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.errors import InputError
from mtpano_zoo.losses import DAPLoss, MultiTaskLoss
from mtpano_zoo.metrics import DepthMetrics
from mtpano_zoo.training import MultiTaskModule, base, learning_rate_factor
from mtpano_zoo.zoo import load_model


@pytest.mark.parametrize(("sample", "sentence"), [
    ((torch.rand(3, 16, 32), torch.rand(16, 32)), "A batch is a dict with image .* not list"),
    ({"pixels": torch.rand(3, 16, 32)}, "not the keys pixels"),
    ({"image": torch.rand(3, 16, 32), "depth": torch.rand(1, 16, 32)}, r"depth must be \(1, 16, 32\)"),
    ({"image": 255 * torch.rand(3, 16, 32)}, "divide 8-bit values by 255"),
])  # fmt: skip
def test_samples_of_your_own_in_another_form_are_refused(tmp_path, sample, sentence):
    with pytest.raises(InputError, match=sentence):
        trainer(tmp_path, max_steps=1).fit(MultiTaskModule(TinyNetwork()), DataLoader([sample]))


def test_fit_validate_test_and_predict(tmp_path):
    module, data = MultiTaskModule(TinyNetwork(), lr=1e-2), TinyDataModule()
    t = trainer(tmp_path, max_epochs=8)
    t.fit(module, data)
    first = trainer(tmp_path).validate(MultiTaskModule(TinyNetwork()), data, verbose=False)[0]
    last = t.validate(module, data, verbose=False)[0]
    assert last["val/loss"] < first["val/loss"]
    assert {"val/loss/semseg", "val/loss/aux_depth", "val/semseg/mIoU", "val/depth/AbsRel", "val/normals/mean"} <= set(
        last
    )
    assert "test/semseg/mIoU" in t.test(module, data, verbose=False)[0]
    predictions = [sample for batch in t.predict(module, data) for sample in batch]
    assert len(predictions) == 4
    image = data.predict_dataloader().dataset[3]["image"]
    expected = module.network.predict(image)
    assert (predictions[3]["maps"]["semseg"] == expected.semseg).mean() > 0.99
    np.testing.assert_allclose(predictions[3]["maps"]["depth"], expected.depth, atol=1e-5)


def test_metrics_are_the_users_to_choose(tmp_path):
    chosen = {"depth": DepthMetrics(max_depth=3.0, alignment="median")}
    (scores,) = trainer(tmp_path).validate(
        MultiTaskModule(TinyNetwork(), metrics=chosen), TinyDataModule(), verbose=False
    )
    assert "val/depth/AbsRel/median_aligned" in scores
    assert "val/depth/AbsRel" not in scores
    with pytest.raises(ValueError, match="metrics for layout, but the network has"):
        MultiTaskModule(TinyNetwork(), metrics={"layout": DepthMetrics()})


def test_the_scores_of_a_diverged_network_are_logged(tmp_path):
    """They are as bad as they can be, or NaN, but do not vanish; what has no value is left out all the same."""

    class Diverged(TinyNetwork):
        def forward(self, image):
            return {name: x * torch.nan if name in self.tasks else x for name, x in super().forward(image).items()}

    module = MultiTaskModule(Diverged(classes=("floor", "wall", "sky", "never there")))
    (scores,) = trainer(tmp_path).validate(module, TinyDataModule(), verbose=False)
    scores = {name.removeprefix("val/"): value for name, value in scores.items() if "loss" not in name}
    for task in ("semseg", "depth", "normals"):
        assert scores.pop(f"{task}/nonfinite") == 1
    assert all(np.isnan(scores.pop(f"depth/{name}")) for name in DepthMetrics().names[:-1])
    assert scores.pop("normals/median") == pytest.approx(180, abs=0.00501)
    assert scores == {
        **{f"semseg/{name}": 0 for name in ("mIoU", "pixel_accuracy", "IoU/floor", "IoU/wall", "IoU/sky")},
        **{
            f"normals/{name}": value
            for name, value in {"mean": 180, "RMSE": 180, "11.25": 0, "22.5": 0, "30": 0}.items()
        },
    }


def test_a_checkpoint_with_other_classes_is_refused_in_one_sentence(tmp_path):
    t = trainer(tmp_path, max_steps=1)
    t.fit(MultiTaskModule(TinyNetwork()), TinyDataModule())
    path = tmp_path / "last.ckpt"
    t.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("network."))
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name][:1]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"weights in the checkpoint do not fit TinyNetwork: of another shape"):
        trainer(tmp_path).validate(MultiTaskModule(TinyNetwork()), TinyDataModule(), ckpt_path=path, verbose=False)


class Mislabelled(TinyDataModule):
    """A label map in which one pixel has a class that the network does not know."""

    def train_dataloader(self):
        dataset = super().train_dataloader().dataset
        samples = [dict(dataset[i]) for i in range(len(dataset))]
        samples[0]["semseg"] = samples[0]["semseg"].clone()
        samples[0]["semseg"][3, 5] = 77
        return DataLoader(samples, batch_size=2)


def test_classes_out_of_range_stop_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"semseg labels hold the classes \[77\], but there are"):
        trainer(tmp_path, max_epochs=1).fit(MultiTaskModule(TinyNetwork()), Mislabelled())


def test_depth_that_is_nan_or_infinite_is_no_label(tmp_path):
    """Holes of any kind train and score exactly as holes marked by zero do."""

    class Holes(TinyDataModule):
        def __init__(self, hole):
            super().__init__(shuffle=False)
            self.hole = hole

        def train_dataloader(self):
            dataset = super().train_dataloader().dataset
            samples = [dict(dataset[i]) for i in range(len(dataset))]
            for sample in samples:
                sample["depth"] = sample["depth"].clone()
                sample["depth"][2:5, 3:9] = self.hole
            return DataLoader(samples, batch_size=2)

    states = []
    for hole in (0.0, float("nan"), float("inf"), -1.0):
        seed_everything(0)
        module = MultiTaskModule(TinyNetwork())
        trainer(tmp_path, max_epochs=1).fit(module, Holes(hole))
        states.append(snapshot(module.network))
    for state in states[1:]:
        assert_same(states[0], state)


def test_training_losses_are_logged_by_term(tmp_path):
    t = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    t.fit(MultiTaskModule(TinyNetwork(tasks=["depth"])), TinyDataModule())
    assert set(t.logged_metrics) == {"train/loss", "train/loss/depth", "train/loss/aux_depth"}


def test_a_subset_of_tasks_and_absent_labels(tmp_path):
    module, data = MultiTaskModule(TinyNetwork(tasks=["semseg", "depth"])), TinyDataModule(without=["depth"])
    t = trainer(tmp_path, max_epochs=1)
    before = snapshot(module.network.heads)
    t.fit(module, data)
    after = snapshot(module.network.heads)
    assert not torch.equal(before["semseg.weight"], after["semseg.weight"])
    logged = t.validate(module, data, verbose=False)[0]
    assert "val/semseg/mIoU" in logged
    assert not any(name.startswith(("val/depth", "val/normals")) for name in logged)


def test_scores_of_a_task_whose_label_some_samples_lack_do_not_depend_on_the_batches(tmp_path):
    """Samples with distances and without `far` do not say where a distance is defined."""
    module = MultiTaskModule(TinyNetwork(tasks=["depth", "valid"]))
    samples = TinyDataset(6, 0, ["far"], every=2)

    def scores(samples, batch_size):
        loader = DataLoader(samples, batch_size=batch_size, collate_fn=collate)
        found = trainer(tmp_path).validate(module, loader, verbose=False)[0]
        return {name: value for name, value in found.items() if "loss" not in name}

    alone = scores(samples, 1)
    assert scores(samples, 6) == pytest.approx(alone, rel=1e-5)
    complete = scores([sample for sample in map(samples.__getitem__, range(6)) if "far" in sample], 1)
    assert complete["val/valid/accuracy"] == pytest.approx(alone["val/valid/accuracy"])
    assert complete["val/depth/AbsRel"] != pytest.approx(alone["val/depth/AbsRel"])  # all have distances


def test_a_frozen_encoder_does_not_move_by_a_bit_and_everything_else_does(tmp_path):
    module = MultiTaskModule(TinyNetwork(), freeze_encoder=True)
    before = snapshot(module.network)
    trainer(tmp_path, max_epochs=2).fit(module, TinyDataModule())
    after = snapshot(module.network)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("encoder."), name
    module.eval().train()
    assert not module.network.encoder[1].training
    assert module.network.neck[1].training


def test_a_network_in_evaluation_mode_is_trained_in_training_mode():
    assert MultiTaskModule(TinyNetwork().eval()).network.neck[1].training


def test_learning_rates_follow_the_schedule_per_step(tmp_path):
    module = MultiTaskModule(TinyNetwork(), lr=1e-2, encoder_lr=1e-3, warmup_steps=2, optimizer="adam")
    rates = []
    module.on_before_zero_grad = lambda optimizer: rates.append({g["name"]: g["lr"] for g in optimizer.param_groups})
    trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2, limit_val_batches=0).fit(module, TinyDataModule())
    expected = [learning_rate_factor(step, 4, warmup_steps=2) for step in range(4)]
    assert [r["new/decay"] for r in rates] == pytest.approx([1e-2 * f for f in expected])
    assert [r["encoder/no_decay"] for r in rates] == pytest.approx([1e-3 * f for f in expected])


def test_a_schedule_ends_with_the_training_if_the_accumulation_changes(tmp_path):
    """Four batches an epoch: four steps, then two for three at a time."""
    one = trainer(tmp_path, max_epochs=2, callbacks=[GradientAccumulationScheduler({0: 1, 1: 3})])
    module = MultiTaskModule(TinyNetwork(), lr=1.0, power=1.0)
    one.fit(module, TinyDataModule())
    assert one.global_step == 6
    assert module.lr_schedulers().get_last_lr()[-1] == 0


def test_a_decaying_schedule_needs_an_end(tmp_path):
    endless = trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match="polynomial schedule needs an end"):
        endless.fit(MultiTaskModule(TinyNetwork()), TinyDataModule())

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([TinyDataset(1)[0]] * 4)

    with pytest.raises(ValueError, match="max_epochs if the data have a length"):
        trainer(tmp_path, max_epochs=2).fit(MultiTaskModule(TinyNetwork()), DataLoader(Stream()))


def test_freezing_needs_an_encoder():
    class Plain(TinyNetwork):
        encoder_part = None

    for options in ({"freeze_encoder": True}, {"lora_rank": 2}):
        with pytest.raises(ValueError, match="Plain has no encoder to freeze"):
            MultiTaskModule(Plain(), **options)


@pytest.mark.parametrize("choice", [{"optimizer": "sgd"}, {"schedule": "linear"}])
def test_unknown_choices_are_named_with_those_that_exist(choice):
    with pytest.raises(ValueError, match="adam, adamw and schedule one of polynomial, cosine, constant, not"):
        MultiTaskModule(TinyNetwork(), **choice)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_labels_is_refused(tmp_path, precision):
    module, data = MultiTaskModule(TinyNetwork()), TinyDataModule()
    for verb in ("fit", "validate", "test"):
        with pytest.raises(ValueError, match=rf"{precision} would round labels .* use b?f?16-mixed"):
            getattr(trainer(tmp_path, max_epochs=1, precision=precision), verb)(module, data)


class Sized(TinyDataModule):
    """Data that say how large they are."""

    def __init__(self, height):
        super().__init__(batch_size=1)
        self.height, self.width = height, 2 * height

    def test_dataloader(self):
        return DataLoader([{"image": torch.rand(3, self.height, self.width), "id": "a"}])

    train_dataloader = val_dataloader = predict_dataloader = test_dataloader


def test_data_of_another_size_than_the_network_is_made_for_are_noticed(tmp_path):
    """But not for prediction, which resizes to the size of the network itself."""
    module, one = MultiTaskModule(TinyNetwork(), schedule="constant"), trainer(tmp_path, max_steps=1)
    for height, verb, count in [(16, "fit", 0), (32, "fit", 1), (16, "test", 0), (32, "test", 1), (32, "predict", 0)]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            getattr(one, verb)(module, Sized(height))
        found = [str(warning.message) for warning in caught if "input_size" in str(warning.message)]
        assert len(found) == count, (height, verb)
        if found:
            sentence = r"data are 32 x 64, .* input_size, 16 x 32: set .*input_size to \[32, 64\]"
            assert re.search(sentence, found[0])


def test_masks_of_other_ranges_than_the_loss_are_refused():
    class Masked(TinyNetwork):
        ranges = (10.0,)

    with pytest.raises(ValueError, match=r"ranges \(100.0,\), but the network has masks of \(10.0,\)"):
        base.PanoramaModule(Masked(), DAPLoss())
    base.PanoramaModule(Masked(), DAPLoss(ranges=(10,)))


@pytest.mark.usefixtures("tiny_network_is_known")
def test_averaged_weights_are_what_a_checkpoint_holds(tmp_path):
    """Batch-norm statistics are averaged with the weights, so both belong together."""
    module, average = MultiTaskModule(TinyNetwork(), lr=1e-2), {}

    class Reference(EMAWeightAveraging):
        def on_train_batch_end(self, t, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(t, pl_module, outputs, batch, batch_idx)
            for name, value in pl_module.network.state_dict().items():
                old = average.get(name, value)
                average[name] = old + 0.5 * (value - old) if value.is_floating_point() else value.clone()

    t = trainer(tmp_path, max_epochs=2, callbacks=[Reference(decay=0.5)])
    t.fit(module, TinyDataModule())
    t.save_checkpoint(tmp_path / "ema.ckpt")
    loaded = load_model(tmp_path / "ema.ckpt").state_dict()
    current = torch.load(tmp_path / "ema.ckpt", weights_only=True)["current_model_state"]
    for name in ("encoder.0.weight", "encoder.1.running_mean", "neck.1.running_var"):
        torch.testing.assert_close(loaded[name], average[name])
        assert torch.equal(loaded[name], module.network.state_dict()[name])
    assert current.keys() == module.state_dict().keys()


def test_bf16_trains_close_to_float32(tmp_path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        seed_everything(3, verbose=False)
        module = MultiTaskModule(TinyNetwork(dropout=0.0))
        t = trainer(tmp_path, max_epochs=2, precision=precision)
        t.fit(module, TinyDataModule(shuffle=False))
        losses[precision] = t.validate(module, TinyDataModule(), verbose=False)[0]
        assert all(p.dtype == torch.float32 for p in module.parameters())
    assert losses["bf16-mixed"]["val/loss"] == pytest.approx(losses["32-true"]["val/loss"], rel=0.05)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_a_fused_optimiser_in_bf16_has_its_gradients_clipped(algorithm, tmp_path, monkeypatch):
    seen = []

    class Fused(torch.optim.AdamW):
        def __init__(self, groups, lr, fused):
            super().__init__(groups, lr=lr, fused=True)  # as on a GPU

        def step(self, closure=None):
            loss = closure()
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            seen.append(
                max(g.abs().max() for g in gradients) if algorithm == "value" else nn.utils.get_total_norm(gradients)
            )
            super().step()
            return loss

    monkeypatch.setitem(base.OPTIMIZERS, "adamw", Fused)
    module = MultiTaskModule(TinyNetwork(dropout=0.0))
    options = {"precision": "bf16-mixed", "gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    trainer(tmp_path, max_steps=2, **options).fit(module, TinyDataModule())
    assert len(seen) == 2
    assert all(value == pytest.approx(1e-3, rel=1e-3) for value in seen)


def test_compiling_changes_neither_names_nor_numbers(tmp_path, monkeypatch):
    compiled = []
    original = nn.Module.compile

    def eager(self, *args, **kwargs):
        compiled.append(self)
        original(self, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", eager)
    network = TinyNetwork(dropout=0.0)
    plain = MultiTaskModule(copy.deepcopy(network))
    fast = MultiTaskModule(network, compile=True)
    assert compiled == [network]
    for module in (plain, fast):
        trainer(tmp_path, max_epochs=1, callbacks=[EMAWeightAveraging()]).fit(module, TinyDataModule(shuffle=False))
    found, expected = fast.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_no_training_step_waits_for_the_device():
    """Fake tensors have no values: whatever needs one, and would wait for the device to get it, raises.

    Networks and losses with all their parts are tried in `test_synchronisation.py`.
    """
    module, logged = MultiTaskModule(TinyNetwork()), []
    module.log = lambda name, value, **options: logged.append(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = {"image": torch.rand(2, 3, 32, 64), "depth": torch.rand(2, 32, 64), "normals": torch.rand(2, 3, 32, 64)}
        batch["semseg"] = torch.zeros(2, 32, 64, dtype=torch.long)
        module.training_step(batch, 0)
        with pytest.raises(DataDependentOutputException):
            batch["depth"].max().item()
    assert {"train/loss", "train/loss/depth", "train/loss/aux_normals"} <= set(logged)


def test_the_loss_is_the_users_to_choose():
    loss = MultiTaskLoss(auxiliary_weight=0.0)
    assert MultiTaskModule(TinyNetwork(), loss).loss is loss
