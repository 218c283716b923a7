"""Procedural scenes as data sets and as LightningDataModules: the base of rooms, homes and streets."""

import copy
import mmap
import multiprocessing
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.device_rendering import (
    DRAWN,
    Drawn,
    RenderingLoaders,
    RenderOn,
    check_render_on,
    collate_drawn,
)
from mtpano_zoo.data.loading import check_batches, training_loader
from mtpano_zoo.errors import InputError
from mtpano_zoo.scenes import Room, render
from mtpano_zoo.scenes.rendering import check_size
from mtpano_zoo.scenes.sampling import check_tilt, room_key

__all__ = ("SceneDataModule", "SceneDataset")

MAX_BLACK = 0.18  # fraction of the rows, above and below; Stanford2D3D's panoramas lack 0.14


class SceneDataset(Dataset[Sample]):
    """Panoramas of procedural scenes with exact ground truth; a subclass draws the scenes.

    A sample depends on (seed, split, index, height, width, tilt) only: neither on the worker, nor on the order, nor on
    `count`. It has `image` float32 (3, H, W) in [0, 1], `semseg` int64 (H, W) of `classes`, `depth` float32 (H, W) in
    metres along the ray, `normals` float32 (3, H, W), and `id` such as "train-000123"; homes and streets also `far`,
    bool (H, W), true in the sky, where depth is 0 and normals are zero. Every pixel is labelled.

    Args:
        split: "train", "val" or "test"; they share no scene.
        count: Number of scenes.
        height: Rows of the panorama, at least 8.
        width: Columns, twice the rows.
        seed: Seed of the scenes.
        cache: Keep rendered samples in memory, 20 bytes per pixel, shared with forked workers.
        augmentation: Changes the samples, differently in every epoch.
        black_poles: Share of the scenes whose image is black in some rows at zenith and nadir, as for cameras that do
            not see there; classes, depth and normals stay, so that a network learns to continue the scene.
        tilt: Maximum tilt of the camera in degrees, in any direction; 180 allows any orientation. All maps are those of
            the tilted camera.

    Raises:
        InputError: If an argument is out of range.
    """

    classes: ClassVar[tuple[str, ...]]
    palette: ClassVar[NDArray[np.uint8]]
    noun: ClassVar[str]  # name of a single scene
    space: int = 0  # space of the keys, see `room_key`
    outdoors: ClassVar[bool] = False
    blackens: bool = True  # a mixture, which augments the samples itself, calls `blacken` after that
    draws_only: bool = False  # another process renders what this one draws, and calls `finish`

    def __init__(
        self,
        split: str,
        count: int,
        height: int,
        width: int,
        seed: int = 0,
        cache: bool = False,
        augmentation: Augmentation | None = None,
        black_poles: float = 0.0,
        tilt: float = 0.0,
    ) -> None:
        check_size(height, width)
        check_tilt(tilt)
        if not 0 <= black_poles <= 1:
            raise InputError(f"black_poles is a share of the {self.noun}s between 0 and 1, got {black_poles}")
        if count < 1:
            raise InputError(f"a set of {self.noun}s needs at least one, got count={count}")
        room_key(seed, split, count - 1)  # refuses what no scene can have
        self.split = split
        self.count = count
        self.height = height
        self.width = width
        self.seed = seed
        self.augmentation = augmentation
        self.black_poles = black_poles
        self.tilt = tilt
        self._cache = _Cache(count, height, width) if cache else None

    def draw(self, index: int) -> Room:
        """Draw a scene without rendering it."""
        raise NotImplementedError

    @property
    def cached(self) -> bool:
        """Whether rendered samples are kept in memory."""
        return self._cache is not None

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Return the id of a sample without rendering it."""
        return f"{self.split}-{index:06d}"

    def fingerprint(self, index: int) -> str:
        """Return the settings that determine a panorama, without rendering it."""
        size = f"{self.height} x {self.width}"
        rest = "".join(f", {name} {value}" for name, value in self.choices().items())
        return f"{self.noun} {index} of {self.split}, seed {self.seed}, {size}, black poles {self.black_poles:g}{rest}"

    def choices(self) -> dict[str, str]:
        """Return the other settings that determine the scenes, by name, if they differ from the defaults."""
        return {"tilt": f"{self.tilt:g}"} if self.tilt else {}

    def __getitem__(self, index: int) -> Sample:
        """Render or recall one sample, and augment it.

        Raises:
            IndexError: If there is no such index.
        """
        if not -self.count <= index < self.count:
            raise IndexError(f"{self.noun} {index} of a set of {self.count}")
        index %= self.count
        if self.draws_only:
            return {DRAWN: Drawn(self.draw(index), index), "id": self.name(index)}
        if self._cache is not None and (known := self._cache.get(index)) is not None:
            sky = {"far": known["depth"] == 0} if self.outdoors else {}
            return self.finish(known | sky, index)
        batch = render([self.draw(index)], self.height, self.width)
        sample = {key: maps[0] for key, maps in batch.items() if key != "id"}
        if self._cache is not None:
            self._cache.put(index, sample)
        return self.finish(sample, index)

    def blacken(self, sample: Sample, index: int) -> Sample:
        """Blacken the poles of an augmented sample if its scene is one of those; real ones are exactly black."""
        # Random numbers of this scene that drawing it did not use.
        key = room_key(self.seed, self.split, index, self.space)
        share, *unseen = np.random.Generator(np.random.Philox(key=key).jumped()).random(3)
        if share < self.black_poles:
            top, bottom = (int(part * MAX_BLACK * self.height) for part in unseen)
            sample = dict(sample)
            for name in sample.keys() & {"image", "clean"}:
                sample[name] = sample[name].clone()
                sample[name][:, :top] = 0
                sample[name][:, self.height - bottom :] = 0
        return sample

    def only_drawn(self) -> Self:
        """Return the same samples as scenes that are not rendered yet; `finish` completes what was rendered."""
        drawn = copy.copy(self)
        drawn.draws_only = True
        return drawn

    def finish(self, sample: Sample, index: int) -> Sample:
        """Name and augment the maps of a rendered scene."""
        sample = sample | {"id": self.name(index)}
        if self.augmentation is not None:
            sample = self.augmentation(sample)
        return self.blacken(sample, index) if self.blackens else sample


class SceneDataModule(RenderingLoaders):
    """Training, validation and test sets of procedural scenes; prediction runs over the test set.

    Args:
        height: Rows of the panoramas.
        width: Columns, twice the rows.
        train_count: Scenes per epoch of training.
        val_count: Scenes for validation.
        test_count: Scenes for test and prediction.
        batch_size: Panoramas per batch.
        num_workers: Worker processes that render.
        seed: Seed of the scenes.
        cache: Keep rendered training and validation scenes in memory, so that only the first epoch renders.
        augmentation: Changes the training samples, differently in every epoch.
        black_poles: Share of the training scenes with black poles, see `SceneDataset`.
        tilt: Maximum tilt of the camera in all sets in degrees, see `SceneDataset`.
        render_on: `device` leaves rendering and augmenting of training samples to the device of the training, so that
            workers only draw scenes: for GPUs.
    """

    dataset: ClassVar[type[SceneDataset]]
    classes: ClassVar[tuple[str, ...]]
    palette: ClassVar[NDArray[np.uint8]]

    def __init__(
        self,
        height: int = 256,
        width: int = 512,
        train_count: int = 2000,
        val_count: int = 100,
        test_count: int = 100,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        cache: bool = False,
        augmentation: Augmentation | None = None,
        black_poles: float = 0.0,
        tilt: float = 0.0,
        render_on: RenderOn = "workers",
    ) -> None:
        super().__init__()
        check_batches(batch_size, num_workers)
        check_render_on(render_on)
        if cache and render_on == "device":
            raise InputError("cache keeps what workers render: leave it out, or set render_on to workers")
        self.height = height
        self.width = width
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        kind = self.kind()
        self.train_set = kind("train", train_count, height, width, seed, cache, augmentation, black_poles, tilt)
        self.render_on = render_on
        self.val_set = kind("val", val_count, height, width, seed, cache, tilt=tilt)
        self.test_set = kind("test", test_count, height, width, seed, tilt=tilt)

    def kind(self) -> Callable[..., SceneDataset]:
        """Return the function that builds a set; a subclass binds arguments of its own."""
        return self.dataset

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled loader; it drops an incomplete last batch unless it is the only one."""
        scenes, options = self.train_set, self._options(self.train_set)
        if self.render_on == "device":
            scenes = self.left_to_device(scenes)
            options["collate_fn"] = collate_drawn
        return training_loader(scenes, scenes.augmentation, seed=self.seed, **options)

    def _loader(self, split: str) -> DataLoader[Sample]:
        scenes = self.val_set if split == "val" else self.test_set
        return self.evaluation_loader(scenes, split, **self._options(scenes))

    def _options(self, scenes: SceneDataset) -> dict[str, Any]:
        # Only forked workers share the cache, and newer Pythons do not fork by default.
        fork = self.num_workers > 0 and scenes.cached and "fork" in multiprocessing.get_all_start_methods()
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "multiprocessing_context": "fork" if fork else None,
        }


class _Cache:
    """Rendered samples in anonymous shared memory: what one forked worker stores, the others and later epochs read.

    Images are multiples of 1/255 and classes fit a byte, so nothing is lost.
    """

    def __init__(self, count: int, height: int, width: int) -> None:
        self._shape = (count, height, width)
        self._allocate()

    def get(self, index: int) -> Sample | None:
        """Return the sample without its id, or None if it was never stored."""
        if not self._known[index]:
            return None
        return {
            "image": self._image[index].float().div_(255),
            "semseg": self._semseg[index].long(),
            "depth": self._depth[index].clone(),
            "normals": self._normals[index].clone(),
        }

    def put(self, index: int, sample: Sample) -> None:
        """Store a sample."""
        self._image[index] = sample["image"].mul(255).round_().byte()
        self._semseg[index] = sample["semseg"].byte()
        self._depth[index] = sample["depth"]
        self._normals[index] = sample["normals"]
        self._known[index] = True  # last: another process may be looking

    def __getstate__(self) -> tuple[int, int, int]:
        """Keep only the shape: spawned workers cannot share the memory, and begin with an empty cache."""
        return self._shape

    def __setstate__(self, state: tuple[int, int, int]) -> None:
        self._shape = state
        self._allocate()

    def _allocate(self) -> None:
        count, height, width = self._shape
        self._image = _shared((count, 3, height, width), np.uint8)
        self._semseg = _shared((count, height, width), np.uint8)
        self._depth = _shared((count, height, width), np.float32)
        self._normals = _shared((count, 3, height, width), np.float32)
        self._known = _shared((count,), np.bool_)


def _shared(shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
    """Return zeros that forked processes share; the system allocates pages when they are first written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return torch.from_numpy(np.frombuffer(mmap.mmap(-1, size), dtype=dtype).reshape(shape))
