"""Fit the `up_head` of a network: where up is, from the features of its encoder, on a CPU.

The encoder is frozen. Level views of rendered rooms, homes and streets, and the panoramas of a folder (at a random
exposure, best from Radiance HDR or EXR), are turned by up to 60 degrees, a quarter of them by less than 5, and changed
in colour. Each yields several views, whose features are kept in memory. Then the head is trained. Run:
``OMP_NUM_THREADS=1 python benchmarks/photos_up.py SOURCE FOLDER --panoramas PHOTOGRAPHS``.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from photos_decoder import exposed
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from mtpano_zoo import load_model
from mtpano_zoo.data import Augmentation, HomesDataset, RoomsDataset, StreetsDataset
from mtpano_zoo.data.backdrops import read_backdrops
from mtpano_zoo.layers import UpHead
from mtpano_zoo.models import PDBridgeNet
from mtpano_zoo.prediction.small_image import encoder_levels
from mtpano_zoo.sphere import rotate, rotation_matrix, unit

COUNT = 200_000  # scenes of each kind to draw from
SIZE = (192, 384)  # of rendered scenes; the encoder sees a smaller image
VIEWS = 4  # of each scene
VOTES = 0.3  # weight of the errors of single votes
UP = torch.tensor([0.0, -1.0, 0.0])


class Views(IterableDataset[tuple[Tensor, Tensor]]):
    """Pooled features (2 C, h, w) in half precision, and where up is (3,), without end.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.photographs = [one.pixels for one in read_backdrops(options.panoramas)] if options.panoramas else []

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the views of a worker."""
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        seed = f"{self.options.seed}-{0 if worker is None else worker.id}"
        choice = random.Random(seed)
        torch.manual_seed(choice.randrange(2**32))
        network = load_model(self.options.source)
        head = UpHead(network.encoder.channels)
        kinds = [StreetsDataset, partial(HomesDataset, version=3), RoomsDataset]
        sets: list[Any] = [kind("train", COUNT, *SIZE, tilt=0.0, seed=self.options.seed) for kind in kinds]
        augment = Augmentation(yaw=1.0, mirror=0.5, photometric=1.0, strength=1.5, seed=self.options.seed)
        while True:
            if self.photographs and choice.random() < self.options.share:
                light = torch.from_numpy(choice.choice(self.photographs)).float().permute(2, 0, 1)
                level = exposed(light, choice, 0.5)
            else:
                level = choice.choices(sets, (2, 2, 1))[0][choice.randrange(COUNT)]["image"]
            for _ in range(VIEWS):
                image = augment({"image": level, "id": f"{seed}-{choice.random()}"})["image"].clamp(0, 1)
                turn = _turn(choice)
                image = rotate(image[None], turn).clamp(0, 1)
                if choice.random() < 0.15:
                    _blacken_poles(image, choice)
                yield head.pooled(encoder_levels(network, image))[0].half(), turn.T @ UP


def _turn(choice: random.Random) -> Tensor:
    """Return a rotation (3, 3)."""
    kind = choice.random()
    low, high = (0, 5) if kind < 0.25 else (0, 35) if kind < 0.85 else (35, 60)
    first, second = (rotation_matrix(yaw=choice.uniform(0, 360)) for _ in range(2))
    return first @ rotation_matrix(pitch=choice.uniform(low, high)) @ second


def _blacken_poles(image: Tensor, choice: random.Random) -> None:
    """Blacken up to a sixth of the rows at the bottom, and in half of the images at the top."""
    rows = choice.randint(1, image.shape[-2] // 6)
    image[..., -rows:, :] = 0
    if choice.random() < 0.5:
        image[..., :rows, :] = 0


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """Return angles in radians, with a gradient that is finite everywhere."""
    return 2 * torch.asin(((one - other).norm(dim=1) / 2).clamp(max=0.9999))


def fit(head: UpHead, features: Tensor, ups: Tensor, options: argparse.Namespace) -> None:
    """Train a head on the features (N, 2 C, h, w) of views and their up directions (N, 3)."""
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps, pct_start=0.1)
    error, start = 0.0, time.perf_counter()
    for step in range(1, options.steps + 1):
        drawn = torch.randint(len(ups), (options.batch,))
        up = ups[drawn]
        votes = head.votes(features[drawn].float())
        angle = _angle(unit(votes.sum((2, 3))), up).mean()
        weight = votes.detach().norm(dim=1)
        apart = 1 - (unit(votes, dim=1) * up[:, :, None, None]).sum(1)
        loss = angle + VOTES * (apart * weight).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        error += math.degrees(angle.item())
        if step % options.every == 0:
            print(f"step {step}: {error / options.every:.2f} degrees, {time.perf_counter() - start:.0f} s", flush=True)
            error = 0.0


def main() -> None:
    """Collect views, fit the head, and save the network with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", help="a `PDBridgeNet` of `mtpano models`, or a checkpoint")
    parser.add_argument("folder", help="new folder for the network")
    parser.add_argument("--panoramas", metavar="FOLDER", help="level photographs")
    parser.add_argument("--share", type=float, default=0.4, help="share of views from photographs")
    parser.add_argument("--views", type=int, default=16000, help="number of views")
    parser.add_argument("--workers", type=int, default=2, help="processes that render them")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--every", type=int, default=250, help="steps from one line to the next")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    if Path(options.folder).exists():
        parser.error(f"{options.folder} is there already: name a new folder")
    network = load_model(options.source)
    if not isinstance(network, PDBridgeNet):
        parser.error(f"{options.source} is a {type(network).__name__}: only a PDBridgeNet can have an up_head")
    loader = DataLoader(Views(options), batch_size=None, num_workers=options.workers)
    start, features, ups = time.perf_counter(), [], []
    for feature, up in loader:
        features.append(feature.clone())
        ups.append(up.clone())
        if len(ups) % 1000 == 0 or len(ups) == options.views:
            print(f"{len(ups)} views, {time.perf_counter() - start:.0f} s", flush=True)
        if len(ups) == options.views:
            break
    head = UpHead(network.encoder.channels)
    fit(head, torch.stack(features), torch.stack(ups), options)
    network.up_head = head.eval().requires_grad_(False)
    network.config["up_head"] = True
    network.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
