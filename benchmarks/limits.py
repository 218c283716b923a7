"""Cost of the network by its parts, and how close it comes to the limit of the machine.

Floating-point operations are those of matrix products and convolutions, two for each multiply-add. The limit is their
number divided by the rate of a large matrix product, measured in the same run. A pass that performs all of them can
hardly be faster; on a CPU, the prepared network performs fewer, thanks to Winograd's algorithm. Activations are the
outputs of the layers. Run: ``python benchmarks/limits.py --threads 2``, which takes about 9 GB; ``--small`` is a quick
test.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from inference import random_network
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from mtpano_zoo.models import PDBridgeNet, prepare_for_inference

GROUPS = {
    "encoder": "encoder",
    "refiners": "refiners",
    "aggregators": "aggregators",
    "auxiliary_heads": "task features and auxiliary predictions",
    "bridges": "bridges",
    "stream_injectors": "injectors",
    "task_injectors": "injectors",
    "adapters": "adapters",
    "necks": "necks",
    "heads": "heads",
}


class Operations(TorchDispatchMode):
    """Count floating-point operations by the part of the network that calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.tracker = ModuleTracker()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            operations = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=output)
            self.count[group_of(max(self.tracker.parents, key=len))] += operations
        return output


def group_of(module: str) -> str:
    """Return the group of a module from its full name, such as `PDBridgeNet.necks.depth`."""
    parts = module.split(".")
    return GROUPS.get(parts[1], "rest") if len(parts) > 1 else "rest"


def count(network: PDBridgeNet, height: int, auxiliary: bool) -> tuple[Counter[str], Counter[str]]:
    """Return operations and bytes of activations (float32) by group, for one image, without computing anything."""
    written: Counter[str] = Counter()

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            written[group_of(f"root.{name}")] += 4 * output.numel()

        return hook

    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    hooks = [module.register_forward_hook(note(name)) for name, module in leaves if name]
    operations = Operations()
    with torch.no_grad(), operations.tracker, operations:
        network(torch.empty(1, 3, height, 2 * height, device="meta"), auxiliary=auxiliary)
    for hook in hooks:
        hook.remove()
    return operations.count, written


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of a call; the first one is a warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def matmul_rate(device: str, dtype: torch.dtype, repeats: int) -> float:
    """Return the floating-point operations per second of a product of square matrices."""
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.rand(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / timed(lambda: a @ b, max(repeats, 5))


def print_parts(network: PDBridgeNet, height: int) -> int:
    """Print what the parts cost; return the operations that the main outputs need."""
    counted, lean = count(network, height, True), count(network, height, False)
    weights: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        weights[group_of(f"root.{name}")] += 4 * parameter.numel()
    print(f"One image of {height} x {2 * height}, float32:\n")
    print("| part | GFLOP | of all | weights, MB | activations, MB | the same without auxiliary outputs |")
    print("|---|--:|--:|--:|--:|--:|")
    total = sum(counted[0].values())
    groups = [*dict.fromkeys(GROUPS.values()), "rest"]
    for group in groups:
        operations, written = counted[0][group], counted[1][group]
        print(f"| {group} | {operations / 1e9:.1f} | {operations / total:.1%} | {weights[group] / 1e6:.0f} ", end="")
        print(f"| {written / 1e6:.0f} | {lean[1][group] / 1e6:.0f} |")
    megabytes = [sum(counter.values()) / 1e6 for counter in (weights, counted[1], lean[1])]
    print(f"| all | {total / 1e9:.1f} | 100 % | " + " | ".join(f"{value:.0f}" for value in megabytes) + " |")
    needed = sum(lean[0].values())
    print(f"\nWithout auxiliary outputs {needed / 1e9:.1f} GFLOP: {1 - needed / total:.2%} fewer.\n")
    return needed


def main() -> None:
    """Count, measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--height", type=int, default=512, help="rows of the panorama")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="use a small network, as a quick test")
    parser.add_argument("--count-only", action="store_true", help="only count, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.device("meta"):
        operations = print_parts(random_network(arguments.height, arguments.small), arguments.height)
    if arguments.count_only:
        return
    network = random_network(arguments.height, arguments.small)
    image = torch.rand(1, 3, arguments.height, 2 * arguments.height)
    rows = [("CPU", "float32", "highest"), ("CPU", "bfloat16", "highest")]
    if torch.cuda.is_available():
        rows += [("CUDA", "float32", "highest"), ("CUDA", "float32", "high"), ("CUDA", "bfloat16", "highest")]
    print(
        "| machine | precision | matrix product, TFLOP/s | limit, s | measured, s | of the limit | times plain eager |"
    )
    print("|---|---|--:|--:|--:|--:|--:|")
    for machine, precision, products in rows:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = products == "high"
        rate = matmul_rate(machine.lower(), getattr(torch, precision), arguments.repeats)
        print_row(network.to(machine.lower()), image.to(machine.lower()), precision, products, rate, operations)


def print_row(network: PDBridgeNet, image: Tensor, precision: Any, products: str, rate: float, operations: int) -> None:
    """Measure the plain and the prepared network, and print their row."""
    prepared = prepare_for_inference(network, precision)

    def plain() -> None:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            network(image)

    with torch.inference_mode():
        before, after = timed(plain, 1 + image.is_cuda), timed(lambda: prepared(image), 1 + 9 * image.is_cuda)
    limit = operations / rate
    name = "tf32" if products == "high" else precision
    print(f"| {image.device.type} | {name} | {rate / 1e12:.3f} | {limit:.4f} | {after:.4f} ", end="")
    print(f"| {limit / after:.0%} | {before / after:.2f} |")


if __name__ == "__main__":
    main()
