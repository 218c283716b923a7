"""Seconds per panorama of the published large network on the CPU, beside the same pass with written-out attention.

One network, one set of weights, float32, eager, batch of one. "written out" computes softmax(Q K^T) V as two matrix
products with the whole matrix of scores between them, in the encoder (where timm has that path itself) and in the two
bridges; "as it is" leaves both to `scaled_dot_product_attention`. The two run alternately, so that whatever else the
machine does hits both. Weights are random, of a size that keeps every branch at work. Run:
``python benchmarks/inference.py --threads 2``; it takes about 5 GB.
"""

import argparse
import statistics
import time
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from mtpano_zoo.models import PDBridgeNet


def random_network(height: int) -> PDBridgeNet:
    """Build the network of the published large checkpoint with no weight left at zero, so that all reaches the end."""
    network = PDBridgeNet([f"class {i}" for i in range(150)], variant="paper", input_size=(height, 2 * height))
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
    """Attend from (..., N, C) to (..., M, C) through the matrix of scores (..., N, M)."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value


def forward(network: PDBridgeNet, image: Tensor, written_out: bool) -> dict[str, Any]:
    """One pass, with either attention."""
    for block in network.encoder.vit.blocks:
        block.attn.fused_attn = not written_out
    if not written_out:
        return network(image)
    # In the encoder nothing calls it any more; what is left are the bridges.
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", written_out_attention):
        return network(image)


def flat(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """All maps of a pass by name, auxiliary ones included."""
    main = {name: x for name, x in outputs.items() if isinstance(x, Tensor)}
    return main | {f"{group}.{name}": x for group in ("aux", "ext") for name, x in outputs[group].items()}


def main() -> None:
    """Time both and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--height", type=int, default=512, help="rows of the panorama")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    network = random_network(arguments.height)
    image = torch.rand(1, 3, arguments.height, 2 * arguments.height, generator=torch.Generator().manual_seed(1))
    passes = {"as it is": False, "written out": True}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    outputs: dict[str, dict[str, Tensor]] = {}
    with torch.inference_mode():
        for repeat in range(arguments.repeats + 1):
            for name, written_out in passes.items():
                outputs.pop(name, None)
                start = time.perf_counter()
                result = forward(network, image, written_out)
                if repeat:  # the first round only warms up
                    seconds[name].append(time.perf_counter() - start)
                outputs[name] = flat(result)

    ours = statistics.median(seconds["as it is"])
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{tuple(image.shape)} float32, {parameters / 1e6:.1f} M random parameters, ", end="")
    print(f"median of {arguments.repeats}, {arguments.threads} threads, torch {torch.__version__}\n")
    print("| attention | seconds | fastest, slowest run | times ours |\n|---|--:|--:|--:|")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"| {name} | {middle:.2f} | {min(times):.2f}, {max(times):.2f} | {middle / ours:.2f} |")
    difference, worst = max(
        ((outputs["as it is"][name] - x).abs().max().item() / x.abs().max().item(), name)
        for name, x in outputs["written out"].items()
    )
    print(f"\nLargest relative difference between both: {difference:.1e} ({worst}).")


if __name__ == "__main__":
    main()
