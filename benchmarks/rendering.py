"""Panoramas of procedural rooms per second, drawing of the room included: python benchmarks/rendering.py.

One and two worker processes with one thread each, as a DataLoader uses them, and, if there is a GPU, batches on it.
Prints a Markdown table.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader

from mtpano_zoo.data import RoomsDataset
from mtpano_zoo.data.rooms import render, sample_room

HEIGHTS = (96, 128, 256, 512)


def rate(run: Callable[[], int], repeats: int) -> float:
    """Best panoramas per second out of some repeats; the best one is least disturbed by other programs."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        count = run()
        best = max(best, count / (time.perf_counter() - start))
    return best


def one_process(height: int, count: int, device: str) -> Callable[[], int]:
    """Draw and render in batches of 16 in this process."""

    def run() -> int:
        for first in range(0, count, 16):
            render([sample_room(0, "train", first + i) for i in range(16)], height, 2 * height, device)
        if device == "cuda":
            torch.cuda.synchronize()
        return count

    return run


def workers(height: int, count: int, processes: int) -> Callable[[], int]:
    """Iterate over a DataLoader whose workers are already running."""
    rooms = RoomsDataset("train", count, height, 2 * height)
    loader = DataLoader(rooms, 8, num_workers=processes, persistent_workers=True)
    for _ in loader:
        break
    return lambda: sum(len(batch["id"]) for batch in loader)


def rendered_only(height: int, device: str) -> Callable[[], int]:
    """Render 64 rooms that were drawn before."""
    rooms = [sample_room(0, "train", index) for index in range(64)]

    def run() -> int:
        render(rooms, height, 2 * height, device)
        if device == "cuda":
            torch.cuda.synchronize()
        return len(rooms)

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["one process", "1 worker", "2 workers"]
    gpu = torch.cuda.is_available()
    if gpu:
        columns += ["GPU", "GPU, rooms drawn before"]
    print("| panorama | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for height in HEIGHTS:
        count = max(32, 2**20 // height**2 // 16 * 16)
        runs = [one_process(height, count, "cpu"), workers(height, count, 1), workers(height, count, 2)]
        if gpu:
            runs += [one_process(height, 64, "cuda"), rendered_only(height, "cuda")]
        rates = [rate(run, arguments.repeats) for run in runs]
        print(f"| {height} x {2 * height} | " + " | ".join(f"{value:.0f}" for value in rates) + " |", flush=True)


if __name__ == "__main__":
    main()
