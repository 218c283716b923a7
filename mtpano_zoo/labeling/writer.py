"""Writer that fuses and writes labels while the next panorama is labelled, and keeps account."""

import errno
import math
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import BoundedSemaphore
from typing import Any, cast

import lightning.pytorch as pl
import torch.distributed
from lightning.pytorch.callbacks import BasePredictionWriter

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.encoding import EncodedLabels
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.manifest import claim, software, write_record
from mtpano_zoo.labeling.module import PanoramaLabeler
from mtpano_zoo.labeling.report import LabelReport, one_sentence
from mtpano_zoo.manifest import differences

__all__ = ("LabelWriter",)

ASKED_TO_END = "stopped because the process was asked to end; finished labels are kept, so start again"
PATIENCE = 20.0  # seconds; torchrun and SLURM kill a process 30 seconds after they have asked it to end


class LabelWriter(BasePredictionWriter):
    """Write the results of a `PanoramaLabeler` in threads, and end the run if the folder cannot be written to.

    With several processes, the ledger of every process has the report of all of them once prediction has ended.

    Args:
        ledger: The folder, and the account of every panorama's outcome.
        manifest: See `mtpano_zoo.labeling.manifest.describe`.
        split: List of `db_info` to add the panoramas to; None for no list.
        threads: Number of threads that fuse, encode and write. Each keeps the views' labels of one panorama.

    Raises:
        InputError: If `threads` is not positive.
    """

    def __init__(
        self, ledger: Ledger, manifest: Mapping[str, Any], *, split: str | None = "train", threads: int = 2
    ) -> None:
        super().__init__(write_interval="batch")
        if threads < 1:
            raise InputError(f"at least one thread has to write, got {threads}")
        self.ledger = ledger
        self.folder = ledger.folder
        self.manifest = dict(manifest)
        self.split = split
        self.threads = threads
        self._open = False
        self._asked_to_end = False
        self._begin = self._started = 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._room = BoundedSemaphore(threads)
        self._group: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Prepare the folder: the first process writes the manifest, then all create their temporary folders.

        Raises:
            InputError: If the processes of the run have different settings, or `claim` refuses the folder.
            OSError: If the folder cannot be written to.
        """
        super().setup(trainer, pl_module, stage)
        if trainer.world_size > 1:
            # One process may be hours behind the others; if it dies, this group notices at once.
            self._group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=365))
            self._compare_settings(trainer.world_size)
        try:
            if trainer.is_global_zero:
                claim(self.folder.root, self.manifest, self.ledger.overwrite)
            trainer.strategy.barrier("manifest")
            self.folder.open()
        except OSError as error:
            raise OSError(f"{self.folder.root} cannot be written to: {one_sentence(error)}") from error
        self._open = True
        self._begin = time.monotonic()
        self._started = time.time()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="label-writer")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's handler of SIGTERM until the end of the run, when Lightning restores the original one.

        Lightning's handler waits for the other processes. It raises an error if one of them is dead, and this process
        would go on labelling.
        """

        def note(number: int, _: Any) -> None:
            if not self._asked_to_end and (launcher := trainer.strategy.launcher) is not None:
                cast(Any, launcher).kill(number)  # the processes that this one started
            self._asked_to_end = True

        self._asked_to_end = trainer.received_sigterm  # while it was set up
        if threading.current_thread() is threading.main_thread():  # Python handles signals in the main thread only
            signal.signal(signal.SIGTERM, note)

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """End the run if the process was asked to end."""
        if self._asked_to_end:
            self.ledger.stop(ASKED_TO_END)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hand one panorama to a thread, when one is free."""
        if prediction is None or isinstance(prediction, str) or self._pool is None:
            if isinstance(prediction, str):
                self.ledger.fail(batch["name"], prediction)
            self.folder.release(batch["claim"])
            return
        self._room.acquire()
        item = {key: value for key, value in batch.items() if key != "sample"}  # it would fill the memory
        self._pool.submit(self._write, item, prediction, cast(PanoramaLabeler, pl_module))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the threads, list finished panoramas, and gather the reports of all processes."""
        self._finish()
        if self._group is not None:
            self._gather(trainer.world_size)
        if trainer.is_global_zero:
            self._write_record(trainer, pl_module)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep finished labels."""
        self._finish()
        self._close()

    def _write(self, item: Mapping[str, Any], observed: Any, labeler: PanoramaLabeler) -> None:
        try:
            labels = labeler.finish(observed)
            encoded = labeler.encode(labels)
        except Exception as error:  # labelers are third-party code: whatever one raises, write the others
            self.ledger.fail(item["name"], one_sentence(error))
        else:
            self._store(item, encoded, getattr(labels, "broken_views", 0))
        finally:
            self.folder.release(item["claim"])
            self._room.release()

    def _store(self, item: Mapping[str, Any], encoded: EncodedLabels, broken_views: int) -> None:
        name, report = item["name"], self.ledger.report
        try:
            marked = item if encoded.marker is None else {**item, "jpeg": encoded.marker}
            if self.ledger.write(marked, encoded.files):
                if encoded.too_far:
                    report.too_far[name] = encoded.too_far
                if broken_views:
                    report.broken_views[name] = broken_views
        except Exception as error:
            if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                self._stop(error)
            else:  # this concerns one panorama: write the others
                self.ledger.fail(name, one_sentence(error))

    def _stop(self, error: OSError) -> None:
        self.ledger.stop(
            f"{self.folder.root} cannot be written to: {one_sentence(error)}; finished labels are kept, so make room "
            "or choose another folder, and start again"
        )

    def _finish(self) -> None:
        """Wait for the threads and list finished panoramas."""
        if self._pool is None:
            return
        self._pool.shutdown()
        self._pool = None
        report = self.ledger.report
        report.skipped = list(dict.fromkeys(report.skipped))
        report.seconds = time.monotonic() - self._begin
        if self.split is None:
            return
        try:
            self.folder.add_to_list(self.split, [*report.done, *report.skipped])
        except OSError as error:
            self._stop(error)

    def _compare_settings(self, processes: int) -> None:
        """Check that all processes of this run have the same settings: only the first one writes the manifest."""
        found: list[dict[str, Any]] = [{}] * processes
        torch.distributed.all_gather_object(found, self.manifest, group=self._group)
        for rank, manifest in enumerate(found):
            for key, first, other in differences(found[0], manifest):
                raise InputError(
                    f"the processes of this run have different settings ({key.removeprefix('settings.')} is {first} in "
                    f"process 0 and {other} in process {rank}): start all with the same"
                )

    def _gather(self, processes: int) -> None:
        parts: list[LabelReport | None] = [None] * processes
        try:
            if not self._all_have_finished():
                self.ledger.stop(ASKED_TO_END)
                return
            torch.distributed.all_gather_object(parts, self.ledger.report, group=self._group)
        except RuntimeError:
            self.ledger.stop(
                "another process of this run has died, see its messages; finished labels are kept, so start again"
            )
        else:
            self.ledger.report = LabelReport.of_all([part for part in parts if part is not None])

    def _all_have_finished(self) -> bool:
        """Wait for all processes; return False if this one is asked to end, but others do not follow soon."""
        waiting = torch.distributed.barrier(group=self._group, async_op=True)
        deadline = math.inf
        while not waiting.is_completed():  # `wait` would hold back signals
            if self._asked_to_end:
                deadline = min(deadline, time.monotonic() + PATIENCE)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        waiting.wait()
        return True

    def _write_record(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        started = datetime.fromtimestamp(self._started, UTC)
        device = pl_module.device
        record = {
            "started": started.isoformat(timespec="seconds"),
            "software": software(),
            "processes": trainer.world_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "split": self.split,
            "metric_depth": cast(PanoramaLabeler, pl_module).metric,
            **self.ledger.report.as_record(),
        }
        with suppress(OSError):  # the reason has been reported
            write_record(self.folder, started.strftime("%Y%m%dT%H%M%SZ"), record)

    def _close(self) -> None:
        if self._open:
            self.folder.close()
            self._open = False
