"""Progress of training, scoring and predicting: a bar in a terminal, lines of text elsewhere."""

import sys
import time
from typing import Any

import lightning.pytorch as pl
import rich
from lightning.pytorch import callbacks

from mtpano_zoo.training.callbacks import ProgressBar

__all__ = ("ProgressLines", "progress_bar")


class ProgressLines(callbacks.ProgressBar):
    """Progress as a line of text now and then, on standard error: for logs, pipes and jobs without a terminal.

    Args:
        seconds: Time between two lines.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._enabled = True
        self._started = self._printed = time.monotonic()

    def disable(self) -> None:
        """Print nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        super().setup(trainer, pl_module, stage)
        self._started = self._printed = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if it is time."""
        self._print(f"epoch {trainer.current_epoch}, step", batch_idx, self.total_train_batches)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Print a line if it is time."""
        self._print("validation, batch", batch_idx, _largest(trainer.num_val_batches))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Print a line if it is time."""
        self._print("test, batch", batch_idx, _largest(trainer.num_test_batches))

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Print a line if it is time."""
        self._print("prediction, batch", batch_idx, _largest(trainer.num_predict_batches))

    def _print(self, what: str, index: int, count: float) -> None:
        now = time.monotonic()
        if not self._enabled or now - self._printed < self.seconds:
            return
        self._printed = now
        values = self.get_metrics(self.trainer, self.trainer.lightning_module)  # this waits for the device
        shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
        minutes = f"{(now - self._started) / 60:.1f} min"
        print(f"{what} {index + 1} of {count:g}", *shown, minutes, sep=", ", file=sys.stderr, flush=True)


def progress_bar() -> callbacks.ProgressBar:
    """Return a bar in a terminal or notebook, else `ProgressLines`."""
    console = rich.get_console()
    return ProgressBar(refresh_rate=10) if console.is_terminal or console.is_jupyter else ProgressLines()


def _largest(counts: Any) -> float:
    """Return the number of batches of the longest loader; Lightning keeps one number or one for each loader."""
    return float(max(counts, default=0)) if isinstance(counts, list) else float(counts)
