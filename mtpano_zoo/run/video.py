"""`mtpano run` for a video: the maps of every frame, as for an image, and a video of each map."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.markup import escape
from rich.progress import Progress

from mtpano_zoo import viz
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import Panorama, Reading, decode_normals, encode_normals
from mtpano_zoo.image_io.doubts import Layout
from mtpano_zoo.image_io.panorama import panorama_of_pixels
from mtpano_zoo.image_io.video import Frame, Video, constant_rate, layout_of_video, write_video
from mtpano_zoo.machine.workers import stoppable
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.prediction.maps import SCENES, Prediction, output_paths
from mtpano_zoo.run.output import Job, Output, RunReport, digest_of
from mtpano_zoo.tasks import MAIN_TASKS

__all__ = ("FRAME", "VideoRun", "check_smooth", "frame_name", "panorama_of_frame", "smoothed", "video_paths")

FRAME = r"/\d{6,}"  # what follows the name of a video in the names of its frames
WIDTH = 1024  # most columns of a video of maps, which is only for viewing
SAMPLED = 2000  # pixels of every frame, about, that set the range of colours
NEARER, FARTHER = 0.8, 1.25  # a distance that changes by more than this belongs to another surface
TURNED = math.cos(math.radians(30))  # and so does a normal

Maps = dict[str, NDArray[Any]]


def check_smooth(seconds: float) -> None:
    """Refuse an invalid smoothing time.

    Raises:
        InputError: If it is negative or not finite.
    """
    if not 0 <= seconds < math.inf:
        raise InputError(f"smooth is a time in seconds, or 0 for none, not {seconds:g}")


def video_paths(folder: Path, name: str, tasks: Sequence[str]) -> dict[str, Path]:
    """Return the videos of maps that are written for a video, by task.

    Example:
        >>> {task: path.as_posix() for task, path in video_paths(Path("out"), "tour", ["depth", "valid"]).items()}
        {'depth': 'out/tour_depth.mp4'}
    """
    return {task: path_below(folder, name, f"_{task}.mp4") for task in tasks if MAIN_TASKS[task].stored}


def panorama_of_frame(frame: Frame, video: Path, layout: Layout | None, reading: Reading) -> Panorama:
    """Place a frame with pixels on the sphere.

    Args:
        frame: the frame.
        video: the file, for error messages.
        layout: how the two panoramas of a stereo video are arranged; None for another one.
        reading: how frames are read. Only the first one must look like a panorama: a later one may be dark, or a title.

    Raises:
        InputError: If it is not a panorama.
    """
    reading, pixels = reading.copy(), cast("NDArray[np.uint8]", frame.pixels)
    if frame.number:
        reading["force"] = True
    return panorama_of_pixels(pixels, str(video), layout, **reading)


def frame_name(name: str, number: int) -> str:
    """Return the name of the results of a frame.

    Example:
        >>> frame_name("tour", 7)
        'tour/000007'
    """
    return f"{name}/{number:06d}"


@dataclass
class VideoRun:
    """Predict for videos, one after another.

    The results of a frame are stored like those of an image, as `NAME/000000` and so on, so a stopped run resumes at
    the first missing frame. The video is recorded under the name `NAME/`: `NAME` is that of an image. At the end, the
    videos of maps are made from these files, and it is recorded as complete.

    Args:
        output: collects what became of the videos.
        bar: shows the progress in frames.
        predict_all: turns panoramas into predictions.
        tasks: tasks of the network.
        reading: how frames are read.
        batch_size: frames that go through the network together.
        workers: processes that write, or 0 for a thread.
        smooth: time constant in seconds, see `smoothed`; 0 for none.
    """

    output: Output
    bar: Progress
    predict_all: Callable[[list[Panorama]], list[Prediction]]
    tasks: Sequence[str]
    reading: Reading
    batch_size: int
    workers: int
    smooth: float

    def run(self, job: Job) -> None:
        """Predict for a video, and report what became of it."""
        output, folder, recorded = self.output, self.output.folder, f"{job.name}/"
        try:
            digest = digest_of(job.image)
            files = video_paths(folder.root, job.name, self.tasks)
            if folder.finished(recorded, files, set(files), lambda: digest) and self._has_all_frames(job):
                output.report.skipped.append(job.image)
                output.advance(1)
                return
            with closing(Video(job.image, self.reading.get("max_pixels"))) as video:
                folder.begin(recorded)
                times = self._predict(job, digest, video)
            self._write_videos(job, files, times)
            if video.cut_short:
                raise InputError(
                    f"{job.image} is cut short or damaged: {video.read} of {video.count} frames can be decoded, and "
                    "their results are kept"
                )
            self._remove_frames(job, len(times))
            folder.complete(recorded, digest, frames=len(times))
        except (torch.OutOfMemoryError, MemoryError):
            output.fail(job.image, f"{job.image} needs more memory than there is: try a smaller batch")
        except (OSError, ValueError) as error:
            output.fail(job.image, str(error))
        else:
            output.report.written.append(job.image)
            output.advance(1)

    def _files(self, name: str, number: int) -> dict[str, Path]:
        return output_paths(self.output.folder.root, frame_name(name, number), self.tasks, False, tuple(SCENES))

    def _has_all_frames(self, job: Job) -> bool:
        """Return whether every recorded frame has its files, except scenes that were not asked for."""
        root, wanted = self.output.folder.root, self.output.saving.scenes
        names = [name for name, digest in self._recorded_frames(job).items() if digest]
        paths = (output_paths(root, name, self.tasks, False, wanted) for name in names)
        return bool(names) and all(path.exists() for files in paths for path in files.values())

    def _recorded_frames(self, job: Job) -> dict[str, str | None]:
        """Return the names of frames that have or had results, each with the hash of its video if they are complete."""
        records = self.output.folder.records.items()
        return {name: digest for name, digest in records if re.fullmatch(re.escape(job.name) + FRAME, name)}

    def _remove_frames(self, job: Job, first: int) -> None:
        """Remove the results of this and later frames, which are those of an earlier, longer video."""
        for name, digest in self._recorded_frames(job).items():
            number = int(name.rpartition("/")[2])
            if number >= first:
                if digest:
                    self.output.folder.begin(name)
                for path in self._files(job.name, number).values():
                    path.unlink(missing_ok=True)

    def _predict(self, job: Job, digest: str, video: Video) -> list[float]:
        """Predict for the frames that lack results, and return the times of all in seconds."""
        shown = self.bar.add_task(escape(job.image.name), total=video.count or None)
        report = RunReport()  # of the frames
        saving = self.output.saving._replace(panel=False)
        frames = Output(self.output.folder, saving, report, partial(self.bar.advance, shown))

        def due(number: int) -> bool:
            named = Job(job.image, frame_name(job.name, number))
            return frames.is_due(named, self._files(job.name, number), digest)

        max_pixels = self.reading.get("max_pixels")
        layout = layout_of_video(job.image, max_pixels) if self.reading.get("eye") else None
        times: list[float] = []
        last: tuple[int, Maps] | None = None
        batches = _batches(video.frames(due), self.batch_size)
        with ThreadPoolExecutor(1) as reader, stoppable(self.workers) as writers:
            frames.start(writers, self.workers)
            try:
                ahead = reader.submit(next, batches, None)
                while (batch := ahead.result()) is not None and not report.failed:
                    ahead = reader.submit(next, batches, None)
                    times += [frame.seconds for frame in batch]
                    panoramas = {
                        frame.number: panorama_of_frame(frame, job.image, layout, self.reading)
                        for frame in batch
                        if frame.pixels is not None
                    }
                    predictions = self.predict_all([*panoramas.values()]) if panoramas else []
                    for (number, panorama), prediction in zip(panoramas.items(), predictions, strict=True):
                        prediction = self._smoothed(job, number, times, last, prediction)
                        last = number, dict(prediction.maps)
                        named = Job(job.image, frame_name(job.name, number))
                        frames.write(named, digest, panorama, prediction, seconds=round(times[number], 6))
                frames.finish()
            except KeyboardInterrupt:
                reader.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                ahead.cancel()
        for image, doubt in report.doubted.items():
            self.output.report.doubted[image] = f"in some frames, {doubt}"
        if report.failed:
            raise InputError(next(iter(report.failed.values())))
        return times

    def _smoothed(
        self, job: Job, number: int, times: Sequence[float], last: tuple[int, Maps] | None, prediction: Prediction
    ) -> Prediction:
        if self.smooth == 0 or number == 0:
            return prediction
        # Use the previous frame as its file holds it, so that a resumed run ends like one that never stopped.
        before = _as_stored(last[1]) if last is not None and last[0] == number - 1 else self._stored(job, number - 1)
        weight = math.exp((times[number - 1] - times[number]) / self.smooth)
        return replace(prediction, maps=smoothed(before, prediction.maps, weight))

    def _stored(self, job: Job, number: int) -> Maps:
        files = self._files(job.name, number)
        maps: Maps = {"depth": np.load(files["depth_metres"])} if "depth_metres" in files else {}
        if "normals" in files:
            maps["normals"] = decode_normals(_read_rgb(files["normals"]))
        return maps

    def _write_videos(self, job: Job, files: dict[str, Path], times: Sequence[float]) -> None:
        """Write a video of each map, in one range of colours and at a constant rate, from the files of the frames."""
        rate, numbers = constant_rate(times)
        for task, path in files.items():
            sources = [self._files(job.name, n)[MAIN_TASKS[task].stored[-1].name] for n in range(len(times))]
            limits = self.output.saving.depth_range if task == "depth" else None
            if limits is None and MAIN_TASKS[task].kind == "positive":
                limits = viz.depth_range(np.concatenate([_sampled(source) for source in sources]))
            write_video(path, _pictures(sources, numbers, limits), rate)


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """Yield frames in groups with `size` frames that have pixels; frames without pixels are included as they come."""
    batch: list[Frame] = []
    count = 0
    for frame in frames:
        batch.append(frame)
        count += frame.pixels is not None
        if count == size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def smoothed(before: Maps, now: Mapping[str, NDArray[Any]], weight: float) -> Maps:
    """Return the maps of a frame with depth and normals averaged with those of the previous frame.

    This is exponential smoothing; `mtpano run --smooth SECONDS` uses exp(-step / SECONDS) as weight. A pixel keeps its
    new value if either frame has none there, or if the two differ so much that they show different surfaces: distances
    by more than a quarter, normals by more than 30 degrees.

    Args:
        before: the smoothed maps of the previous frame: `depth` (H, W) and `normals` (H, W, 3), as far as they exist.
        now: all maps of this frame, by task.
        weight: weight of the previous frame, from 0 to 1.

    Example:
        >>> before, now = np.array([[2.0, 2.0, 0.0]], np.float32), np.array([[2.4, 4.0, 4.0]], np.float32)
        >>> smoothed({"depth": before}, {"depth": now}, 0.5)["depth"].round(3).tolist()
        [[2.200000047683716, 4.0, 4.0]]
    """
    maps = dict(now)
    if "depth" in now and "depth" in before:
        old, new = before["depth"], now["depth"]
        same = (old > NEARER * new) & (old < FARTHER * new)
        maps["depth"] = np.where(same, weight * old + (1 - weight) * new, new).astype(np.float32)
    if "normals" in now and "normals" in before:
        old, new = before["normals"], now["normals"]
        mean = weight * old + (1 - weight) * new
        mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)
        same = (old * new).sum(-1, keepdims=True) > TURNED
        maps["normals"] = np.where(same, mean, new).astype(np.float32)
    return maps


def _as_stored(maps: Maps) -> Maps:
    """Return maps as their files hold them."""
    stored = dict(maps)
    if "normals" in stored:
        stored["normals"] = decode_normals(encode_normals(stored["normals"]))
    return stored


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _sampled(path: Path) -> NDArray[Any]:
    values = np.load(path, mmap_mode="r")
    step = max(1, math.isqrt(values.size // SAMPLED))
    return np.array(values[::step, ::step]).ravel()


def _pictures(
    sources: Sequence[Path], numbers: Sequence[int], limits: tuple[float, float] | None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the coloured maps of these frames, at most `WIDTH` columns wide, with even width and height."""
    last, picture = -1, np.zeros((0, 0, 3), np.uint8)
    for number in numbers:
        if number != last:
            last, picture = number, _picture(sources[number], limits)
        yield picture


def _picture(path: Path, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    if path.suffix == ".npy":
        values = np.load(path)
        step = max(1, values.shape[1] // (2 * WIDTH))
        rgb = viz.colour_depth(values[::step, ::step], *(limits or (0.0, 1.0)))
    else:  # classes and normals are stored in the colours that they are drawn in
        rgb = _read_rgb(path)
    scale = min(1.0, WIDTH / rgb.shape[1])
    width, height = (max(2, round(side * scale / 2) * 2) for side in (rgb.shape[1], rgb.shape[0]))
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
