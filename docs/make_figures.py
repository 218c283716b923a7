"""Draw the pictures of the README: `python docs/make_figures.py`."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtpano_zoo import load_model
from mtpano_zoo.resources import DEFAULT_MODEL
from mtpano_zoo.scenes import Room, render, sample_home, sample_room, sample_street
from mtpano_zoo.viz import colour_depth, colour_normals

HERE = Path(__file__).parent
ROOM = 3
HOME, STREET = 1, 8
SHADE = {"boxstyle": "round,pad=0.15", "facecolor": "black", "alpha": 0.6, "linewidth": 0}


def conventions() -> Figure:
    """The sphere frame on a rendered room: angles and rays, distance along the ray, normals."""
    batch = render([sample_room(0, "test", ROOM)], 256, 512)
    image = batch["image"][0].permute(1, 2, 0).numpy()
    depth = batch["depth"][0].numpy()
    normals = batch["normals"][0].permute(1, 2, 0).numpy()
    figure = Figure(figsize=(16, 3.2), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _angles(left, image)
    _panel(
        middle, colour_depth(depth, 0.5, float(np.quantile(depth, 0.99))), "depth = distance along the ray, in metres"
    )
    for column, row in ((90, 150), (256, 128), (400, 215)):
        middle.plot(column, row, "w+", markersize=9)
        middle.annotate(f"{depth[row, column]:.2f} m", (column + 8, row - 6), color="white", weight="bold")
    _panel(right, colour_normals(normals), "normals: unit vectors towards the camera")
    for column, row in ((60, 128), (330, 128), (256, 235), (256, 15)):
        x, y, z = normals[row, column]
        right.plot(column, row, "k+", markersize=9)
        right.annotate(f"({x:+.1f}, {y + 0:+.1f}, {z:+.1f})", (column + 8, row + 4), weight="bold", fontsize=9)
    return figure


def prediction(scene: Room) -> Figure:
    """What the network that comes along predicts for a rendered scene that it has never seen."""
    return load_model(DEFAULT_MODEL).predict(render([scene], 512, 1024)["image"][0]).figure()


def _panel(axes: Axes, rgb: np.ndarray, title: str) -> None:
    axes.imshow(rgb, extent=(-0.5, 511.5, 255.5, -0.5))
    axes.set_title(title, fontsize=12)
    axes.set_xticks([])
    axes.set_yticks([])


def _angles(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, extent=(-0.5, 511.5, 255.5, -0.5))
    axes.set_title("image, H x W = 256 x 512: x right, y down, z forward", fontsize=12)
    axes.set_xticks([-0.5, 127.5, 255.5, 383.5, 511.5], ["-180°", "-90°", "longitude 0°", "90°", "180°"])
    axes.set_yticks([-0.5, 63.5, 127.5, 191.5, 255.5], ["90°", "45°", "latitude 0°", "-45°", "-90°"])
    marks = {"+z": (255.5, 127.5), "+x": (383.5, 127.5), "-x": (127.5, 127.5), "-y": (255.5, 16), "+y": (255.5, 249)}
    for name, place in marks.items():
        axes.plot(*place, "o", color="white", markeredgecolor="black")
        axes.annotate(
            name, place, xytext=(8, 5), textcoords="offset points", weight="bold", fontsize=13, color="white",
            bbox=SHADE,
        )  # fmt: skip
    for edge in (6, 430):
        axes.annotate("wraps: -z", (edge, 127.5), color="white", weight="bold", fontsize=10, bbox=SHADE)


if __name__ == "__main__":
    conventions().savefig(HERE / "conventions.png")
    prediction(sample_home(0, "test", HOME)).savefig(HERE / "prediction.png")
    prediction(sample_street(0, "test", STREET)).savefig(HERE / "prediction-street.png")
