"""Read the results of `mtpano run` with their panorama, for a page or a scene."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtpano_zoo.data.reading import decode_labels, decode_npy, decode_vectors
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_images
from mtpano_zoo.image_io import Panorama, PoseAngles, Reading, load_panorama, placed
from mtpano_zoo.image_io.gpano import read_pose
from mtpano_zoo.image_io.video import Video, layout_of_video
from mtpano_zoo.limits import read_file
from mtpano_zoo.prediction import Prediction, output_paths
from mtpano_zoo.prediction.folder import (
    RECORDS,
    check_finished,
    classes_and_reading,
    read_facts,
    read_records,
    root_of,
    video_and_frame,
)
from mtpano_zoo.run.output import digest_of
from mtpano_zoo.run.video import panorama_of_frame
from mtpano_zoo.tasks import NO_LABEL
from mtpano_zoo.viz import default_palette

__all__ = ("Results", "find_results", "image_of_result", "read_maps", "read_result")

DECODERS: dict[str, Callable[[bytes], NDArray[Any]]] = {
    "semseg": partial(decode_labels, lookup=np.arange(256)),
    "depth": decode_npy,
    "normals": partial(decode_vectors, middle=128, scale=127),
}
KINDS = ("semseg", "depth_metres", "normals")  # the files that are read


class Results(NamedTuple):
    """A folder that `mtpano run` has written, and the names of the selected results in it."""

    folder: Path
    names: tuple[str, ...]


def find_results(source: Path) -> Results | None:
    """Return the results that a path names; None if it names another file, which then has to be an image.

    A path names all results of a folder, or one: as `results/room`, or by one of its files, `results/room_depth.npy`.
    The folder may be one below that which `mtpano run` has written.

    Raises:
        InputError: If it is a folder without results, or its results are of other tasks than the page shows.
        FileNotFoundError: If nothing is there.
    """
    if source.is_dir():
        names = sorted({name for path in source.rglob("*") if (name := _stem(path.relative_to(source).as_posix()))})
        if not names:
            _check_shown(source)
            raise InputError(f"{source} has no results: name a folder that `mtpano run` has written, or an image")
        folder = source
    elif source.exists() and _stem(source.name) is None:
        return None
    else:
        folder, names = source.parent, [_stem(source.name) or source.name]
        if not any(path.exists() for path in _files(folder, names[0]).values()):
            _check_shown(source)
            raise FileNotFoundError(f"There is no image and no result at {source}.")
    root, start, _ = root_of(folder, names)
    return Results(root, tuple(start + name for name in names))


def _check_shown(source: Path) -> None:
    """Refuse a path that has finished results, of which none is a map that is read."""
    for root in (source, *source.absolute().parents):
        name = "" if root == source else source.absolute().relative_to(root).as_posix()
        finished = (known for known, digest in read_records(root / RECORDS).items() if digest is not None)
        if any(known == name or not name or known.startswith(f"{name}/") for known in finished):
            raise InputError(
                f"{source} has no classes, distances in metres or normals, which is what the page shows: "
                "predict with another network"
            )


def read_result(folder: Path, name: str, image: Path | None = None) -> Prediction:
    """Read a result with its panorama.

    Args:
        folder: where `mtpano run` has written it.
        name: its name below the folder, such as `sub/room`.
        image: the panorama, or the video that it is a frame of, or a folder with it. If omitted, it is looked for
            beside the folder, in the working folder, and in the folders in these two places.

    Raises:
        InputError: If the panorama is missing or the wrong one, the result is unfinished or older than the settings of
            its folder, or a file is damaged or has another size.
        OSError: If a file cannot be read.
    """
    records = read_records(folder / RECORDS)
    check_finished(folder, name, records)
    recorded = records.get(name)
    video = video_and_frame(name, records)
    found = (
        _find_image(folder, name, image, recorded)
        if video is None
        else _find(folder, video[0], image, recorded, VIDEO_SUFFIXES)
    )
    if recorded is not None and recorded != digest_of(found):
        raise InputError(f"{found} is not the image that {folder / name} is the result of: name another with --image")
    names, reading = classes_and_reading(folder)
    reading["force"] = True  # the run has already checked that it is a panorama
    panorama = load_panorama(found, **reading) if video is None else _frame(found, video[1], reading)
    maps = read_maps(folder, name, panorama, found)
    palette = _palette(_files(folder, name)["semseg"]) if "semseg" in maps else np.zeros((0, 3), np.uint8)
    labels = maps.get("semseg", np.zeros((0, 0), np.uint8))
    labels = labels[labels != NO_LABEL]
    names += tuple(f"class {i}" for i in range(len(names), (int(labels.max()) + 1) if labels.size else 0))
    colours = default_palette(len(names))
    colours[: len(palette)] = palette[: len(names)]
    up, doubts = _facts(folder, name)
    if up is None and (pose := _pose(folder, name) or panorama.pose):
        up = pose.up
    return Prediction(panorama.pixels, maps, names, colours, up, doubts=doubts)


def read_maps(folder: Path, name: str, panorama: Panorama, image: Path) -> dict[str, NDArray[Any]]:
    """Return the maps of a result on the whole sphere: those of `semseg`, `depth` and `normals` that it has.

    Args:
        folder: where `mtpano run` has written it.
        name: its name below the folder.
        panorama: the panorama that it was made from.
        image: the file of the panorama, for messages.

    Raises:
        InputError: If a file is damaged or has another size than the panorama.
        OSError: If a file cannot be read.
    """
    maps: dict[str, NDArray[Any]] = {}
    size, window = panorama.pixels.shape[:2], panorama.window
    for (task, decode), path in zip(DECODERS.items(), _files(folder, name).values(), strict=True):
        if not path.exists():
            continue
        try:
            values = decode(read_file(path))
        except InputError as error:
            raise InputError(f"{path} cannot be used: {error}") from error
        if window is not None and values.shape[:2] == (window.height, window.width):
            values = placed(values, window, NO_LABEL if task == "semseg" else 0)
        if values.shape[:2] != size:
            raise InputError(f"{path} is {values.shape[:2]}, but {image} is {size}: name the panorama of this result")
        maps[task] = values
    return maps


def _palette(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image.getpalette("RGB") or (), np.uint8).reshape(-1, 3)


def _files(folder: Path, name: str) -> dict[str, Path]:
    paths = output_paths(folder, name, tuple(DECODERS))
    return {kind: paths[kind] for kind in KINDS}


def _stem(name: str) -> str | None:
    """Return the name of the result that a file belongs to; None if it belongs to none."""
    endings = [path.name.removeprefix("x") for path in _files(Path(), "x").values()]
    return next((name.removesuffix(ending) for ending in endings if name.endswith(ending)), None)


def _frame(path: Path, number: int, reading: Reading) -> Panorama:
    layout = layout_of_video(path) if reading.get("eye") else None
    with closing(Video(path)) as video:
        for frame in video.frames(lambda counted: counted == number):
            if frame.pixels is not None:
                return panorama_of_frame(frame, path, layout, reading)
    raise InputError(f"{path} has no frame {number}: name another video with --image")


def _find_image(folder: Path, name: str, given: Path | None, recorded: str | None) -> Path:
    if given is None or not given.is_dir():
        return _find(folder, name, given, recorded, IMAGE_SUFFIXES)
    named = {target.relative_to(folder).as_posix(): path for path, target in find_images([given], folder).items()}
    parts = name.split("/")
    # The given folder may be one below that which `mtpano run` searched.
    if found := image_of_result(named, ["/".join(parts[start:]) for start in range(len(parts))], recorded):
        return found
    raise InputError(
        f"{given} has no panorama named {name}, but {folder} has results for it: name the panorama itself with --image"
    )


def image_of_result(named: Mapping[str, Path], names: Sequence[str], recorded: str | None) -> Path | None:
    """Return the panorama of a result; None if it is not among the images.

    The names of results lack the folders above the sources of `mtpano run`. So an image with further folders before the
    right name counts, if its hash is the recorded one and that of the image with exactly the right name is not.

    Args:
        named: the images below a folder by their names there, as in `{"tour/room": Path("photos/tour/room.jpg")}`.
        names: what the image of the result may be called, the whole name first.
        recorded: the hash of the image; None if it is not known.
    """
    exact = [named[name] for name in names if name in named]
    deeper = [image for name, image in named.items() if name.endswith(f"/{names[0]}")]
    if recorded is not None and deeper:
        exact = [image for image in (*exact, *deeper) if digest_of(image) == recorded] or exact
    return exact[0] if exact else None


def _find(folder: Path, name: str, given: Path | None, recorded: str | None, suffixes: Sequence[str]) -> Path:
    """Return the file of a panorama or video: the given one, or one in the given folder or in the usual places."""
    if given is not None and not given.is_dir():
        return given
    places = _places(folder) if given is None else [given]
    for path in (
        place / f"{name}{suffix}" for place in places for suffix in ("", *suffixes, *map(str.upper, suffixes))
    ):
        if path.is_file() and (recorded is None or digest_of(path) == recorded):
            return path
    where = "beside its results" if given is None else f"in {given}"
    raise InputError(f"the panorama of {folder / name} is not {where}: name it, or its folder, with --image")


def _places(folder: Path) -> Iterator[Path]:
    """Yield folders where the panoramas of results may be."""
    for place in dict.fromkeys((folder.resolve().parent, Path.cwd())):
        yield place
        yield from sorted(path for path in place.iterdir() if path.is_dir())


def _facts(folder: Path, name: str) -> tuple[tuple[float, float, float] | None, tuple[str, ...]]:
    """Return where up is in the frame of the camera, and the doubts about a result, if its last record states them."""
    up: tuple[float, float, float] | None = None
    records = [record for record in read_facts(folder / RECORDS) if record["name"] == name]
    facts = records[-1] if records else {}
    with suppress(KeyError, ValueError, TypeError):
        x, y, z = map(float, facts["up"])
        up = (x, y, z)
    doubts = facts.get("doubts")
    return up, tuple(map(str, doubts)) if isinstance(doubts, list) else ()


def _pose(folder: Path, name: str) -> PoseAngles | None:
    """Return what the tags of a map say, for a result that no `mtpano run` has recorded."""
    for path in output_paths(folder, name, tuple(DECODERS), False).values():
        if path.suffix == ".png" and path.exists():
            with Image.open(path) as image:
                return read_pose(image.info.get("XML:com.adobe.xmp", ""), str(path))
    return None
