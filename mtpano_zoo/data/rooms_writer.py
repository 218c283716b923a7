"""Write rooms to disk, to look at them or for tools that read folders."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtpano_zoo.data.homes import HomesDataset
from mtpano_zoo.data.rooms import RoomsDataset
from mtpano_zoo.data.scenes import SceneDataset
from mtpano_zoo.data.streets import StreetsDataset
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import encode_depth, encode_normals, write_npy, write_palette_png, write_png
from mtpano_zoo.manifest import claim_marked_folder
from mtpano_zoo.output_paths import path_below

__all__ = ("KINDS", "write_rooms")

MAPS = ("images", "semseg", "depth", "normals")
KINDS: dict[str, type[SceneDataset]] = {"rooms": RoomsDataset, "homes": HomesDataset, "streets": StreetsDataset}


def write_rooms(
    out: str | Path,
    split: str,
    count: int,
    height: int,
    width: int,
    seed: int = 0,
    kind: str = "rooms",
    tilt: float = 0.0,
    version: int = 1,
    views: str | Path | None = None,
) -> int:
    """Write the first `count` rooms of a split, or scenes of another kind, and return how many are new.

    The layout is that of `FolderDataModule`, with IDs such as train-000123:

        classes.yaml        seed, size, classes with their colours
        images/ID.png       8-bit RGB
        semseg/ID.png       8-bit class index, shown in the colours of the palette
        depth/ID.png        16-bit, millimetres along the ray
        normals/ID.png      16-bit RGB, (v - 32768) / 32767 in the frame x right, y down, z forward

    Streets exceed the range of 16-bit millimetres: their distances are in depth/ID.npy, float32 metres, 0 in the sky,
    where normals are grey.

    Files appear complete or not at all, so an interrupted call can be repeated: rooms that are complete are skipped.
    Splits may share a folder.

    Args:
        out: Folder.
        split: "train", "val" or "test".
        count: Number of scenes.
        height: Rows of the panoramas.
        width: Columns, twice the rows.
        seed: Seed of the scenes.
        kind: "rooms", "homes" or "streets".
        tilt: Maximum tilt of the camera in degrees.
        version: Version of the homes.
        views: Folder with panoramas to show in the windows of homes.

    Raises:
        InputError: If split, count, size, seed, kind, tilt or version are out of range, `views` holds no panorama, or a
            file that is not one, or the folder holds something else, or rooms of another seed or size.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    own: dict[str, Any] = ({"version": version} if version != 1 else {}) | (
        {"views": views} if views is not None else {}
    )
    if own and kind != "homes":
        raise InputError(f"{kind} have no {' or '.join(own)}: leave it out, or choose homes")
    rooms = KINDS[kind](split, count, height, width, seed, tilt=tilt, **own)
    out = Path(out)
    description = "\n".join(_describe(rooms)) + "\n"
    claim_marked_folder(out, "classes.yaml", description, "rooms of this seed and size")
    for folder in MAPS:
        (out / folder).mkdir(exist_ok=True)
    written = 0
    for index in range(count):
        endings = (".png", ".png", ".npy" if rooms.outdoors else ".png", ".png")
        pairs = zip(MAPS, endings, strict=True)
        files = [path_below(out / folder, rooms.name(index), ending) for folder, ending in pairs]
        if all(file.exists() for file in files):
            continue
        sample = rooms[index]
        image, semseg, depth, normals = files
        write_png(image, (sample["image"].permute(1, 2, 0) * 255).round().byte().numpy())
        write_palette_png(semseg, sample["semseg"].numpy().astype(np.uint8), rooms.palette)
        if rooms.outdoors:
            write_npy(depth, sample["depth"].numpy())
        else:
            write_png(depth, encode_depth(sample["depth"].numpy()))
        write_png(normals, encode_normals(sample["normals"].permute(1, 2, 0).numpy(), bits=16))
        written += 1
    return written


def _describe(rooms: SceneDataset) -> Iterator[str]:
    unit = "metres" if rooms.outdoors else "millimetres"
    yield f"# Procedural {rooms.noun}s of mtpano_zoo; depth in {unit} along the ray, classes by index"
    yield f"seed: {rooms.seed}"
    yield from (f"{name}: {value}" for name, value in rooms.choices().items())
    yield f"height: {rooms.height}"
    yield f"width: {rooms.width}"
    yield "classes:"
    for name, color in zip(rooms.classes, rooms.palette.tolist(), strict=True):
        yield f"  - {{name: {name}, color: {color}}}"
