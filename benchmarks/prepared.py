"""Processor time of one panorama through every network except the large one, plain and prepared for inference.

Weights are random if the package has none; the time does not depend on them. The ways take turns, so that other load
on the machine affects all. Preparing in float32 cannot remove matrix products (including Winograd's), convolutions and
attention; bfloat16 makes them faster where the processor has instructions for it. The last column is the median
relative difference that bfloat16 makes to distances or disparities. Run: ``python benchmarks/prepared.py``.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from kernels import by_family
from torch import nn

from mtpano_zoo.layers import ViTEncoder
from mtpano_zoo.models import NETWORKS, prepare_for_inference
from mtpano_zoo.zoo import load_model

ENCODER = {"name": "vit_small_patch16_dinov3_qkvb"}
BUILD: dict[str, Callable[[tuple[int, int]], nn.Module]] = {
    "mtpano-small.rooms": lambda size: load_model("mtpano-small.rooms"),
    "DAP, ViT-S": lambda size: NETWORKS["DAP"](
        ViTEncoder(**ENCODER), input_size=size, neck_widths=(48, 96, 192, 384), fusion_width=64
    ),
    "UniFuse, ResNet-18": lambda size: NETWORKS["UniFuse"]("resnet18", input_size=size),
    "BiFuse, ResNet-34": lambda size: NETWORKS["BiFuse"]("resnet34", input_size=size),
    "HoHoNet, ResNet-50": lambda size: NETWORKS["HoHoNet"]("resnet50", height=size[0], input_size=size),
    "EGformer": lambda size: NETWORKS["EGformer"](input_size=size),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=tuple(BUILD), default=list(BUILD), metavar="NAME")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    size = (options.height, 2 * options.height)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    print(
        "| network | plain, s | prepared, s | plain / prepared | products and convolutions, of the prepared | "
        "in bfloat16, s | plain / bfloat16 | difference |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for name in options.networks:
        network = BUILD[name](size).eval()
        ways = (network, prepare_for_inference(network), prepare_for_inference(network, "bfloat16"))
        rounds = [[_seconds(way, image) for way in ways] for _ in range(options.repeats + 1)][1:]
        plain, prepared, half = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratios = [statistics.median(times[0] / times[way] for times in rounds) for way in (1, 2)]
        spent, _ = by_family(partial(_seconds, ways[1], image), cuda=False)
        products = sum(spent[kind] for kind in ("matrix", "convolution", "attention")) / spent.total()
        exact, rounded = (_distances(way, image) for way in ways[::2])
        difference = float(((rounded - exact).abs() / exact.abs().clamp_min(1e-6)).median())
        print(
            f"| {name} | {plain:.2f} | {prepared:.2f} | {ratios[0]:.2f} | {products:.0%} | {half:.2f} | "
            f"{ratios[1]:.2f} | {difference:.1e} |",
            flush=True,
        )


@torch.inference_mode()
def _seconds(network: nn.Module, image: torch.Tensor) -> float:
    begin = time.process_time()
    network(image)
    return time.process_time() - begin


@torch.inference_mode()
def _distances(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    outputs = network(image)
    distances: torch.Tensor = outputs["depth" if "depth" in outputs else "disparity"]
    return distances


if __name__ == "__main__":
    main()
