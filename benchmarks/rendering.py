"""Panoramas of procedural rooms per second, including drawing the room: python benchmarks/rendering.py.

Rooms are rendered in this process and by one and two workers of a DataLoader, with one thread each; if there is a GPU,
also in batches on it. Core-milliseconds are the processor time of this process per panorama. The output is a Markdown
table.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader

from mtpano_zoo.data import RoomsDataset
from mtpano_zoo.scenes import render, sample_room

HEIGHTS = (96, 128, 256, 512)


def measure(run: Callable[[], int], repeats: int) -> tuple[float, float]:
    """Return panoramas per second and core-milliseconds of the best of several runs, the least disturbed one."""
    rate, cost = 0.0, float("inf")
    for _ in range(repeats):
        start, start_core = time.perf_counter(), time.process_time()
        count = run()
        rate = max(rate, count / (time.perf_counter() - start))
        cost = min(cost, 1000 * (time.process_time() - start_core) / count)
    return rate, cost


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
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the best counts")
    parser.add_argument("--heights", type=int, nargs="+", default=HEIGHTS, help="rows of the panoramas")
    parser.add_argument("--gpu-only", action="store_true", help="measure only the GPU, if there is one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gpu = torch.cuda.is_available()
    columns = [] if gpu and arguments.gpu_only else ["core-ms", "one process", "1 worker", "2 workers"]
    if gpu:
        columns += ["GPU", "GPU, rooms drawn before"]
    print("| panorama | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for height in arguments.heights:
        count = min(64, max(32, 2**20 // height**2 // 16 * 16))
        runs = []
        if columns[0] == "core-ms":
            runs = [one_process(height, count, "cpu"), workers(height, count, 1), workers(height, count, 2)]
        if gpu:
            runs += [one_process(height, 64, "cuda"), rendered_only(height, "cuda")]
        results = [measure(run, arguments.repeats) for run in runs]
        values = [f"{results[0][1]:.1f}"] if columns[0] == "core-ms" else []
        values += [f"{rate:.0f}" for rate, _ in results]
        print(f"| {height} x {2 * height} | " + " | ".join(values) + " |", flush=True)


if __name__ == "__main__":
    main()
