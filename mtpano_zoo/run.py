"""`mtpano run`: predict for many images and write the results, one image after another, whatever happens to one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from mtpano_zoo.image_io import read_panorama
from mtpano_zoo.prediction import Prediction, output_paths, predict

__all__ = ("IMAGE_SUFFIXES", "RunReport", "find_images", "run")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


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
) -> RunReport:
    """Write for every image what `Prediction.save` writes; images in sub-folders keep their sub-folder below `out`.

    Args:
        sources: images and folders; folders are searched with their sub-folders.
        model: the network, see `mtpano_zoo.prediction.predict`.
        out: folder for the results; it may exist. Images whose results are complete are skipped, so that a run that
            was stopped goes on where it was.
        batch_size: images that go through the network together, whatever their sizes.
        precision: `bfloat16` for autocast.
        mask_sky: the sky has no depth and no normal, see `mtpano_zoo.prediction.predict`.
        blend_seam: smooth depth and normals across the left and right edge, see there.
        device: where the network is moved to; by default it stays where it is.
        overwrite: redo images whose results exist.
        progress: show a bar on the error stream.

    Raises:
        ValueError: nothing to do, two images that would be written to the same files, or `out` is no place for them.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for the results")
    jobs = find_images(sources, out)
    if device is not None:
        model.to(device)
    report = RunReport()
    todo: list[tuple[Path, Path]] = []
    for image, target in jobs.items():
        results = output_paths(target.parent, target.name, cast("Sequence[str]", model.tasks))
        done = all(path.exists() for path in results.values())
        if done and not overwrite:
            report.skipped.append(image)
        else:
            todo.append((image, target))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        shown = bar.add_task("panoramas", total=len(todo))
        for batch in _batches(todo, batch_size):
            _run_batch(
                batch, partial(predict, model, precision=precision, mask_sky=mask_sky, blend_seam=blend_seam), report
            )
            bar.advance(shown, len(batch))
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


def _is_image(path: Path, folder: Path, excluded: Path | None) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        return False
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and excluded not in path.resolve().parents


def _batches(jobs: Iterable[tuple[Path, Path]], size: int) -> Iterator[list[tuple[Path, Path]]]:
    remaining = iter(jobs)
    while batch := list(islice(remaining, size)):
        yield batch


def _run_batch(batch: Sequence[tuple[Path, Path]], predict_all: Callable[..., Any], report: RunReport) -> None:
    read: list[tuple[Path, Path, NDArray[np.uint8]]] = []
    for image, target in batch:
        try:
            read.append((image, target, read_panorama(image)))
        except (OSError, ValueError) as error:
            report.failed[image] = str(error)
    if not read:
        return
    try:
        predictions = cast("list[Prediction]", predict_all([pixels for *_, pixels in read]))
    except (torch.OutOfMemoryError, MemoryError):
        for image, _, _ in read:
            report.failed[image] = f"{image} needs more memory than there is: try a smaller batch or another device"
        return
    for (image, target, _), prediction in zip(read, predictions, strict=True):
        try:
            # What is there is either to be replaced, or the incomplete rest of a run that was stopped.
            prediction.save(target.parent, target.name, overwrite=True)
            report.written.append(image)
        except (OSError, ValueError) as error:
            report.failed[image] = f"the results of {image} cannot be written: {error}"
