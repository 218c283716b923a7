"""Frames of panoramic videos, without labels: SpatialAudioGen, and any folder of videos."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.data.index import Index, find_samples, index_rows
from mtpano_zoo.data.panoramas import Split
from mtpano_zoo.data.unlabelled import UnlabelledDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import PLAIN_VIDEO_SUFFIXES, files_below
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.text_files import read_lines

__all__ = ("SpatialAudioGenDataModule", "VideoIndex")


class SpatialAudioGenDataModule(UnlabelledDataModule):
    """SpatialAudioGen (Morgado et al., NeurIPS 2018): frames of 1,189 panoramic videos.

    The images have no labels. Depth Anywhere draws its 344,000 unlabelled panoramas of real places from it; it did not
    publish which frames these are.

    Get it: `github.com/pedro-morgado/spatialaudiogen` lists the videos and has a script that downloads them; their
    makers keep the rights. The originals take more than 500 GB; its preparation leaves 448 x 224 at 10 frames a second.

    Expected below the root, one of::

        frames/VIDEO/FRAME.jpg    frames, already extracted from the videos
        .../VIDEO.mp4             videos in any folder, also .webm, .mkv, .mov and .avi, twice as wide as high

    The id of a frame is ``VIDEO_NUMBER``; videos of the same name have their path below the root for VIDEO.
    OpenCV reads videos in place, and nothing is written. It seeks every frame by its number, which is slow in videos
    with few key frames: extract the frames once if loading is the bottleneck.

    Args:
        root: Folder of the frames or videos.
        subset: File of the owner's repository with one video id per line, such as `YT-Clean.train.1.lst`, absolute or
            relative to the root; by default all.
        every: Seconds between the frames to take from a video; frames in folders are all taken.
        options: See `PanoramaDataModule`.

    Raises:
        FileNotFoundError: If there is no such root or list, or nothing below it.
        InputError: If `every` is not positive, or no video can be read.

    Cite: P. Morgado, N. Vasconcelos, T. Langlois, O. Wang, "Self-Supervised Generation of Spatial Audio for 360 Video",
    NeurIPS 2018.
    """

    id_pattern = "{video}_{frame}"
    files: Mapping[str, tuple[str, ...]] = {"image": ("frames/{video}/{frame}.jpg",)}

    def __init__(
        self, root: str | Path, *, subset: str | Path | None = None, every: float = 1.0, **options: Any
    ) -> None:
        super().__init__(root, **options)
        if every <= 0:
            raise InputError(f"every must be the time in seconds between frames, above 0, got {every}")
        self.every = every
        self.listed: frozenset[str] | None = None
        if subset is not None:
            path = self.root / user_path(subset)
            if not path.is_file():
                raise FileNotFoundError(f"there is no list of videos at {path}")
            self.listed = frozenset(line.strip() for line in read_lines(path) if line.strip())

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return ``train`` if the video is listed, or if there is no list."""
        return "train" if self.listed is None or fields.get("listed", fields["video"]) in self.listed else None

    def find(self) -> Index:
        """Find frames in folders, else videos."""
        if (self.root / "frames").is_dir():
            return find_samples(self.root, self.files, self.expressions)
        paths = [
            path for path in files_below(self.root) if path.suffix.lower() in PLAIN_VIDEO_SUFFIXES and path.is_file()
        ]
        if not paths:
            raise FileNotFoundError(
                f"{self.root} holds neither frames/VIDEO/FRAME.jpg nor videos ({', '.join(PLAIN_VIDEO_SUFFIXES)})"
            )
        names = {path: path.relative_to(self.root).as_posix() for path in paths}
        counts = Counter(chain((path.stem for path in paths), names.values()))
        rows = [
            {
                "path": name,
                "video": path.stem if counts[path.stem] == 1 else name,
                "listed": path.stem,
                "frame": f"{number:06d}",
            }
            for path, name in names.items()
            if self.listed is None or path.stem in self.listed
            for number in _numbers(path, self.every)
        ]
        if not rows:
            raise InputError(
                f"{self.root} holds {len(paths)} videos, but OpenCV can read none of the selected ones: {paths[0]}"
            )
        found = index_rows(self.root, {"image": ("{path}",)}, rows)
        return VideoIndex(**vars(found))


@dataclass
class VideoIndex(Index):
    """Samples that are frames of videos: `frame` is the number, counted from 0, in the file `path`."""

    _open: dict[tuple[int, str], Any] = field(default_factory=dict, repr=False)

    def read(self, role: str, i: int) -> list[bytes]:
        """Return the frame as the bytes of an image without compression.

        Raises:
            InputError: If the video ends before the frame, or cannot be read.
        """
        fields = self.fields_of(i)
        path, number = fields["path"], int(fields["frame"])
        key = (os.getpid(), path)  # a forked process that used its parent's handle would move the parent's position
        if key not in self._open:
            self._open.clear()  # one open video is enough: it holds decoded frames
            self._open[key] = cv2.VideoCapture(str(self.source.folder / path))
        video = self._open[key]
        if int(video.get(cv2.CAP_PROP_POS_FRAMES)) != number:
            video.set(cv2.CAP_PROP_POS_FRAMES, number)
        sound, pixels = video.read()
        if not sound:
            raise InputError(f"it has no frame {number}: it is damaged, or shorter than its header says")
        written, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
        if not written:
            raise InputError(f"frame {number} cannot be encoded")
        return [bytes(data)]

    def select(self, chosen: NDArray[np.intp]) -> "VideoIndex":
        """Return the samples with these numbers."""
        return VideoIndex(**vars(super().select(chosen)))

    def __getstate__(self) -> dict[str, Any]:
        return vars(replace(self, _open={}))


def _numbers(path: Path, every: float) -> range:
    """Return the numbers of the frames to take from a video; none if it cannot be read."""
    video = cv2.VideoCapture(str(path))
    count, rate = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), video.get(cv2.CAP_PROP_FPS)
    video.release()
    return range(0, max(count, 0), max(1, round(every * rate) if rate > 0 else 1))
