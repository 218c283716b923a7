"""Separate metrics for every data set of a mixture."""

from collections.abc import Mapping
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric

from mtpano_zoo.errors import InputError
from mtpano_zoo.metrics import defined_scores
from mtpano_zoo.training.base import PanoramaModule

__all__ = ("MetricsPerSet",)


class MetricsPerSet(Callback):
    """Log ``val/SET/TASK/METRIC`` and ``test/SET/TASK/METRIC`` for the sets of a `MixedDataModule`.

    The module itself logs its metrics over all sets together. Both use the same metrics with the same settings.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, dict[str, Metric]] = {}

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        modules = getattr(trainer.datamodule, "modules", None)  # type: ignore[attr-defined]
        if not isinstance(pl_module, PanoramaModule) or not isinstance(modules, Mapping):
            raise InputError("MetricsPerSet scores the sets of a MixedDataModule with a PanoramaModule: leave it out")
        pooled = cast(dict[str, Metric], dict(cast(Any, pl_module.metrics[stage]).items()))
        self._metrics = {
            name: {task: metric.clone().to(pl_module.device) for task, metric in pooled.items()} for name in modules
        }
        for metrics in self._metrics.values():
            for metric in metrics.values():
                metric.reset()

    def _update(self, pl_module: PanoramaModule, outputs: Mapping[str, Any], batch: dict[str, Any]) -> None:
        sets = [name.split("/")[0] for name in batch["id"]]
        for name in dict.fromkeys(sets):
            mine = [i for i, other in enumerate(sets) if other == name]
            for task, metric in self._metrics[name].items():
                if (labels := pl_module.labels_for(task, metric, batch)) is not None:
                    metric.update(outputs[task][mine].float(), *(label[mine] for label in labels))

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for name, metrics in self._metrics.items():
            for task, metric in metrics.items():
                # All ranks must agree on calling compute(), or those that do wait forever.
                if trainer.strategy.reduce_boolean_decision(metric.update_called, all=False):
                    scores = {f"{stage}/{name}/{task}/{key}": x for key, x in defined_scores(metric).items()}
                    pl_module.log_dict(scores, sync_dist=True)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the metrics."""
        self._start(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the metrics."""
        self._start(trainer, pl_module, "test")

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Score one batch."""
        self._update(pl_module, outputs, batch)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Score one batch."""
        self._update(pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics."""
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics."""
        self._log(trainer, pl_module, "test")
