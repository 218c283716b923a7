"""Measure what each idea of PD-BridgeNet is worth, by removing one at a time from the network of the quickstart.

Every variant is trained for the same number of steps on the same rendered rooms, with the settings of
`quickstart.yaml`, and scored on the same held-out rooms. A seed decides the initial weights, the order of the rooms and
their turns. The seam jump is the mean absolute difference of a prediction across the seam, divided by that between
other neighbouring columns. Compare it with the jump of the ground truth, which is not exactly 1. With `--imagenet`, the
network and settings are those of `photos-small.yaml` at 128 x 256 instead, and its encoder starts from ImageNet
weights; `--threed60` adds scores on real scenes. Finished runs are kept in `--out`, so the same command continues a
stopped run. Run: ``python benchmarks/design.py --seeds 0 1 2``, which takes hours on one core.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from photos_scores import real, score
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mtpano_zoo.data import Augmentation, RoomsDataModule
from mtpano_zoo.data.threed60 import Part
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.layers import CNNEncoder, SphereConv2d, Upsample, ViTEncoder
from mtpano_zoo.losses import LogDepthLoss, MultiTaskLoss
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.resources import shipped
from mtpano_zoo.training import MultiTaskModule

METRICS = {"semseg": "semseg/mIoU", "depth": "depth/AbsRel", "normals": "normals/mean"}
ENCODERS = {"ViTEncoder": ViTEncoder, "CNNEncoder": CNNEncoder}


def no_truncation(network: PDBridgeNet) -> None:
    """Let gradients pass from a bridge to the task features of the other stream."""
    for bridge in network.bridges.values():
        bridge.foreign_tasks = frozenset()


def zero_padding(network: PDBridgeNet) -> None:
    """Pad all maps after the encoder with zeros, and resize them without wrapping around the border."""
    for module in network.modules():
        if isinstance(module, SphereConv2d):
            module.__class__ = nn.Conv2d
        elif isinstance(module, Upsample):
            module.convention, module.align_corners = "paper", False


Change = Callable[[PDBridgeNet], None]
VARIANTS: Mapping[str, tuple[dict[str, Any], Change | None]] = {
    "PD-BridgeNet": ({}, None),
    "plain 3 x 3 instead of the ERP mixer": ({"token_mixer": False}, None),
    "no bridge": ({"bridge": False}, None),
    "bridge without truncation": ({}, no_truncation),
    "no bridge, plain 3 x 3": ({"bridge": False, "token_mixer": False}, None),
    "one shared stream, no bridge": ({"shared_stream": True, "bridge": False}, None),
    "zero padding": ({}, zero_padding),
    "semseg alone": ({"tasks": ["semseg"]}, None),
    "depth alone": ({"tasks": ["depth"]}, None),
    "normals alone": ({"tasks": ["normals"]}, None),
}


def quickstart() -> dict[str, Any]:
    """Return the settings of the quickstart."""
    settings: dict[str, Any] = yaml.safe_load((shipped("configs") / "quickstart.yaml").read_text())
    settings["model"]["loss"] = MultiTaskLoss(**settings["model"]["loss"]["init_args"])
    data = settings["data"]["init_args"]
    settings["data"] = data | {"augmentation": Augmentation(**data["augmentation"]["init_args"])}
    return settings


def pretrained(weights: Path) -> dict[str, Any]:
    """Return the settings of `photos-small.yaml` for rooms of 128 x 256, with a local file of ImageNet weights."""
    settings: dict[str, Any] = yaml.safe_load((shipped("configs") / "photos-small.yaml").read_text())
    model = settings["model"]
    sizes = model["network"]["init_args"]
    sizes |= {"tasks": list(METRICS), "input_size": [128, 256]}
    sizes["encoder"]["init_args"]["pretrained"] = str(weights)
    model["loss"] = MultiTaskLoss(**model["loss"]["init_args"] | {"losses": {"depth": LogDepthLoss()}})
    model["warmup_steps"] = 50
    augmentation = Augmentation(**settings["data"]["init_args"]["augmentation"]["init_args"])
    settings["data"] = {"height": 128, "width": 256, "batch_size": 4, "augmentation": augmentation}
    return settings


def build(settings: Mapping[str, Any], name: str) -> PDBridgeNet:
    """Build a variant of the network of the settings."""
    arguments, change = VARIANTS[name]
    sizes = settings["model"]["network"]["init_args"] | arguments
    encoder = ENCODERS[sizes["encoder"]["class_path"]](**sizes["encoder"]["init_args"])
    network = PDBridgeNet(**sizes | {"encoder": encoder, "classes": RoomsDataModule.classes})
    if change is not None:
        change(network)
    return network


def seam_jump(maps: Tensor) -> float:
    """Return the step of maps (B, C, H, W) across the seam over that between other neighbouring columns."""
    steps = (maps.roll(-1, -1) - maps).abs().mean(dim=(0, 1, 2))
    return float(steps[-1] / steps[:-1].mean())


def seam_jumps(network: PDBridgeNet, data: RoomsDataModule) -> dict[str, float]:
    """Return the seam jumps of the class probabilities, distances and unit normals predicted for the test rooms."""
    with torch.inference_mode():
        predicted = [network(batch["image"]) for batch in data.test_dataloader()]
    joined = {task: torch.cat([outputs[task] for outputs in predicted]) for task in network.tasks}
    unified = {"semseg": lambda x: x.softmax(1), "depth": lambda x: x, "normals": lambda x: nn.functional.normalize(x)}
    return {f"seam {task}": seam_jump(unified[task](maps)) for task, maps in joined.items()}


def true_seam_jumps(data: RoomsDataModule) -> dict[str, float]:
    """Return the seam jumps of the ground truth of the test rooms."""
    samples = [data.test_set[i] for i in range(len(data.test_set))]
    truth = {task: torch.stack([sample[task] for sample in samples]) for task in METRICS}
    truth["semseg"] = nn.functional.one_hot(truth["semseg"], len(data.classes)).permute(0, 3, 1, 2).float()
    truth["depth"] = truth["depth"].view(len(samples), 1, *truth["depth"].shape[-2:])
    return {f"seam {task}": seam_jump(maps) for task, maps in truth.items()}


def cost(network: PDBridgeNet, size: Sequence[int]) -> dict[str, float]:
    """Return the number of parameters, and of floating-point operations for one panorama."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.rand(1, 3, *size))
    return {"parameters": sum(p.numel() for p in network.parameters()), "flop": counter.get_total_flops()}


def measure(
    settings: Mapping[str, Any],
    name: str,
    seed: int,
    steps: int,
    data: RoomsDataModule,
    threed60: str | None,
    precision: Any,
) -> dict[str, float]:
    """Train a variant and score it on held-out rooms and, if there is a folder of 3D60, on real scenes."""
    seed_everything(seed, verbose=False)
    data.seed = seed  # for the order and the turns of the rooms; the rooms themselves stay the same
    model = settings["model"]
    network = build(settings, name)
    options = {key: value for key, value in model.items() if key not in ("network", "loss")}
    module = MultiTaskModule(network, model["loss"], **options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        gradient_clip_val=settings["trainer"]["gradient_clip_val"],
        enable_checkpointing=False,
        limit_val_batches=0,
        precision=precision,
        **quiet,
    )
    start = time.monotonic()
    trainer.fit(module, data)
    seconds = time.monotonic() - start
    (scores,) = trainer.test(module, data, verbose=False)
    result = {task: float(scores[f"test/{METRICS[task]}"]) for task in network.tasks}
    result |= seam_jumps(network.eval(), data)
    if threed60:
        seen = score(network, real(threed60, get_args(Part))(), tilt=0, level=False)
        result |= {f"real {column}": value for column, value in seen.items()}
    return result | cost(network, network.input_size) | {"seconds per step": seconds / steps}


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return a Markdown table of the mean and, for two seeds or more, the standard deviation of all measurements."""
    columns = {
        "mIoU": ("semseg", 1, 3),
        "AbsRel": ("depth", 1, 3),
        "normals, degrees": ("normals", 1, 2),
        "real AbsRel, aligned": ("real aligned", 1, 3),
        "real normals": ("real normals, mean", 1, 2),
        "seam: classes": ("seam semseg", 1, 2),
        "seam: depth": ("seam depth", 1, 2),
        "seam: normals": ("seam normals", 1, 2),
        "parameters, M": ("parameters", 1e-6, 2),
        "GFLOP": ("flop", 1e-9, 2),
    }
    measured = {key for runs in results.values() for run in runs for key in run}
    columns = {title: column for title, column in columns.items() if column[0] in measured}
    lines = [f"| variant | seeds | {' | '.join(columns)} |", f"|---|--:|{'--:|' * len(columns)}"]
    for name, runs in results.items():
        cells = []
        for key, scale, digits in columns.values():
            values = [run[key] * scale for run in runs if key in run]
            spread = len(values) > 1 and key not in ("parameters", "flop")
            deviation = f" ± {statistics.stdev(values):.{digits}f}" if spread else ""
            cells.append(f"{statistics.fmean(values):.{digits}f}{deviation}" if values else "")
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train the variants that are not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/design.json"), help="file of finished runs")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--rooms", type=int, default=2800, help="rooms to train on")
    parser.add_argument("--test-rooms", type=int, default=128)
    parser.add_argument("--imagenet", type=Path, metavar="FILE", help="ImageNet weights of tf_efficientnet_lite0")
    parser.add_argument("--threed60", metavar="FOLDER", help="real scenes of 3D60")
    parser.add_argument("--precision", default="32-true", help="of training, as for Lightning's Trainer")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*trainer.fit_loop|.*Checkpoint directory")

    settings = pretrained(options.imagenet) if options.imagenet else quickstart()
    init = settings["data"]
    data = RoomsDataModule(
        init["height"],
        init["width"],
        train_count=options.rooms,
        test_count=options.test_rooms,
        batch_size=init["batch_size"],
        cache=True,
        augmentation=init["augmentation"],
    )
    budget = f"{options.steps} steps on {options.rooms} rooms, scored on {options.test_rooms}"
    names = {
        "ImageNet weights": options.imagenet,
        options.precision: options.precision != "32-true",
        "real scenes": options.threed60,
    }
    budget = ", ".join([*(name for name, chosen in names.items() if chosen), budget])
    known = json.loads(options.out.read_bytes()) if options.out.exists() else {}
    finished: dict[str, dict[str, float]] = known.setdefault(budget, {})
    for seed in options.seeds:  # all variants of one seed before the next, so that a stopped run compares them all
        for name in options.variants:
            if (run := f"{name}, seed {seed}") not in finished:
                finished[run] = measure(settings, name, seed, options.steps, data, options.threed60, options.precision)
                write_bytes(options.out, json.dumps(known, indent=1).encode())
                print(run, finished[run], flush=True)
    results = {
        name: [finished[f"{name}, seed {seed}"] for seed in options.seeds if f"{name}, seed {seed}" in finished]
        for name in options.variants
    }
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; {budget}\n")
    print(table({"ground truth": [true_seam_jumps(data)], **results}))


if __name__ == "__main__":
    main()
