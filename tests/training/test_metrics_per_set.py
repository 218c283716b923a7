"""What the callback logs for a set of a mixture is what the module logs for that set alone."""

import math

import pytest
import torch
from lightning.pytorch import Trainer

from mtpano_zoo.data import MixedDataModule, RoomsDataModule
from mtpano_zoo.training import MetricsPerSet, MultiTaskModule
from mtpano_zoo.training.distillation import DistillationModule


def mixture(evaluate=None):
    modules = {
        name: RoomsDataModule(32, 64, 2, count, count, seed=seed)
        for seed, (name, count) in enumerate({"a": 3, "b": 2}.items())
    }
    return MixedDataModule(modules, evaluate=evaluate, batch_size=2)  # the second batch holds both


@pytest.mark.parametrize(
    ("stage", "kind", "count"),
    [("validate", MultiTaskModule, 16), ("test", MultiTaskModule, 16), ("test", DistillationModule, 4)],
)
def test_equals_the_evaluation_of_one_set(stage, kind, count, tiny_network):
    torch.manual_seed(0)
    distils = kind is DistillationModule
    module = kind(tiny_network(tasks=("disparity",)) if distils else tiny_network(classes=mixture().classes))

    def score(data, callbacks):
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=callbacks, enable_checkpointing=False
        )
        return getattr(trainer, stage)(module, data, verbose=False)[0]

    prefix = {"validate": "val", "test": "test"}[stage]
    together = score(mixture(), [MetricsPerSet()])
    pooled = score(mixture(), [])
    assert {name: value for name, value in together.items() if name in pooled} == pytest.approx(pooled)
    for name in ("a", "b"):
        alone = score(mixture(name), [])
        scores = {key.removeprefix(f"{prefix}/"): value for key, value in alone.items() if "loss" not in key}
        assert len(scores) >= count
        mine = {key.removeprefix(f"{prefix}/{name}/"): value for key, value in together.items() if f"/{name}/" in key}
        assert mine == pytest.approx(scores, rel=1e-5)


def test_the_scores_of_a_diverged_network_are_logged(tiny_network):
    network = tiny_network(classes=mixture().classes)
    forward = network.forward
    network.forward = lambda image: forward(image) | {"depth": torch.full((len(image), 1, 32, 64), torch.nan)}
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[MetricsPerSet()])
    (scores,) = trainer.validate(MultiTaskModule(network), mixture(), verbose=False)
    for name in ("a", "b"):
        assert math.isnan(scores[f"val/{name}/depth/AbsRel"])
        assert scores[f"val/{name}/depth/nonfinite"] == 1
        assert scores[f"val/{name}/normals/nonfinite"] == scores[f"val/{name}/semseg/nonfinite"] == 0


def test_needs_a_mixture(tiny_network):
    module = MultiTaskModule(tiny_network(classes=mixture().classes))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[MetricsPerSet()])
    with pytest.raises(ValueError, match="leave it out"):
        trainer.validate(module, RoomsDataModule(32, 64, 1, 1, 1), verbose=False)
