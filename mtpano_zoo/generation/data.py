"""Panoramas with texts to train a generator on: rendered rooms, and files that a list names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.data.loading import check_batches
from mtpano_zoo.data.rooms import RoomsDataset
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.augment import Turns, draw_turn, prepare_panorama
from mtpano_zoo.generation.captions import describe_room
from mtpano_zoo.image_io import read_panorama
from mtpano_zoo.text_files import read_json_lines

__all__ = ("CaptionedRooms", "PromptsDataModule", "PromptsDataset", "RoomsWithCaptions")

Sample = dict[str, Any]


class CaptionedRooms(Dataset[Sample]):
    """Rendered rooms with a text: `image` (3, H, W), `caption` and `id`; in training, turned and mirrored at random.

    Args:
        rooms: The rooms.
        turned: Whether every look at a room is from another side.
    """

    def __init__(self, rooms: RoomsDataset, turned: bool = False) -> None:
        self.rooms = rooms
        self.turned = turned

    def __len__(self) -> int:
        return len(self.rooms)

    def __getitem__(self, index: int) -> Sample:
        """Render or recall one room."""
        room = self.rooms[index]
        image = room["image"]
        if self.turned:
            image = image.flip(-1) if torch.rand(()) < 0.5 else image
            image = image.roll(draw_turn(image.shape[-1]), -1)
        return {"image": image, "caption": describe_room(image, room["semseg"], self.rooms.classes), "id": room["id"]}


class RoomsWithCaptions(lightning.LightningDataModule):
    """Rendered rooms with texts that say what they show.

    Args:
        height: Rows of the panoramas.
        width: Columns, twice the rows.
        train_count: Rooms to train on.
        val_count: Rooms for validation.
        batch_size: Rooms per batch.
        num_workers: Processes that render.
        seed: Another seed gives other rooms.
        cache: Keep rendered rooms in memory.
    """

    def __init__(
        self,
        height: int = 32,
        width: int = 64,
        train_count: int = 4000,
        val_count: int = 128,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        super().__init__()
        check_batches(batch_size, num_workers)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_set = CaptionedRooms(RoomsDataset("train", train_count, height, width, seed, cache), turned=True)
        self.val_set = CaptionedRooms(RoomsDataset("val", val_count, height, width, seed, cache))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled."""
        options: dict[str, Any] = {"batch_size": self.batch_size, "num_workers": self.num_workers}
        return DataLoader(self.train_set, shuffle=True, drop_last=len(self.train_set) >= self.batch_size, **options)

    def val_dataloader(self) -> DataLoader[Sample]:
        """In order."""
        return DataLoader(self.val_set, batch_size=self.batch_size, num_workers=self.num_workers)


class PromptsDataset(Dataset[Sample]):
    """Images with texts that a file of JSON lines names, as DiT360 is trained on.

    A line is ``{"image": "a.png", "caption": "A library.", "mask": "a_mask.png"}``, with paths relative to the file. A
    mask is white where an image is supervised, and says that it is a photograph on a panorama, which is neither
    mirrored nor turned. Samples have `image` (3, H, W), `caption`, `mask` (H, W), and `id`.

    Args:
        table: The file.
        height: Rows that images are resized to, bicubic as published; they get twice as many columns.
        mirror: Share of the panoramas that are mirrored.
        turns: By how many columns panoramas are turned; not at all, if not given.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If a line has another form, or an empty text.
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
            raise InputError(f"{table} names no image")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Read one image.

        Raises:
            OSError: If a file is not there.
            InputError: If it is no image, or a mask has another size.
        """
        row, folder = self.rows[index], self.table.parent
        pixels = read_panorama(folder / row["image"])
        photograph = "mask" in row
        mirror = not photograph and bool(torch.rand(()) < self.mirror)
        turn = draw_turn(2 * self.height, self.turns) if self.turns and not photograph else 0
        mask = torch.ones(self.height, 2 * self.height, dtype=torch.bool)
        if photograph:
            white = read_panorama(folder / row["mask"])
            if white.shape != pixels.shape:
                raise InputError(f"{row['mask']} is {white.shape[:2]}, but {row['image']} is {pixels.shape[:2]}")
            mask = prepare_panorama(white, self.height).amin(0) > 0.99
        image = prepare_panorama(pixels, self.height, mirror=mirror, turn=turn).clamp(0, 1)
        return {"image": image, "caption": row["caption"], "mask": mask, "id": Path(row["image"]).stem}


class PromptsDataModule(lightning.LightningDataModule):
    """Panoramas and photographs with texts, see `PromptsDataset`.

    Args:
        train: List of the images to train on.
        val: List of those for validation, if there are any.
        height: Rows.
        batch_size: Images per batch.
        num_workers: Processes that read.
        mirror: Share of the panoramas that are mirrored in training.
        turns: By how many columns panoramas are turned in training.
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
    ) -> None:
        super().__init__()
        self.train_set = PromptsDataset(train, height, mirror, turns)
        self.val_set = None if val is None else PromptsDataset(val, height, 0.0, None)
        self.batch_size = batch_size
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled."""
        return DataLoader(self.train_set, self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """In order; nothing without a list."""
        return [] if self.val_set is None else DataLoader(self.val_set, self.batch_size, num_workers=self.num_workers)


def _checked(entry: Any, table: Path, number: int) -> Mapping[str, str]:
    form = f'{table}, line {number}: not of the form {{"image": ..., "caption": ...}}'
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "caption")):
        raise InputError(form)
    if not entry["caption"].strip():
        raise InputError(f"{table}, line {number}: the caption is empty")
    if "mask" in entry and not isinstance(entry["mask"], str):
        raise InputError(form)
    return {key: entry[key] for key in ("image", "caption", "mask") if key in entry}
