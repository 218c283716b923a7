"""`mtpano export-scene`: the results of `mtpano run`, with their panoramas and poses, as a scene for other programs."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mtpano_zoo.errors import InputError
from mtpano_zoo.export.colmap import ColmapWriter, Scan, name_in_scene
from mtpano_zoo.export.one_scale import common_scales
from mtpano_zoo.export.poses import IDENTITY, Pose, read_poses
from mtpano_zoo.image_files import find_images
from mtpano_zoo.image_io import load_panorama, write_bytes
from mtpano_zoo.prediction import SKY, output_paths
from mtpano_zoo.prediction.folder import (
    check_finished,
    classes_and_reading,
    root_of,
    video_and_frame,
)
from mtpano_zoo.run.output import digest_of
from mtpano_zoo.viewer.results import image_of_result, read_maps

__all__ = ("export_scene",)

Origin = tuple[Path, str, dict[str, str | None]]  # see `root_of`


def export_scene(
    results: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    poses: str | Path | None = None,
    views: int | None = None,
    size: int | None = None,
    nadir: float = 0.0,
    one_scale: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Write a folder of results as a COLMAP scene, see `mtpano_zoo.export.colmap.ColmapWriter`.

    Panoramas are read with the options of the `mtpano run` that made the results. Results of crops are placed on the
    sphere. Those of the frames of videos are left out.

    Args:
        results: a folder written by `mtpano run`, or one below it.
        images: the folder of its panoramas.
        out: a new folder, which appears only when it is complete, or an empty one.
        poses: a COLMAP `images.txt` with a pose for every panorama, under the name of its result or of its files in a
            scene, see `mtpano_zoo.export.colmap.name_in_scene`. If omitted, all are at the origin.
        views: write 6 or 12 perspective views in place of every panorama. If omitted, write the panoramas.
        size: rows and columns of a view, see `mtpano_zoo.export.colmap.default_size`.
        nadir: degrees from straight down within which the masks leave everything out.
        one_scale: multiply the distances of each panorama by a factor, so that they agree with one another and with the
            unit of the poses, see `mtpano_zoo.export.one_scale`; `scales.json` keeps the factors.
        report: called with a sentence if results are left out.

    Returns:
        How many panoramas were written.

    Raises:
        FileExistsError: If `out` exists and is not empty.
        InputError: If there is no result, a panorama or a pose is missing, a file is damaged or belongs to another
            image, two names would coincide, no pixel has a distance, or an option is out of range.
        OSError: If a file cannot be read or written.
    """
    results, out = Path(results), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} already exists: choose a new folder")
    known = None if poses is None else read_poses(poses)
    found, origin = _matched(results, Path(images), report)
    first: dict[str, str] = {}
    for name in found:
        if (other := first.setdefault(name_in_scene(name), name)) != name:
            raise InputError(
                f"{results} has {other} and {name}, which would both be {name_in_scene(name)} in the scene: rename one "
                "of the images, and predict it again"
            )
    if known is not None:  # perhaps those of the images of such a scene
        known = {name: known[key] for name in found for key in (name_in_scene(name), name) if key in known}
    if known is not None and (missing := [name for name in found if name not in known]):
        raise InputError(f"{poses} has no pose for {missing[0]}, which is in {results}: add it, or leave the poses out")
    if one_scale and known is None:
        raise InputError("one scale for all panoramas needs their poses: pass a COLMAP images.txt")
    out = out.resolve()  # `.` has no name
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        writer = ColmapWriter(temporary, len(found), views, size, nadir)
        factors = _factors(results, origin, found, known) if one_scale and known is not None else {}
        for scan in _scans(results, origin, found, known or {}):
            writer.write(scan._replace(depth=scan.depth * np.float32(factors.get(scan.name, 1.0))))
        writer.finish()
        if factors:
            write_bytes(temporary / "scales.json", json.dumps(factors, indent=1).encode())
        if out.exists():  # it is empty, and may be the working folder of a shell, which has to stay
            for path in sorted(temporary.iterdir()):
                path.rename(out / path.name)
        else:
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(found)


def _matched(results: Path, images: Path, report: Callable[[str], None]) -> tuple[dict[str, Path], Origin]:
    """Return the panorama of every result, by the name of the result, and where the records of the results are."""
    if not results.is_dir():
        raise InputError(f"{results} is not a folder: name one that `mtpano run` has written")
    if not images.is_dir():
        raise InputError(f"{images} is not a folder: name the one with the panoramas of the results")
    ending = output_paths(results, "x", ("depth",))["depth_metres"].name.removeprefix("x")
    stems = {path.relative_to(results).as_posix().removesuffix(ending) for path in sorted(results.rglob(f"*{ending}"))}
    if not stems:
        raise InputError(f"{results} has no distances (*{ending}): name a folder that `mtpano run` has written")
    _, start, records = origin = root_of(results, stems)
    frames = {stem for stem in stems if video_and_frame(start + stem, records)}
    if frames == stems:
        raise InputError(f"{results} has results of videos only: extract their frames as images, and predict for these")
    if frames:
        report(f"{len(frames)} results are left out, because they are those of frames of videos")
    stems -= frames
    named = {target.relative_to(results).as_posix(): image for image, target in find_images([images], results).items()}
    found = {stem: image_of_result(named, (start + stem, stem), records.get(start + stem)) for stem in sorted(stems)}
    if missing := [stem for stem, image in found.items() if image is None]:
        raise InputError(
            f"{images} has no panorama named {missing[0]}, but {results} has results for it: pass the folder that "
            "`mtpano run` searched, or one that contains all its sources"
        )
    return {stem: image for stem, image in found.items() if image is not None}, origin


def _scans(results: Path, origin: Origin, found: Mapping[str, Path], poses: Mapping[str, Pose]) -> Iterator[Scan]:
    root, start, records = origin
    classes, reading = classes_and_reading(root)
    reading["force"] = True  # the run has already checked that it is a panorama
    for name, image in found.items():
        check_finished(root, start + name, records)
        recorded = records.get(start + name)
        if recorded is not None and recorded != digest_of(image):
            raise InputError(
                f"{image} has changed since the results in {results} were made: predict it again with `mtpano run`"
            )
        panorama = load_panorama(image, **reading)
        maps = read_maps(results, name, panorama, image)
        sky = maps["semseg"] == classes.index(SKY) if SKY in classes and "semseg" in maps else None
        pose = poses.get(name, IDENTITY)
        yield Scan(name, panorama.pixels, maps["depth"], maps.get("normals"), sky, pose, panorama.seen)


def _factors(results: Path, origin: Origin, found: Mapping[str, Path], poses: Mapping[str, Pose]) -> dict[str, float]:
    """Return the factor of every panorama."""
    depths = [scan.depth for scan in _scans(results, origin, found, poses)]
    factors = common_scales(depths, [poses[name] for name in found], list(found))
    return dict(zip(found, factors.tolist(), strict=True))
