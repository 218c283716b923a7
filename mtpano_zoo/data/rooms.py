"""The procedural rooms as a data set and as a LightningDataModule."""

import mmap
import multiprocessing
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.classes import S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.loading import training_loader
from mtpano_zoo.errors import InputError
from mtpano_zoo.scenes.rendering import check_size, render
from mtpano_zoo.scenes.sampling import room_key, sample_room

MAX_BLACK = 0.18  # of the rows, above and below; Stanford2D3D's panoramas lack 0.14


class RoomsDataset(Dataset[Sample]):
    """Panoramas of procedural rooms with exact ground truth.

    A sample depends on (seed, split, index, height, width) only: neither on the worker, nor on the order, nor on
    `count`. It has `image` float32 (3, H, W) in [0, 1], `semseg` int64 (H, W) of `classes`, `depth` float32 (H, W) in
    metres along the ray, `normals` float32 (3, H, W), and `id` such as "train-000123". Every pixel is labelled.

    Args:
        split: "train", "val" or "test"; they share no room.
        count: Number of rooms.
        height: Rows of the panorama, at least 8.
        width: Columns, twice the rows.
        seed: Another seed gives other rooms.
        cache: Keep what was rendered in memory, 20 bytes per pixel, shared with forked workers.
        augmentation: Changes the samples, differently in every epoch.
        black_poles: Share of the rooms whose image is black in some rows at zenith and nadir, as that of cameras which
            do not see there; classes, depth and normals stay, so that a network learns to continue the room.

    Raises:
        InputError: If an argument is out of range.
    """

    classes = S3DIS_CLASSES
    palette = S3DIS_PALETTE

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
    ) -> None:
        check_size(height, width)
        if not 0 <= black_poles <= 1:
            raise InputError(f"black_poles is a share of the rooms between 0 and 1, got {black_poles}")
        if count < 1:
            raise InputError(f"a set of rooms needs at least one, got count={count}")
        room_key(seed, split, count - 1)
        self.split, self.count, self.height, self.width, self.seed = split, count, height, width, seed
        self.augmentation, self.black_poles = augmentation, black_poles
        self._cache = _Cache(count, height, width) if cache else None

    @property
    def cached(self) -> bool:
        """Whether rendered samples are kept."""
        return self._cache is not None

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Return the id of a sample without rendering it."""
        return f"{self.split}-{index:06d}"

    def fingerprint(self, index: int) -> str:
        """Return what decides a panorama, without rendering it."""
        size = f"{self.height} x {self.width}"
        return f"room {index} of {self.split}, seed {self.seed}, {size}, black poles {self.black_poles:g}"

    def __getitem__(self, index: int) -> Sample:
        """Render or recall one sample, and augment it.

        Raises:
            IndexError: If there is no such index.
        """
        if not -self.count <= index < self.count:
            raise IndexError(f"room {index} of a set of {self.count}")
        index %= self.count
        name = self.name(index)
        if self._cache is not None and (known := self._cache.get(index)) is not None:
            return self._change(known | {"id": name}, index)
        batch = render([sample_room(self.seed, self.split, index)], self.height, self.width)
        sample = {key: batch[key][0] for key in ("image", "semseg", "depth", "normals")}
        if self._cache is not None:
            self._cache.put(index, sample)
        return self._change(sample | {"id": name}, index)

    def _change(self, sample: Sample, index: int) -> Sample:
        """Augment a sample, then blacken its poles: a camera's own black is exactly black."""
        if self.augmentation is not None:
            sample = self.augmentation(sample)
        # Numbers of the room's own that the room was not drawn with.
        key = room_key(self.seed, self.split, index)
        share, *unseen = np.random.Generator(np.random.Philox(key=key).jumped()).random(3)
        if share < self.black_poles:
            top, bottom = (int(part * MAX_BLACK * self.height) for part in unseen)
            sample["image"] = sample["image"].clone()
            sample["image"][:, :top] = 0
            sample["image"][:, self.height - bottom :] = 0
        return sample


class RoomsDataModule(lightning.LightningDataModule):
    """Training, validation and test sets of procedural rooms; prediction runs over the test set.

    Args:
        height: Rows of the panoramas.
        width: Columns, twice the rows.
        train_count: Rooms per epoch of training.
        val_count: Rooms for validation.
        test_count: Rooms for test and prediction.
        batch_size: Panoramas per batch.
        num_workers: Processes that render beside the training.
        seed: Another seed gives other rooms.
        cache: Keep rendered training and validation rooms in memory: from the second epoch on nothing is rendered.
        augmentation: Changes the training samples, differently in every epoch.
        black_poles: Share of the training rooms with black poles, see `RoomsDataset`.
    """

    classes = S3DIS_CLASSES
    palette = S3DIS_PALETTE

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
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise InputError(f"batch_size must be positive and num_workers not negative: {batch_size}, {num_workers}")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.train_set = RoomsDataset("train", train_count, height, width, seed, cache, augmentation, black_poles)
        self.val_set = RoomsDataset("val", val_count, height, width, seed, cache)
        self.test_set = RoomsDataset("test", test_count, height, width, seed)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled, without an incomplete last batch if there is a complete one."""
        rooms = self.train_set
        return training_loader(rooms, rooms.augmentation, seed=self.seed, **self._options(rooms))

    def val_dataloader(self) -> DataLoader[Sample]:
        """In order."""
        return DataLoader(self.val_set, **self._options(self.val_set))

    def test_dataloader(self) -> DataLoader[Sample]:
        """In order."""
        return DataLoader(self.test_set, **self._options(self.test_set))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test set."""
        return self.test_dataloader()

    def _options(self, rooms: RoomsDataset) -> dict[str, Any]:
        # Only forked workers share the cache, and newer Pythons do not fork by default.
        fork = self.num_workers > 0 and rooms.cached and "fork" in multiprocessing.get_all_start_methods()
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
        """The sample without its id, or None if it was never stored."""
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
        """Spawned workers cannot share the memory; each begins with an empty cache."""
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
    """Zeros that forked processes share; pages are taken from the system when first written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return torch.from_numpy(np.frombuffer(mmap.mmap(-1, size), dtype=dtype).reshape(shape))
