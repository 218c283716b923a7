"""A picture of samples of a data set, one below another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning import LightningDataModule

from mtpano_zoo.data.sets import samples_of
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import write_png
from mtpano_zoo.output_paths import printable
from mtpano_zoo.viz.panels import figure_to_array, sample_panel

__all__ = ("plot_samples",)

_LETTERS = 52  # length of the title above the image


def plot_samples(
    data: LightningDataModule,
    out: str | Path,
    *,
    split: str = "train",
    count: int = 4,
    ids: Sequence[str] = (),
    augmented: bool = False,
) -> int:
    """Write a PNG of samples with their labels: evenly spread over a split, or those with the given ids.

    Args:
        data: The data module.
        out: The file, whose name ends in `.png`.
        split: Which of its splits.
        count: Number of samples of every set.
        ids: Samples to draw instead.
        augmented: Augment the samples as in training.

    Returns:
        The number of samples in the picture.

    Raises:
        InputError: If the file is no PNG, the split is empty, an id has no sample, or a sample cannot be read.
        FileNotFoundError: If there is no data.
    """
    if Path(out).suffix.lower() != ".png":
        raise InputError(f"{out} must be a PNG file: end its name in .png")
    if count < 1:
        raise InputError(f"a picture must show at least one sample, not {count}")
    rows = []
    missing = set(ids)
    for samples, module in samples_of(data, [split], augmented).values():
        size = len(cast(Any, samples))
        chosen = np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)).tolist()
        if ids:
            names = [samples.name(i) if hasattr(samples, "name") else samples[i]["id"] for i in range(size)]
            chosen = [i for i, name in enumerate(names) if name in ids]
            missing -= set(names)
        for i in chosen:
            sample = samples[i]
            figure = sample_panel(sample, None, getattr(module, "classes", ()), getattr(module, "palette", None))
            title = printable(sample["id"])
            title = title if len(title) <= _LETTERS else f"{title[: _LETTERS - 1]}…"
            figure.axes[0].set_title(title, loc="left", fontsize=11, pad=5, parse_math=False)
            rows.append(figure_to_array(figure))
    if missing:
        raise InputError(f"{split} has no sample {', '.join(sorted(missing))}")
    write_png(out, np.concatenate(rows))
    return len(rows)
