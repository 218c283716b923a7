"""`mtpano run`: predict for many images and write the results, one image after another, even if some fail."""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import find_images, is_video
from mtpano_zoo.image_io import Panorama, Reading, load_panorama
from mtpano_zoo.machine.device import check_device
from mtpano_zoo.machine.workers import stoppable
from mtpano_zoo.manifest import describe_model
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.prediction import check_options, predict
from mtpano_zoo.prediction.attitude import notices_tilt
from mtpano_zoo.prediction.finishing import NadirMask, check_nadir
from mtpano_zoo.prediction.folder import PredictionFolder, manifest_of
from mtpano_zoo.prediction.maps import SCENES, Prediction, output_paths
from mtpano_zoo.run.output import Job, Output, RunReport, Saving, digest_of
from mtpano_zoo.run.video import FRAME, VideoRun, check_smooth, video_paths

__all__ = ("run",)

ALWAYS_RECORDED = ("precision", "mask_sky", "blend_seam")
READERS = 2
BATCHES_AHEAD = 2


class _Input(NamedTuple):
    """A panorama, and the SHA-256 hash of its file."""

    panorama: Panorama
    digest: str


def run(
    sources: Sequence[str | Path] | Mapping[Path, Path],
    model: nn.Module,
    out: str | Path,
    *,
    batch_size: int = 1,
    precision: Literal["float32", "bfloat16"] = "float32",
    mask_sky: bool = False,
    blend_seam: bool = False,
    max_distance: float | None = None,
    level: bool | None = None,
    crop: bool = False,
    mask_nadir: NadirMask = 0.0,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    progress: bool = True,
    workers: int = 0,
    panel: bool = True,
    depth_range: tuple[float, float] | None = None,
    described: Mapping[str, Any] | None = None,
    scenes: Sequence[str] = (),
    stride: int | None = None,
    smooth: float = 0.0,
    **reading: Unpack[Reading],
) -> RunReport:
    """Write for every image what `Prediction.save` writes; images in sub-folders keep their sub-folder below `out`.

    While the network works on some images, the next ones are read and the results of earlier ones are written. Videos
    come last, see `mtpano_zoo.run.video`.

    Args:
        sources: images, videos, patterns that match them, and folders, which are searched for images with their
            sub-folders; or what `find_images` returned for them.
        model: the network, see `mtpano_zoo.prediction.predict`.
        out: folder for the results; it may exist, see `mtpano_zoo.prediction.folder`. Images whose results are complete
            are skipped, so a stopped run resumes where it was; missing files are made again. Files that are not results
            of the same image are kept, and their images are reported as failed.
        batch_size: images that go through the network together, whatever their sizes.
        precision: `bfloat16` for autocast; this and the next six are explained in `mtpano_zoo.prediction.predict`.
        mask_sky: remove depth and normals from the sky.
        blend_seam: smooth depth and normals across the left and right edge.
        max_distance: keep only depth below this distance in metres.
        level: level tilted panoramas first; the record of each image states the up direction if it was found.
        crop: write only the part of the sphere that the file of a crop shows.
        mask_nadir: leave out everything within this angle from straight down, in degrees.
        device: device to move the network to. If omitted, it stays where it is.
        overwrite: redo images whose results exist, and replace results of other settings.
        progress: show a progress bar on standard error.
        workers: processes that encode and write; 0 for a thread, which draws the panels slowly because Python lets it
            work only while nothing else does. A script that asks for processes needs `if __name__ == "__main__":`.
        panel: draw the picture of all maps, which takes longer than writing everything else.
        depth_range: metres that the colours of depth span in all pictures; by default each picture has its own range,
            and each video one for all its frames.
        described: what `describe_model` returns for the network that `model` was prepared from, for the manifest. If
            omitted, `model` itself is described.
        scenes: `ply`, `glb` or both: write each panorama as a point cloud and as a textured mesh too.
        stride: rows and columns that these use, see `mtpano_zoo.prediction.Prediction.export`.
        smooth: time constant in seconds over which depth and normals of a video are smoothed; 0 for none. See
            `mtpano_zoo.run.video.smoothed`.
        **reading: how files are read, see `mtpano_zoo.image_io.load_panorama`.

    Raises:
        InputError: If there is nothing to do, an option does not fit the network, a result would replace one of the
            images, or `out` cannot take the results or holds those of other settings.
    """
    _check_numbers(batch_size, workers, depth_range)
    check_options(model, precision, mask_sky, blend_seam, max_distance)
    check_nadir(mask_nadir)
    check_smooth(smooth)
    tasks = cast("Sequence[str]", model.tasks)
    _check_scenes(scenes, stride, tasks)
    if device is not None:
        check_device(device)
    out = Path(out)
    images = sources if isinstance(sources, Mapping) else find_images(sources, out, videos=True)
    options: dict[str, Any] = {
        "precision": precision,
        "mask_sky": mask_sky,
        "blend_seam": blend_seam,
        "level": level,
        "max_distance": max_distance,
        "crop": crop,
        "mask_nadir": mask_nadir,
    }
    report = RunReport()
    files, videos = _results_of(images, out, tasks, report)
    unwanted = {*SCENES, "panel"} - {*scenes, *(["panel"] if panel else [])}
    written = {job: [path for kind, path in paths.items() if kind not in unwanted] for job, paths in files.items()}
    written |= {job: [*paths.values()] for job, paths in videos.items()}
    _check_inputs_stay(images, written)
    _check_frames_apart(files, videos, out)
    if smooth and not videos:
        raise InputError("smooth is for videos, and there is none: leave it out")
    shown = depth_range if panel or videos else None
    levelled = {None: "noticed", True: True, False: "never"}[level] if notices_tilt(model) else level
    settings = {**options, **reading, "level": levelled, "depth_range": shown, "stride": stride, "smooth": smooth}
    recorded = _recorded(model, settings)
    manifest = manifest_of("mtpano run", described or describe_model(model), recorded)
    folder = PredictionFolder(out, manifest, overwrite, videos=bool(videos))
    folder.claim(path for paths in (*files.values(), *videos.values()) for path in paths.values())
    if device is not None:
        model.to(device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        advance = partial(bar.advance, bar.add_task("panoramas", total=len(images)))
        advance(len(report.failed))
        output = Output(folder, Saving(panel, depth_range, tuple(scenes), stride), report, advance)
        todo = [job for job, paths in files.items() if output.is_due(job, paths)]
        read = partial(_read, reading=reading)
        predict_all = partial(predict, model, **options)
        _process(todo, batch_size, read, predict_all, output, workers)
        # Frame by frame, what a network notices would make the maps jump.
        predict_frames: Any = partial(predict_all, level=bool(level))
        video_run = VideoRun(output, bar, predict_frames, tasks, reading, batch_size, workers, smooth)
        for job in videos:
            video_run.run(job)
    report.failed = {image: report.failed[image] for image in images if image in report.failed}
    return report


def _check_numbers(batch_size: int, workers: int, depth_range: tuple[float, float] | None) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1, not {batch_size}")
    if workers < 0:
        raise InputError(f"workers is a number of processes, or 0 for a thread, not {workers}")
    if depth_range is not None and not 0 <= depth_range[0] < depth_range[1]:
        raise InputError(f"depth_range is two distances in metres, ascending, not {depth_range[0]} {depth_range[1]}")


def _recorded(model: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that change results, for the manifest.

    Most are recorded only when used, so that folders from before they existed can be continued.
    """
    used = {key: value for key, value in options.items() if value or key in ALWAYS_RECORDED}
    used["precision"] = getattr(model, "precision", options["precision"])
    return {key: value for key, value in used.items() if key not in ("force", "max_pixels")}


def _results_of(
    images: Mapping[Path, Path], out: Path, tasks: Sequence[str], report: RunReport
) -> tuple[dict[Job, dict[str, Path]], dict[Job, dict[str, Path]]]:
    """Return the files that may be written for every image, and for every video; report what has no valid name."""
    files: dict[Job, dict[str, Path]] = {}
    videos: dict[Job, dict[str, Path]] = {}
    for image, target in images.items():
        job = Job(image, target.relative_to(out).as_posix())
        try:
            if is_video(image):
                videos[job] = video_paths(out, job.name, tasks)
            else:
                files[job] = output_paths(out, job.name, tasks, scenes=tuple(SCENES))
        except InputError as error:
            report.failed[image] = f"{image} is left out: {error}"
    return files, videos


def _check_inputs_stay(images: Iterable[Path], files: Mapping[Job, Sequence[Path]]) -> None:
    """Refuse to replace an image of this run by a result, as `room_depth.png` by one of `room.png`."""
    # Names first: resolving the path of every image and result would take long.
    names = {path.name for paths in files.values() for path in paths}
    targets = (_resolved(image) if os.path.islink(image) else image for image in images)  # noqa: PTH114 - as below
    inputs = {_resolved(image) for image in targets if image.name in names}
    names = {image.name for image in inputs}
    for job, paths in files.items():
        for path in paths:
            if path.name in names and _resolved(path) in inputs:
                raise InputError(
                    f"{path} is one of the images, and a result of {job.image} would replace it: choose another folder"
                )


def _check_frames_apart(images: Mapping[Job, object], videos: Iterable[Job], out: Path) -> None:
    """Refuse images that results of frames would replace, and those whose results have the names of frames' results.

    How many frames a video has is not known yet.
    """
    names = {video.name: video.image for video in videos}
    folders = {_resolved(path_below(out, name, "")): video for name, video in names.items()}
    for job in images if names else ():
        frame = re.fullmatch(f"(.+){FRAME}", job.name)
        if frame and (video := names.get(frame[1])):
            raise InputError(
                f"the results of {job.image} and of a frame of {video} would have the same name {job.name}: choose "
                "another folder for one of them"
            )
        if re.match(r"\d{6,}_", job.image.name) and (video := folders.get(_resolved(job.image).parent)):
            raise InputError(
                f"{job.image} is one of the images, and a result of {video} would replace it: choose another folder"
            )


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` fails for names that are too long


def _check_scenes(scenes: Sequence[str], stride: int | None, tasks: Sequence[str]) -> None:
    if unknown := [kind for kind in scenes if kind not in SCENES]:
        raise InputError(f"a scene is written as {' or '.join(SCENES)}, not {unknown[0]}")
    if scenes and "depth" not in tasks:
        raise InputError(f"{' and '.join(scenes)} need depth, which this network does not predict: leave them out")
    if stride is not None and not scenes:
        raise InputError("stride applies only to ply and glb: ask for one of them, or leave it out")
    if stride is not None and stride < 1:
        raise InputError(f"stride is a positive number of pixels, not {stride}")


def _process(
    todo: Sequence[Job],
    batch_size: int,
    read: partial[_Input],
    predict_all: partial[Any],
    output: Output,
    workers: int,
) -> None:
    """Read, predict and write; Ctrl-C drops waiting work and ends what is being written, see `stoppable`."""
    with ThreadPoolExecutor(READERS) as readers, stoppable(workers) as writers:
        output.start(writers, workers)
        try:
            for batch in _read_ahead(todo, batch_size, read, readers):
                _predict_batch(batch, predict_all, output)
            output.finish()
        except KeyboardInterrupt:
            readers.shutdown(wait=False, cancel_futures=True)
            raise


def _read(image: Path, reading: Reading) -> _Input:
    return _Input(load_panorama(image, **reading), digest_of(image))


def _read_ahead(
    todo: Sequence[Job], batch_size: int, read: partial[_Input], readers: Executor
) -> Iterator[list[tuple[Job, Future[_Input]]]]:
    """Yield batches of images that are being read, with a few batches read ahead."""
    ahead: deque[list[tuple[Job, Future[_Input]]]] = deque()
    for first in range(0, len(todo), batch_size):
        ahead.append([(job, readers.submit(read, job.image)) for job in todo[first : first + batch_size]])
        if len(ahead) > BATCHES_AHEAD:
            yield ahead.popleft()
    yield from ahead


def _predict_batch(batch: Sequence[tuple[Job, Future[_Input]]], predict_all: partial[Any], output: Output) -> None:
    read: list[tuple[Job, _Input]] = []
    for job, future in batch:
        try:
            read.append((job, future.result()))
        except (OSError, ValueError) as error:
            output.fail(job.image, str(error))
    if not read:
        return
    try:
        predictions = cast("list[Prediction]", predict_all([found.panorama for _, found in read]))
    except (torch.OutOfMemoryError, MemoryError):
        for job, _ in read:
            reason = "needs more memory than there is: try a smaller batch or another device"
            output.fail(job.image, f"{job.image} {reason}")
        return
    for (job, found), prediction in zip(read, predictions, strict=True):
        output.write(job, found.digest, found.panorama, prediction)
