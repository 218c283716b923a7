"""Figures with the maps of one panorama side by side, each with the legend that its colours need."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mtpano_zoo.viz.colours import (
    colour_depth,
    colour_normals,
    colour_semseg,
    colour_valid,
    depth_range,
)
from mtpano_zoo.viz.palette import default_palette

__all__ = ("figure_to_array", "prediction_panel", "sample_panel")

WIDTH = 1600  # pixels of every figure
DPI = 100
MARGIN = 20
TITLE = 30  # height of a line of title
LEGEND = 92  # height of the legend below a map
ROW = 21  # height of a line of a class legend
DIRECTIONS = {  # the way that a surface faces
    "right (+x)": (1, 0, 0),
    "down (+y)": (0, 1, 0),
    "forward (+z)": (0, 0, 1),
    "left (-x)": (-1, 0, 0),
    "up (-y)": (0, -1, 0),
    "back (-z)": (0, 0, -1),
}


# Titles of the maps, in the order of a panel.
TITLES = {
    "semseg": "classes",
    "depth": "distance",
    "normals": "surface normals",
    "valid": "distance defined",
    "disparity": "inverse distance, relative",
}
# Labels of the bar below a map of numbers.
SCALES = {"depth": "distance along the ray in metres", "disparity": "inverse distance, no unit"}
VALID_LEGEND = {"yes": True, "no": False}


def figure_to_array(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure into RGB pixels, uint8 (H, W, 3)."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def prediction_panel(
    image: NDArray[np.uint8],
    maps: Mapping[str, NDArray[Any]],
    classes: Sequence[str],
    palette: ArrayLike,
    depth_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw an image (H, W, 3) and its maps by task, (H, W) or normals (H, W, 3), in two columns.

    Below the classes is a legend of those that occur, below the depth a bar in metres, below the normals the meaning of
    their colours. The colours of depth span `depth_limits` in metres, by default the range of the map.
    """
    present = {task: maps[task] for task in TITLES if task in maps}
    columns = 2 if present else 1
    width = (WIDTH - (columns + 1) * MARGIN) // columns
    height = width // 2
    cell = TITLE + height + LEGEND
    rows = -(-(1 + len(present)) // columns)
    page = _Page(MARGIN // 2 + rows * cell)
    title = f"image, {image.shape[1]} x {image.shape[0]}"
    pick = (slice(None, None, max(1, image.shape[1] // (2 * width))),) * 2  # at least as fine as drawn
    page.show(image[pick], title, MARGIN, MARGIN // 2 + TITLE, width, height)
    for place, (task, whole) in enumerate(present.items(), start=1):
        values = whole[pick]
        left, top = MARGIN + place % columns * (width + MARGIN), MARGIN // 2 + place // columns * cell + TITLE
        limits = depth_range(values) if task in SCALES else (0.0, 1.0)
        if task == "depth" and depth_limits is not None:
            limits = depth_limits
        page.show(_coloured(task, values, palette, limits), TITLES[task], left, top, width, height)
        # The whole map, because the legend lists even the smallest class.
        shown = [whole if task == "semseg" else values]
        page.explain(task, shown, classes, palette, limits, (left, top + height, width, LEGEND))
    return page.figure


def sample_panel(
    sample: Mapping[str, Any],
    prediction: Mapping[str, Any] | None,
    classes: Sequence[str],
    palette: ArrayLike | None = None,
) -> Figure:
    """Draw a sample and, in the row below, a network's prediction for it, in the same colours and depth range.

    Args:
        sample: `image` (3, H, W) in [0, 1] and any of `semseg` (H, W), `depth` (H, W), `normals` (3, H, W).
        prediction: any of `semseg` as logits (C, H, W) or labels (H, W), `depth` (1, H, W) or (H, W), `normals`
            (3, H, W) of any length; None draws the sample alone.
        classes: names of the classes.
        palette: colours of the classes (N, 3) in 0..255; by default `default_palette`.
    """
    palette = default_palette(len(classes)) if palette is None else palette
    truth = {task: _as_map(task, sample[task]) for task in TITLES if task in sample}
    predicted = {task: _as_map(task, prediction[task]) for task in TITLES if prediction and task in prediction}
    tasks = [task for task in TITLES if task in truth or task in predicted]
    width = (WIDTH - (len(tasks) + 2) * MARGIN) // (len(tasks) + 1)
    height = width // 2
    cell = TITLE + height
    rows = 2 if predicted else 1
    bottom = MARGIN // 2 + rows * cell
    page = _Page(bottom + max(LEGEND, 0 if rows == 2 else 6 * ROW))
    image = np.rint(np.clip(_numpy(sample["image"]), 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
    page.show(image, "image", MARGIN, MARGIN // 2 + TITLE, width, height)
    for column, task in enumerate(tasks, start=1):
        shown = [maps[task] for maps in (truth, predicted) if task in maps]
        limits = depth_range(shown[0]) if task in SCALES else (0.0, 1.0)
        left = MARGIN + column * (width + MARGIN)
        for row, (maps, origin) in enumerate(((truth, "ground truth"), (predicted, "prediction"))):
            if task in maps:
                rgb = _coloured(task, maps[task], palette, limits)
                title = f"{TITLES[task]}, {origin}"
                page.show(rgb, title, left, MARGIN // 2 + row * cell + TITLE, width, height)
        # The legend of the classes takes the free space below the image; the others go below their own column.
        top = MARGIN // 2 + cell if task == "semseg" else bottom
        box = (MARGIN if task == "semseg" else left, top, width, page.height - top)
        page.explain(task, shown, classes, palette, limits, box)
    return page.figure


class _Picture(AxesImage):
    """An image that is averaged when it is shrunk, and drawn several times faster than by matplotlib."""

    def make_image(
        self, renderer: Any, magnification: float = 1.0, unsampled: bool = False
    ) -> tuple[NDArray[Any], float, float, Affine2D]:
        """Return RGBA pixels, the last row first, and where their lower left corner is."""
        rgb = np.asarray(self.get_array(), np.uint8)
        box = self.get_window_extent(renderer)
        width, height = round(box.width * magnification), round(box.height * magnification)
        shrunk = rgb.shape[1] > width
        rgb = np.asarray(
            cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_NEAREST)
        )
        return np.asarray(cv2.cvtColor(rgb[::-1], cv2.COLOR_RGB2RGBA)), box.x0, box.y0, Affine2D()


class _Page:
    """A figure laid out in pixels from the upper left corner, with a single pair of axes, since every other is slow."""

    def __init__(self, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
        self.axes.set_axis_off()

    def show(self, rgb: NDArray[np.uint8], title: str, left: int, top: int, width: int, height: int) -> None:
        picture = _Picture(self.axes, extent=(left, left + width, top + height, top))
        picture.set_data(rgb)
        self.axes.add_image(picture)
        self.axes.text(left, top - 7, title, fontsize=11, verticalalignment="baseline")

    def explain(
        self,
        task: str,
        maps: Sequence[NDArray[Any]],
        classes: Sequence[str],
        palette: ArrayLike,
        limits: tuple[float, float],
        box: tuple[int, int, int, int],
    ) -> None:
        """Draw the legend of the colours into the box (left, top, width, height)."""
        left, top, width, height = box
        if task in SCALES:
            self._scale_bar(SCALES[task], maps, limits, left, top + 10, width, 14)
            return
        if task == "semseg":
            entries = _present_classes(maps, classes, palette)
        elif task == "valid":
            entries = [(name, tuple(colour_valid(np.array(flag)) / 255)) for name, flag in VALID_LEGEND.items()]
        else:
            entries = [(name, tuple(colour_normals([vector])[0] / 255)) for name, vector in DIRECTIONS.items()]
        columns = max(1, min(len(entries), 3 if task == "normals" else 6, width // 120))
        self._swatches(entries, columns, left, top + 8, width, height - 8)

    def _scale_bar(
        self,
        label: str,
        maps: Sequence[NDArray[Any]],
        limits: tuple[float, float],
        left: int,
        top: int,
        width: int,
        height: int,
    ) -> None:
        low, high = limits
        values = np.concatenate([depth[np.isfinite(depth) & (depth > 0)] for depth in maps])
        below, above = bool((values < low).any()), bool((values > high).any())
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
        colours = ScalarMappable(Normalize(low, high), matplotlib.colormaps["turbo"])
        axes = self.figure.add_axes(
            (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        )
        bar = self.figure.colorbar(colours, cax=axes, orientation="horizontal", extend=extend, extendfrac=0.02)
        bar.set_label(label, fontsize=10)
        bar.ax.tick_params(labelsize=10)

    def _swatches(
        self,
        entries: Sequence[tuple[str, tuple[float, ...]]],
        columns: int,
        left: int,
        top: int,
        width: int,
        height: int,
    ) -> None:
        room = columns * (height // ROW)
        if len(entries) > room:
            entries = [*entries[: room - 1], (f"and {len(entries) - room + 1} more", (1.0, 1.0, 1.0))]
        letters = (width // columns - 26) // 7  # a letter of this size is about 7 pixels wide
        for place, (name, colour) in enumerate(entries):
            x, y = left + place % columns * (width / columns), top + place // columns * ROW + 2
            self.axes.add_artist(Rectangle((x, y), 16, 14, facecolor=colour, linewidth=0))
            name = name if len(name) <= letters else f"{name[: letters - 1]}…"
            self.axes.text(x + 22, y + 7, name, fontsize=9.5, verticalalignment="center_baseline", parse_math=False)


def _present_classes(
    maps: Sequence[NDArray[Any]], classes: Sequence[str], palette: ArrayLike
) -> list[tuple[str, tuple[float, ...]]]:
    """Return name and colour of the classes that occur, the largest first, and "no label" at the end if it occurs."""
    counts, unknown = np.zeros(len(classes), np.int64), False
    for row in (row for labels in maps for row in labels):  # a whole large map would be copied as int64
        known = (row >= 0) & (row < len(classes))
        counts += np.bincount(row[known], minlength=len(classes))
        unknown |= not known.all()
    colours = np.asarray(palette, np.float64).reshape(-1, 3) / 255
    present = [(classes[i], tuple(colours[i])) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return [*present, ("no label", (0.0, 0.0, 0.0))] if unknown else present


def _coloured(task: str, values: NDArray[Any], palette: ArrayLike, limits: tuple[float, float]) -> NDArray[np.uint8]:
    if task == "semseg":
        return colour_semseg(values, palette)
    if task == "valid":
        return colour_valid(values)
    return colour_depth(values, *limits) if task in SCALES else colour_normals(values)


def _numpy(values: Any) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array


def _as_map(task: str, values: Any) -> NDArray[Any]:
    """Convert a channels-first tensor, label or network output, to the form that the colour functions take."""
    array = _numpy(values)
    if task == "semseg":
        return (array.argmax(0) if array.ndim == 3 else array).astype(np.int64)
    if task != "normals":
        flat: NDArray[Any] = array[0] if array.ndim == 3 else array
        return flat > 0 if task == "valid" else flat
    array = array.transpose(1, 2, 0)
    length = np.linalg.norm(array, axis=-1, keepdims=True)
    unit: NDArray[Any] = array / np.maximum(length, 1e-6)
    return unit
