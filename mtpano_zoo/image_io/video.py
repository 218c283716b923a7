"""Read the frames of videos one after the other, and write videos, with OpenCV.

OpenCV is a dependency already, and the FFmpeg in its wheels is LGPL; those of PyAV hold x264 and x265, which are GPL.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io.doubts import Layout, stereo_layout
from mtpano_zoo.limits import check_pixels

__all__ = ("Frame", "Video", "constant_rate", "layout_of_video", "quiet", "write_video")

CODECS = ("vp09", "mp4v")  # VP9 plays in browsers too; MPEG-4 where OpenCV was built without libvpx
MISSING = 0.02  # share of the frames in the header that may be missing, because durations are rounded
RETRIES = 100_000  # damaged frames of a video before we stop looking for sound ones
SLACK = 0.1  # seconds by which sound may outlast the frames
MAX_RATE = 120.0  # frames per second


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: counted from 0.
        seconds: when it is shown, counted from the first frame.
        pixels: RGB (H, W, 3) uint8, upright; None if they were not wanted.
    """

    number: int
    seconds: float
    pixels: NDArray[np.uint8] | None


class Video:
    """A video file, open for reading.

    Args:
        path: the file.
        max_pixels: largest allowed number of pixels in a frame; `limits.max_pixels()` by default.

    Attributes:
        count: number of frames that the file says it has; 0 if it does not say.
        read: number of frames that `frames` has read.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If no frame of it can be decoded, or the frames are too large.
    """

    def __init__(self, path: str | Path, max_pixels: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        with quiet():
            self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError(f"{path} {_why_not(self.path)}")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self.count = max(0, int(self._get(cv2.CAP_PROP_FRAME_COUNT)))
        self._boxes = _boxes(self.path)
        self._rate = self._get(cv2.CAP_PROP_FPS)
        self.read = 0
        self._end = 0.0  # when the last frame that was read ends, in seconds
        self._damaged = False  # a frame in the middle could not be decoded
        height, width = self._get(cv2.CAP_PROP_FRAME_HEIGHT), self._get(cv2.CAP_PROP_FRAME_WIDTH)
        check_pixels(int(height), int(width), str(path), max_pixels)

    def _get(self, what: int) -> float:
        value = float(self._capture.get(what))
        return value if np.isfinite(value) else 0.0

    @property
    def cut_short(self) -> bool:
        """Whether `frames` came to an end before the video did, or left out damaged frames."""
        missing = self.count - self.read > max(1, MISSING * self.count)
        if self._boxes is None:
            return missing or self._damaged
        if not all(self._boxes.complete.get(kind, True) for kind in (b"moov", b"mdat")):
            return True
        # Frames that are cut away by an edit list are still counted, but not in the duration.
        early = self._boxes.duration - self._end > max(SLACK, MISSING * self._boxes.duration)
        return self._damaged or (missing and early)

    def frames(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[Frame]:
        """Decode one frame after the other, turned as the file's rotation tag says, until the end.

        All are decoded, since seeking is not exact; only the wanted ones, by number, are converted and returned with
        pixels. Damaged ones are left out, and have no number. Call it once.

        Raises:
            InputError: If not a single frame can be decoded.
        """
        first, seconds, failures = 0.0, 0.0, 0
        step = 1 / self._rate if self._rate > 0 else 0.04
        while True:
            if not self._capture.grab():  # the end, or a damaged frame with sound ones behind it
                failures += 1
                if self.read + failures >= self.count or failures == RETRIES:
                    break
                continue
            self._damaged = failures > 0
            given = self._get(cv2.CAP_PROP_POS_MSEC) / 1000
            if self.read == 0:
                first = given
            elif given - first > seconds:
                seconds = given - first
            else:  # the file states no time for it
                seconds += step
            pixels = None
            if wanted(self.read):
                sound, decoded = self._capture.retrieve()
                if not sound:
                    self._damaged = True
                    break
                pixels = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
            self.read += 1
            self._end = seconds + step
            yield Frame(self.read - 1, seconds, pixels)
        if self.read == 0:
            raise InputError(f"{self.path} has no frame that can be decoded: convert it to H.264 in MP4")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def layout_of_video(path: Path, max_pixels: int | None = None) -> Layout:
    """Return how the two panoramas of a stereo video are arranged.

    The first frame that shows it decides for all: in a dark one, halves of 2:1 cannot be compared.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If no frame shows it, or `Video` refuses the file.
    """
    with closing(Video(path, max_pixels)) as video:
        for frame in video.frames():
            if frame.pixels is not None and (layout := stereo_layout(frame.pixels)):
                return layout
    raise InputError(
        f"{path} has no frame that is a stereo pair: a pair is square, 4:1, or 2:1 with two equal halves; leave out "
        "--eye"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from printing: we say in one sentence what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video of the process is opened
    log: Any = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)


def _why_not(path: Path) -> str:
    """Return why a file cannot be opened as a video: cameras write the index of an MP4 file last."""
    boxes = _boxes(path)
    if boxes is not None and not boxes.complete.get(b"moov", False):
        return "is cut short, and its index, which comes last, is missing: copy it again, or repair it"
    return "is damaged, or not a video that OpenCV can decode: convert it to H.264 in MP4"


class _Boxes(NamedTuple):
    """The top-level boxes of an MP4 file.

    Attributes:
        complete: whether they are complete, by kind.
        duration: for how many seconds the video is shown; 0 if its index does not say.
    """

    complete: dict[bytes, bool]
    duration: float


def _boxes(path: Path) -> _Boxes | None:
    """Return the top-level boxes of an MP4 file; None for another kind of file."""
    boxes: dict[bytes, bool] = {}
    duration = 0.0
    with path.open("rb") as file:
        end, position = file.seek(0, os.SEEK_END), 0
        while position + 8 <= end:
            file.seek(position)
            size, kind = int.from_bytes(file.read(4)), file.read(4)
            size = int.from_bytes(file.read(8)) if size == 1 else size
            if not boxes and kind not in (b"ftyp", b"moov", b"mdat", b"wide"):
                return None
            if kind == b"moov":
                duration = _duration(file.read(40))
            position = end if size == 0 else position + max(size, 8)  # 0: up to the end
            boxes[kind] = boxes.get(kind, True) and position <= end
    return _Boxes(boxes, duration) if boxes else None


def _duration(index: bytes) -> float:
    """Return the duration in seconds that the beginning of an MP4 file's index states; 0 if it states none."""
    if index[4:8] != b"mvhd" or len(index) < 40:
        return 0.0
    scale, ticks = struct.unpack(">IQ", index[28:40]) if index[8] else struct.unpack(">II", index[20:28])
    return float(ticks / scale) if scale else 0.0


def constant_rate(seconds: Sequence[float]) -> tuple[float, list[int]]:
    """Return a constant rate in frames per second, and the number of the frame to show at each step.

    `seconds` are the times of the frames, ascending from 0. The rate is that of the fastest tenth, so that slower parts
    repeat frames and every frame is shown at its own time.

    Example:
        >>> constant_rate([0.0, 0.1, 0.2, 0.4])
        (10.0, [0, 1, 2, 2, 3])
    """
    if len(seconds) < 2:
        return 1.0, [0] * len(seconds)
    steps = np.diff(np.asarray(seconds))
    rate = min(MAX_RATE, round(1 / max(float(np.percentile(steps, 10)), 1e-4), 3))
    count = max(1, round(seconds[-1] * rate) + 1)
    shown = np.searchsorted(np.asarray(seconds), (np.arange(count) + 0.5) / rate, side="right") - 1
    return rate, shown.tolist()


def write_video(path: str | Path, frames: Iterable[NDArray[np.uint8]], rate: float) -> None:
    """Write RGB frames (H, W, 3) of one size, with even width and height, as MP4, completely or not at all.

    Raises:
        InputError: If OpenCV was built without an encoder.
        OSError: If it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part.mp4")  # a fixed name, so that leftovers of a killed run are replaced
    writer: Any = None
    count = 0
    try:
        for frame in frames:
            if writer is None:
                writer = _encoder(temporary, rate, frame.shape[1], frame.shape[0])
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
        if writer is not None:
            writer.release()  # it does not report a full disk
        found = cv2.VideoCapture(str(temporary), cv2.CAP_FFMPEG)
        written = int(found.get(cv2.CAP_PROP_FRAME_COUNT)) if found.isOpened() else 0
        found.release()
        if not count or written < (1 - MISSING) * count - 1:
            raise OSError(f"{path} could not be written completely: is the disk full?")
        temporary.replace(path)
    finally:
        if writer is not None:
            writer.release()
        temporary.unlink(missing_ok=True)


def _encoder(path: Path, rate: float, width: int, height: int) -> Any:
    for codec in CODECS:
        with quiet():
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, (width, height))
        if writer.isOpened():
            return writer
    raise InputError("this build of OpenCV cannot write videos: install opencv-python-headless from its wheel")
