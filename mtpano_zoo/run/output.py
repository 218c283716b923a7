"""Write the results of each image or frame in `mtpano run`, and report what became of it."""

import hashlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mtpano_zoo.image_io import Panorama
from mtpano_zoo.machine.workers import asked_to_stop
from mtpano_zoo.output_paths import printable
from mtpano_zoo.prediction.folder import PredictionFolder
from mtpano_zoo.prediction.maps import SCENES, Prediction

__all__ = ("Job", "Output", "RunReport", "Saving", "digest_of")

SHOWN = 10  # remarks of each kind in a summary
WRITTEN_BEHIND = 2  # predictions that wait for each writing process: each takes megabytes


class Job(NamedTuple):
    """An image or a video, and the name of its results below the folder: sub-folders, and the stem of the files."""

    image: Path
    name: str


@dataclass
class RunReport:
    """Outcome of every image.

    Args:
        written: images whose results have been written.
        skipped: images whose results were there already.
        failed: why an image has no results, one sentence each.
        passed_over: why a file in a folder was not treated as an image.
        doubted: why not to trust the results of an image, see `mtpano_zoo.prediction.familiarity`.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    passed_over: dict[Path, str] = field(default_factory=dict)
    doubted: dict[Path, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if every image has its results, else 1."""
        return 1 if self.failed else 0

    def summary(self) -> str:
        """Return a few lines for the terminal: the counts, then every failure and the first other remarks."""
        counts = [f"{len(self.written)} written"]
        if self.skipped:
            counts.append(f"{len(self.skipped)} skipped because their results exist (--overwrite replaces them)")
        if self.failed:
            counts.append(f"{len(self.failed)} failed")
        sentences = [*self.failed.values()]
        for what, remarks in (("doubtful", self.doubted), ("other files", self.passed_over)):
            if remarks:
                counts.append(f"{len(remarks)} {what}")
                lines = [f"{path}: {reason}" for path, reason in remarks.items()]
                sentences += lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])
        return printable("\n".join([", ".join(counts), *(f"  {sentence}" for sentence in sentences)]))

    def as_plain_data(self) -> dict[str, Any]:
        """Return everything as lists and dictionaries of text, for JSON.

        Example:
            >>> RunReport(failed={Path("a.jpg"): "a.jpg is truncated"}).as_plain_data()["failed"]
            {'a.jpg': 'a.jpg is truncated'}
        """
        return {
            "written": [str(path) for path in self.written],
            "skipped": [str(path) for path in self.skipped],
            "failed": {str(path): reason for path, reason in self.failed.items()},
            "passed_over": {str(path): reason for path, reason in self.passed_over.items()},
            "doubted": {str(path): reason for path, reason in self.doubted.items()},
        }


class Saving(NamedTuple):
    """Which files of a prediction are written, and how; see `mtpano_zoo.run.run`."""

    panel: bool
    depth_range: tuple[float, float] | None = None
    scenes: tuple[str, ...] = ()
    stride: int | None = None


class Output:
    """Decide which images are due, write their results through a bounded queue, and report what became of them."""

    def __init__(self, folder: PredictionFolder, saving: Saving, report: RunReport, advance: partial[None]) -> None:
        self.folder = folder
        self.saving = saving
        self.report = report
        self.advance = advance
        self.pending: deque[tuple[Job, str, dict[str, Any], Future[None]]] = deque()

    def is_due(self, job: Job, files: Mapping[str, Path], digest: str | None = None) -> bool:
        """Return whether an image has to be predicted; if not, the report says why.

        `digest` is the hash of its file, if known.
        """
        no_panel = set() if self.saving.panel else {"panel"}
        wanted = files.keys() - SCENES.keys() - no_panel | set(self.saving.scenes)
        try:
            if not self.folder.finished(job.name, files, wanted, lambda: digest or digest_of(job.image)):
                return True
        except (OSError, ValueError) as error:
            self.fail(job.image, f"{job.image} is left out: {error}")
            return False
        self.report.skipped.append(job.image)
        self.advance(1)
        return False

    def start(self, writers: Executor, workers: int) -> None:
        """Write with this many processes, or with one thread for 0."""
        self.writers, self.limit = writers, WRITTEN_BEHIND * max(workers, 1)

    def fail(self, image: Path, sentence: str) -> None:
        """Report why an image has no results, and drop any doubts about them."""
        self.report.failed[image] = sentence
        self.report.doubted.pop(image, None)
        self.advance(1)

    def write(self, job: Job, digest: str, panorama: Panorama, prediction: Prediction, **more: Any) -> None:
        """Write a prediction in the background, and record the hash of its file and facts about it as plain data."""
        try:
            self.folder.begin(job.name)
        except OSError as error:
            self.fail(job.image, f"the results of {job.image} cannot be written: {error}")
            return
        future = self.writers.submit(_save, prediction, self.folder.root, job.name, self.saving)
        found = {"up": prediction.up, "heading": prediction.heading}
        facts: dict[str, Any] = more | {key: value for key, value in found.items() if value is not None}
        facts |= {} if panorama.window is None else {"window": panorama.window._asdict()}
        if prediction.doubts:
            facts["doubts"] = list(prediction.doubts)
            self.report.doubted[job.image] = "; ".join(prediction.doubts)
        self.pending.append((job, digest, facts, future))
        while len(self.pending) > self.limit or (self.pending and self.pending[0][-1].done()):
            self._take()

    def finish(self) -> None:
        """Wait until everything is written."""
        while self.pending:
            self._take()

    def _take(self) -> None:
        job, digest, facts, future = self.pending.popleft()
        try:
            future.result()
            self.folder.complete(job.name, digest, **facts)
        except (OSError, ValueError, BrokenExecutor) as error:
            self.fail(job.image, f"the results of {job.image} cannot be written: {error}")
        else:
            self.report.written.append(job.image)
            self.advance(1)


def _save(prediction: Prediction, out: Path, name: str, saving: Saving) -> None:
    # Existing files are either to be replaced, or incomplete leftovers of a stopped run.
    files = prediction.save_each(out, name, True, **saving._asdict())
    while not asked_to_stop() and next(files, None) is not None:
        pass


def digest_of(image: Path) -> str:
    """Return the SHA-256 hash of a file."""
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
