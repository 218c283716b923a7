"""Seconds per panorama of the published large network, plain and prepared for inference.

All ways use the same network, with random weights scaled so that every branch contributes. They take turns, so that
other load on the machine affects all of them. "plain" is `network(image)` with all outputs that training needs. On a
GPU, there are also larger batches, TF32 and compiled networks. `--ways` selects some of the ways; with a single one,
the peak memory of the process is that of this way. Run: ``python benchmarks/inference.py --threads 2`` (about 14 GB);
``--small`` is a quick test.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.models import PDBridgeNet, prepare_for_inference
from mtpano_zoo.models.inference import Precision

LARGE_ENCODER: dict[str, Any] = {"name": "vit_large_patch16_dinov3_qkvb"}
SMALL_ENCODER: dict[str, Any] = LARGE_ENCODER | {"width": 128, "depth": 4, "heads": 2}
SMALL: dict[str, Any] = {
    "bridge_width": 64,
    "neck_widths": (64, 64, 64, 64),
    "fusion_width": 64,
}
Way = Callable[[Tensor], dict[str, Any]]


def random_network(height: int, small: bool = False) -> PDBridgeNet:
    """Build the published large network without zero weights, so that every branch affects the output."""
    sizes = SMALL if small else {}
    encoder = ViTEncoder(**(SMALL_ENCODER if small else LARGE_ENCODER))
    names = [f"class {i}" for i in range(150)]
    network = PDBridgeNet(encoder, names, convention="paper", input_size=(height, 2 * height), **sizes)
    if next(network.parameters()).is_meta:
        return network.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norms = {id(m.weight) for m in network.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)}
        for name, parameter in network.named_parameters():
            mean = 0.5 if "gamma_" in name else 1.0 if id(parameter) in norms else 0.0
            token = name.endswith(("_token", "_tokens"))
            matrix = parameter.ndim > 1 and not token
            parameter.normal_(mean, parameter[0].numel() ** -0.5 if matrix else 0.1, generator=generator)
        network.heads["depth"].predict.bias.fill_(1.0)  # in front of a ReLU
    return network.eval()


def written_out_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from (..., N, C) to (..., M, C) through the full matrix of scores (..., N, M)."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value


def written_out(network: PDBridgeNet) -> Way:
    """Return the plain network with attention written out, in the encoder and the bridges."""

    def run(image: Tensor) -> dict[str, Any]:
        for block in network.encoder.vit.blocks:
            block.attn.fused_attn = False
        # The encoder no longer calls this function; only the bridges do.
        with mock.patch("torch.nn.functional.scaled_dot_product_attention", written_out_attention):
            outputs = network(image)
        for block in network.encoder.vit.blocks:
            block.attn.fused_attn = True
        return outputs

    return run


def ways(network: PDBridgeNet, cuda: bool) -> dict[str, Callable[[], Way]]:
    """Return builders of the ways to compare, by name; the first one is the baseline."""

    def under(context: Callable[[], AbstractContextManager[Any]], run: Way) -> Way:
        def wrapped(image: Tensor) -> dict[str, Any]:
            with context():
                return run(image)

        return wrapped

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast("cuda" if cuda else "cpu", torch.bfloat16)

    def prepared(precision: Precision = "float32", winograd: bool | None = None) -> Callable[[], Way]:
        return lambda: prepare_for_inference(network, precision, winograd=winograd)

    def compiled(precision: Precision = "float32", graphs: bool = False) -> Way:
        module = prepare_for_inference(network, precision, winograd=False, graphs=graphs)
        # Compile inside the recorded graph, if there is one.
        (module.network if graphs else module).compile(fullgraph=True)
        return module

    common: dict[str, Callable[[], Way]] = {
        "plain": lambda: network,
        "main outputs only": lambda: lambda image: network(image, auxiliary=False),
        "plain, bf16 autocast": lambda: under(autocast, network),
        "prepared, bf16": prepared("bfloat16"),
        "compiled": compiled,
        "compiled, bf16": lambda: compiled("bfloat16"),
    }
    if not cuda:
        return common | {
            "plain, attention written out": lambda: written_out(network),
            "prepared, direct convolutions": prepared(winograd=False),
            "prepared": prepared(winograd=True),
        }
    return common | {
        "graphs, bf16": lambda: prepare_for_inference(network, "bfloat16", graphs=True),
        "graphs, compiled, bf16": lambda: compiled("bfloat16", graphs=True),
        "plain, tf32": lambda: under(tf32, network),
        "prepared, tf32": lambda: under(tf32, prepared()()),
        "compiled, tf32": lambda: under(tf32, compiled()),
    }


class tf32:
    """Context in which matrix products and convolutions may use TF32."""

    def __enter__(self) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def compare(network: PDBridgeNet, image: Tensor, repeats: int, names: Sequence[str]) -> None:
    """Time all ways on one batch and print a Markdown table."""
    torch.backends.cudnn.allow_tf32 = False
    makers = ways(network, image.is_cuda)
    compared = {name: make() for name, make in makers.items() if not names or name in names}
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    errors: dict[str, float] = {}
    expected: dict[str, Tensor] = {}
    memory: dict[str, float] = {}
    for repeat in range(repeats + 1):  # the first round is a warm-up, unless it is the only one
        for name, run in compared.items():
            if image.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            outputs = run(image)
            if image.is_cuda:
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
            if repeat or not repeats:
                seconds[name].append(time.perf_counter() - start)
            if repeat:
                continue
            found = {task: outputs[task].float() for task in network.tasks}
            expected = expected or found
            errors[name] = max(
                float((x - expected[task]).abs().max() / expected[task].abs().max()) for task, x in found.items()
            )
            del outputs, found
    first = statistics.median(next(iter(seconds.values())))
    print(f"\n{tuple(image.shape)}, {image.device.type}, median of {repeats}:\n")
    print("| way | s per image | fastest, slowest | times the first | largest relative difference | peak, GiB |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, times in seconds.items():
        per_image = [value / len(image) for value in (statistics.median(times), min(times), max(times))]
        print(f"| {name} | {per_image[0]:.4f} | {per_image[1]:.4f}, {per_image[2]:.4f} ", end="")
        print(f"| {first / statistics.median(times):.2f} | {errors[name]:.1e} | ", end="")
        print(f"{memory[name]:.1f} |" if memory else " |")
    print(f"\nPeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def main() -> None:
    """Time everything and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--height", type=int, default=512, help="rows of the panorama")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--ways", nargs="+", default=[], metavar="NAME", help="ways to run (default: all)")
    parser.add_argument("--small", action="store_true", help="use a small network, as a quick test")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = random_network(arguments.height, arguments.small).to(device)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters / 1e6:.1f} M random parameters, {arguments.threads} threads, torch {torch.__version__}")
    with torch.inference_mode():
        for batch in arguments.batches:
            shape = (batch, 3, arguments.height, 2 * arguments.height)
            image = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device)
            compare(network, image, arguments.repeats, arguments.ways)


if __name__ == "__main__":
    main()
