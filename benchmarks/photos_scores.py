"""Scores of networks on held-out homes and streets and on real scenes, upright and tilted, with and without levelling.

These are the figures in the card of `mtpano-small.photos`. Everything goes through `predict`. Labels are 256 x 512, the
pixels of all images are pooled, and a network is scored only on the tasks it has. Distances are compared where the
network predicts one; "no depth" is the share of the labelled pixels that it calls far. Classes are compared for
networks with exactly the scenes' classes. The cameras of homes and streets lean by up to ten degrees. Run:
``python benchmarks/photos_scores.py mtpano-small.photos mtpano-small.rooms --threed60 FOLDER``.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import torch
from accuracy import threed60
from torch import Tensor, nn

from mtpano_zoo import load_model
from mtpano_zoo.data import HomesDataset, StreetsDataset
from mtpano_zoo.data.augmentation import rotate_sample
from mtpano_zoo.data.threed60 import Part
from mtpano_zoo.losses.validity import valid_depth
from mtpano_zoo.metrics import DepthMetrics, NormalsMetrics, SemsegMetrics, ValidMetrics
from mtpano_zoo.prediction import Prediction, predict
from mtpano_zoo.scene_classes import SCENE_CLASSES
from mtpano_zoo.sphere import rotation_matrix

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
}
Sample = dict[str, Any]


def scenes(kind: type[HomesDataset | StreetsDataset], count: int) -> Callable[[], Iterable[Sample]]:
    """Return a function that yields held-out scenes, one at a time."""

    def generate() -> Iterable[Sample]:
        data = kind("test", count, 256, 512, tilt=10.0)
        return (data[i] for i in range(count))

    return generate


def real(root: str, parts: Sequence[Part], tilt: float) -> Callable[[], Iterable[Sample]]:
    """Return a function that yields real scenes of 3D60, from a camera that looks up by `tilt` degrees."""

    def generate() -> Iterable[Sample]:
        for batch in threed60(root, parts, 256):
            sample = {key: value[0] for key, value in batch.items() if isinstance(value, Tensor)}
            yield rotate_sample(sample, rotation_matrix(pitch=tilt)) if tilt else sample

    return generate


def score(network: nn.Module, samples: Iterable[Sample], level: bool) -> dict[str, float]:
    """Return all columns of the table that the labels and the network allow."""
    metrics: dict[str, Any] = {
        "depth": DepthMetrics(max_depth=MAX_DEPTH),
        "aligned": DepthMetrics(max_depth=MAX_DEPTH, alignment="median"),
        "normals": NormalsMetrics(),
        "semseg": SemsegMetrics(SCENE_CLASSES),
        "valid": ValidMetrics(),
    }
    silent = total = 0
    for sample in samples:
        prediction = predict(network, sample["image"], level=level)
        if not isinstance(prediction, Prediction):
            raise TypeError("one image must have one prediction")
        if prediction.depth is not None:
            depth, target = torch.from_numpy(prediction.depth)[None], sample["depth"][None]
            for name in ("depth", "aligned"):
                metrics[name].update(depth, target, depth > 0)
            labelled = valid_depth(target, 1e-3, MAX_DEPTH)
            silent, total = silent + int((labelled & (depth == 0)).sum()), total + int(labelled.sum())
        if prediction.normals is not None:
            normals = torch.from_numpy(prediction.normals).permute(2, 0, 1)
            metrics["normals"].update(normals[None], sample["normals"][None])
        if "semseg" in sample and prediction.classes == SCENE_CLASSES:
            metrics["semseg"].update(torch.from_numpy(prediction.semseg)[None].long(), sample["semseg"][None])
        if "far" in sample and prediction.valid is not None:
            valid = torch.from_numpy(prediction.valid).float()[None, None] - 0.5
            metrics["valid"].update(valid, sample["depth"][None], sample["far"][None])
    found = {
        f"{name}/{key}": value for name, m in metrics.items() if m.update_called for key, value in m.compute().items()
    }
    found |= {"no depth": torch.tensor(silent / total)} if total else {}
    return {column: float(found[key]) for column, key in COLUMNS.items() if key in found}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="+", help="names of `mtpano models`, or checkpoints")
    parser.add_argument("--count", type=int, default=64, help="number of homes, and of streets")
    parser.add_argument("--threed60", metavar="FOLDER", help="real scenes of 3D60")
    parser.add_argument("--parts", nargs="+", default=get_args(Part), choices=get_args(Part), help="parts of 3D60")
    parser.add_argument("--height", type=int, help="input rows of the networks (default: their own)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = None if options.height is None else (options.height, 2 * options.height)
    networks = {name: load_model(name, input_size=size) for name in options.networks}
    data = {"homes": scenes(HomesDataset, options.count), "streets": scenes(StreetsDataset, options.count)}
    rows = [(name, samples, False) for name, samples in data.items() if options.count]
    if options.threed60:
        for tilt in TILTS:
            samples = real(options.threed60, options.parts, tilt)
            rows += [(f"3D60, tilted by {tilt}{', levelled' * level}", samples, level) for level in (False, True)]
    print(f"| data, network | {' | '.join(COLUMNS)} |\n|---|{'--:|' * len(COLUMNS)}")
    for name, samples, level in rows:
        for label, network in networks.items():
            scores = score(network, samples(), level)
            cells = [f"{scores[column]:.3f}" if column in scores else "" for column in COLUMNS]
            print(f"| {name}, {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
