"""Panoramas with captions to train a generator on: rendered scenes, and images listed in a file."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import lightning
import torch
from lightning import Trainer
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from mtpano_zoo.data.loading import check_batches
from mtpano_zoo.data.rooms import RoomsDataset
from mtpano_zoo.data.scenes import SceneDataset
from mtpano_zoo.data.streets import StreetsDataset
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.augment import Turns, draw_turn, prepare_mask, prepare_panorama
from mtpano_zoo.generation.captions import describe, light_of
from mtpano_zoo.image_io import read_panorama
from mtpano_zoo.text_files import read_json_lines

__all__ = (
    "CaptionedScenes",
    "Photos",
    "PhotosDataModule",
    "PromptsDataModule",
    "PromptsDataset",
    "ScenesWithCaptions",
    "check_photos",
    "in_epoch",
)

Sample = dict[str, Any]
Photos = Literal["all", "published"]
"""Which photographs an epoch has: all of them, or, as published, none in the first two and then a share that halves."""


def in_epoch(photographs: Sequence[bool], epoch: int) -> list[int]:
    """Return the indices of the samples of an epoch of ``photos: published``: all panoramas, and some photographs.

    No photograph takes part in epochs 0 and 1. From epoch 2 on, a share of 1/2, 1/4, ... does, at least one, chosen at
    random in each epoch and alike in all processes. Without panoramas, all photographs take part.

    Args:
        photographs: Whether each sample is a photograph.
        epoch: Number of the epoch, from 0.

    Example:
        >>> [len(in_epoch([False, True, True, True, True], epoch)) for epoch in range(6)]
        [1, 1, 3, 2, 2, 2]
    """
    panoramas = [i for i, photograph in enumerate(photographs) if not photograph]
    others = [i for i, photograph in enumerate(photographs) if photograph]
    if panoramas and others:
        count = max(1, int(len(others) * 0.5 ** (epoch - 1))) if epoch >= 2 else 0
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(epoch))
        others = sorted(others[i] for i in order[:count])
    return panoramas + others


def check_photos(photos: str, trainer: Trainer | None) -> int:
    """Check the rule for photographs and return the current epoch, 0 without a trainer.

    Raises:
        InputError: If the rule is unknown, or the trainer would keep the samples of the first epoch.
    """
    if photos not in get_args(Photos):
        raise InputError(f"photos must be one of {', '.join(get_args(Photos))}, not {photos!r}")
    if trainer is None:
        return 0
    if photos == "published" and getattr(trainer, "reload_dataloaders_every_n_epochs", 0) != 1:
        raise InputError(
            "`photos: published` changes the samples every epoch: set trainer.reload_dataloaders_every_n_epochs to 1"
        )
    return trainer.current_epoch


class CaptionedScenes(Dataset[Sample]):
    """Rendered scenes with captions: `image` (3, H, W), `caption` and `id`.

    Args:
        scenes: Data set of scenes, such as `RoomsDataset`.
        turned: Turn and mirror a scene at random every time it is read.
    """

    def __init__(self, scenes: SceneDataset, turned: bool = False) -> None:
        self.scenes = scenes
        self.turned = turned
        self._light: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        """Render one scene, or return it from the cache."""
        scene = self.scenes[index]
        image = scene["image"]
        caption = describe(image, scene["semseg"], self.scenes.classes, self._light_of(index))
        if self.turned:
            image = image.flip(-1) if torch.rand(()) < 0.5 else image
            image = image.roll(draw_turn(image.shape[-1]), -1)
        return {"image": image, "caption": caption, "id": f"{self.scenes.noun}-{scene['id']}"}

    def _light_of(self, index: int) -> str:
        """Return the light of a scene, kept because drawing the scene takes longer than reading a cached rendering."""
        if index not in self._light:
            self._light[index] = light_of(self.scenes.draw(index % len(self.scenes)))
        return self._light[index]


class ScenesWithCaptions(lightning.LightningDataModule):
    """Rendered rooms and outdoor scenes with captions.

    Args:
        height: Rows of the panoramas.
        width: Columns, twice the rows.
        train_count: Scenes to train on.
        val_count: Scenes for validation.
        streets: Share of the scenes that are streets, squares and meadows.
        batch_size: Scenes per batch.
        num_workers: Worker processes that render.
        seed: Seed of the scenes.
        cache: Keep rendered scenes in memory.

    Raises:
        InputError: If `streets` is not between 0 and 1, or another number is out of range.
    """

    def __init__(
        self,
        height: int = 32,
        width: int = 64,
        train_count: int = 4000,
        val_count: int = 128,
        streets: float = 0.5,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        super().__init__()
        check_batches(batch_size, num_workers)
        if not 0 <= streets <= 1:
            raise InputError(f"streets is the share of outdoor scenes, from 0 to 1, not {streets}")
        self.batch_size = batch_size
        self.num_workers = num_workers

        def scenes(split: str, count: int) -> ConcatDataset[Sample]:
            outside = round(streets * count)
            kinds = ((RoomsDataset, count - outside), (StreetsDataset, outside))
            sets = [kind(split, some, height, width, seed, cache) for kind, some in kinds if some]
            return ConcatDataset([CaptionedScenes(one, split == "train") for one in sets])

        self.train_set = scenes("train", train_count)
        self.val_set = scenes("val", val_count)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled training data."""
        options: dict[str, Any] = {"batch_size": self.batch_size, "num_workers": self.num_workers}
        return DataLoader(self.train_set, shuffle=True, drop_last=len(self.train_set) >= self.batch_size, **options)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the validation data, in order."""
        return DataLoader(self.val_set, batch_size=self.batch_size, num_workers=self.num_workers)


class PromptsDataset(Dataset[Sample]):
    """Images with captions, listed in a JSON Lines file, as DiT360 is trained on.

    A line is ``{"image": "a.png", "caption": "A library.", "mask": "a_mask.png"}``, with paths relative to the file.
    The mask is white where the image is supervised; a panorama needs none. If the mask is not white everywhere, the
    image is a photograph projected onto a panorama, which is neither mirrored nor turned. Samples have `image`
    (3, H, W), `caption`, `mask` (H, W) and `id`.

    Args:
        table: The file.
        height: Rows that images are resized to (bicubic, as published); they get twice as many columns.
        mirror: Share of the panoramas that are mirrored.
        turns: How the turn of a panorama is drawn, see `draw_turn`. If None, panoramas are not turned.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If a line is malformed, a caption is empty, or the file lists no image.
    """

    def __init__(self, table: str | Path, height: int, mirror: float = 0.5, turns: Turns | None = "uniform") -> None:
        self.table = Path(table)
        self.height = height
        self.mirror = mirror
        self.turns = turns
        if not self.table.is_file():
            raise FileNotFoundError(f"there is no list of images and texts at {table}")
        self.rows = [_checked(entry, self.table, number) for number, entry in read_json_lines(self.table)]
        if not self.rows:
            raise InputError(f"{table} lists no image")
        self.captions = [row["caption"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def photographs(self) -> list[bool]:
        """Whether each sample is a photograph; reads all masks the first time.

        Raises:
            OSError: If a mask does not exist.
            InputError: If a mask is not an image.
        """

        def is_partial(mask: str) -> bool:
            return not prepare_mask(read_panorama(self.table.parent / mask), self.height).all()

        masks = sorted({row["mask"] for row in self.rows if "mask" in row})
        with ThreadPoolExecutor() as pool:
            partial = dict(zip(masks, pool.map(is_partial, masks), strict=True))
        return ["mask" in row and partial[row["mask"]] for row in self.rows]

    def files(self, indices: Iterable[int]) -> list[Path]:
        """Return the images and masks of these rows."""
        rows = [self.rows[index] for index in indices]
        return [self.table.parent / row[key] for row in rows for key in ("image", "mask") if key in row]

    def __getitem__(self, index: int) -> Sample:
        """Read one image.

        Raises:
            OSError: If a file does not exist.
            InputError: If a file is not an image, or the mask does not have the size of the image.
        """
        row, folder = self.rows[index], self.table.parent
        pixels = read_panorama(folder / row["image"])
        mask = torch.ones(self.height, 2 * self.height, dtype=torch.bool)
        if "mask" in row:
            white = read_panorama(folder / row["mask"])
            if white.shape != pixels.shape:
                (h, w), (rows, columns) = white.shape[:2], pixels.shape[:2]
                raise InputError(
                    f"the mask {row['mask']} is {h} x {w}, but {row['image']} is {rows} x {columns}: make them the "
                    "same size"
                )
            mask = prepare_mask(white, self.height)
        panorama = bool(mask.all())
        mirror = panorama and bool(torch.rand(()) < self.mirror)
        turn = draw_turn(2 * self.height, self.turns) if self.turns and panorama else 0
        image = prepare_panorama(pixels, self.height, mirror=mirror, turn=turn)
        return {"image": image, "caption": row["caption"], "mask": mask, "id": Path(row["image"]).stem}


class PhotosDataModule(lightning.LightningDataModule):
    """Panoramas and photographs to train on: subclasses set `train_set`, which has `photographs`, and `val_set`.

    Args:
        batch_size: Images per batch.
        num_workers: Worker processes that read images.
        photos: Which photographs an epoch has, see `in_epoch`.

    Raises:
        InputError: If `photos` is unknown.
    """

    train_set: Any
    val_set: Dataset[Sample] | None

    def __init__(self, batch_size: int, num_workers: int, photos: Photos) -> None:
        super().__init__()
        check_photos(photos, None)
        self.photos: Photos = photos
        self.batch_size = batch_size
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled training data of the current epoch.

        Raises:
            InputError: If `check_photos` raises it.
        """
        epoch = check_photos(self.photos, self.trainer)
        chosen = self.train_set
        if self.photos == "published":
            chosen = Subset(chosen, in_epoch(chosen.photographs, epoch))
        return DataLoader(chosen, self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Return the validation data, in order; an empty list without a validation set."""
        return [] if self.val_set is None else DataLoader(self.val_set, self.batch_size, num_workers=self.num_workers)


class PromptsDataModule(PhotosDataModule):
    """Panoramas and photographs with captions, see `PromptsDataset`.

    Args:
        train: List of the images to train on.
        val: List of the images for validation. If omitted, there is no validation.
        height: Rows that images are resized to.
        batch_size: Images per batch.
        num_workers: Worker processes that read images.
        mirror: Share of the panoramas that are mirrored in training.
        turns: How the turn of a panorama is drawn in training, see `draw_turn`.
        photos: Which photographs an epoch has, see `in_epoch`.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        height: int = 1024,
        batch_size: int = 1,
        num_workers: int = 4,
        mirror: float = 0.5,
        turns: Turns = "uniform",
        photos: Photos = "all",
    ) -> None:
        super().__init__(batch_size, num_workers, photos)
        self.train_set = PromptsDataset(train, height, mirror, turns)
        self.val_set = None if val is None else PromptsDataset(val, height, 0.0, None)


def _checked(entry: Any, table: Path, number: int) -> Mapping[str, str]:
    form = f'{table}, line {number}: not of the form {{"image": ..., "caption": ...}}'
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "caption")):
        raise InputError(form)
    if not entry["caption"].strip():
        raise InputError(f"{table}, line {number}: the caption is empty")
    if "mask" in entry and not isinstance(entry["mask"], str):
        raise InputError(form)
    return {key: entry[key] for key in ("image", "caption", "mask") if key in entry}
