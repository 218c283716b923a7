"""`mtpano run`: predict for many images and write the results, one image after another, whatever happens to one."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from mtpano_zoo.image_io import read_panorama
from mtpano_zoo.prediction import Prediction, output_paths, predict

__all__ = ("IMAGE_SUFFIXES", "RunReport", "find_images", "run")

READERS = 2
BATCHES_AHEAD = 2
WRITTEN_BEHIND = 2  # predictions that wait for each process that writes: every one is megabytes
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")

Job = tuple[Path, Path]  # an image, and where its results go: a path that ends in the stem of their names


@dataclass
class RunReport:
    """What became of every image.

    Args:
        written: images whose results have been written.
        skipped: images whose results were there already.
        failed: why an image has no results, one sentence each.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if every image has its results, else 1."""
        return 1 if self.failed else 0

    def summary(self) -> str:
        """Return a few lines for the terminal: the counts, then every failure."""
        counts = [f"{len(self.written)} written"]
        if self.skipped:
            counts.append(f"{len(self.skipped)} skipped because their results exist (overwrite to redo them)")
        if self.failed:
            counts.append(f"{len(self.failed)} failed")
        return "\n".join([", ".join(counts), *(f"  {sentence}" for sentence in self.failed.values())])


def run(
    sources: Sequence[str | Path],
    model: nn.Module,
    out: str | Path,
    *,
    batch_size: int = 1,
    precision: Literal["float32", "bfloat16"] = "float32",
    mask_sky: bool = False,
    blend_seam: bool = False,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    progress: bool = True,
    workers: int = 0,
    panel: bool = True,
) -> RunReport:
    """Write for every image what `Prediction.save` writes; images in sub-folders keep their sub-folder below `out`.

    While the network works on some images, the next ones are read and the results of those before are written.

    Args:
        sources: images and folders; folders are searched with their sub-folders.
        model: the network, see `mtpano_zoo.prediction.predict`.
        out: folder for the results; it may exist. Images whose results are complete are skipped, so that a run that
            was stopped goes on where it was. Files of these names that no stopped run would have left, such as a depth
            map without the classes that are written before it, are kept: their images are told as failed.
        batch_size: images that go through the network together, whatever their sizes.
        precision: `bfloat16` for autocast.
        mask_sky: the sky has no depth and no normal, see `mtpano_zoo.prediction.predict`.
        blend_seam: smooth depth and normals across the left and right edge, see there.
        device: where the network is moved to; by default it stays where it is.
        overwrite: redo images whose results exist.
        progress: show a bar on the error stream.
        workers: processes that encode and write; 0 for a thread, which draws the panels slowly because Python lets it
            work only while nothing else does. A script that asks for processes needs `if __name__ == "__main__":`.
        panel: draw the picture of all maps, which takes longer than everything else that is written.

    Raises:
        ValueError: nothing to do, two images that would be written to the same files, or `out` is no place for them.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    if workers < 0:
        raise ValueError(f"workers is a number of processes, or 0 for a thread, not {workers}")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for the results")
    jobs = find_images(sources, out)
    out.mkdir(parents=True, exist_ok=True)  # where that is impossible, it is told before the network has worked
    if device is not None:
        model.to(device)
    report = RunReport()
    todo: list[Job] = []
    for image, target in jobs.items():
        found = _existing(target, cast("Sequence[str]", model.tasks))
        if overwrite:
            todo.append((image, target))
        elif all(found[kind] for kind in found if panel or kind != "panel"):
            report.skipped.append(image)
        elif list(found.values()) == sorted(found.values(), reverse=True):  # nothing, or what a stopped run left
            todo.append((image, target))
        else:
            report.failed[image] = (
                f"{image} is left out: some of its results ({target}_*) exist, overwrite to redo them"
            )
    options: dict[str, Any] = {"precision": precision, "mask_sky": mask_sky, "blend_seam": blend_seam}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True), disable=not progress or not todo) as bar,
        ThreadPoolExecutor(READERS) as readers,
        _writers(workers) as writers,
    ):
        shown = bar.add_task("panoramas", total=len(todo))
        save = partial(_save, panel=panel)
        output = _Output(writers, save, WRITTEN_BEHIND * max(workers, 1), report, partial(bar.advance, shown))
        for batch in _read_ahead(todo, batch_size, readers):
            _predict_batch(batch, partial(predict, model, **options), output)
        output.finish()
    report.failed = {image: report.failed[image] for image in jobs if image in report.failed}
    return report


def find_images(sources: Sequence[str | Path], out: Path) -> dict[Path, Path]:
    """Return every image and where its results go: a path below `out` that ends in the stem of their names.

    Raises:
        ValueError: a folder without images, no source at all, or two images with the same results.
    """
    jobs: dict[Path, Path] = {}
    for source in map(Path, sources):
        if not source.is_dir():
            jobs.setdefault(source, out / source.stem)
            continue
        if source.resolve() == out.resolve():
            raise ValueError(f"{out} holds the images: give another folder, so that results are not taken for images")
        # Results of an earlier run, in a folder below this one, are no images of the user's.
        results = out.resolve() if source.resolve() in out.resolve().parents else None
        found = [path for path in sorted(source.rglob("*")) if _is_image(path, source, results)]
        if not found:
            raise ValueError(f"{source} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        for path in found:
            jobs.setdefault(path, out / path.relative_to(source).with_suffix(""))
    if not jobs:
        raise ValueError("no image and no folder was given")
    owners: dict[Path, Path] = {}
    for image, target in jobs.items():
        other = owners.setdefault(target, image)
        if other.resolve() != image.resolve():
            raise ValueError(f"{other} and {image} would both be written to {target}_*: rename one or run them apart")
    return {image: target for target, image in owners.items()}


def _existing(target: Path, tasks: Sequence[str]) -> dict[str, bool]:
    """Say of every file of an image's results, in the order in which they are written, whether it is there."""
    return {kind: path.exists() for kind, path in output_paths(target.parent, target.name, tasks).items()}


def _is_image(path: Path, folder: Path, excluded: Path | None) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        return False
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and excluded not in path.resolve().parents


def _writers(workers: int) -> Executor:
    if workers == 0:
        return ThreadPoolExecutor(1)
    # Not forked: a process with a GPU and threads cannot be. They leave Ctrl-C to this one, and finish their file.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))


def _read_ahead(todo: Sequence[Job], batch_size: int, readers: Executor) -> Iterator[list[tuple[Job, Future[Any]]]]:
    """Give batches of images that are being read, a few of them before they are asked for."""
    ahead: deque[list[tuple[Job, Future[Any]]]] = deque()
    for first in range(0, len(todo), batch_size):
        ahead.append([(job, readers.submit(read_panorama, job[0])) for job in todo[first : first + batch_size]])
        if len(ahead) > BATCHES_AHEAD:
            yield ahead.popleft()
    yield from ahead


class _Output:
    """What is being written, first in, first out and never more than `limit` predictions, and what became of it."""

    def __init__(
        self, writers: Executor, save: partial[None], limit: int, report: RunReport, advance: partial[None]
    ) -> None:
        self.writers, self.save, self.limit, self.report, self.advance = writers, save, limit, report, advance
        self.pending: deque[tuple[Path, Future[None]]] = deque()

    def fail(self, image: Path, sentence: str) -> None:
        self.report.failed[image] = sentence
        self.advance(1)

    def write(self, job: Job, prediction: Prediction) -> None:
        image, target = job
        self.pending.append((image, self.writers.submit(self.save, prediction, target)))
        while len(self.pending) > self.limit or (self.pending and self.pending[0][1].done()):
            self._take()

    def finish(self) -> None:
        while self.pending:
            self._take()

    def _take(self) -> None:
        image, future = self.pending.popleft()
        try:
            future.result()
        except (OSError, ValueError, BrokenExecutor) as error:
            self.fail(image, f"the results of {image} cannot be written: {error}")
        else:
            self.report.written.append(image)
            self.advance(1)


def _save(prediction: Prediction, target: Path, panel: bool) -> None:
    # What is there is either to be replaced, or the incomplete rest of a run that was stopped.
    prediction.save(target.parent, target.name, overwrite=True, panel=panel)


def _predict_batch(batch: Sequence[tuple[Job, Future[Any]]], predict_all: partial[Any], output: _Output) -> None:
    read: list[tuple[Job, Any]] = []
    for job, future in batch:
        try:
            read.append((job, future.result()))
        except (OSError, ValueError) as error:
            output.fail(job[0], str(error))
    if not read:
        return
    try:
        predictions = cast("list[Prediction]", predict_all([pixels for _, pixels in read]))
    except (torch.OutOfMemoryError, MemoryError):
        for (image, _), _ in read:
            output.fail(image, f"{image} needs more memory than there is: try a smaller batch or another device")
        return
    for (job, _), prediction in zip(read, predictions, strict=True):
        output.write(job, prediction)
