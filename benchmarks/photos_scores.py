"""Scores of networks on held-out homes and streets and on real scenes, upright and tilted, with and without levelling.

These are the figures in the card of `mtpano-small.photos`. Everything goes through `predict`. Labels are 256 x 512, or
512 x 1024 for rendered scenes that are turned, because turning blurs an image. The pixels of all images are pooled, and
a network is scored only on the tasks it has. Distances are compared where the network predicts one; "no depth" is the
share of the labelled pixels that it calls far. Classes are compared for networks with exactly the scenes' classes. The
cameras of homes and streets lean by up to ten degrees.

For a tilt, the camera pitches up and down and rolls left and right, and the four predictions are turned back before
they are compared. So the same pixels count for every tilt: an equirectangular image has more pixels near its poles, and
turning the labels instead changes the score of a perfectly levelled prediction by up to 8 %. A tilted camera is never
levelled, or by default (as far as the network notices a tilt), or always; the first rows have the default. The table
also has the share of images in which a tilt was noticed, or whose up direction is right to two degrees, and the largest
error of the up direction (180 degrees if it stays unknown). Run:
``python benchmarks/photos_scores.py mtpano-small.photos mtpano-small.rooms --threed60 FOLDER``.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, get_args

import torch
from accuracy import threed60
from torch import Tensor, nn

from mtpano_zoo import load_model
from mtpano_zoo.data import HomesDataset, RoomsDataset, StreetsDataset
from mtpano_zoo.data.threed60 import Part
from mtpano_zoo.losses.validity import valid_depth
from mtpano_zoo.metrics import DepthMetrics, NormalsMetrics, SemsegMetrics, ValidMetrics
from mtpano_zoo.prediction import Prediction, predict
from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.sphere import rotate, rotation_matrix

TILTS = (0, 5, 10, 20, 30)  # degrees
MAX_DEPTH = 1e4  # metres
COLUMNS = {
    "AbsRel": "depth/AbsRel",
    "aligned": "aligned/AbsRel/median_aligned",
    "delta1": "depth/delta1",
    "aligned delta1": "aligned/delta1/median_aligned",
    "no depth": "no depth",
    "normals, mean": "normals/mean",
    "median": "normals/median",
    "mIoU": "semseg/mIoU",
    "sky IoU": "semseg/IoU/sky",
    "far IoU": "valid/IoU/far",
    "noticed": "noticed",
    "up within 2 degrees": "up within 2 degrees",
    "up, largest error": "up, largest error",
}
LEVELS = {"": False, ", by default": None, ", levelled": True}
Sample = dict[str, Any]


def scenes(
    kind: type[RoomsDataset | HomesDataset | StreetsDataset], count: int, height: int, tilt: float
) -> Callable[[], Iterable[Sample]]:
    """Return a function that yields held-out scenes, one at a time."""

    def generate() -> Iterable[Sample]:
        data = kind("test", count, height, 2 * height, tilt=tilt)
        return (data[i] for i in range(count))

    return generate


def real(root: str, parts: Sequence[Part]) -> Callable[[], Iterable[Sample]]:
    """Return a function that yields real scenes of 3D60."""

    def generate() -> Iterable[Sample]:
        for batch in threed60(root, parts, 256):
            yield {key: value[0] for key, value in batch.items() if isinstance(value, Tensor)}

    return generate


def tilts(degrees: float) -> list[Tensor]:
    """Return the rotations (3, 3) of cameras that look up and down, and lean left and right."""
    if not degrees:
        return [torch.eye(3)]
    return [rotation_matrix(0, *angles) for angles in ((degrees, 0), (-degrees, 0), (0, degrees), (0, -degrees))]


def score(network: nn.Module, samples: Iterable[Sample], tilt: float, level: bool | None) -> dict[str, float]:
    """Return all columns of the table that the labels and the network allow."""
    metrics: dict[str, Any] = {
        "depth": DepthMetrics(max_depth=MAX_DEPTH),
        "aligned": DepthMetrics(max_depth=MAX_DEPTH, alignment="median"),
        "normals": NormalsMetrics(),
        "semseg": SemsegMetrics(SCENE_CLASSES),
        "valid": ValidMetrics(),
    }
    silent = total = 0
    errors, noticed = [], []
    for sample, turn in ((sample, turn) for sample in samples for turn in tilts(tilt)):
        prediction = predict(network, rotate(sample["image"][None], turn)[0], level=level)
        if not isinstance(prediction, Prediction):
            raise TypeError("one image must have one prediction")
        noticed.append(prediction.up is not None)
        if level:
            cosine = -1.0 if prediction.up is None else -float(turn[1] @ torch.tensor(prediction.up))
            errors.append(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))
        if prediction.depth is not None:
            depth = rotate(torch.from_numpy(prediction.depth)[None, None], turn.T, "depth")[0]
            target = sample["depth"][None]
            for name in ("depth", "aligned"):
                metrics[name].update(depth, target, depth > 0)
            labelled = valid_depth(target, 1e-3, MAX_DEPTH)
            silent, total = silent + int((labelled & (depth == 0)).sum()), total + int(labelled.sum())
        if prediction.normals is not None:
            normals = torch.from_numpy(prediction.normals).permute(2, 0, 1)
            metrics["normals"].update(rotate(normals[None], turn.T, "vectors"), sample["normals"][None])
        if "semseg" in sample and prediction.classes == SCENE_CLASSES:
            classes = rotate(torch.from_numpy(prediction.semseg)[None, None], turn.T, "label")[0]
            metrics["semseg"].update(classes.long(), sample["semseg"][None])
        if "far" in sample and prediction.valid is not None:
            valid = rotate(torch.from_numpy(prediction.valid)[None, None], turn.T, "label")
            metrics["valid"].update(valid.float() - 0.5, sample["depth"][None], sample["far"][None])
    found = {
        f"{name}/{key}": value for name, m in metrics.items() if m.update_called for key, value in m.compute().items()
    }
    found |= {"no depth": torch.tensor(silent / total)} if total else {}
    if level is None:
        found["noticed"] = torch.tensor(sum(noticed) / len(noticed))
    if errors:
        found["up within 2 degrees"] = torch.tensor(sum(error <= 2 for error in errors) / len(errors))
        found["up, largest error"] = torch.tensor(max(errors))
    return {column: float(found[key]) for column, key in COLUMNS.items() if key in found}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="+", help="names of `mtpano models`, or checkpoints")
    parser.add_argument("--count", type=int, default=64, help="number of homes, and of streets")
    parser.add_argument("--tilted", type=int, default=10, help="number of rooms, and of homes, to tilt")
    parser.add_argument("--threed60", metavar="FOLDER", help="real scenes of 3D60")
    parser.add_argument("--parts", nargs="+", default=get_args(Part), choices=get_args(Part), help="parts of 3D60")
    parser.add_argument("--height", type=int, help="input rows of the networks (default: their own)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = None if options.height is None else (options.height, 2 * options.height)
    networks = {name: load_model(name, input_size=size) for name in options.networks}
    rows = [
        (name, scenes(kind, options.count, 256, 10.0), 0, None)
        for name, kind in (("homes", HomesDataset), ("streets", StreetsDataset))
        if options.count
    ]
    upright = {
        name: scenes(kind, options.tilted, 512, 0.0)
        for name, kind in (("rooms", RoomsDataset), ("homes", HomesDataset))
        if options.tilted
    }
    if options.threed60:
        upright["3D60"] = real(options.threed60, options.parts)
    for (name, samples), tilt, (words, level) in product(upright.items(), TILTS, LEVELS.items()):
        rows.append((f"{name}, tilted by {tilt}{words}", samples, tilt, level))
    print(f"| data, network | {' | '.join(COLUMNS)} |\n|---|{'--:|' * len(COLUMNS)}")
    for name, samples, tilt, level in rows:
        for label, network in networks.items():
            scores = score(network, samples(), tilt, level)
            cells = [f"{scores[column]:.3f}" if column in scores else "" for column in COLUMNS]
            print(f"| {name}, {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
