"""Procedural homes as a data set and as a LightningDataModule."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mtpano_zoo.data.augmentation import Sample
from mtpano_zoo.data.backdrops import folder_digest, read_backdrops
from mtpano_zoo.data.scenes import SceneDataModule, SceneDataset
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE
from mtpano_zoo.scenes import Room, sample_home
from mtpano_zoo.scenes.homes import SPACES, check_version

__all__ = ("HomesDataModule", "HomesDataset")


class HomesDataset(SceneDataset):
    """Panoramas of lived-in rooms with exact ground truth, in `SCENE_CLASSES`. See `SceneDataset`.

    Args:
        arguments: Arguments of `SceneDataset`.
        version: 1; 2 adds stairs and mirrors; 3 also clear glass. Each version has different homes.
        views: Folder with panoramas (HDR, EXR or ordinary images). Windows show one of them, chosen and rotated by the
            home's own random numbers, and their light takes its mean colour. If omitted, they show a drawn horizon.
        options: Arguments of `SceneDataset` by name.

    Raises:
        InputError: If an argument is out of range, or `views` holds no panorama, or a file that is not one.
    """

    classes = SCENE_CLASSES
    palette = SCENE_PALETTE
    noun = "home"

    def __init__(self, *arguments: Any, version: int = 1, views: str | Path | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        check_version(version)
        self.version = version
        self.space = SPACES[version]
        self.views = views
        self._backdrops = read_backdrops(views) if views is not None else ()
        self._digest = folder_digest(views) if views is not None else ""

    def finish(self, sample: Sample, index: int) -> Sample:
        """Name and augment rendered maps; `far` is all false, since nothing in a closed room is far."""
        far = torch.zeros_like(sample["depth"], dtype=torch.bool)
        return super().finish(sample | {"far": far}, index)

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
        arguments: Arguments of `SceneDataModule`.
        version: 1; 2 adds stairs and mirrors; 3 also clear glass. Each version has different homes.
        views: Folder with panoramas that windows show, see `HomesDataset`.
        options: Arguments of `SceneDataModule` by name.
    """

    dataset = HomesDataset
    classes = SCENE_CLASSES
    palette = SCENE_PALETTE

    def __init__(self, *arguments: Any, version: int = 1, views: str | Path | None = None, **options: Any) -> None:
        self.version = version
        self.views = views
        super().__init__(*arguments, **options)

    def kind(self) -> Callable[..., SceneDataset]:
        """Return the data set class, bound to the version and the views."""
        return functools.partial(HomesDataset, version=self.version, views=self.views)
