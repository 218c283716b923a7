"""Continue training one task's decoder of `mtpano-small.photos`, on a CPU.

Everything that another task uses is frozen, norm statistics included, so the other tasks do not change at all, and what
the decoder reads is computed once per scene, in another process. Rendered scenes have true normals, and streets true
distances. Rendered rooms and homes have the distances that the network, or a --teacher, predicted before, and the
panoramas of a folder (at a random exposure, best from Radiance HDR or EXR) its distances or normals, turned by up to 60
degrees in a --turned share of them: so the decoder keeps what it knows about photographs and learns to see the same
through a tilted camera. Run:
``OMP_NUM_THREADS=1 python benchmarks/photos_decoder.py depth SOURCE FOLDER --panoramas PHOTOGRAPHS``.
"""

import argparse
import copy
import math
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from mtpano_zoo import load_model
from mtpano_zoo.data import Augmentation, HomesDataset, RoomsDataset, StreetsDataset
from mtpano_zoo.data.backdrops import read_backdrops
from mtpano_zoo.losses import LogDepthLoss, NormalsLoss
from mtpano_zoo.losses.validity import valid_depth, valid_normals
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.resize import resize
from mtpano_zoo.sphere import rotate, rotation_matrix

COUNT = 200_000  # scenes of each kind to draw from
BATCH = 4
WARMUP = 100  # steps
CLIP = 5.0  # norm of the gradient
MOST = 3.0  # relative errors above count as this much
UPRIGHT = 7.5  # degrees that a camera leans at most in half of the scenes with true labels


class Features(IterableDataset[dict[str, Any]]):
    """What a decoder reads, and what it should predict, without end.

    Args:
        options: Options of the command line. The teacher differs from the trained network at most in the decoder of
            the task.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.photographs = [one.pixels for one in read_backdrops(options.panoramas)] if options.panoramas else []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the kind of scene, the decoder's inputs in bfloat16, and the target (1, C, H, W), NaN where unknown."""
        torch.set_num_threads(1)
        options, choice = self.options, random.Random(self.options.seed)
        size = (options.height, 2 * options.height)
        network = load_model(options.teacher or options.source).eval().requires_grad_(False)
        shares = dict(zip(("streets", "homes", "rooms", "photographs"), options.shares, strict=True))
        shares["photographs"] *= bool(self.photographs)
        true_kinds = ("streets",) if options.task == "depth" else ("streets", "homes", "rooms")
        build = {"streets": StreetsDataset, "homes": partial(HomesDataset, version=3), "rooms": RoomsDataset}
        sets = {
            kind: [
                scenes("train", COUNT, *size, tilt=tilt, seed=options.seed, black_poles=0.1)
                for tilt in ((UPRIGHT, options.lean) if kind in true_kinds else (5.0,))
            ]
            for kind, scenes in build.items()
        }
        augment = Augmentation(yaw=1.0, mirror=0.5, photometric=1.0, strength=1.2, seed=options.seed)
        while True:
            kind = choice.choices(list(shares), list(shares.values()))[0]
            if kind == "photographs":
                sample: dict[str, Any] = {"image": self._photograph(choice)}
            else:
                sample = dict(choice.choice(sets[kind])[choice.randrange(COUNT)])
            sample = augment(sample | {"id": f"{kind}-{choice.random()}"})
            image = sample["image"][None].clamp(0, 1)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                if kind in true_kinds:
                    target = self._true(sample)
                else:
                    turn = _turn(choice, options.turned)
                    target = self._taught(network, resize(image, *size), turn)
                    image = rotate(image, turn, "image").clamp(0, 1)
                inputs = network.refine(resize(image, *size), auxiliary=False)
            yield {"kind": kind, "inputs": _bfloat16(self._own(network, inputs)), "target": target.half()}

    def _own(self, network: PDBridgeNet, inputs: Any) -> Any:
        """Keep what the decoder of the task reads."""
        levels, aggregated, features, class_tokens = inputs
        stream = network.stream_of[self.options.task]
        return levels[stream], aggregated[stream], features, class_tokens

    def _true(self, sample: dict[str, Any]) -> Tensor:
        if self.options.task == "depth":
            depth = sample["depth"][None, None]
            return torch.where(valid_depth(depth), depth.log(), math.nan)
        normals = sample["normals"][None]
        return torch.where(valid_normals(normals)[:, None], normals, math.nan)

    def _taught(self, network: PDBridgeNet, image: Tensor, turn: Tensor) -> Tensor:
        """Return what the network predicts for an image (1, 3, H, W), as the turned camera sees it."""
        before = network(image, auxiliary=False)
        known = rotate(before["valid"].float(), turn, "image") > 0
        if self.options.task == "depth":
            target = rotate(before["depth"].float().clamp(min=0.01).log(), turn, "image")
        else:
            normals = nn.functional.normalize(before["normals"].float(), dim=1)
            target = nn.functional.normalize(rotate(normals, turn, "vectors"), dim=1)
        return torch.where(known, target, math.nan)

    def _photograph(self, choice: random.Random) -> Tensor:
        """Return a photograph (3, H, W), twice as high as needed."""
        light = torch.from_numpy(choice.choice(self.photographs)).float().permute(2, 0, 1)
        return exposed(resize(light, 2 * self.options.height, 4 * self.options.height), choice, 0.4)


def exposed(light: Tensor, choice: random.Random, spread: float) -> Tensor:
    """Return a photograph (3, H, W) of light at a random exposure, through a random tone curve.

    Args:
        light: Linear light (3, H, W).
        choice: Source of random numbers.
        spread: Standard deviation of the logarithm of the exposure.
    """
    light = light.clamp(min=0)
    light = light * (0.35 * math.exp(choice.gauss(0, spread)) / max(float(light.median()), 0.03))
    curve = choice.random()
    if curve < 0.5:
        light = 1 - torch.exp(-1.2 * light)
    elif curve < 0.75:
        light = light * (1 + light / 9) / (1 + light)
    return light.clamp(0, 1).pow(1 / 2.2)


def _bfloat16(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.bfloat16().clone()
    if isinstance(inputs, dict):
        return {key: _bfloat16(one) for key, one in inputs.items()}
    return tuple(_bfloat16(one) for one in inputs)


def _turn(choice: random.Random, turned: float) -> Tensor:
    """Return a rotation (3, 3): none, or for a share, 3 to 25 degrees for four in five of the others, else up to 60."""
    if choice.random() >= turned:
        return torch.eye(3)
    tilt = choice.uniform(3, 25) if choice.random() < 0.8 else choice.uniform(25, 60)
    towards = choice.uniform(0, 360)
    return rotation_matrix(yaw=towards) @ rotation_matrix(pitch=tilt) @ rotation_matrix(yaw=-towards)


def decoder(network: PDBridgeNet, task: str) -> nn.ModuleList:
    """Return the modules that only one task uses; the bridge of a stream is one of them if the task is alone there."""
    parts = [part[task] for part in (network.task_injectors, network.adapters, network.necks, network.heads)]
    stream = network.stream_of[task]
    if stream in network.bridges and [network.stream_of[one] for one in network.tasks].count(stream) == 1:
        parts += [network.bridges[stream], network.stream_injectors[stream]]
    return nn.ModuleList(parts)


def decode(network: PDBridgeNet, task: str, inputs: Any, size: tuple[int, int]) -> Tensor:
    """Predict a task (B, C, H, W) from what `Features` yields."""
    levels, aggregated, features, class_tokens = inputs
    stream = network.stream_of[task]
    if stream in network.bridges:
        levels = network.cross(stream, levels, aggregated, features)
    return network.decode(task, levels, features[task], class_tokens, size)


class Objective:
    """Loss and error of one prediction.

    Args:
        task: `depth` or `normals`.
        relative_weight: Weight of the relative error of distances in streets.
    """

    def __init__(self, task: str, relative_weight: float) -> None:
        self.task, self.relative_weight = task, relative_weight
        self.loss = LogDepthLoss() if task == "depth" else NormalsLoss()

    def __call__(self, predicted: Tensor, target: Tensor, kind: str) -> tuple[Tensor, float]:
        """Return the loss, and the relative error or the mean angle in degrees, of (1, C, H, W)."""
        known = target.isfinite().all(1)
        target = torch.where(known[:, None], target, 0)
        if self.task == "normals":
            cosine = nn.functional.cosine_similarity(predicted.detach(), target)[known].clamp(-1, 1)
            return self.loss(predicted, {"normals": target}, None, False), float(cosine.acos().rad2deg().mean())
        depth = torch.where(known, target[:, 0].exp(), 0)
        relative = ((predicted[:, 0] - depth).abs() / depth.clamp(min=0.05)).clamp(max=MOST)[known].mean()
        loss = self.loss(predicted, {"depth": depth}, None, False)
        # The logarithm alone prefers the median; distances that are too large cost more in AbsRel.
        loss = loss + self.relative_weight * relative if kind == "streets" else loss
        return loss, float(relative.detach())


def train(network: PDBridgeNet, loader: DataLoader[Any], options: argparse.Namespace) -> None:
    """Train the decoder, and write networks with the exponential moving average of its weights."""
    network.eval().requires_grad_(False)
    trained = decoder(network, options.task).requires_grad_(True)
    parameters = list(trained.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer, objective = torch.optim.AdamW(groups, lr=options.lr), Objective(options.task, options.relative_weight)
    mean, scenes, choice = copy.deepcopy(trained.state_dict()), iter(loader), random.Random(options.seed)
    kept: list[dict[str, Any]] = [next(scenes) for _ in range(min(8 * BATCH, options.keep))]
    errors: dict[str, float] = {}
    begin = time.monotonic()
    for step in range(1, options.steps + 1):
        if len(kept) >= options.keep:
            del kept[0]
        kept.append(next(scenes))
        rate = options.lr * min(1, step / WARMUP) * (1 - (step - 1) / options.steps) ** 0.9
        for group in optimizer.param_groups:
            group["lr"] = rate
        for scene in choice.choices(kept, k=BATCH):
            target = scene["target"].float()
            with torch.autocast("cpu", torch.bfloat16):
                predicted = decode(network, options.task, scene["inputs"], target.shape[-2:]).float()
            loss, error = objective(predicted, target, scene["kind"])
            (loss / BATCH).backward()
            errors[scene["kind"]] = 0.99 * errors.get(scene["kind"], error) + 0.01 * error
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in trained.state_dict().items():
            if value.is_floating_point():
                mean[name].lerp_(value, 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 50 == 0 or step == options.steps:
            shown = ", ".join(f"{kind} {error:.3f}" for kind, error in sorted(errors.items()))
            print(f"step {step}, {(time.monotonic() - begin) / step:.2f} s each, errors: {shown}", flush=True)
        if step % options.every == 0 or step == options.steps:
            averaged = copy.deepcopy(network)
            decoder(averaged, options.task).load_state_dict(mean)
            averaged.save_pretrained(options.folder / (f"step-{step}" if step < options.steps else ""))


def main() -> None:
    """Train, and write networks to a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=("depth", "normals"))
    parser.add_argument("source", help="name or path of the network to continue from")
    parser.add_argument("folder", type=Path, help="where to write the trained network")
    parser.add_argument("--teacher", help="network whose predictions are labels (default: source)")
    parser.add_argument("--panoramas", type=Path, metavar="FOLDER", help="photographs, best as Radiance HDR or EXR")
    parser.add_argument(
        "--shares",
        type=float,
        nargs=4,
        default=(6.0, 1.5, 1.0, 2.5),
        metavar=("STREETS", "HOMES", "ROOMS", "PHOTOGRAPHS"),
    )
    parser.add_argument("--turned", type=float, default=0.5, help="share of images with predicted labels to turn")
    parser.add_argument("--lean", type=float, default=17.5, help="largest tilt of half the scenes with true labels")
    parser.add_argument("--steps", type=int, default=3350)
    parser.add_argument("--every", type=int, default=500, metavar="N", help="also write it every N steps")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--relative-weight", type=float, default=0.5)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--keep", type=int, default=1500, metavar="N", help="draw from the last N scenes, 4 MB each")
    parser.add_argument("--seed", type=int, default=131)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = load_model(options.source)
    train(network, DataLoader(Features(options), batch_size=None, num_workers=1), options)


if __name__ == "__main__":
    main()
