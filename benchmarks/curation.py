"""Does curation work? Run all three stages on rendered scenes that stand for the web and whose truth is set aside.

A labeler learns from rendered rooms and streets. Others, with a look that it has never seen, stand for panoramas from
the web: half of them have changed light and colours, half have strange ones. The commands of docs/curation.md label,
score and select them, train the next labeler on the selection, label again, and train the last network; every command
is printed. The tables then show how well scores find planted failures and large errors of the labeler, how much better
the best third is than all labels, and, with --students, what a network learns from selected, random and all labels.
Finished parts are kept in --out, so the same command continues a stopped run. Run: ``python benchmarks/curation.py``.
"""

import argparse
import json
import math
import os
import platform
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curation_measures import error_map, error_of, examine, plant_failures, scores_of
from fitting import fit_once, run
from torch import Tensor

from mtpano_zoo.data import Augmentation, PseudoLabelDataModule, RoomsDataset, StreetsDataset
from mtpano_zoo.image_io import write_bytes, write_png
from mtpano_zoo.labeling.curation.domains import SkyOrCeiling
from mtpano_zoo.labeling.curation.scoring import load_discriminator
from mtpano_zoo.labeling.curation.selection import read_scores
from mtpano_zoo.labeling.encoding import encode_labels
from mtpano_zoo.labeling.fusion import PanoramaLabels

MILD = [
    {"RandomGamma": {"gamma_limit": [60, 170], "p": 0.8}},
    {"HueSaturationValue": {"hue_shift_limit": 20, "sat_shift_limit": 40, "val_shift_limit": 0, "p": 0.8}},
]
STRANGE = [
    {"HueSaturationValue": {"hue_shift_limit": 90, "sat_shift_limit": 60, "val_shift_limit": 0, "p": 1}},
    {"RandomGamma": {"gamma_limit": [50, 220], "p": 0.8}},
    {"RandomBrightnessContrast": {"brightness_limit": 0.3, "contrast_limit": 0.4, "p": 0.8}},
    {"GaussNoise": {"std_range": [0.02, 0.08], "p": 0.5}},
    {"GaussianBlur": {"blur_limit": 0, "sigma_limit": [0.5, 1.5], "p": 0.4}},
]
LOOKS = {"mild": MILD, "strange": STRANGE}
PLACES = {"room": RoomsDataset, "street": StreetsDataset}
# Ways to train a discriminator. The one with two kinds planted is tested on the other kinds, which it has never seen.
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "binary, as in the paper": {"targets": "binary", "failures": {}},
    "graded": {"targets": "graded", "failures": {}},
    "graded, two kinds planted": {"targets": "graded", "failures": {"scaled": 1, "copied": 1}},
    "graded, all kinds planted": {},  # as in the configuration
}
USED = "graded, all kinds planted"
BATCH = 8  # panoramas in a step, as in the configurations; two processes that share it beat two threads


class Pipeline:
    """The commands of one run, in one folder.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.size = (options.height, 2 * options.height)

    def fit(self, name: str, config: str, steps: int, *arguments: str) -> Path:
        """Train with a configuration unless that was done before; return the checkpoint."""
        processes = min(self.options.threads, 2)
        where = ("--trainer.accelerator=cpu", f"--data.init_args.batch_size={BATCH // processes}")
        length = (f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1")
        return fit_once(self.out / name, config, *arguments, *length, *where, processes=processes)

    def scenes(self, count: int) -> tuple[str, ...]:
        """Return the options for rendered training scenes, which stay in memory from the first epoch on."""
        height, width = self.size
        counts = {"train_count": count // 2, "val_count": 4, "test_count": 4}
        values = {"height": height, "width": width, **counts, "cache": "true"}
        return tuple(
            f"--data.init_args.modules.{module}.init_args.{key}={value}"
            for module in ("rooms", "streets")
            for key, value in values.items()
        )

    def labeler(self) -> Path:
        """Train the first labeler."""
        size = f"--model.network.init_args.input_size={list(self.size)}"
        return self.fit(
            "labeler", "curation/labeler.yaml", self.options.labeler_steps, size, *self.scenes(self.options.scenes)
        )

    def discriminator(self, labeler: Path, name: str = USED) -> Path:
        """Train one of `DISCRIMINATORS` for a labeler."""
        init = "--model.init_args."
        options = [
            f"{init}{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in DISCRIMINATORS[name].items()
        ]
        return self.fit(
            f"discriminator, {name}".replace(", ", "-").replace(" ", "-"),
            "curation/discriminator.yaml",
            self.options.discriminator_steps,
            f"{init}labeler.init_args.source={labeler}",
            f"{init}discriminator.init_args.input_size={list(self.size)}",
            f"{init}discriminator.init_args.width={self.options.width}",
            f"{init}discriminator.init_args.levels={self.options.levels}",
            *options,
            *self.scenes(self.options.discriminator_scenes),
            "--data.init_args.num_workers=0",
        )

    def label(self, labeler: Path, name: str) -> Path:
        """Label the panoramas of the web."""
        height, width = map(str, self.size)
        network = ("--config", "curation/label.yaml", f"--network.init_args.source={labeler}")
        trainer = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false")
        size = ("--height", height, "--width", width)
        out = self.out / name
        web = str(self.out / "web")
        run("curate", "label", web, *network, *size, *trainer, "--num-workers", "0", "--out", str(out))
        return out

    def score(self, labels: Path, discriminator: Path) -> Path:
        """Score labels; rooms and streets are the domains."""
        out = labels.with_name(f"{labels.name}-scores")
        trainer = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false")
        domains = ("--domains=mtpano_zoo.labeling.curation.domains.DomainByName",)
        patterns = f"--domains.patterns={json.dumps({place: f'{place}-*' for place in PLACES})}"
        run(
            "curate", "score", str(labels), "--discriminator", str(discriminator), *domains, patterns, *trainer,
            "--num-workers", "0", "--out", str(out),
        )  # fmt: skip
        return out

    def select(self, labels: Path, scores: Path) -> Path:
        """Select the best third of every domain."""
        out = labels.with_name(f"{labels.name}-selected")
        count = json.dumps(dict.fromkeys(PLACES, max(1, self.options.panoramas // 6)))
        run("curate", "select", str(labels), "--scores", str(scores), "--count", count, "--out", str(out))
        return out

    def student(self, name: str, labeler: Path, labels: Path, seed: int = 0) -> Path:
        """Train on labels and rendered rooms, starting from a labeler."""
        height, width = self.size
        selected = {"root": labels, "height": height, "width": width}
        modules = "modules.selected.init_args."
        return self.fit(
            name,
            "curation/student.yaml",
            self.options.student_steps,
            f"--model.network.init_args.source={labeler}",
            f"--seed_everything={seed}",
            f"--data.init_args.seed={seed}",
            *(f"--data.init_args.{modules}{key}={value}" for key, value in selected.items()),
            "--data.init_args.samples_per_epoch=null",
            *self.scenes(self.options.scenes),
        )


def look(split: str, number: int, size: tuple[int, int]) -> tuple[str, Tensor, Tensor]:
    """Return a scene with one of `LOOKS`: its name, image (3, H, W) in steps of 1/255, and true distances (H, W)."""
    place, name = list(PLACES)[number % 2], list(LOOKS)[number // 2 % 2]
    sample = PLACES[place](split, number + 1, *size, seed=7)[number]
    sample = Augmentation(yaw=1.0, mirror=0.0, photometric=1.0, transforms=LOOKS[name], seed=7)(sample)
    return f"{place}-{name}-{number:04d}", (sample["image"] * 255).round() / 255, sample["depth"]


def write_web(out: Path, count: int, size: tuple[int, int]) -> None:
    """Write panoramas, and their true distances to a separate folder; existing ones are kept."""
    for folder in ("web", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if not list((out / "web").glob(f"*-{number:04d}.png")):
            name, image, depth = look("val", number, size)
            np.save(out / "truth" / f"{name}.npy", depth.numpy())
            write_png(out / "web" / f"{name}.png", (image * 255).byte().permute(1, 2, 0).numpy())


def read_labels(out: Path, labels: Path, size: tuple[int, int]) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Return the names of labels, their panoramas (N, 3, H, W), distances and true distances (N, H, W)."""
    data = PseudoLabelDataModule(labels, height=size[0], width=size[1], tasks=["depth"])
    samples = [data.dataset("train")[i] for i in range(len(data.dataset("train")))]
    names = [sample["id"] for sample in samples]
    truth = torch.stack([torch.from_numpy(np.load(out / "truth" / f"{name}.npy")) for name in names])
    return names, torch.stack([s["image"] for s in samples]), torch.stack([s["depth"] for s in samples]), truth


def outdoors(labels: Path, size: tuple[int, int]) -> dict[str, bool]:
    """Return by name which panoramas `SkyOrCeiling`, the default, takes for outdoor."""
    data = PseudoLabelDataModule(labels, height=size[0], width=size[1], tasks=["semseg", "depth"])
    classify = SkyOrCeiling()
    samples = (data.dataset("train")[i] for i in range(len(data.dataset("train"))))
    return {sample["id"]: classify(sample, data.classes) == "outdoor" for sample in samples}


def write_planted(out: Path, labels: Path, size: tuple[int, int]) -> Path:
    """Write labels of which a third are planted failures to a folder, once."""
    folder = labels.with_name(f"{labels.name}-planted")
    if not folder.exists():
        unfinished = labels.with_name(f".{folder.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(labels, unfinished)
        names, _, depth, _ = read_labels(out, labels, size)
        for name, before, after in zip(names, depth, plant_failures(depth), strict=True):
            if not torch.equal(before, after):
                for file, content in encode_labels(PanoramaLabels(depth=after, far=after == 0)).files.items():
                    task, _, rest = file.partition("/")
                    write_bytes(unfinished / task / name / rest, content)
        unfinished.rename(folder)
    return folder


def draw(path: Path, names: Sequence[str], scores: Tensor, image: Tensor, depth: Tensor, truth: Tensor) -> None:
    """Draw panorama, label, truth and relative error in one column per panorama, for at most ten; white is none."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    shown = min(10, len(names))
    figure = Figure(figsize=(2.4 * shown, 5), layout="constrained")
    axes = figure.subplots(4, shown, squeeze=False)
    for i in range(shown):
        label, true = (torch.where(one[i] > 0, one[i], torch.nan).log() for one in (depth, truth))
        nearest, farthest = float(true.nan_to_num(torch.inf).min()), float(true.nan_to_num(-torch.inf).max())
        axes[0][i].imshow(image[i].permute(1, 2, 0))
        axes[1][i].imshow(label, vmin=nearest, vmax=farthest, cmap="turbo")
        axes[2][i].imshow(true, vmin=nearest, vmax=farthest, cmap="turbo")
        axes[3][i].imshow(error_map(depth[i], truth[i]), vmin=0, vmax=0.5, cmap="magma")
        axes[0][i].set_title(f"{names[i]}: {scores[i]:.2f}", fontsize=8)
        for row in range(4):
            axes[row][i].axis("off")
    figure.savefig(path, dpi=80)


def table(title: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    """Return columns of numbers as Markdown."""
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for name in next(iter(columns.values())):
        values = (column[name] for column in columns.values())
        cells = ["" if math.isnan(value) else f"{value:.3f}" for value in values]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare_students(pipeline: Pipeline, labeler: Path, labels: Path, selected: Path, seeds: Sequence[int]) -> str:
    """Train on selected, random and all labels; return a table of errors on panoramas that no training has seen."""
    from mtpano_zoo import load_model
    from mtpano_zoo.prediction import predict

    chosen = json.loads((selected / "db_info" / "panomtdu_train.json").read_bytes())
    test = [look("test", i, pipeline.size) for i in range(pipeline.options.test_panoramas)]
    image, truth = torch.stack([one for _, one, _ in test]), torch.stack([one for _, _, one in test])

    def error(network: Path) -> float:
        predictions = predict(load_model(network), image)
        return float(error_of(torch.stack([torch.from_numpy(one.depth) for one in predictions]), truth).mean())

    columns: dict[str, dict[str, float]] = {
        "labeler": dict.fromkeys([f"seed {seed}" for seed in seeds], error(labeler))
    }
    for kind in ("selected", "random", "all"):
        columns[kind] = {}
        for seed in seeds:
            root = {"selected": selected, "all": labels}.get(kind) or _random_choice(
                pipeline, labels, len(chosen), seed
            )
            name = f"student-{labels.name}-{kind}-{seed}"
            columns[kind][f"seed {seed}"] = error(pipeline.student(name, labeler, root, seed))
    return table("error of a student trained on", columns)


def _random_choice(pipeline: Pipeline, labels: Path, count: int, seed: int) -> Path:
    """Link the labels into a folder whose list names a random choice of them."""
    root = pipeline.out / f"{labels.name}-random-{seed}"
    names = sorted(json.loads((labels / "db_info" / "panomtdu_train.json").read_bytes()))
    chosen = np.random.default_rng(seed).permutation(names)[:count].tolist()
    (root / "db_info").mkdir(parents=True, exist_ok=True)
    for entry in labels.iterdir():
        if (
            entry.name not in ("db_info", "runs")
            and not entry.name.startswith(".")
            and not (root / entry.name).exists()
        ):
            (root / entry.name).symlink_to(entry.resolve())
    write_bytes(root / "db_info" / "panomtdu_train.json", json.dumps(sorted(chosen)).encode())
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages, examine them, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/curation"))
    parser.add_argument("--height", type=int, default=64, help="rows of all panoramas")
    parser.add_argument("--scenes", type=int, default=800, help="rendered scenes to train on, half of them streets")
    parser.add_argument("--discriminator-scenes", type=int, default=800, help="the same for the discriminator")
    parser.add_argument("--panoramas", type=int, default=240, help="panoramas that stand for the web")
    parser.add_argument("--test-panoramas", type=int, default=64, help="other panoramas, to test students on")
    parser.add_argument("--labeler-steps", type=int, default=1000)
    parser.add_argument("--discriminator-steps", type=int, default=2500)
    parser.add_argument("--student-steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=16, help="channels of the discriminator's first layer")
    parser.add_argument("--levels", type=int, default=4, help="layers of the discriminator that halve the size")
    parser.add_argument("--all-discriminators", action="store_true", help="compare ways to train the discriminator")
    parser.add_argument("--students", type=int, nargs="*", default=[], metavar="SEED", help="also compare students")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*smaller than the logging interval")
    start = time.monotonic()
    pipeline = Pipeline(options)
    write_web(options.out, options.panoramas, pipeline.size)
    first = pipeline.labeler()
    labels = pipeline.label(first, "labels")
    discriminator = pipeline.discriminator(first)
    scores = pipeline.score(labels, discriminator)
    selected = pipeline.select(labels, scores)
    second = pipeline.student("second-labeler", first, selected)
    relabelled = pipeline.label(second, "relabelled")
    pipeline.student("last-student", second, relabelled)
    minutes = (time.monotonic() - start) / 60

    names, image, depth, truth = read_labels(options.out, labels, pipeline.size)
    ways = DISCRIMINATORS if options.all_discriminators else {USED: DISCRIMINATORS[USED]}
    judges = {name: load_discriminator(pipeline.discriminator(first, name))[0] for name in ways}
    examined = {name: examine(partial(scores_of, judge, image), depth, truth) for name, judge in judges.items()}
    judge = judges[USED]
    for place in PLACES:
        here = torch.tensor([name.startswith(place) for name in names])
        examined[f"{place}s alone"] = examine(partial(scores_of, judge, image[here]), depth[here], truth[here])
    examined["the true error, the limit"] = examine(lambda labels: -error_of(labels, truth), depth, truth)
    score = {one.name: one.score for one in read_scores(scores)}
    values = torch.tensor([score[name] for name in names])
    order = values.argsort(descending=True)
    for name, some in (("best", order[:10]), ("worst", order.flip(0)[:10])):
        draw(options.out / f"{name}.png", [names[i] for i in some], values[some], image[some], depth[some], truth[some])
    chosen = set(json.loads((selected / "db_info" / "panomtdu_train.json").read_bytes()))
    error = error_of(depth, truth)
    inside = torch.tensor([name in chosen for name in names])
    again = error_of(*read_labels(options.out, relabelled, pipeline.size)[2:])
    correct = sum(name.startswith("street") == out for name, out in outdoors(labels, pipeline.size).items())
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}; "
        f"{options.panoramas} panoramas of {pipeline.size[0]} x {pipeline.size[1]}; the stages took {minutes:.1f} "
        f"minutes\n\n{table('AUC of the score, and errors', examined)}\n\n"
        f"relative error of all labels {error.mean():.3f}, of the {len(chosen)} selected {error[inside].mean():.3f}, "
        f"of all after the second labeler {again.mean():.3f}; the default classifier tells rooms from streets in "
        f"{correct} of {len(names)}"
    )
    if options.students:
        print(f"\n{compare_students(pipeline, first, labels, selected, options.students)}", flush=True)
        planted = write_planted(options.out, labels, pipeline.size)
        selected = pipeline.select(planted, pipeline.score(planted, discriminator))
        print(
            "\nThe same, where a third of the labels are planted failures:\n\n"
            f"{compare_students(pipeline, first, planted, selected, options.students)}"
        )


if __name__ == "__main__":
    main()
