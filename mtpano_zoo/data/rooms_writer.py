"""Writes rooms to disk, for people who want to look, and for tools that read folders."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mtpano_zoo.classes import S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.data.rooms import RoomsDataset
from mtpano_zoo.image_io import encode_depth, encode_normals, write_bytes, write_palette_png, write_png
from mtpano_zoo.output_paths import path_below

MAPS = ("images", "semseg", "depth", "normals")


def write_rooms(out: str | Path, split: str, count: int, height: int, width: int, seed: int = 0) -> int:
    """Write the first `count` rooms of a split as PNG files and return how many were not there yet.

    The layout is that of `FolderDataModule`, with IDs such as train-000123:

        classes.yaml        seed, size, classes with their colours
        images/ID.png       8-bit RGB
        semseg/ID.png       8-bit class index, shown in the colours of the palette
        depth/ID.png        16-bit, millimetres along the ray
        normals/ID.png      16-bit RGB, (v - 32768) / 32767 in the frame x right, y down, z forward

    Files appear complete or not at all, so an interrupted call can be repeated: rooms that are complete are skipped.
    Splits may share a folder.

    Raises:
        InputError: If split, count, size or seed are out of range.
        FileExistsError: If the folder holds something else, or rooms of another seed or size.
    """
    rooms = RoomsDataset(split, count, height, width, seed)
    out = Path(out)
    description = "\n".join(_describe(rooms)) + "\n"
    _claim(out, description)
    written = 0
    for index in range(count):
        files = [path_below(out / folder, rooms.name(index), ".png") for folder in MAPS]
        if all(file.exists() for file in files):
            continue
        sample = rooms[index]
        image, semseg, depth, normals = files
        write_png(image, (sample["image"].permute(1, 2, 0) * 255).round().byte().numpy())
        write_palette_png(semseg, sample["semseg"].numpy().astype(np.uint8), S3DIS_PALETTE)
        write_png(depth, encode_depth(sample["depth"].numpy()))
        write_png(normals, encode_normals(sample["normals"].permute(1, 2, 0).numpy(), bits=16))
        written += 1
    return written


def _describe(rooms: RoomsDataset) -> Iterator[str]:
    yield "# Procedural rooms of mtpano_zoo; depth in millimetres along the ray, classes by index"
    yield f"seed: {rooms.seed}"
    yield f"height: {rooms.height}"
    yield f"width: {rooms.width}"
    yield "classes:"
    for name, color in zip(S3DIS_CLASSES, S3DIS_PALETTE.tolist(), strict=True):
        yield f"  - {{name: {name}, color: {color}}}"


def _claim(out: Path, description: str) -> None:
    """Create the folders, unless something else lives there."""
    marker = out / "classes.yaml"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not marker.exists())):
        raise FileExistsError(f"{out} exists and holds no rooms: choose an empty or a new folder")
    if marker.exists() and marker.read_bytes() != description.encode():
        raise FileExistsError(f"{out} holds no rooms of this seed and size, see {marker}: choose another folder")
    for folder in MAPS:
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_bytes(marker, description.encode())
