"""Images per second and peak memory of a training step of the large network, in the ways that `MultiTaskModule` offers.

A step is forward, loss, backward, clipping and AdamW on a batch that is already on the device. It is meant for a GPU:
``python benchmarks/training.py``; ``--small --height 64`` is a quick test on a CPU. Memory is PyTorch's peak on the
device, including weights, gradients and the optimiser's moments. On a CPU, it is the peak of the whole process so far,
so run a way alone to measure it: ``--batch 1 --height 256 --steps 1 --ways "bf16, checkpointing"``, about 13 GB.
"""

import argparse
import resource
import statistics
import time
from typing import Any

import torch
from inference import LARGE_ENCODER, SMALL, SMALL_ENCODER
from torch import Tensor, nn

from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.losses import MultiTaskLoss
from mtpano_zoo.models import PDBridgeNet

# Name: autocast to bfloat16, TF32 elsewhere, gradient checkpointing, compiled.
WAYS = {
    "float32": (False, False, False, False),
    "float32, checkpointing": (False, False, True, False),
    "tf32": (False, True, False, False),
    "bf16": (True, True, False, False),
    "bf16, checkpointing": (True, True, True, False),
    "bf16, compiled": (True, True, False, True),
    "bf16, checkpointing, compiled": (True, True, True, True),
}


def batch_of(size: int, height: int, device: str, classes: int = 150) -> dict[str, Tensor]:
    """Return a random batch with all labels."""
    shape = (size, height, 2 * height)
    return {
        "image": torch.rand(size, 3, *shape[1:], device=device),
        "semseg": torch.randint(0, classes, shape, device=device),
        "depth": torch.rand(shape, device=device) * 5 + 0.5,
        "normals": nn.functional.normalize(torch.randn(size, 3, *shape[1:], device=device), dim=1),
    }


def measure(way: tuple[bool, bool, bool, bool], arguments: argparse.Namespace, device: str) -> tuple[float, float]:
    """Return the seconds per step and the peak memory in GiB."""
    bf16, tf32, checkpointing, compiled = way
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    sizes: dict[str, Any] = SMALL if arguments.small else {}
    encoder = ViTEncoder(**(SMALL_ENCODER if arguments.small else LARGE_ENCODER))
    names = [f"class {i}" for i in range(150)]
    network = PDBridgeNet(encoder, names, convention=arguments.convention, **sizes).to(device).train()
    network.set_gradient_checkpointing(checkpointing)
    if compiled:
        network.compile()
    loss = MultiTaskLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=device == "cuda")
    batch = batch_of(arguments.batch, arguments.height, device)
    seconds = []
    warmup = 3 if device == "cuda" else 1
    for _ in range(arguments.steps + warmup):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            outputs = network(batch["image"])
        loss(outputs, batch)["total"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else resident
    return statistics.median(seconds[warmup:]), memory


def main() -> None:
    """Measure every way and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--height", type=int, default=512, help="rows of the panoramas")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--convention", choices=("sphere", "paper"), default="paper")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--small", action="store_true", help="use a small network, as a quick test")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    print(
        f"batch {arguments.batch} of {arguments.height} x {2 * arguments.height}, {device}, torch {torch.__version__}\n"
    )
    print("| way | images/s | times the first | peak memory, GiB |\n|---|--:|--:|--:|")
    first = None
    for name in arguments.ways:
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        torch._dynamo.reset()
        try:
            seconds, memory = measure(WAYS[name], arguments, device)
        except torch.OutOfMemoryError:
            print(f"| {name} | out of memory | | |", flush=True)
            continue
        first = first or seconds
        print(f"| {name} | {arguments.batch / seconds:.3f} | {first / seconds:.2f} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
