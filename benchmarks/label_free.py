"""Compare training on pseudo-labels with training on the truth: rendered rooms, and a teacher with known errors.

The same rooms are written to three folders: with their true labels, with the labels of `mtpano label` (teacher and
views of `label_free/label-oracle-rooms.yaml`), and with a plain average of the teacher's labels of the views. The
network of the quickstart is trained for the same number of steps on each, and in a fourth run on the fused labels with
the depth of single views, as MTPano is trained. All are scored on the true labels of rooms that no training has seen.
Finished runs are kept in `--out`, so the same command continues a stopped run. Run:
``python benchmarks/label_free.py``.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from mtpano_zoo.data import Augmentation, PseudoLabelDataModule, RoomsDataModule
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.labeling.fusion import PanoramaLabels
from mtpano_zoo.labeling.module import Labeler
from mtpano_zoo.labeling.run import label
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.views import RandomViews
from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.losses import MultiTaskLoss
from mtpano_zoo.metrics import DepthMetrics, NormalsMetrics, SemsegMetrics
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.resources import shipped
from mtpano_zoo.training import MultiTaskModule

COLUMNS = {"mIoU": ("semseg/mIoU", 3), "AbsRel": ("depth/AbsRel", 3), "normals, degrees": ("normals/mean", 2)}


class Truth(Labeler):
    """A labeler that returns the truth."""

    def observe(self, name: str, sample: Mapping[str, Any]) -> PanoramaLabels:
        """Return the labels of the sample."""
        return PanoramaLabels(sample["semseg"].byte(), sample["depth"], sample["normals"])


class PlainAverage(Labeler):
    """A labeler that returns the plain mean of the views, and the most frequent class."""

    def finish(self, observed: Any) -> PanoramaLabels:
        """Return the mean of the views as they were before alignment."""
        fused = super().finish(observed)
        assert fused.scales is not None
        size = self.height * self.width
        votes, depth = torch.zeros(size, len(self.classes)), torch.zeros(2, size)
        normals = torch.zeros(size, 3)
        for view, scale in zip(fused.views, fused.scales, strict=True):
            assert view.semseg is not None and view.depth is not None and view.normals is not None
            given = view.semseg != 255
            votes[view.pixels[given], view.semseg[given].long()] += 1
            depth[:, view.pixels] += torch.stack((view.depth / scale, (view.depth > 0).float()))
            normals[view.pixels] += view.normals
        semseg = torch.where(votes.any(1), votes.argmax(1), 255).byte()
        return PanoramaLabels(
            semseg.view(self.height, self.width),
            (depth[0] / depth[1].clamp(min=1)).view(self.height, self.width),
            torch.nn.functional.normalize(normals, dim=1).T.reshape(3, self.height, self.width),
        )


LABELERS = {"truth": Truth, "fused": Labeler, "average": PlainAverage}
# Name, labels, and whether depth comes from single views.
RUNS = {
    "true labels": ("truth", False),
    "pseudo-labels, fused": ("fused", False),
    "pseudo-labels, fused; depth of single views": ("fused", True),
    "pseudo-labels, plain average": ("average", False),
}


def write_labels(out: Path, rooms: RoomsDataModule, size: int, views: int) -> None:
    """Label the training rooms in all three ways, one folder each; finished rooms are skipped."""
    config = yaml.safe_load((shipped("configs") / "label_free/label-oracle-rooms.yaml").read_text())
    chosen = config["views"]["init_args"] | {"size": size, "count": views}
    defects = config["teachers"][0]["init_args"]
    for name, kind in LABELERS.items():
        labeler = kind(
            RandomViews(**chosen),
            [OracleTeacher(**defects)],
            height=rooms.train_set.height,
            width=rooms.train_set.width,
        )
        settings = {"labels": name, "views": chosen, "defects": defects}
        report = label(
            rooms.train_set, out / name, labeler, settings=settings, trainer={"accelerator": "cpu", "devices": 1}
        )
        print(f"{name}: {report.summary()}", flush=True)
        if report.exit_code:
            raise SystemExit(report.exit_code)


def score_labels(folder: Path, rooms: RoomsDataModule) -> dict[str, float]:
    """Score the merged labels of a folder against the truth."""
    data = PseudoLabelDataModule(folder, height=rooms.train_set.height, width=rooms.train_set.width)
    labels = data.dataset("train")
    metrics = {"semseg": SemsegMetrics(data.classes), "depth": DepthMetrics(), "normals": NormalsMetrics()}
    for i in range(len(labels)):
        said = labels[i]
        true = rooms.train_set[int(said["id"].rpartition("-")[2])]
        given = {"semseg": said["semseg"] != 255, "depth": said["depth"] > 0, "normals": said["normals"].any(0)}
        for task, metric in metrics.items():
            metric.update(said[task][None], true[task][None], given[task][None])
    values = {f"{task}/{key}": value for task, metric in metrics.items() for key, value in metric.compute().items()}
    return {name: float(values[key]) for name, (key, _) in COLUMNS.items()}


def train(
    settings: Mapping[str, Any], data: LightningDataModule, rooms: RoomsDataModule, seed: int, steps: int
) -> dict[str, float]:
    """Train the network of the settings and score it on the test rooms."""
    seed_everything(seed, verbose=False)
    model = settings["model"]
    sizes = model["network"]["init_args"]
    encoder = ViTEncoder(**sizes["encoder"]["init_args"])
    network = PDBridgeNet(**sizes | {"encoder": encoder, "classes": RoomsDataModule.classes})
    module = MultiTaskModule(
        network,
        MultiTaskLoss(**model["loss"]["init_args"]),
        **{key: model[key] for key in ("lr", "weight_decay", "schedule", "warmup_steps")},
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        gradient_clip_val=settings["trainer"]["gradient_clip_val"],
        enable_checkpointing=False,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    (scores,) = trainer.test(module, rooms, verbose=False)
    return {name: float(scores[f"test/{key}"]) for name, (key, _) in COLUMNS.items()}


def table(title: str, results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return a Markdown table of the mean and, for two seeds or more, the standard deviation of all scores."""
    lines = [f"| {title} | {' | '.join(COLUMNS)} |", f"|---|{'--:|' * len(COLUMNS)}"]
    for name, runs in results.items():
        cells = []
        for column, (_, digits) in COLUMNS.items():
            values = [run[column] for run in runs]
            deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.{digits}f}{deviation}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Label, train the runs that are not finished yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/label_free"), help="folder of labels and finished runs")
    parser.add_argument("--rooms", type=int, default=240, help="rooms to label and to train on")
    parser.add_argument("--test-rooms", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--view-size", type=int, default=96, help="rows and columns of a view")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*does not have many workers|You have overridden|.*LeafSpec")

    settings = yaml.safe_load((shipped("configs") / "quickstart.yaml").read_text())
    init = settings["data"]["init_args"]
    size = {"height": init["height"], "width": init["width"]}
    rooms = RoomsDataModule(**size, train_count=options.rooms, test_count=options.test_rooms, cache=True)
    start = time.monotonic()
    write_labels(options.out, rooms, options.view_size, options.views)
    known_path = options.out / "results.json"
    known = json.loads(known_path.read_bytes()) if known_path.exists() else {}
    finished: dict[str, dict[str, float]] = known.setdefault(f"{options.steps} steps, {options.test_rooms} rooms", {})
    for seed in options.seeds:
        for name, (labels, single) in RUNS.items():
            if (run := f"{name}, seed {seed}") in finished:
                continue
            rule = {"view_tasks": ["depth"], "views_from_step": options.steps // 10} if single else {}
            augmentation = Augmentation(**init["augmentation"]["init_args"])
            data = PseudoLabelDataModule(
                options.out / labels,
                **size,
                batch_size=init["batch_size"],
                augmentation=augmentation,
                seed=seed,
                **rule,
            )
            finished[run] = train(settings, data, rooms, seed, options.steps)
            write_bytes(known_path, json.dumps(known, indent=1).encode())
            print(run, finished[run], flush=True)
    minutes = (time.monotonic() - start) / 60
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}; "
        f"{options.rooms} rooms of {size['height']} x {size['width']}, {options.views} views of {options.view_size} x "
        f"{options.view_size}, {options.steps} steps, {options.test_rooms} test rooms; {minutes:.1f} minutes\n"
    )
    print(table("labels of the training rooms", {name: [score_labels(options.out / name, rooms)] for name in LABELERS}))
    trained = {name: [finished[f"{name}, seed {seed}"] for seed in options.seeds] for name in RUNS}
    print(f"\n{table(f'network trained on, {len(options.seeds)} seeds', trained)}")


if __name__ == "__main__":
    main()
