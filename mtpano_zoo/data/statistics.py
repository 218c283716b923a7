"""Statistics of a data set: class frequencies, distances, coverage of the labels, colours."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mtpano_zoo.data.augmentation import Sample
from mtpano_zoo.data.panoramas import UnreadableSampleError
from mtpano_zoo.data.sets import read_all, samples_of
from mtpano_zoo.losses import valid_depth, valid_normals, valid_semseg

__all__ = ("SampleSums", "as_table", "statistics")

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

# Distances are counted in bins of equal ratio, 0.4 % wide: percentiles are exact to half of that.
_EDGES = np.geomspace(1e-3, 1e4, 4001)

Sums = dict[str, NDArray[Any]]


def statistics(
    data: LightningDataModule, splits: Sequence[str] = ("train",), *, workers: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Read every sample, in the size of the data module and without augmentation, and count.

    Panoramas that only prediction reads are counted as ``predict`` if `splits` lists all splits.

    Returns:
        By split: `samples`, `unreadable`, `image` (mean and std of R, G, B in [0, 1] over all pixels) and of `semseg`,
        `depth` and `normals` those that occur, each with `samples` that have it and `coverage`, the share of their
        pixels that are valid. `semseg` also has `classes`: by name the share of the valid pixels (`pixels`) and of the
        samples (`samples`) that show it. `depth` also has `minimum`, `maximum`, `mean` and `percentiles`, in metres;
        percentiles are within 0.2 %. The result can be written as JSON.

    Raises:
        InputError: If all splits are empty.
        FileNotFoundError: If there is no data.
    """
    described = {}
    for split, (samples, module) in samples_of(data, splits, rest=True).items():
        classes = tuple(getattr(module, "classes", ()))
        total: Sums = {}
        unreadable = 0
        for sums in read_all(SampleSums(samples, len(classes)), workers, f"reading {split}" if progress else None):
            unreadable += sums is None
            for name, values in (sums or {}).items():
                combine = {"depth_minimum": np.minimum, "depth_maximum": np.maximum}.get(name, np.add)
                total[name] = combine(total[name], values) if name in total else values
        described[split] = {"samples": len(cast(Any, samples)), "unreadable": unreadable, **_describe(total, classes)}
    return described


class SampleSums(Dataset[Sums | None]):
    """Sums over the pixels of every sample; None for one that cannot be read."""

    def __init__(self, samples: Dataset[Sample], classes: int) -> None:
        self.samples = samples
        self.classes = classes

    def __len__(self) -> int:
        return len(cast(Any, self.samples))

    def __getitem__(self, i: int) -> Sums | None:
        """Count one sample."""
        try:
            sample = self.samples[i]
        except UnreadableSampleError:
            return None
        image = sample["image"].double().flatten(1)
        sums = {
            "image_pixels": np.array(image.shape[1]),
            "image_sum": image.sum(1).numpy(),
            "image_squares": image.square().sum(1).numpy(),
        }
        if "semseg" in sample:
            labels = sample["semseg"]
            counts = torch.bincount(labels[valid_semseg(labels, self.classes)], minlength=self.classes).numpy()
            sums |= {"semseg_counts": counts, "semseg_shown": (counts > 0).astype(np.int64)}
            sums |= _coverage("semseg", counts.sum(), labels.numel())
        if "depth" in sample:
            depth = sample["depth"]
            known = depth[valid_depth(depth)].double().numpy()
            if known.size:
                sums |= {"depth_minimum": known.min(), "depth_maximum": known.max()}
            clipped = np.clip(known, _EDGES[0], _EDGES[-1])
            sums |= {"depth_bins": np.histogram(clipped, _EDGES)[0], "depth_sum": known.sum()}
            sums |= _coverage("depth", known.size, depth.numel())
        if "normals" in sample:
            valid = valid_normals(sample["normals"])
            sums |= _coverage("normals", int(valid.sum()), valid.numel())
        return sums


def _coverage(task: str, valid: int, pixels: int) -> Sums:
    return {f"{task}_samples": np.array(1), f"{task}_valid": np.array(valid), f"{task}_pixels": np.array(pixels)}


def _describe(total: Sums, classes: Sequence[str]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if "image_pixels" in total:
        mean = total["image_sum"] / total["image_pixels"]
        variance = np.maximum(total["image_squares"] / total["image_pixels"] - mean**2, 0)
        described["image"] = {"mean": mean.tolist(), "std": np.sqrt(variance).tolist()}
    for task in ("semseg", "depth", "normals"):
        if f"{task}_samples" in total:
            samples, valid, pixels = (int(total[f"{task}_{name}"]) for name in ("samples", "valid", "pixels"))
            described[task] = {"samples": samples, "coverage": valid / pixels}
            if task == "semseg":
                described[task]["classes"] = {
                    name: {"pixels": int(count) / max(valid, 1), "samples": int(shown) / samples}
                    for name, count, shown in zip(classes, total["semseg_counts"], total["semseg_shown"], strict=True)
                }
            elif task == "depth" and valid:
                described[task] |= {
                    "minimum": float(total["depth_minimum"]),
                    "maximum": float(total["depth_maximum"]),
                    "mean": float(total["depth_sum"]) / valid,
                    "percentiles": {str(p): _percentile(total["depth_bins"], p) for p in PERCENTILES},
                }
    return described


def _percentile(bins: NDArray[Any], percent: float) -> float:
    """Return the middle of the bin that holds a percentile."""
    place = int(np.searchsorted(np.cumsum(bins), percent / 100 * bins.sum()))
    return float(np.sqrt(_EDGES[place] * _EDGES[place + 1]))


def as_table(described: dict[str, Any]) -> str:
    """Return what `statistics` has counted as lines for the terminal."""
    lines = []
    for split, values in described.items():
        lines.append(f"{split}: {values['samples']} samples, {values['unreadable']} unreadable")
        if image := values.get("image"):
            for name in ("mean", "std"):
                lines.append(f"  image {name:<5}" + "".join(f"{value:8.4f}" for value in image[name]) + "  (R, G, B)")
        for task in ("semseg", "depth", "normals"):
            if task in values:
                lines.append(
                    f"  {task:<8}in {values[task]['samples']} samples, {values[task]['coverage']:7.2%} of their pixels"
                )
        if percentiles := values.get("depth", {}).get("percentiles"):
            depth = values["depth"]
            lines.append(f"  depth in m: {depth['minimum']:.3f} to {depth['maximum']:.3f}, mean {depth['mean']:.3f}")
            lines.append("    percentile" + "".join(f"{p:>8}" for p in percentiles))
            lines.append("    metres    " + "".join(f"{value:8.3f}" for value in percentiles.values()))
        if classes := values.get("semseg", {}).get("classes"):
            lines.append(f"  {'class':<24}{'pixels':>9}{'samples':>9}")
            for name, shares in sorted(classes.items(), key=lambda item: -item[1]["pixels"]):
                if shares["pixels"]:
                    lines.append(f"  {name:<24}{shares['pixels']:9.3%}{shares['samples']:9.1%}")
            if never := [name for name, shares in classes.items() if not shares["pixels"]]:
                lines.append(f"  never: {', '.join(never)}")
    return "\n".join(lines)
