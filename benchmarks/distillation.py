"""Does learning from a perspective teacher help? Rooms with two looks, an oracle as teacher, the recipe step by step.

Labelled rooms look as they are rendered. Unlabelled and test rooms have another look: swapped colour channels, darker,
lit from one side, and stamped with two watermarks. The teacher gives every face of a cube its own scale and shift, adds
noise and bleeding edges, and takes a watermark for something near. Scores are on test rooms with the second look, after
fitting scale and shift of the inverse distances to the truth of each image. The border step is the mean step of the
log-distance error between neighbouring pixels on different faces of the unturned cube, divided by that between pixels
on the same face.

Run: ``python benchmarks/distillation.py --out FILE``; every finished run is a line of the file. ``--keep FOLDER`` keeps
some of its distances, and ``--keep FOLDER --figure FILE`` draws those of a folder. A student can start from training on
rooms with the first look: ``--student UniFuse --runs "labelled only" --seeds 0 --save FOLDER``, then
``--student FOLDER``.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo import load_model
from mtpano_zoo.data import Augmentation, RoomsDataset, SemiSupervisedDataModule
from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.labeling.distillation import PublishedTeacherLabels, TeacherLabels
from mtpano_zoo.labeling.teachers import OracleTeacher, Teacher, ViewImages, ViewLabels
from mtpano_zoo.labeling.views import CubeViews
from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.losses import affine_invariant_l1, disparity_of
from mtpano_zoo.models import PanoramaNetwork, PDBridgeNet
from mtpano_zoo.sphere import erp_rays, to_perspective
from mtpano_zoo.training import DistillationModule

RUNS = ("labelled only", "no rotation", "rotation", "rotation + masks", "as published")
FACE = 32
FREE = "free maps"
SHOWN = 2  # rooms in the figure
Sample = dict[str, Any]


class Looks(Dataset[Sample]):
    """Rooms kept in memory, as rendered or with the second look; `ignored` is where the watermarks are."""

    def __init__(self, split: str, count: int, height: int, seed: int, second: bool) -> None:
        self.height, self.width = height, 2 * height
        self.augmentation: Augmentation | None = None
        rooms = RoomsDataset(split, count, height, 2 * height, seed)
        self.samples = [self._look(rooms[i], second) for i in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Sample:
        return dict(self.samples[i])

    def _look(self, room: Sample, second: bool) -> Sample:
        sample = {key: room[key] for key in ("image", "depth", "id")}
        stamp = torch.zeros(self.height, self.width, dtype=torch.bool)
        if second:
            generator = torch.Generator().manual_seed(int(room["id"].rsplit("-")[-1]))
            light = torch.randn(3, generator=generator)
            shade = (room["normals"] * (light / light.norm())[:, None, None]).sum(0).clamp(min=0)
            sample["image"] = (room["image"][[2, 0, 1]] * (0.35 + 0.65 * shade)).clamp(0, 1) ** 1.5
            rows, columns = self.height // 6, self.width // 6
            for top in (self.height // 2 - rows, self.height - rows):
                left = int(torch.randint(0, self.width - columns, (), generator=generator))
                stamp[top : top + rows, left : left + columns] = True
            sample["image"] = torch.where(stamp, 0.9, sample["image"])
        return sample | {"ignored": stamp}


class Kept(LightningDataModule):
    """A data module of samples in memory."""

    def __init__(self, samples: Looks) -> None:
        super().__init__()
        self.samples = samples
        self.height = samples.height
        self.width = samples.width

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return all samples."""
        return DataLoader(self.samples)


class Misled(Teacher):
    """An oracle that takes watermarks for something near.

    With a `tilt`, it also believes that the lower part of a view is near and the upper part far, as do networks trained
    on level photographs: its inverse distances grow by this share from the middle of a view to its lower edge. In views
    that look up or down, the direction of this error changes at every border of the cube.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, seed: int, tilt: float = 0.0) -> None:
        self.tilt = tilt
        self.oracle = OracleTeacher(tasks=["depth"], depth_kind="disparity", noise=0.05, bleed=1, seed=seed)
        self.provenance = {"name": "misled", "oracle": dict(self.oracle.provenance)}

    def __call__(self, seen: ViewImages) -> ViewLabels:
        """Label views; the area that a watermark covers is nearest."""
        labels = self.oracle(seen)
        views = seen.views
        stamp = seen.sample["stamp"].float()[None, None]
        cameras = {"intrinsics": views.intrinsics, "mode": "label"}
        there = to_perspective(stamp, views.rotations, views.height, views.width, **cameras)[0, :, 0] > 0
        near = 1.5 * labels.depth.flatten(1).amax(1)[:, None, None]
        height = torch.linspace(-1, 1, views.height)[:, None]
        depth = labels.depth * (1 + self.tilt * height)
        return ViewLabels(depth=torch.where(there, near, depth), depth_kind="disparity")


class Labels(TeacherLabels):
    """Pass the watermarks to the teacher under another name, and hide the masks from the loss unless `masks` is set."""

    masks = False

    def __call__(self, batch: Sample, step: int) -> Any:
        """Label a batch."""
        batch = dict(batch) | {"stamp": batch["ignored"]}
        if not self.masks:
            batch.pop("ignored")
        return super().__call__(batch, step)


class PublishedLabels(Labels, PublishedTeacherLabels):
    """The published sampling, with one rotation for the batch; its masks are never used."""


def labels_of(run: str, seed: int, tilt: float) -> TeacherLabels:
    """Return the pseudo-labels of a run."""
    teacher = Misled(seed, tilt)
    if run == "as published":
        return PublishedLabels(teacher, size=FACE, turn=45)
    labels = Labels(teacher, CubeViews(fov=90, size=FACE, turn=0 if run == "no rotation" else 45))
    labels.masks = run == "rotation + masks"
    return labels


def bridgenet(height: int) -> PanoramaNetwork:
    """Return a small PD-BridgeNet."""
    encoder = ViTEncoder("vit_small_patch16_dinov3_qkvb", width=64, depth=4, heads=4, patch_size=8)
    sizes = {"bridge_width": 32, "neck_widths": (16, 24, 32, 32), "fusion_width": 16}
    return PDBridgeNet(encoder, tasks=("disparity",), input_size=(height, 2 * height), **sizes)


def student_of(name: str, height: int) -> PanoramaNetwork:
    """Return a new student by its name, or a network that was trained before."""
    if name in STUDENTS:
        return STUDENTS[name](height)
    return load_model(name, input_size=(height, 2 * height)).requires_grad_(True)


def unifuse(height: int) -> PanoramaNetwork:
    """Return UniFuse as published, with random weights."""
    from mtpano_zoo.models import NETWORKS

    return NETWORKS["UniFuse"](input_size=(height, 2 * height), pretrained=False)


class FreeMaps(nn.Module):
    """A student without shared weights: every pixel of every test room is a free parameter. There are no labels."""

    def __init__(self, count: int, height: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(0.3 + 0.01 * torch.rand(count, 1, height, 2 * height))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the maps, whatever the images are."""
        return {"disparity": self.maps}


def fit_maps(options: argparse.Namespace, run: str, seed: int, rooms: Looks) -> nn.Module:
    """Fit free maps to the pseudo-labels of rooms."""
    seed_everything(seed, verbose=False)
    network, labels = FreeMaps(len(rooms), options.height), labels_of(run, seed, options.tilt)
    labels.masks = True
    batch = collate([rooms[i] for i in range(len(rooms))])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for step in range(options.steps):
        found = labels(batch, step)
        faces = labels.cut(network.maps, found)
        flat = (one.flatten(0, 1) for one in (faces, found.disparity, found.valid))
        optimizer.zero_grad()
        affine_invariant_l1(*flat).backward()
        optimizer.step()
    return network.eval()


STUDENTS = {"PD-BridgeNet": bridgenet, "UniFuse": unifuse}


class OnlyLabelled(DistillationModule):
    """Leave out the unlabelled half of the batch."""

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Return the loss of the labelled part."""
        count = batch["labelled"]
        return super().training_step({key: batch[key][:count] for key in ("image", "depth", "id")}, batch_idx)


def train(options: argparse.Namespace, run: str, seed: int, sets: tuple[Looks, Looks]) -> PanoramaNetwork:
    """Train a student."""
    seed_everything(seed, verbose=False)
    network = student_of(options.student, options.height)
    kind = OnlyLabelled if run == "labelled only" else DistillationModule
    labels = labels_of(run, seed, options.tilt)
    module = kind(network, labels, lr=options.lr, weight_decay=0.01, schedule="polynomial", warmup_steps=10)
    data = SemiSupervisedDataModule(
        *(Kept(one) for one in sets), batch_size=options.batch, augmentation=Augmentation(), seed=seed
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", max_steps=options.steps, gradient_clip_val=1.0, **quiet).fit(
        module, train_dataloaders=data.train_dataloader()
    )
    return network.eval()


def borders(height: int) -> Iterator[tuple[int, Tensor]]:
    """Yield, for each image axis, whether a pixel and the next one along it lie on different faces."""
    x, y, z = erp_rays(height, 2 * height).unbind(-1)
    face = torch.stack((z, x, -z, -x, -y, y)).argmax(0)
    for axis in (0, 1):
        yield axis, face.diff(dim=axis) != 0


def fitted(inverse: np.ndarray, depth: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Return distances, after the least-squares fit of scale and shift of the inverse outside the watermarks."""
    line = np.stack((inverse[~hidden], np.ones((~hidden).sum())), -1)
    scale, shift = np.linalg.lstsq(line, 1 / depth[~hidden], rcond=None)[0]
    return 1 / (scale * inverse + shift).clip(1 / 20, 10)


@torch.no_grad()
def distances(network: nn.Module, rooms: Looks) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield fitted distances, true distances and watermarks of every room."""
    for first in range(0, len(rooms), 8):
        batch = collate([rooms[i] for i in range(first, min(first + 8, len(rooms)))])
        found = disparity_of(network(batch["image"]))[:, 0].double().numpy()
        truth, stamp = batch["depth"].double().numpy(), batch["ignored"].numpy()
        for one, depth, hidden in zip(found, truth, stamp, strict=True):
            yield fitted(one, depth, hidden), depth, hidden


def score(network: nn.Module, rooms: Looks) -> dict[str, float]:
    """Return AbsRel and delta1 outside the watermarks, and the step at face borders, averaged over images."""
    rows = []
    for distance, depth, hidden in distances(network, rooms):
        ratio = distance / depth
        error = torch.from_numpy(np.log(ratio))
        steps: list[list[Tensor]] = [[], []]
        for axis, border in borders(rooms.height):
            step = error.diff(dim=axis).abs()
            steps[0].append(step[border])
            steps[1].append(step[~border])
        across, inside = (torch.cat(part).mean().item() for part in steps)
        good = np.maximum(ratio, 1 / ratio)[~hidden] < 1.25
        rows.append((np.abs(ratio - 1)[~hidden].mean(), good.mean(), across / inside))
    return dict(zip(("AbsRel", "delta1", "border step"), np.mean(rows, axis=0).tolist(), strict=True))


def keep(options: argparse.Namespace, run: str, seed: int, network: nn.Module, rooms: Looks) -> None:
    """Write image, truth and distances of the first rooms."""
    found = [one for one, _ in zip(distances(network, rooms), range(SHOWN), strict=False)]
    shown = {"image": [rooms[i]["image"].numpy() for i in range(SHOWN)], "truth": [depth for _, depth, _ in found]}
    options.keep.mkdir(parents=True, exist_ok=True)
    name = f"{Path(options.student).name}, {run}" + (f", tilt {options.tilt}" if options.tilt else "")
    np.savez_compressed(options.keep / f"{name}, seed {seed}.npz", found=[one for one, *_ in found], **shown)


def _place(path: Path) -> int:
    """Return the position of a run in the figure."""
    return ("untrained", *RUNS).index(path.stem.split(", ")[1])


def draw(folder: Path, target: Path) -> None:
    """Draw distances and their log-error for every run and room in a folder."""
    import matplotlib.pyplot as plt

    paths = sorted(folder.glob("*.npz"), key=lambda path: (path.stem.split(",")[0], _place(path)))
    runs = {path.stem: dict(np.load(path)) for path in paths}
    rooms = next(iter(runs.values()))
    lines = 1 + len(runs)
    figure, axes = plt.subplots(lines, 2 * SHOWN, figsize=(3.2 * 2 * SHOWN, 1.85 * lines), squeeze=False)
    for room in range(SHOWN):
        near, far = rooms["truth"][room].min(), rooms["truth"][room].max()
        left, right = axes[:, 2 * room], axes[:, 2 * room + 1]
        left[0].imshow(rooms["image"][room].transpose(1, 2, 0))
        right[0].imshow(rooms["truth"][room], vmin=near, vmax=far, cmap="turbo")
        left[0].set_title("image", fontsize=7)
        right[0].set_title("true distance", fontsize=7)
        for line, (name, run) in enumerate(runs.items(), 1):
            error = np.log(run["found"][room] / run["truth"][room])
            left[line].imshow(run["found"][room], vmin=near, vmax=far, cmap="turbo")
            right[line].imshow(error, vmin=-0.4, vmax=0.4, cmap="RdBu")
            left[line].set_title(name, fontsize=7)
            right[line].set_title("log-error, red nearer, blue farther", fontsize=7)
    for one in axes.flat:
        one.axis("off")
    figure.tight_layout()
    figure.savefig(target, dpi=75)


def compare_maps(options: argparse.Namespace, rooms: Looks) -> None:
    """Fit free maps without and with rotation."""
    for seed in options.seeds:
        for run in ("no rotation", "rotation"):
            network = fit_maps(options, run, seed, rooms)
            if options.keep:
                keep(options, run, seed, network, rooms)
            print(json.dumps({"student": FREE, "run": run, "seed": seed, "test": score(network, rooms)}), flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("distillation.jsonl"))
    parser.add_argument(
        "--student",
        default="mtpano-tiny.rooms",
        help=f"{', '.join((*STUDENTS, FREE))}, or a trained network: a name of `mtpano models` or a folder of --save",
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--rooms", type=int, default=96)
    parser.add_argument("--test", type=int, default=32)
    parser.add_argument("--tilt", type=float, default=0.0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--save", type=Path, help="folder for the network of the last run")
    options = parser.parse_args()
    if options.save and options.student == FREE:
        parser.error("--save keeps a network, and free maps are not a network: leave it out")
    if options.figure:
        return draw(options.keep, options.figure)
    test = Looks("test", options.test, options.height, 0, second=True)
    if options.student == FREE:
        return compare_maps(options, test)
    same = Looks("val", 32, options.height, 0, second=False)
    for seed in options.seeds:
        sets = (
            Looks("train", options.rooms, options.height, 10 + seed, second=False),
            Looks("train", options.rooms, options.height, 20 + seed, second=True),
        )
        for run in options.runs if seed != options.seeds[0] else ("untrained", *options.runs):
            start, cpu = time.time(), time.process_time()
            if run == "untrained":
                network = student_of(options.student, options.height).eval()
            else:
                network = train(options, run, seed, sets)
            line = {
                "student": Path(options.student).name,
                "run": run,
                "seed": seed,
                "steps": options.steps,
                "tilt": options.tilt,
            }
            line |= {"other look": score(network, test), "own look": score(network, same)}
            line |= {"seconds": time.time() - start, "processor seconds": time.process_time() - cpu}
            if options.keep:
                keep(options, run, seed, network, test)
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    if options.save:
        network.save_pretrained(options.save)


if __name__ == "__main__":
    main()
