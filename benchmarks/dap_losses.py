"""What the terms of DAP's loss bring: Table 5 of its paper, with the small network of `dap/tiny.yaml`.

Four losses, each of which adds to the one before: SILog alone, the distortion map, geometry (normals and points),
sharpness (Gram matrices and edges). All of them train the masks too. For a seed, every run sees the same scenes in the
same order. Finished runs are kept in --out and not repeated. Run: ``python benchmarks/dap_losses.py``.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from dap import MAX_DEPTH, SETS, batches
from fitting import fit_once

from mtpano_zoo.metrics import DepthMetrics
from mtpano_zoo.zoo import load_model

GEOMETRY, SHARPNESS = ("normals", "points"), ("fidelity", "edges")
LOSSES: dict[str, dict[str, Any]] = {
    "SILog": {"distortion": False, "weights": dict.fromkeys(GEOMETRY + SHARPNESS, 0)},
    "+ distortion map": {"weights": dict.fromkeys(GEOMETRY + SHARPNESS, 0)},
    "+ geometry": {"weights": dict.fromkeys(SHARPNESS, 0)},
    "+ sharpness": {},
}
SCORES = ("AbsRel", "RMSE", "delta1")


def trained(out: Path, loss: str, seed: int, options: argparse.Namespace) -> Path:
    """Train with a loss, once, and return the checkpoint."""
    name = f"{loss.removeprefix('+ ').replace(' ', '-')}-{seed}"
    size = [options.height, 2 * options.height]
    scenes = {"train_count": options.scenes // 2, "height": size[0], "width": size[1]}
    return fit_once(
        out / name,
        "dap/tiny.yaml",
        f"--seed_everything={seed}",
        f"--trainer.max_epochs={options.epochs}",
        f"--model.network.init_args.input_size={size}",
        *(f"--model.loss.init_args.{key}={json.dumps(value)}" for key, value in LOSSES[loss].items()),
        *(f"--data.init_args.modules.{kind}.init_args.{key}={value}" for kind in SETS for key, value in scenes.items()),
    )


@torch.no_grad()
def scores(checkpoint: Path, count: int) -> dict[str, dict[str, float]]:
    """Return the scores of a network on scenes that no training has seen, by kind and name."""
    network = load_model(checkpoint)
    found = {}
    for kind, dataset in SETS.items():
        metrics = DepthMetrics(0.01, MAX_DEPTH, reduction="image")
        for image, depth, _ in batches([*dataset("test", count, *network.input_size)]):
            metrics.update(network(image)["depth"], depth)
        found[kind] = {name: float(value) for name, value in metrics.compute().items() if name in SCORES}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/dap-losses"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=1200, help="half of them rooms, half streets")
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--count", type=int, default=64, help="scenes of each kind to score on")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    start = time.monotonic()
    columns = [f"{kind}: {name}" for kind in SETS for name in SCORES]
    lines = [f"| loss | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    # One seed of all losses first: a run that is stopped can be called again with the seeds that it finished.
    checkpoints = {(loss, seed): trained(options.out, loss, seed, options) for seed in options.seeds for loss in LOSSES}
    for loss in LOSSES:
        runs = [scores(checkpoints[loss, seed], options.count) for seed in options.seeds]
        cells = []
        for kind in SETS:
            for name in SCORES:
                values = [run[kind][name] for run in runs]
                cells.append(f"{mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        lines.append(f"| {loss} | {' | '.join(cells)} |")
    print("\n".join(lines))
    print(
        f"{options.epochs} epochs of {options.scenes} scenes, seeds {options.seeds}; {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
