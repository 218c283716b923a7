"""A table of the largest error of every reader against what its miniature was made from.

`python tests/fakes/reader_errors.py` prints it. The tests of each set bound the same errors one by one.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fake_deep360
import fake_matterport3d
import fake_pano3d
import fake_pseudo_labels
import fake_stanford2d3d
import fake_structured3d
import fake_synpass
import fake_threed60
import fake_unlabelled
import numpy as np
from fake_files import room_maps, write

from mtpano_zoo import data
from mtpano_zoo.data.matterport3d_prepare import prepare

Pairs = Iterator[tuple[dict[str, Any], Mapping[str, Any]]]
Truth = Callable[[str], Mapping[str, Any]]
SIZE: dict[str, Any] = {"height": 32, "width": 64}
COLUMNS = {"image": "image, of 255", "semseg": "semseg, pixels", "depth": "depth, mm", "normals": "normals, degrees"}


def read(module: Any, truth: Truth) -> Pairs:
    """Yield every sample of a data module that is not for prediction alone, with its truth."""
    for split in ("train", "val", "test"):
        try:
            samples = module.dataset(split)
        except ValueError:  # it has no such split
            continue
        for i in range(len(samples)):
            yield samples[i], truth(samples[i]["id"])


def structured3d(root: Path) -> Pairs:
    write(root, fake_structured3d.files())
    numbers = {f"scene_{room.replace('/', '_')}_full_raw": n for room, n in fake_structured3d.ROOMS.items()}
    return read(data.Structured3DDataModule(root, **SIZE), lambda i: fake_structured3d.ground_truth(numbers[i]))


def stanford2d3d(root: Path) -> Pairs:
    write(root, fake_stanford2d3d.files())
    numbers = {f"camera_{fake_stanford2d3d.camera(n)}_{room}": n for (_, room), n in fake_stanford2d3d.ROOMS.items()}
    return read(data.Stanford2D3DDataModule(root, **SIZE), lambda i: fake_stanford2d3d.ground_truth(numbers[i]))


def matterport3d(root: Path) -> Pairs:
    write(root, fake_matterport3d.files())
    return read(data.Matterport3DDataModule(root, **SIZE), lambda i: fake_matterport3d.ground_truth(_matterport(i)))


def prepared(root: Path) -> Pairs:
    for scan in ("2t7WUuJeko7", "1LXtFkjw3qL"):
        write(root / "raw" / scan / scan, fake_matterport3d.release(scan))
    prepare(root / "raw", root / "out", **SIZE)
    for sample, truth in read(data.Matterport3DDataModule(root / "out", max_depth=50.0, **SIZE), _flat):
        maps = dict(truth)
        for role in ("depth", "normals"):  # what no view has seen is no error
            maps[role] = np.where(_array(sample, role) == 0, 0, maps[role])
        yield sample, maps


def _matterport(name: str) -> int:
    return {f"{scan}_{p}": n for scan, some in fake_matterport3d.PANORAMAS.items() for p, n in some.items()}[name]


def _flat(name: str) -> dict[str, Any]:
    """The truth with NaN wherever a pixel and its eight neighbours do not show one plane, which views see elsewhere."""
    maps: dict[str, Any] = room_maps(_matterport(name))
    around = [np.roll(maps["normals"], (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    offset = (maps["normals"] * _points(maps["depth"])).sum(-1)
    offsets = [np.roll(offset, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    flat = (np.ptp(around, 0) < 1e-3).all(-1) & (np.ptp(offsets, 0) < 1e-3)
    flat[[0, -1]] = False
    for role in ("depth", "normals"):
        maps[role] = np.where(flat if role == "depth" else flat[..., None], maps[role], np.nan)
    fine = room_maps(_matterport(name), 256, 512)["image"].reshape(32, 8, 64, 8, 3).mean((1, 3))
    return maps | {"image": np.where(flat[..., None], fine, np.nan)}


def _points(depth: Any) -> Any:
    rows, columns = depth.shape
    longitude = ((np.arange(columns) + 0.5) / columns - 0.5) * 2 * np.pi
    latitude = (0.5 - (np.arange(rows)[:, None] + 0.5) / rows) * np.pi
    across = np.cos(latitude)
    rays = (across * np.sin(longitude), -np.sin(latitude) + 0 * longitude, across * np.cos(longitude))
    return np.stack(rays, -1) * depth[..., None]


def synpass(root: Path) -> Pairs:
    write(root, fake_synpass.files())
    numbers = {"_".join(key): n for key, n in fake_synpass.FRAMES.items()}
    return read(data.SynPASSDataModule(root, **SIZE), lambda i: fake_synpass.ground_truth(numbers[i]))


def deep360(root: Path) -> Pairs:
    write(root, fake_deep360.files())
    numbers = {f"{stem[:3]}_{stem[-6:]}": n for stem, n in fake_deep360.FRAMES.items()}
    return read(data.Deep360DataModule(root, **SIZE), lambda i: fake_deep360.ground_truth(numbers[i]))


def threed60(root: Path) -> Pairs:
    write(root, fake_threed60.files())
    numbers = {stem.split("/")[-1].format("x", "Left_Down"): n for stem, n in fake_threed60.ROOMS.items()}
    numbers = {name.replace("_x_0_", "_"): n for name, n in numbers.items()}
    return read(data.ThreeD60DataModule(root, **SIZE), lambda i: fake_threed60.ground_truth(numbers[i]))


def pano3d(root: Path) -> Pairs:
    write(root, fake_pano3d.files())
    numbers = {f"{building}_{name}_center": n for (building, name), n in fake_pano3d.ROOMS.items()}
    return read(data.Pano3DDataModule(root, **SIZE), lambda i: fake_pano3d.ground_truth(numbers[i]))


def pseudo_labels(root: Path) -> Pairs:
    write(root, fake_pseudo_labels.files())
    return read(data.PseudoLabelDataModule(root, **SIZE), fake_pseudo_labels.ground_truth)


def zind(root: Path) -> Pairs:
    write(root, fake_unlabelled.zind())
    numbers = {f"{home}_{name}": n for (home, name), (n, _) in fake_unlabelled.ZIND.items()}
    return read(data.ZInDDataModule(root, **SIZE), lambda i: {"image": fake_unlabelled.decoded(numbers[i])})


def sun360(root: Path) -> Pairs:
    write(root, fake_unlabelled.sun360())
    numbers = {name.replace("/", "_"): n for name, n in fake_unlabelled.SUN360.items()}
    return read(data.SUN360DataModule(root, **SIZE), lambda i: {"image": fake_unlabelled.decoded(numbers[i])})


def generated(root: Path) -> Pairs:
    write(root, fake_unlabelled.generated())
    kinds = {"000000": (0, "PNG"), "000001": (1, "JPEG"), "dune": (2, "WEBP")}
    return read(data.GeneratedDataModule(root, **SIZE), lambda i: {"image": fake_unlabelled.decoded(*kinds[i])})


def folder(root: Path) -> Pairs:
    data.write_rooms(root / "rooms", "test", 8, **SIZE)
    return read(data.FolderDataModule(root / "rooms", **SIZE), _room)


def shards(root: Path) -> Pairs:
    data.write_shards(
        data.RoomsDataModule(**SIZE, train_count=1, val_count=1, test_count=8), root / "out", progress=False
    )
    for batch in data.ShardsDataModule(root / "out", batch_size=1).test_dataloader():
        yield {key: value[0] for key, value in batch.items()}, _room(batch["id"][0])


def _room(name: str) -> dict[str, Any]:
    return room_maps(int(name[-6:]))


SETS: dict[str, Callable[[Path], Pairs]] = {
    "Structured3D": structured3d,
    "Stanford2D3D": stanford2d3d,
    "Matterport3D, processed": matterport3d,
    "Matterport3D, prepared from the release": prepared,
    "SynPASS": synpass,
    "Deep360": deep360,
    "3D60": threed60,
    "Pano3D": pano3d,
    "pseudo-labels": pseudo_labels,
    "a folder": folder,
    "ZInD": zind,
    "SUN360": sun360,
    "generated": generated,
    "shards": shards,
}


def _array(sample: Mapping[str, Any], role: str) -> Any:
    values = sample[role].numpy()
    return values.transpose(1, 2, 0) if values.ndim == 3 else values


def errors(pairs: Pairs) -> dict[str, float]:
    """Largest error by role; holes in other places are infinite, what the truth does not tell (NaN) does not count."""
    largest: dict[str, float] = {}
    for sample, truth in pairs:
        for role in COLUMNS.keys() & sample.keys():
            found, wanted = _array(sample, role).astype(np.float64), np.asarray(truth[role], np.float64)
            known = ~np.isnan(wanted)
            if role == "normals":
                known, found_none, none = known.all(-1), (found == 0).all(-1), (wanted == 0).all(-1)
            else:
                found_none, none = found == 0, wanted == 0
            if role == "image":
                error = np.abs(np.rint(found * 255) - wanted)[known].max()
            elif role == "semseg":
                error = (found != wanted).sum()
            elif (found_none != none)[known].any():
                error = np.inf
            elif role == "depth":
                error = 1000 * np.abs(found - wanted)[known].max()
            else:
                error = np.degrees(2 * np.arcsin(np.linalg.norm(found - wanted, axis=-1)[known].max() / 2))
            largest[role] = max(largest.get(role, 0.0), float(error))
    return largest


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    rows = [["set", "samples", *COLUMNS.values()], ["---"] * 6]
    for name, make in SETS.items():
        with tempfile.TemporaryDirectory() as root:
            os.environ["MTPANO_CACHE"] = f"{root}/cache"
            pairs = list(make(Path(root) / "data"))
        largest = errors(iter(pairs))
        rows.append([name, str(len(pairs)), *(f"{largest[role]:.3g}" if role in largest else "-" for role in COLUMNS)])
    sys.stdout.writelines(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
