"""Training of a generator that is stopped and goes on from its checkpoint."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader

from mtpano_zoo.generation.module import DiT360Module
from mtpano_zoo.generation.tiny import TinyFlux


class DrawsByStep(Callback):
    """What is drawn in a step depends on its number alone."""

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        torch.manual_seed(trainer.global_step)


@pytest.mark.parametrize("learns", ["adapter", "everything"])
def test_training_with_averaged_weights_is_resumed_from_what_was_learnt(learns: str, tmp_path: Path) -> None:
    samples = [{"image": torch.rand(3, 16, 32), "caption": "a room"} for _ in range(4)]
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)

    def fit(name: str, steps: int, resumed: Path | None = None) -> DiT360Module:
        torch.manual_seed(0)
        small = TinyFlux(["a", "room"], width=32, double_blocks=1, single_blocks=1, text_width=16, text_layers=1)
        module = DiT360Module(small, learns=learns, rank=2, alpha=2, seam="none", lr=1e-2)
        keep = ModelCheckpoint(tmp_path / name, "{step}", every_n_train_steps=steps)
        callbacks = [DrawsByStep(), EMAWeightAveraging(decay=0.5), keep]
        options = {"default_root_dir": tmp_path, "max_steps": steps, "callbacks": callbacks}
        Trainer(accelerator="cpu", devices=1, **options, **quiet).fit(
            module, DataLoader(samples, batch_size=2), ckpt_path=resumed
        )
        return module

    module = fit("whole", 4)
    fit("first", 2)
    again = fit("resumed", 4, tmp_path / "first/step=2.ckpt")
    whole, resumed = (torch.load(tmp_path / name / "step=4.ckpt", weights_only=True) for name in ("whole", "resumed"))
    learnt = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    for key in ("state_dict", "current_model_state"):
        assert whole[key].keys() == resumed[key].keys() == learnt
        assert all(torch.equal(resumed[key][name], value) for name, value in whole[key].items()), key
    current = whole["current_model_state"]
    assert not any(torch.equal(current[name], value) for name, value in whole["state_dict"].items())
    result = again.state_dict()
    assert all(torch.equal(result[name], value) for name, value in module.state_dict().items())
