"""Score a DAP on rendered rooms and streets, and measure its step at the seam.

    python benchmarks/dap.py LAST.ckpt
    python benchmarks/dap.py mtpano-tiny.rooms --count 16     # any network with depth

The table has AbsRel, AbsRel of the best prediction that knows only the latitude, the IoU of every range mask, and the
jump ratio: the mean step of log-depth across the seam, divided by that between other neighbouring columns (1: no seam).
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtpano_zoo.data import RoomsDataset, StreetsDataset
from mtpano_zoo.metrics import DepthMetrics
from mtpano_zoo.metrics.valid import ValidMetrics
from mtpano_zoo.models.latitude import LatitudePrior
from mtpano_zoo.zoo import load_model

SETS = {"rooms": RoomsDataset, "streets": StreetsDataset}
MAX_DEPTH = 100.0


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for the network of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="names of the zoo or checkpoints")
    parser.add_argument("--count", type=int, default=32, help="test panoramas of each kind")
    parser.add_argument("--prior-count", type=int, default=64, help="panoramas that the prior is fitted to")
    options = parser.parse_args(argv)
    print("| network | set | AbsRel | AbsRel of the prior | better by | jump ratio | IoU by range |")
    print("|---|---|---|---|---|---|---|")
    for name in options.model:
        network = load_model(name)
        for kind, dataset in SETS.items():
            height, width = network.input_size
            prior = LatitudePrior(dataset.classes, height)
            prior.fit(dataset("train", options.prior_count, height, width))
            samples = [sample for sample in dataset("test", options.count, height, width)]
            print(row(name.rpartition("/")[2], kind, network, prior, samples))


def row(name: str, kind: str, network: nn.Module, prior: nn.Module, samples: Sequence[dict[str, Any]]) -> str:
    """Score a network on samples and return one line of the table."""
    errors = {key: DepthMetrics(0.01, MAX_DEPTH, reduction="image") for key in ("network", "prior")}
    ranges: tuple[float, ...] = getattr(network, "ranges", ())
    masks = [ValidMetrics(limit) for limit in ranges]
    ratios = []
    for image, depth, far in batches(samples):
        with torch.no_grad():
            outputs = network(image)
            errors["prior"].update(prior(image)["depth"], depth)
        errors["network"].update(outputs["depth"], depth)
        ratios.append(jump_ratio(outputs["depth"]))
        logits = outputs.get("ext", {}).get("range_masks", outputs.get("valid"))
        for i, metric in enumerate(masks):
            metric.update(logits[:, i : i + 1], depth, far)
    own, other = (errors[key].compute()["AbsRel"].item() for key in ("network", "prior"))
    iou = ", ".join(
        f"{limit:g} m {metric.compute()['IoU'].item():.3f}" for limit, metric in zip(ranges, masks, strict=True)
    )
    ratio = torch.cat(ratios).mean().item()
    return f"| {name} | {kind} | {own:.3f} | {other:.3f} | {1 - own / other:.0%} | {ratio:.2f} | {iou or '-'} |"


def batches(samples: Sequence[dict[str, Any]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield image, depth and far mask of every sample, as batches of one."""
    for sample in samples:
        depth = sample["depth"][None]
        far = sample.get("far", torch.zeros_like(sample["depth"], dtype=torch.bool))[None]
        yield sample["image"][None], depth, far


def jump_ratio(depth: Tensor) -> Tensor:
    """Return the mean step of log-depth (B, 1, H, W) across the seam over that between other columns, (B,)."""
    logarithm = depth.clamp(min=1e-3).log()
    steps = (logarithm.roll(-1, dims=-1) - logarithm).abs().mean(dim=(1, 2))
    return steps[:, -1] / steps[:, :-1].mean(dim=1)


if __name__ == "__main__":
    main()
