"""Reading data sets of files: time per sample compared with bare decoding, time to list the samples, and memory.

The files are encoded as in Structured3D: image, classes, depth and normals per panorama, 1024 x 512 pixels. The output
is Markdown tables.
"""

import argparse
import io
import os
import random
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from PIL import Image

from mtpano_zoo.data import RoomsDataset, Structured3DDataModule

ROLES = {"image": "rgb_rawlight", "semseg": "semantic", "depth": "depth", "normals": "normal"}


def png(array: np.ndarray) -> bytes:
    """Encode as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def encoded_rooms(count: int, height: int) -> list[dict[str, bytes]]:
    """Return the files of rooms by role; images have noise, which makes photographs hard to compress."""
    rooms, generator = RoomsDataset("train", count, height, 2 * height), np.random.default_rng(0)
    files = []
    for i in range(count):
        room = rooms[i]
        image = room["image"].permute(1, 2, 0).numpy() * 255 + generator.normal(0, 2, (height, 2 * height, 3))
        normals = room["normals"].permute(1, 2, 0).numpy() @ np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]])
        files.append(
            {
                "image": png(image.clip(0, 255).astype(np.uint8)),
                "semseg": png((room["semseg"].numpy() + 1).astype(np.uint8)),
                "depth": png(np.rint(room["depth"].numpy() * 1000).astype(np.uint16)),
                "normals": png(np.rint(128 * (1 + normals)).clip(0, 255).astype(np.uint8)),
            }
        )
    return files


def member(i: int, role: str) -> str:
    """Return the path of a file in the release."""
    scene, room = divmod(i, 7)
    return f"Structured3D/scene_{scene:05d}/2D_rendering/{room}/panorama/full/{ROLES[role]}.png"


def write_tree(root: Path, files: list[dict[str, bytes]]) -> None:
    """Unpack the release."""
    for i, contents in enumerate(files):
        for role, data in contents.items():
            path = root / member(i, role)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def write_zips(root: Path, count: int, archives: int, files: list[dict[str, bytes]]) -> None:
    """Pack a release of `count` panoramas that repeats those in `files`."""
    root.mkdir()
    for number in range(archives):
        with zipfile.ZipFile(root / f"Structured3D_panorama_{number:02d}.zip", "w") as archive:
            for i in range(number * count // archives, (number + 1) * count // archives):
                for role, data in files[i % len(files)].items():
                    archive.writestr(member(i, role), data)


def milliseconds_per_sample(root: Path, count: int, repeats: int) -> dict[str, float]:
    """Return the processor time per sample; the ways take turns for every panorama, with files in the page cache."""
    samples = Structured3DDataModule(root).dataset("train")
    paths = [[root / member(i, role) for role in ROLES] for i in range(count)]

    def bare(i: int) -> None:
        for path in paths[i]:
            cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)

    times: dict[str, list[float]] = {"OpenCV, bare decoding": [], "mtpano_zoo, samples": []}
    for i in [*range(count)] * repeats:
        for way, function in zip(times, (bare, samples.__getitem__), strict=True):
            start = time.process_time()
            function(i)
            times[way].append((time.process_time() - start) * 1000)
    ratios = [ours / bare for bare, ours in zip(*times.values(), strict=True)]
    return {way: median(values) for way, values in times.items()} | {"median of the ratios": median(ratios)}


def seconds_of_index(root: Path) -> float:
    """Return the seconds until the samples of a release are known."""
    start = time.perf_counter()
    len(Structured3DDataModule(root).dataset("train"))
    return time.perf_counter() - start


def memory_of_process() -> tuple[float, float]:
    """Return the resident memory of this process, and the part that no other process shares, in MB."""
    fields = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    private = int(fields["Private_Clean:"]) + int(fields["Private_Dirty:"])
    return int(fields["Rss:"]) * 1024 / 1e6, private * 1024 / 1e6


class Watched(torch.utils.data.Dataset[tuple[float, float]]):
    """Read samples and return the memory of the process, updated every hundred samples."""

    reads = 0
    memory = (0.0, 0.0)

    def __init__(self, root: Path) -> None:
        self.samples = Structured3DDataModule(root, height=64, width=128).dataset("train")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[float, float]:
        """Read sample `i`."""
        self.samples[i]
        self.reads += 1
        if self.reads % 100 == 0:
            self.memory = memory_of_process()
        return self.memory


def main() -> None:
    """Run all measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--items", type=int, default=20_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MTPANO_CACHE"] = f"{folder}/cache"
        base = Path(folder)
        write_tree(base / "tree", encoded_rooms(options.samples, 512))
        print("| way | processor time, ms per sample |\n|---|--:|")
        for way, value in milliseconds_per_sample(base / "tree", options.samples, options.repeats).items():
            print(f"| {way} | {value:.2f} |", flush=True)
        write_zips(base / "tiny", options.items, 18, [dict.fromkeys(ROLES, b"x")])
        first = seconds_of_index(base / "tiny")
        again = median(seconds_of_index(base / "tiny") for _ in range(7))
        print(f"\n| list of {options.items} panoramas, four files each, from 18 zip files | s |\n|---|--:|")
        print(f"| first time | {first:.2f} |\n| from then on | {again:.2f} |", flush=True)
        write_zips(base / "small", 10_000, 18, encoded_rooms(8, 64))
        watched = Watched(base / "small")
        order = random.Random(0).sample(range(len(watched)), len(watched))
        loader = torch.utils.data.DataLoader(watched, None, sampler=order, num_workers=1)
        memory = [tuple(map(float, values)) for values in loader]
        print(f"\n| a worker that reads {len(memory)} samples | resident, MB | its own, MB |\n|---|--:|--:|")
        for when, (whole, own) in {"the 100th": memory[99], "the last": memory[-1]}.items():
            print(f"| after {when} | {whole:.1f} | {own:.1f} |")


if __name__ == "__main__":
    main()
