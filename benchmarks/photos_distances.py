"""Continue training `mtpano-small.photos` for streets: the decoder of distances only, on a CPU.

Everything else is frozen, norm statistics included, so classes, normals and `valid` do not change at all, and what the
decoder reads is computed once per scene, in another process. Rendered streets have true distances. Rendered rooms and
homes, and the panoramas of a folder (at a random exposure, best from Radiance HDR or EXR), have the distances that the
network, or a --teacher, predicted before, turned by up to 60 degrees in half of them: so the decoder keeps what it
knows indoors and learns to see the same through a tilted camera. Run:
``OMP_NUM_THREADS=1 python benchmarks/photos_distances.py SOURCE FOLDER --panoramas PHOTOGRAPHS``.
"""

import argparse
import copy
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from mtpano_zoo import load_model
from mtpano_zoo.data import Augmentation, HomesDataset, RoomsDataset, StreetsDataset
from mtpano_zoo.data.backdrops import read_backdrops
from mtpano_zoo.losses import LogDepthLoss
from mtpano_zoo.losses.validity import valid_depth
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.resize import resize
from mtpano_zoo.sphere import rotate, rotation_matrix

SHARES = {"streets": 6.0, "homes": 1.5, "rooms": 1.0, "photographs": 2.5}
COUNT = 200_000  # scenes of each kind to draw from
BATCH = 4
WARMUP = 100  # steps
CLIP = 5.0  # norm of the gradient
MOST = 3.0  # relative errors above count as this much


class Features(IterableDataset[dict[str, Any]]):
    """What the decoder of distances reads, and the distances that it should predict, without end.

    Args:
        teacher: Name or path of a network that differs from the trained one at most in its decoder of distances.
        panoramas: Folder of photographs, or None.
        height: Rows of the images.
        seed: Seed of the scenes and of their order.
    """

    def __init__(self, teacher: str, panoramas: Path | None, height: int, seed: int) -> None:
        self.teacher, self.height, self.seed = teacher, height, seed
        self.photographs = [] if panoramas is None else [one.pixels for one in read_backdrops(panoramas)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the kind of scene, the decoder's inputs in bfloat16, and log-distances (1, H, W), NaN where unknown."""
        torch.set_num_threads(1)
        choice, size = random.Random(self.seed), (self.height, 2 * self.height)
        network = load_model(self.teacher).eval().requires_grad_(False)
        shares = {kind: share for kind, share in SHARES.items() if kind != "photographs" or self.photographs}
        sets: dict[str, list[Any]] = {
            "streets": [
                StreetsDataset("train", COUNT, *size, tilt=tilt, seed=self.seed, black_poles=0.1)
                for tilt in (7.5, 17.5)
            ],
            "homes": [HomesDataset("train", COUNT, *size, tilt=5.0, seed=self.seed, version=3, black_poles=0.1)],
            "rooms": [RoomsDataset("train", COUNT, *size, tilt=5.0, seed=self.seed, black_poles=0.1)],
        }
        augment = Augmentation(yaw=1.0, mirror=0.5, photometric=1.0, strength=1.2, seed=self.seed)
        while True:
            kind = choice.choices(list(shares), list(shares.values()))[0]
            if kind == "photographs":
                sample: dict[str, Any] = {"image": self._photograph(choice)}
            else:
                sample = dict(choice.choice(sets[kind])[choice.randrange(COUNT)])
            sample = augment(sample | {"id": f"{kind}-{choice.random()}"})
            image = sample["image"][None].clamp(0, 1)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                if kind == "streets":
                    depth = sample["depth"][None]
                    known = valid_depth(depth)
                else:
                    before, turn = network(image, auxiliary=False), _turn(choice)
                    depth = rotate(before["depth"].float().clamp(min=0.01).log(), turn, "image").exp()[:, 0]
                    known = rotate(before["valid"].float(), turn, "image")[:, 0] > 0
                    image = rotate(image, turn, "image").clamp(0, 1)
                levels, features, class_tokens = network.encode(image, auxiliary=False)
            inputs = (levels[network.stream_of["depth"]], features["depth"], class_tokens)
            target = torch.where(known, depth.log(), math.nan)
            yield {"kind": kind, "inputs": _bfloat16(inputs), "log_depth": target.half()}

    def _photograph(self, choice: random.Random) -> Tensor:
        """Return a photograph (3, H, W) at a random exposure, through one of three tone curves."""
        light = torch.from_numpy(choice.choice(self.photographs)).float().permute(2, 0, 1)
        light = resize(light, self.height, 2 * self.height).clamp(min=0)
        light *= 0.35 * math.exp(choice.gauss(0, 0.4)) / max(float(light.median()), 0.03)
        curve = choice.random()
        if curve < 0.5:
            light = 1 - torch.exp(-1.2 * light)
        elif curve < 0.75:
            light = light * (1 + light / 9) / (1 + light)
        return light.clamp(0, 1).pow(1 / 2.2)


def _bfloat16(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.bfloat16().clone()
    return tuple(_bfloat16(one) for one in inputs)


def _turn(choice: random.Random) -> Tensor:
    """Return a rotation (3, 3): none for one in two, 3 to 25 degrees for four in five of the others, else up to 60."""
    if choice.random() < 0.5:
        return torch.eye(3)
    tilt = choice.uniform(3, 25) if choice.random() < 0.8 else choice.uniform(25, 60)
    towards = choice.uniform(0, 360)
    return rotation_matrix(yaw=towards) @ rotation_matrix(pitch=tilt) @ rotation_matrix(yaw=-towards)


def decoder(network: PDBridgeNet) -> nn.ModuleList:
    """Return the modules that only distances use."""
    parts = (network.task_injectors, network.adapters, network.necks, network.heads)
    return nn.ModuleList(part["depth"] for part in parts)


def train(network: PDBridgeNet, loader: DataLoader[Any], options: argparse.Namespace) -> dict[str, Tensor]:
    """Train the decoder, and return the exponential moving average of its weights."""
    network.eval().requires_grad_(False)
    trained = decoder(network).requires_grad_(True)
    parameters = list(trained.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer, loss_of = torch.optim.AdamW(groups, lr=options.lr), LogDepthLoss()
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
            target = scene["log_depth"].float().exp()
            known = target.isfinite()
            target = torch.where(known, target, 0)
            with torch.autocast("cpu", torch.bfloat16):
                depth = network.decode("depth", *scene["inputs"], target.shape[-2:]).float()
            relative = ((depth[:, 0] - target).abs() / target.clamp(min=0.05)).clamp(max=MOST)[known].mean()
            loss = loss_of(depth, {"depth": target}, None, False)
            # The logarithm alone prefers the median; distances that are too large cost more in AbsRel.
            loss = loss + options.relative_weight * relative if scene["kind"] == "streets" else loss
            (loss / BATCH).backward()
            error = float(relative.detach())
            errors[scene["kind"]] = 0.99 * errors.get(scene["kind"], error) + 0.01 * error
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in trained.state_dict().items():
            if value.is_floating_point():
                mean[name].lerp_(value, 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 50 == 0 or step == options.steps:
            shown = ", ".join(f"{kind} {error:.3f}" for kind, error in sorted(errors.items()))
            print(f"step {step}, {(time.monotonic() - begin) / step:.2f} s each, relative errors: {shown}", flush=True)
    return mean


def main() -> None:
    """Train, and write the network to a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="name or path of the network to continue from")
    parser.add_argument("folder", type=Path, help="where to write the trained network")
    parser.add_argument("--teacher", help="network whose distances rooms, homes and photographs keep (default: source)")
    parser.add_argument("--panoramas", type=Path, metavar="FOLDER", help="photographs, best as Radiance HDR or EXR")
    parser.add_argument("--steps", type=int, default=3350)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--relative-weight", type=float, default=0.5)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--keep", type=int, default=1500, metavar="N", help="draw from the last N scenes, 2 MB each")
    parser.add_argument("--seed", type=int, default=131)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = load_model(options.source)
    data = Features(options.teacher or options.source, options.panoramas, options.height, options.seed)
    mean = train(network, DataLoader(data, batch_size=None, num_workers=1), options)
    decoder(network).load_state_dict(mean)
    network.eval().save_pretrained(options.folder)


if __name__ == "__main__":
    main()
