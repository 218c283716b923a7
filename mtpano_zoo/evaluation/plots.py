"""Plots of a report as PNG."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from mtpano_zoo.evaluation.measures import Alignment, error_of
from mtpano_zoo.evaluation.regions import BANDS
from mtpano_zoo.tasks import NO_LABEL
from mtpano_zoo.viz import colour_depth, colour_normals, colour_semseg, default_palette, depth_range

__all__ = ("bands_plot", "maps_plot", "measures_plot", "tilt_plot")

UNIT = {
    "bands/depth": "AbsRel",
    "bands/normals": "degrees",
    "bands/semseg": "share of wrong pixels",
    "turned/depth": "|log ratio|",
    "turned/normals": "degrees",
    "turned/semseg": "share of wrong pixels",
}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _legend(axes: Axes, curves: Mapping[str, Any]) -> None:
    """Add a legend of the curves by name: names may hold dollar signs, or begin with an underscore."""
    for text in axes.legend([*curves.values()], [*curves], fontsize=8).get_texts():
        text.set_parse_math(False)


def _curves(report: Mapping[str, Any], kind: str) -> list[str]:
    names = (name for model in report["models"].values() for name in model["curves"])
    return [name for name in dict.fromkeys(names) if name.startswith(f"{kind}/")]


def bands_plot(report: Mapping[str, Any]) -> bytes | None:
    """Plot errors over latitude, with intervals; return None if there are none."""
    names = _curves(report, "bands")
    if not names:
        return None
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    curves: dict[str, Any] = {}
    centres = [(low + high) / 2 for low, high in pairwise(BANDS)]
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        for number, (model, content) in enumerate(report["models"].items()):
            points = list(content["curves"].get(name, {}).values())
            if not points:
                continue
            middle = np.array([p["value"] for p in points], float)
            ends = np.array([[p["value"] - p["low"], p["high"] - p["value"]] for p in points], float).T.clip(0)
            x = np.array(centres) + 2 * number
            curves[model] = axes.errorbar(x, middle, ends, marker="o", capsize=3, color=f"C{number}")
        axes.set(xlabel="latitude in degrees, up is positive", ylabel=UNIT[name], title=name.split("/")[1])
        axes.set_xticks(BANDS)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    _legend(figure.axes[0], curves)
    return _png(figure)


def tilt_plot(report: Mapping[str, Any]) -> bytes | None:
    """Plot errors over the tilt of the camera; return None if nothing was tilted."""
    names = _curves(report, "turned")
    if not names:
        return None
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    curves: dict[str, Any] = {}
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        for number, (model, content) in enumerate(report["models"].items()):
            points = content["curves"].get(name, {})
            for axis, style in (("pitch", "-"), ("roll", "--")):
                angles = [key for key in points if key == "upright" or key.startswith(axis)]
                x = [0 if key == "upright" else int(key.split()[1]) for key in angles]
                y = [points[key]["value"] for key in angles]
                (curves[f"{model}, {axis}"],) = axes.plot(x, y, style, marker="o", color=f"C{number}")
        axes.set(xlabel="tilt of the camera in degrees", ylabel=UNIT[name], title=name.split("/")[1])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    _legend(figure.axes[0], curves)
    return _png(figure)


def measures_plot(report: Mapping[str, Any]) -> bytes | None:
    """Plot ratios that should be 1, with intervals, on a logarithmic axis; return None if there are none."""
    found = dict.fromkeys(name for model in report["models"].values() for name in model["measures"])
    names = [name for name in found if name.split("/")[0] in ("scale", "seam", "poles")]
    if not names:
        return None
    figure = Figure(figsize=(7.5, 0.8 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, Any] = {}
    for number, (model, content) in enumerate(report["models"].items()):
        places = [i for i, name in enumerate(names) if name in content["measures"]]
        points = [content["measures"][names[i]] for i in places]
        middle = np.array([p["value"] for p in points], float)
        ends = np.array([[p["value"] - p["low"], p["high"] - p["value"]] for p in points], float).T.clip(0)
        y = np.array(places) + 0.15 * number
        curves[model] = axes.errorbar(middle, y, xerr=ends, fmt="o", capsize=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("1 is right")
    axes.grid(alpha=0.3)
    _legend(axes, curves)
    return _png(figure)


def maps_plot(
    sample: Mapping[str, Any],
    labels: Mapping[str, Tensor],
    maps: Mapping[str, Tensor],
    alignment: Alignment,
    classes: Sequence[str],
) -> bytes:
    """Plot image, label, prediction and error of one panorama; the error as measured, without scale and frame."""
    tasks = [task for task in ("depth", "normals", "semseg") if task in maps and task in labels]
    figure = Figure(figsize=(12, 1.7 * len(tasks) + 0.2))
    grid = figure.subplots(max(1, len(tasks)), 4, squeeze=False)
    figure.subplots_adjust(0.005, 0.01, 0.95, 0.94, wspace=0.02, hspace=0.12)
    image = sample["image"].movedim(0, -1).numpy()
    for row, task in zip(grid, tasks, strict=False):
        _, size, known = error_of(task, maps[task], labels[task], alignment)
        titles = ("panorama", f"{task}: label", "prediction", "error")
        pictures = (image, *_coloured(task, labels[task], maps[task], len(classes)))
        for axes, title, picture in zip(row, titles, pictures, strict=False):
            axes.imshow(picture)
            axes.set_title(title, fontsize=9)
        size = size.masked_fill(~known, float("nan"))
        top = float(np.quantile(size[known].numpy(), 0.99)) if known.any() else 1.0
        shown = row[3].imshow(size.numpy(), cmap="magma", vmin=0, vmax=max(top, 1e-3))
        row[3].set_title("error", fontsize=9)
        box = row[3].get_position()
        figure.colorbar(shown, cax=figure.add_axes((box.x1 + 0.004, box.y0, 0.008, box.height)))
    for axes in grid.flat:
        axes.set_axis_off()
    return _png(figure)


def _coloured(task: str, label: Tensor, prediction: Tensor, count: int) -> tuple[Any, Any]:
    if task == "depth":
        span = depth_range(label.numpy())
        return colour_depth(label.numpy(), *span), colour_depth(prediction.numpy(), *span)
    if task == "normals":
        return colour_normals(label.movedim(0, -1).numpy()), colour_normals(prediction.movedim(0, -1).numpy())
    palette = default_palette(count)
    known = prediction.where(prediction < count, NO_LABEL)
    return colour_semseg(label.numpy(), palette), colour_semseg(known.numpy(), palette)
