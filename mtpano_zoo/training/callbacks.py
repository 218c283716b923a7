"""Callbacks for `PanoramaModule`; weight averaging and checkpointing are Lightning's own."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses import PublishedLoss
from mtpano_zoo.manifest import describe_model
from mtpano_zoo.output_paths import left_out, user_path
from mtpano_zoo.prediction import Prediction, output_paths
from mtpano_zoo.prediction.folder import PredictionFolder, manifest_of
from mtpano_zoo.tasks import SAMPLE_MAPS
from mtpano_zoo.training.base import PanoramaModule
from mtpano_zoo.viz import figure_to_array, sample_panel

__all__ = ("AuxiliaryWarmup", "FrozenNorms", "PanelLogger", "PredictionWriter", "ProgressBar")


class AuxiliaryWarmup(Callback):
    """Train only the auxiliary parts of a network for the first steps, as MTPano does before its main training.

    The first ``steps`` optimiser steps of the same ``fit`` run with the full loss and a learning rate of their own.
    Gradients are computed everywhere, as distributed training expects from one step to the next, but those of the
    frozen parts are dropped before clipping and before the optimiser, which skips parameters without gradient, their
    weight decay included. Norms with running statistics in the frozen parts stay in evaluation mode: unlike in the
    published code, the frozen parts do not change at all. As in that code, `PublishedLoss` does not clamp meanwhile.
    Then the optimiser forgets its moments of the trained parts, and the schedule of the main training starts at its
    first step.

    All of this follows from the number of steps done, so a resumed training continues it, and every rank agrees.

    Args:
        steps: Optimiser steps of the warm-up, part of the trainer's ``max_steps``.
        lr: Learning rate of the warm-up.
    """

    def __init__(self, steps: int = 500, lr: float = 1e-3) -> None:
        self.steps = steps
        self.lr = lr
        self._stopped: set[nn.Module] = set()  # norms that were not in evaluation mode before

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the network and start the schedule after the warm-up.

        Raises:
            InputError: If the network has no auxiliary parts.
        """
        module = _module(pl_module)
        network = module.network
        if not network.auxiliary_parts:
            raise InputError(f"AuxiliaryWarmup trains auxiliary parts, which {type(network).__name__} does not have.")
        module.schedule_start = self.steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if no step is left for the rest of the network."""
        if trainer.estimated_stepping_batches <= self.steps:
            rank_zero_warn(f"AuxiliaryWarmup takes all {trainer.estimated_stepping_batches} steps of the training.")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Freeze the norm statistics of the frozen parts; at the end of the warm-up, release everything."""
        loss = _module(pl_module).loss
        if isinstance(loss, PublishedLoss):
            loss.clamps = trainer.global_step >= self.steps
        if trainer.global_step < self.steps:
            for norm in _frozen_norms(pl_module):
                if norm.training:
                    self._stopped.add(norm.eval())
        elif trainer.global_step == self.steps:
            for norm in self._stopped:
                norm.train()
            self._stopped.clear()
            for parameter in _auxiliary_parameters(pl_module):
                trainer.optimizers[0].state.pop(parameter, None)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Drop the gradients of the frozen parts and set the learning rate; the schedule resets it after the step."""
        if trainer.global_step >= self.steps:
            return
        trained = {id(parameter) for parameter in _auxiliary_parameters(pl_module)}
        for group in optimizer.param_groups:
            group["lr"] = self.lr
            for parameter in group["params"]:
                if id(parameter) not in trained:
                    parameter.grad = None


class FrozenNorms(Callback):
    """Freeze the running statistics of every norm while its scale and shift keep training.

    Use it to fine-tune with few images per step: the statistics of a batch of two are noisy, and if batches hold either
    rooms or streets, the running statistics fit neither at inference. The network must already have statistics.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set norms with running statistics to evaluation mode; validation may have changed it."""
        for norm in pl_module.modules():
            if isinstance(norm, _NormBase):
                norm.eval()


class PanelLogger(Callback):
    """Draw the first validation samples with their predictions into TensorBoard.

    The samples are the same every time as long as the validation loader does not shuffle. Without a
    `TensorBoardLogger`, a warning says so and nothing is drawn.

    Args:
        count: Number of samples.
        every_n_epochs: Draw after every n-th epoch.

    Raises:
        InputError: If the count is negative, or `every_n_epochs` is less than 1.
    """

    def __init__(self, count: int = 4, every_n_epochs: int = 1) -> None:
        if count < 0 or every_n_epochs < 1:
            raise InputError(
                "PanelLogger needs a count of at least 0 and every_n_epochs of at least 1, not "
                f"{count} and {every_n_epochs}."
            )
        self.count = count
        self.every_n_epochs = every_n_epochs
        self._drawn = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Warn if there is no logger to draw to."""
        found = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        if not found and not getattr(trainer, "fast_dev_run", False):
            rank_zero_warn("PanelLogger draws nothing: the trainer has no TensorBoardLogger.")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start again with the first sample."""
        self._drawn = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the samples of the batch until there are enough."""
        due = not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not due or not boards or not trainer.is_global_zero or dataloader_idx > 0:
            return
        network = _module(pl_module).network
        for i in range(min(len(batch["image"]), self.count - self._drawn)):
            sample = {key: batch[key][i] for key in batch.keys() & SAMPLE_MAPS.keys()}
            prediction = {task: outputs[task][i] for task in network.tasks}
            panel = figure_to_array(sample_panel(sample, prediction, network.classes, network.palette))
            for board in boards:
                board.add_image(f"val/panel_{self._drawn}", panel, trainer.global_step, dataformats="HWC")
            self._drawn += 1


class PredictionWriter(BasePredictionWriter):
    """Write what `mtpano predict` predicts, as `Prediction.save` does, under the ids of the samples.

    Complete results are kept. A folder holds results of one network and its settings only, see
    `mtpano_zoo.prediction.folder`. A sample that cannot be written does not stop the others.

    Args:
        out: Folder for the results. If omitted, ``predictions`` beside the logs of the run.
        overwrite: Replace results that exist already, even those of other settings.
    """

    def __init__(self, out: str | None = None, overwrite: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.out = out
        self.overwrite = overwrite
        self.failed: dict[str, str] = {}
        """For each sample without results, a sentence that says why."""
        self._ids: Counter[str] = Counter()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the folder, in the first process before the others.

        Raises:
            InputError: If it holds results of other settings, and `overwrite` is false.
        """
        self.failed = {}
        self._ids = Counter()
        name = None if trainer.ckpt_path is None else str(trainer.ckpt_path)
        model = describe_model(_module(pl_module).network, name)
        manifest = manifest_of("mtpano predict", model, {"precision": str(trainer.precision)})
        advice = "choose another `out` of PredictionWriter, or set its `overwrite` to replace the results"
        self._folder = PredictionFolder(self.folder(trainer), manifest, self.overwrite, advice)
        if trainer.is_global_zero:
            self._folder.claim()
        trainer.strategy.barrier("prediction folder")
        if not trainer.is_global_zero:
            self._folder.claim()

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Sequence[dict[str, Any]],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the samples of one batch."""
        if "unreadable" in batch:
            return
        for sample_id, maps in zip(batch["id"], prediction, strict=True):
            try:
                self._write(sample_id, Prediction(**maps))
            except (OSError, ValueError) as error:
                self.failed[sample_id] = str(error)
            self._ids[sample_id] += 1

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print where the results are.

        Raises:
            InputError: If there are samples without results; all others have been written.
        """
        parts: list[Any] = [(self._ids, self.failed)]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, (self._ids, self.failed))
        ids: Counter[str] = sum((part for part, _ in parts), Counter())
        failed = {sample_id: sentence for _, part in parts for sample_id, sentence in part.items()}
        self.failed = {sample_id: _twice(sample_id) for sample_id, count in ids.items() if count > 1} | failed
        if self.failed and trainer.is_global_zero:
            raise left_out(list(self.failed.values()), ids.total(), self._folder.root)
        rank_zero_info(f"The predictions are in {self._folder.root}")

    def folder(self, trainer: pl.Trainer) -> Path:
        """Return the output folder."""
        return user_path(self.out) if self.out else Path(trainer.log_dir or trainer.default_root_dir) / "predictions"

    def _write(self, sample_id: str, prediction: Prediction) -> None:
        files = output_paths(self._folder.root, sample_id, prediction.tasks)
        if sample_id in self._ids:
            raise InputError(_twice(sample_id))
        digest = hashlib.sha256(prediction.image.tobytes()).hexdigest()
        if not self._folder.finished(sample_id, files, set(files), lambda: digest):
            self._folder.begin(sample_id)
            prediction.save(self._folder.root, sample_id, overwrite=True)
            self._folder.complete(sample_id, digest)


class ProgressBar(RichProgressBar):
    """Rich progress bar that reads the loss from the device only when it redraws, every ``refresh_rate`` steps.

    The base class reads it after every step, and so waits for the device every time.
    """

    _shown: dict[str, Any] | None = None

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the values to show beside the bar."""
        if self._shown is None or not trainer.training or trainer.global_step % self.refresh_rate == 0:
            self._shown = dict(super().get_metrics(trainer, pl_module))
            self._shown.pop("v_num", None)
        return self._shown


def _twice(sample_id: str) -> str:
    return f"Two samples have the id {sample_id!r}, of which only one is written: name them differently."


def _module(pl_module: pl.LightningModule) -> PanoramaModule:
    """Narrow the type.

    Raises:
        TypeError: If it is not a `PanoramaModule`.
    """
    if not isinstance(pl_module, PanoramaModule):
        raise TypeError(f"This callback needs a PanoramaModule, not a {type(pl_module).__name__}.")
    return pl_module


def _auxiliary_parameters(pl_module: pl.LightningModule) -> Iterator[nn.Parameter]:
    network = _module(pl_module).network
    for name in network.auxiliary_parts:
        yield from network.get_submodule(name).parameters()


def _frozen_norms(pl_module: pl.LightningModule) -> list[nn.Module]:
    """Find the layers with running statistics outside the auxiliary parts."""
    network = _module(pl_module).network
    trained = {id(layer) for name in network.auxiliary_parts for layer in network.get_submodule(name).modules()}
    return [layer for layer in network.modules() if isinstance(layer, _NormBase) and id(layer) not in trained]
