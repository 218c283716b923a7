"""`make quickstart`: run the included network, then train one from scratch, score it and draw its predictions."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.table import Table

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import find_images
from mtpano_zoo.image_io import load_panorama, write_png
from mtpano_zoo.models import PanoramaNetwork, prepare_for_inference
from mtpano_zoo.models.latitude import LatitudePrior
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.resources import DEFAULT_MODEL, configuration
from mtpano_zoo.run import run
from mtpano_zoo.text_files import read_yaml
from mtpano_zoo.training.cli import MultiTaskCLI, next_commands
from mtpano_zoo.training.cli import main as train
from mtpano_zoo.training.multi_task import MultiTaskModule
from mtpano_zoo.training.progress import progress_bar
from mtpano_zoo.viz import figure_to_array, sample_panel
from mtpano_zoo.zoo import load_model

__all__ = ("free_folder", "quickstart")

PANELS = 4
# More rooms do not improve the prior.
PRIOR_ROOMS = 400
ONE_STREAM = ("--model.network.init_args.shared_stream=true", "--model.network.init_args.bridge=false")
METRICS = {
    "mIoU": ("semseg/mIoU", "higher"),
    "AbsRel": ("depth/AbsRel", "lower"),
    "normals, mean error in degrees": ("normals/mean", "lower"),
}


def quickstart(config: str | Path, out: Path, images: Sequence[str | Path] = ()) -> dict[str, dict[str, float]]:
    """Predict with the included network; then train one, compare it with two baselines, and draw pictures.

    Args:
        config: Name of a shipped configuration, or a path. It must train a `PDBridgeNet`, a part of which is one of
            the baselines, on rooms with labels of all tasks.
        out: Folder for all results. If it exists, the next free name is used, see `free_folder`.
        images: Panoramas to predict for: with the included network before the training, and with the trained one after.

    Returns:
        Metrics on the test set, by the name of the network or baseline.

    Raises:
        FileNotFoundError: If an image or the configuration is missing; nothing is trained then.
        InputError: If one of the images is not a panorama, or the configuration is for another network; nothing is
            trained then.
    """
    console = Console()
    out = free_folder(out)
    names = {path: name.relative_to(out) for path, name in find_images(images, out).items()} if images else {}
    for image in names:
        load_panorama(image)  # fails before anything is computed
    arguments = ["fit", "--config", str(configuration(config))]
    check_network(arguments[-1])
    out.mkdir(parents=True)
    console.print(f"Everything is written to [bold]{out}[/bold].")

    if images:
        console.rule(f"your panoramas, predicted by {DEFAULT_MODEL}")
        folder = out / DEFAULT_MODEL
        named = {path: folder / name for path, name in names.items()}
        report = run(named, prepare_for_inference(load_model(DEFAULT_MODEL)), folder)
        console.print(report.summary())
        console.print(f"Pictures are in [bold]{folder}[/bold]. Next, a network is trained, which takes minutes.")
    scores: dict[str, dict[str, float]] = {}
    console.rule("training PD-BridgeNet on rendered rooms")
    network, cli, minutes = _train([*arguments, f"--trainer.logger.init_args.save_dir={out / 'pd_bridgenet'}"])
    data = cli.datamodule
    scores[f"PD-BridgeNet ({minutes:.1f} min)"] = _score(network, data)
    console.rule("the same network with one shared stream and no bridge, trained for as long")
    single, _, minutes = _train([*arguments, f"--trainer.logger.init_args.save_dir={out / 'one_stream'}", *ONE_STREAM])
    scores[f"one stream, no bridge ({minutes:.1f} min)"] = _score(single, data)
    console.rule("a baseline that knows only the latitude")
    scores["latitude only"] = _score(_fit_prior(network, data), data)

    _write_table(scores, out, console)
    _write_panels(network, data, out / "panels")
    if images:
        report = run({path: out / "images" / name for path, name in names.items()}, network, out / "images")
        console.print(report.summary())
    console.print(f"Pictures of rooms the network has never seen are in [bold]{out / 'panels'}[/bold].")
    print(next_commands(cli.trainer))
    return scores


def check_network(config: str | Path) -> None:
    """Refuse a configuration for another network: the quickstart compares a `PDBridgeNet` with a part of it.

    Raises:
        InputError: If the network of the configuration is not a `PDBridgeNet`.
    """
    found: Any = read_yaml(config)
    for key in ("model", "network", "class_path"):
        found = found.get(key) if isinstance(found, dict) else None
    if str(found).rpartition(".")[2] != "PDBridgeNet":
        raise InputError(
            f"{config} trains {found or 'no network that it names'}, but the quickstart compares a PDBridgeNet with a "
            f"part of it: train others with `mtpano fit --config {config}`"
        )


def free_folder(wanted: Path) -> Path:
    """Return `wanted`, or `wanted-2`, `wanted-3`, ... if it exists, so that earlier results are kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as runs:
        ...     Path(runs, "quickstart").mkdir()
        ...     free_folder(Path(runs, "quickstart")).name
        'quickstart-2'
    """
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _train(arguments: Sequence[str]) -> tuple[PanoramaNetwork, MultiTaskCLI, float]:
    """Train through the command line; return the network of its last checkpoint, the CLI object and the minutes."""
    start = time.monotonic()
    cli = train(list(arguments))
    minutes = (time.monotonic() - start) / 60
    checkpoints = cli.trainer.checkpoint_callbacks
    path = getattr(checkpoints[0], "last_model_path", "") or getattr(checkpoints[0], "best_model_path", "")
    return load_model(path), cli, minutes


def _score(network: PanoramaNetwork, data: LightningDataModule) -> dict[str, float]:
    """Score on the held-out test rooms."""
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, callbacks=[progress_bar()], enable_model_summary=False
    )
    (metrics,) = trainer.test(MultiTaskModule(network), data, verbose=False)
    return {name: float(metrics[f"test/{key}"]) for name, (key, _) in METRICS.items()}


def _fit_prior(network: PanoramaNetwork, data: LightningDataModule) -> LatitudePrior:
    loader: Any = data.train_dataloader()
    samples = loader.dataset
    height = samples[0]["depth"].shape[-2]
    prior = LatitudePrior(network.classes, height)
    prior.fit(samples[i] for i in range(min(PRIOR_ROOMS, len(samples))))
    return prior


def _write_table(scores: dict[str, dict[str, float]], out: Path, console: Console) -> None:
    """Print and write the scores, with the gain in per cent over the baseline that knows only the latitude."""
    base = scores["latitude only"]
    table = Table("on rooms never seen in training", *METRICS, title="Quickstart")
    lines = [f"| | {' | '.join(METRICS)} |", "|" + "---|" * (len(METRICS) + 1)]
    for name, row in scores.items():
        cells = []
        for metric, (_, better) in METRICS.items():
            gain = row[metric] / base[metric] - 1 if better == "higher" else 1 - row[metric] / base[metric]
            cells.append(f"{row[metric]:.3f}" + ("" if row is base else f" ({100 * gain:+.0f} %)"))
        table.add_row(name, *cells)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    console.print(table)
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(scores, indent=2), encoding="utf-8")


def _write_panels(network: PanoramaNetwork, data: LightningDataModule, folder: Path) -> None:
    """Draw image, ground truth and prediction of the first test rooms."""
    folder.mkdir()
    loader: Any = data.test_dataloader()
    for i in range(min(PANELS, len(loader.dataset))):
        sample = loader.dataset[i]
        with torch.inference_mode():
            outputs = network(sample["image"][None])
        prediction = {task: outputs[task][0] for task in network.tasks}
        figure = sample_panel(sample, prediction, network.classes, network.palette)
        path = path_below(folder, sample["id"], ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, figure_to_array(figure))
