"""Procedural homes as a data set and as a LightningDataModule."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.backdrops import folder_digest, read_backdrops
from mtpano_zoo.data.scenes import SceneDataModule, SceneDataset
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE
from mtpano_zoo.scenes import Room, sample_home
from mtpano_zoo.scenes.homes import SPACES, check_version

__all__ = ("HomesDataModule", "HomesDataset")


class HomesDataset(SceneDataset):
    """Panoramas of lived-in rooms with exact ground truth, in `SCENE_CLASSES`. See `SceneDataset`.

    Args:
        split: "train", "val" or "test"; they share no home.
        count: Number of homes.
        height: Rows of the panorama, at least 8.
        width: Columns, twice the rows.
        seed: Seed of the homes.
        cache: See `SceneDataset`.
        augmentation: See `SceneDataset`.
        black_poles: See `SceneDataset`.
        tilt: See `SceneDataset`.
        version: 1; 2 adds stairs and mirrors; 3 also clear glass. Each version has different homes.
        views: Folder with panoramas (HDR, EXR or ordinary images). Windows show one of them, chosen and rotated by the
            home's own random numbers, and their light takes its mean colour. If omitted, they show a drawn horizon.

    Raises:
        InputError: If an argument is out of range, or `views` holds no panorama, or a file that is not one.
    """

    classes = SCENE_CLASSES
    palette = SCENE_PALETTE
    noun = "home"

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
        version: int = 1,
        views: str | Path | None = None,
    ) -> None:
        super().__init__(split, count, height, width, seed, cache, augmentation, black_poles, tilt)
        check_version(version)
        self.version = version
        self.space = SPACES[version]
        self.views = views
        self._backdrops = read_backdrops(views) if views is not None else ()
        self._digest = folder_digest(views) if views is not None else ""

    def __getitem__(self, index: int) -> Sample:
        """Render or recall one sample; its `far` is all false, since nothing in a closed room is far."""
        sample = super().__getitem__(index)
        return sample | {"far": torch.zeros_like(sample["depth"], dtype=torch.bool)}

    def draw(self, index: int) -> Room:
        """Draw a home without rendering it."""
        return sample_home(self.seed, self.split, index, self.tilt, self.version, self._backdrops)

    def choices(self) -> dict[str, str]:
        """Return also the version, unless it is 1, and a hash of the views."""
        version = {"version": str(self.version)} if self.version > 1 else {}
        return super().choices() | version | ({"views": self._digest} if self._digest else {})

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the panoramas: they are large, and another process reads them again."""
        return self.__dict__ | {"_backdrops": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._backdrops = read_backdrops(self.views) if self.views is not None else ()


class HomesDataModule(SceneDataModule):
    """Training, validation and test sets of procedural lived-in rooms; prediction runs over the test set.

    They have more detail than `RoomsDataModule`: bedrooms, kitchens, living rooms and offices, with views into further
    rooms, people, and all kinds of light.

    Args:
        height: Rows of the panoramas.
        width: Columns, twice the rows.
        train_count: Homes per epoch of training.
        val_count: Homes for validation.
        test_count: Homes for test and prediction.
        batch_size: Panoramas per batch.
        num_workers: Worker processes that render.
        seed: Seed of the homes.
        cache: See `SceneDataModule`.
        augmentation: See `SceneDataModule`.
        black_poles: See `SceneDataModule`.
        tilt: See `SceneDataModule`.
        version: 1; 2 adds stairs and mirrors; 3 also clear glass. Each version has different homes.
        views: Folder with panoramas that windows show, see `HomesDataset`.
    """

    dataset = HomesDataset
    classes = SCENE_CLASSES
    palette = SCENE_PALETTE

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
        version: int = 1,
        views: str | Path | None = None,
    ) -> None:
        self.version = version
        self.views = views
        counts = (train_count, val_count, test_count)
        super().__init__(height, width, *counts, batch_size, num_workers, seed, cache, augmentation, black_poles, tilt)

    def kind(self) -> Callable[..., SceneDataset]:
        """Return the data set class, bound to the version and the views."""
        return functools.partial(HomesDataset, version=self.version, views=self.views)
