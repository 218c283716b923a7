"""Time, memory and kernels of the loss of a network with all tasks, without the network: python benchmarks/losses.py.

The outputs, main and intermediate, are random, of the size of the labels and in the precision of training. Memory is
the peak beyond outputs and labels, up to the gradients: PyTorch's peak on a GPU, the process's peak on a CPU, hence one
process per row. Kernels are those of a GPU, or the operators of a CPU that compute something.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from kernels import by_family
from torch import Tensor
from training import batch_of

from mtpano_zoo.losses import MultiTaskLoss

CHANNELS = {"semseg": 0, "depth": 1, "normals": 3, "gradient": 2, "edge_distance": 1, "point_map": 3}
PARTS = {
    "all": ("semseg", "depth", "normals", "gradient", "edge_distance", "point_map"),
    "classes": ("semseg",),
    "distance": ("depth",),
    "normals": ("normals",),
    "auxiliary labels": ("gradient", "edge_distance", "point_map"),
}


def outputs_of(tasks: tuple[str, ...], shape: tuple[int, ...], classes: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return random outputs of a network (B, C, H, W); the intermediate ones are separate tensors."""
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def output(task: str) -> Tensor:
        size = (shape[0], CHANNELS[task] or classes, *shape[1:])
        return torch.randn(size, generator=generator, dtype=dtype).to(device).requires_grad_()

    main = [task for task in tasks if task in ("semseg", "depth", "normals")]
    return {task: output(task) for task in main} | {
        "aux": {task: output(task) for task in main},
        "ext": {task: output(task) for task in tasks if task not in main},
    }


def measure(part: str, arguments: argparse.Namespace) -> tuple[float, float, float, int]:
    """Return the seconds of forward and backward, the peak memory in GiB and the number of kernels."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loss = MultiTaskLoss()
    batch = batch_of(arguments.batch, arguments.height, device, arguments.classes)
    shape = (arguments.batch, arguments.height, 2 * arguments.height)
    outputs = outputs_of(PARTS[part], shape, arguments.classes, getattr(torch, arguments.precision))
    before = _memory(device)

    def step() -> tuple[float, float]:
        for output in [*outputs.values(), *outputs["aux"].values(), *outputs["ext"].values()]:
            if isinstance(output, Tensor):
                output.grad = None
        start = _now(device)
        total = loss(outputs, batch)["total"]
        middle = _now(device)
        total.backward()
        return middle - start, _now(device) - middle

    seconds = [step() for _ in range(arguments.repeats + (device == "cuda"))][-arguments.repeats :]
    memory = _memory(device) - before
    _, kernels = by_family(step, device == "cuda")
    forward, backward = (statistics.median(times) for times in zip(*seconds, strict=True))
    return forward, backward, memory, kernels.total()


def _now(device: str) -> float:
    """Return wall-clock seconds on a GPU, processor seconds on a CPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _memory(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print a Markdown table; each row is measured in its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--height", type=int, default=512, help="rows of the panoramas")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--row", choices=tuple(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        torch.set_num_threads(arguments.threads)
        forward, backward, memory, kernels = measure(arguments.row, arguments)
        print(f"| {arguments.row} | {forward:.4f} | {backward:.4f} | {memory:.2f} | {kernels} |")
        return
    print(
        f"batch {arguments.batch} of {arguments.height} x {2 * arguments.height}, {arguments.classes} classes, ", end=""
    )
    print(f"{arguments.precision}, {'GPU' if torch.cuda.is_available() else 'processor time'}\n")
    print("| terms | forward, s | backward, s | peak memory, GiB | kernels |\n|---|--:|--:|--:|--:|", flush=True)
    for part in arguments.parts:
        row = subprocess.run([sys.executable, *sys.argv, "--row", part], check=True, stdout=subprocess.PIPE, text=True)
        print(row.stdout, end="", flush=True)


if __name__ == "__main__":
    main()
