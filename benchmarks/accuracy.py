"""Scores of a network of the zoo in float32 and bfloat16, compared with a baseline that knows only a pixel's row.

These are the figures in the model card of `mtpano-tiny.rooms`. The rooms are the first ones of the test split, at the
network's size. 3D60 is read as released, with distances and normals but no classes; `predict` makes the predictions,
which are compared at the size of the labels. The pixels of all images are pooled. The last column is the largest share,
over the tasks, of pixels whose prediction is not finite. Run: ``python benchmarks/accuracy.py``, with ``--threed60
FOLDER`` if you have the real scenes, and ``--parts`` if that folder holds only one of the two.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mtpano_zoo import load_model
from mtpano_zoo.data import RoomsDataset, ThreeD60DataModule
from mtpano_zoo.data.threed60 import Part
from mtpano_zoo.metrics import DepthMetrics, NormalsMetrics, SemsegMetrics
from mtpano_zoo.models import prepare_for_inference
from mtpano_zoo.models.latitude import LatitudePrior
from mtpano_zoo.prediction import predict

COLUMNS = {
    "mIoU": "semseg/mIoU",
    "AbsRel": "depth/AbsRel",
    "aligned": "aligned/AbsRel/median_aligned",
    "delta1": "depth/delta1",
    "aligned delta1": "aligned/delta1/median_aligned",
    "normals, mean": "normals/mean",
    "median": "normals/median",
    "not finite": "nonfinite",
}
Batch = dict[str, Any]
Maps = Mapping[str, Tensor]


def rooms(count: int, size: tuple[int, int]) -> Iterable[Batch]:
    """Return rendered rooms that no network was trained on."""
    return DataLoader(RoomsDataset("test", count, *size), 4)


def threed60(root: str, parts: Sequence[Part], height: int) -> DataLoader[Batch]:
    """Return real scenes of 3D60, one at a time; reading the first one shows at once if files are missing."""
    data = ThreeD60DataModule(root, parts=parts, height=height, width=2 * height, batch_size=1)
    data.setup("test")
    loader: DataLoader[Batch] = data.test_dataloader()
    next(iter(loader))
    return loader


def at_size_of_labels(network: nn.Module) -> Callable[[Tensor], Maps]:
    """Run a network through `predict`, which resizes images to its size and its maps back."""

    def run(image: Tensor) -> Maps:
        predictions = predict(network, image)
        depth, normals = (np.stack([getattr(p, task) for p in predictions]) for task in ("depth", "normals"))
        maps = {"depth": torch.from_numpy(depth)[:, None], "normals": torch.from_numpy(normals).permute(0, 3, 1, 2)}
        # `predict` writes zeros where the network's output is not finite: here that is an error, not a distance.
        return {task: x.masked_fill((x == 0).all(1, keepdim=True), torch.nan) for task, x in maps.items()}

    return run


def score(run: Callable[[Tensor], Maps], batches: Iterable[Batch]) -> dict[str, float]:
    """Return all columns of the table that the labels allow."""
    metrics = {
        "semseg": SemsegMetrics(RoomsDataset.classes),
        "depth": DepthMetrics(),
        "aligned": DepthMetrics(alignment="median"),
        "normals": NormalsMetrics(),
    }
    for batch in batches:
        outputs = run(batch["image"])
        for name, metric in metrics.items():
            task = "depth" if name == "aligned" else name
            if task in batch and task in outputs:
                metric.update(outputs[task], batch[task])
    found = {
        f"{name}/{key}": value for name, m in metrics.items() if m.update_called for key, value in m.compute().items()
    }
    found["nonfinite"] = torch.stack([value for key, value in found.items() if key.endswith("/nonfinite")]).max()
    return {column: float(found[key]) for column, key in COLUMNS.items() if key in found}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="mtpano-tiny.rooms", help="a name of `mtpano models` or a checkpoint")
    parser.add_argument("--rooms", type=int, default=128, help="rooms to score on")
    parser.add_argument("--prior-rooms", type=int, default=400, help="rooms that the baseline is fitted to")
    parser.add_argument("--threed60", metavar="FOLDER", help="real scenes of 3D60")
    parser.add_argument("--parts", nargs="+", default=get_args(Part), choices=get_args(Part), help="parts of 3D60")
    parser.add_argument("--height", type=int, default=256, help="rows of the labels of 3D60")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:  # before anything that takes minutes
        scenes = threed60(options.threed60, options.parts, options.height) if options.threed60 else None
        network = load_model(options.model).eval()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    size = network.input_size
    fitted = RoomsDataset("train", options.prior_rooms, *size)
    prior = LatitudePrior(fitted.classes, size[0])
    prior.fit(fitted[i] for i in range(len(fitted)))
    prior.eval()
    ways = {
        "float32": network,
        "float32, prepared": prepare_for_inference(network, winograd=True),
        "bfloat16": prepare_for_inference(network, "bfloat16"),
        "latitude only": prior,
    }

    print(f"| {options.model} | {' | '.join(COLUMNS)} |\n|---|{'--:|' * len(COLUMNS)}")
    with torch.inference_mode():
        print_rows("rooms", ways, lambda: rooms(options.rooms, size))
        if scenes is not None:
            runs = {name: at_size_of_labels(way) for name, way in ways.items()}
            print_rows("3D60", runs, lambda: scenes)


def print_rows(data: str, runs: Mapping[str, Callable[[Tensor], Maps]], batches: Callable[[], Iterable[Batch]]) -> None:
    """Score all ways to predict on the same data."""
    for name, run in runs.items():
        scores = score(run, batches())
        cells = [f"{scores[column]:.4f}" if column in scores else "" for column in COLUMNS]
        print(f"| {data}, {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
