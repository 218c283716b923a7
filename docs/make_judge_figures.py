"""Draw the figures of the page about the judge: `python docs/make_judge_figures.py`.

A rendered room with exact labels stands for a right prediction. One defect is planted in it, and the figure shows where
the measure of that defect looks and what it says before and after.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mtpano_zoo.data import RoomsDataset
from mtpano_zoo.evaluation import agreement, measures
from mtpano_zoo.evaluation.measures import Alignment, Ratio, error_of, mean_over
from mtpano_zoo.evaluation.regions import band_names, core, in_band
from mtpano_zoo.evaluation.statistics import bootstrap, compare
from mtpano_zoo.sphere import depth_to_points, pad, rotate, rotation_matrix, to_cubemap
from mtpano_zoo.viz import colour_depth, colour_normals, colour_semseg, depth_range

HERE = Path(__file__).parent
ROOM, HEIGHT = 3, 128
PLAIN = Alignment(0.0, torch.eye(3))
RIGHT, WRONG = "#1b7f4b", "#c8442c"
NOISE = 0.01


def value(ratio: Ratio) -> float:
    """Return a ratio as a number."""
    return ratio[0] / ratio[1]


class Room:
    """A rendered room, and a prediction that is right but for little noise."""

    def __init__(self, number: int = ROOM) -> None:
        rooms = RoomsDataset("test", number + 1, HEIGHT, 2 * HEIGHT)
        self.sample = rooms[number]
        self.classes, self.palette = rooms.classes, rooms.palette
        self.image, self.depth = self.sample["image"], self.sample["depth"]
        self.normals, self.semseg = self.sample["normals"], self.sample["semseg"]
        noise = torch.randn(self.depth.shape, generator=torch.Generator().manual_seed(0))
        self.predicted = self.depth * (NOISE * noise).exp()
        self.span = depth_range(self.depth.numpy())

    def show(self, axes: Axes, depth: Tensor, title: str) -> None:
        """Show distances."""
        picture(axes, colour_depth(depth.numpy(), *self.span), title)


def picture(axes: Axes, pixels: Any, title: str, **options: Any) -> None:
    """Show an image without axes."""
    axes.imshow(pixels, **options)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def said(axes: Axes, name: str, right: float, wrong: float, form: str = ".2f") -> None:
    """Write above a plot what the measure says of the right and the wrong prediction."""
    axes.set_title(f"{name}: {right:{form}} right, {wrong:{form}} with the defect", fontsize=9)


def panels(count: int, width: float = 9.0, height: float = 2.1) -> tuple[Figure, Any]:
    """Return a figure and its axes in a row."""
    figure = Figure(figsize=(width, height), dpi=90, layout="constrained")
    return figure, figure.subplots(1, count)


def lines(axes: Axes, x: Any, right: Any, wrong: Any, xlabel: str, ylabel: str) -> None:
    """Plot the right and the wrong prediction."""
    axes.plot(x, wrong, color=WRONG, label="with the defect")
    axes.plot(x, right, color=RIGHT, label="right")
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def log_error(depth: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """Return the signed logarithmic error (1, H, W) and where it is known."""
    error, _, known = error_of("depth", depth, room.depth, PLAIN)
    return error, known


def seam(room: Room) -> Figure:
    """A step of ten percent across the border."""
    column = torch.arange(2 * HEIGHT)
    wrong = room.predicted * torch.where(column < HEIGHT // 16, 1.1, 1.0)
    figure, (left, right) = panels(2)
    room.show(left, wrong.roll(HEIGHT, -1), "predicted distance, the 0/360 border in the middle")
    left.axvline(HEIGHT - 0.5, color="white", linewidth=0.8, linestyle=":")
    steps = []
    for depth in (room.predicted, wrong):
        error = log_error(depth, room)[0][0].roll(HEIGHT, -1)
        steps.append((error - error.roll(1, -1)).abs().mean(0)[1:])
    lines(right, np.arange(1, 2 * HEIGHT) - HEIGHT, *steps, "column from the border", "step of the error")
    said(
        right, "seam/depth", *(value(measures.seam_jump(*log_error(depth, room))) for depth in (room.predicted, wrong))
    )
    return figure


def poles(room: Room) -> Figure:
    """Wrinkles at the poles, the bands of latitude, and how much a pixel weighs by solid angle."""
    column = (torch.arange(2 * HEIGHT) + 0.5) / (2 * HEIGHT)
    wrinkled = room.predicted * (1 + 0.05 * torch.sin(column * 24 * math.pi))
    cap = torch.zeros(HEIGHT, 1, dtype=torch.bool)
    cap[: HEIGHT // 6] = cap[-(HEIGHT // 6) :] = True
    wrong = torch.where(cap, wrinkled, room.predicted)
    figure, (left, middle, right) = panels(3, 11.0)
    room.show(left, wrong, "predicted distance, wrinkled above 60 degrees")
    places = [(low + high) / 2 for low, high in (map(int, name.split(" to ")) for name in band_names())]
    bands, said_of = [], []
    for depth in (room.predicted, wrong):
        error, known = log_error(depth, room)
        size = error[0].abs()
        bands.append([value(mean_over(size, known & in_band(*known.shape, i))) for i in range(6)])
        said_of.append(value(measures.polar_excess(size, known)))
    lines(middle, places, *bands, "latitude in degrees", "mean |log ratio|")
    said(middle, "poles/depth", *said_of)
    latitude = np.linspace(-90, 90, 181)
    right.plot(latitude, np.ones_like(latitude), label="every pixel counts one", color="grey")
    right.plot(latitude, np.cos(np.radians(latitude)) * math.pi / 2, label="by solid angle", color="black")
    right.set_xlabel("latitude in degrees", fontsize=8)
    right.set_title("what a pixel weighs in a score", fontsize=9)
    right.legend(fontsize=7)
    right.tick_params(labelsize=7)
    right.grid(alpha=0.3)
    return figure


def tilt(room: Room) -> Figure:
    """A network that takes every camera for level."""
    angles = list(range(0, 31, 5))
    smooth = measures.away_from_boundaries("depth", room.depth)
    right, wrong = [], []
    for angle in angles:
        turn = rotation_matrix(pitch=float(angle))
        inverse = rotate(1 / room.depth[None, None], turn)[0, 0]
        where = (rotate(smooth[None, None].float(), turn)[0, 0] > 0.999) & core(HEIGHT, 2 * HEIGHT)
        noise = room.predicted / room.depth
        for found, depth in ((right, noise / inverse), (wrong, room.predicted)):
            found.append(value(mean_over((depth * inverse).log().abs(), where)))
    turn = rotation_matrix(pitch=20.0)
    figure, (left, middle, plot) = panels(3, 11.0)
    picture(
        left, rotate(room.image[None], turn)[0].clamp(0, 1).movedim(0, -1), "what a camera sees, pitched by 20 degrees"
    )
    room.show(middle, room.predicted, "predicted as if it stood level")
    lines(plot, angles, right, wrong, "pitch in degrees", "mean |log ratio|")
    said(plot, "tilt/depth", max(right) - right[0], max(wrong) - wrong[0])
    return figure


def yaw(room: Room) -> Figure:
    """An error that stays with the image while the camera turns."""
    column = torch.arange(2 * HEIGHT)
    wave = 1 + 0.05 * torch.sin((column + 0.5) / (2 * HEIGHT) * 2 * math.pi)
    count = HEIGHT // 2

    def again(error: Tensor) -> Tensor:  # predicted for the rolled panorama, and rolled back
        return (room.depth.roll(-count, -1) * error).roll(count, -1)

    straight, rolled = room.depth * wave, again(wave)
    figure, (left, middle, right) = panels(3, 11.0)
    picture(left, room.image.roll(-count, -1).movedim(0, -1), "the panorama, rolled by a quarter")
    room.show(middle, rolled, "predicted, and rolled back")
    picture(right, (rolled / straight).log().abs(), "", cmap="magma", vmin=0, vmax=0.1)
    pairs = ((room.depth, again(torch.ones_like(wave))), (straight, rolled))
    spreads = [value(agreement.roll_spread("depth", one, [other], [count])) for one, other in pairs]
    right.set_title("difference; yaw/depth: {:.3f} right, {:.3f} here".format(*spreads), fontsize=9)
    return figure


def cross(room: Room) -> Figure:
    """Cube faces cut from the panorama, and predictions for the faces, of which two are too far."""
    cut = to_cubemap(room.predicted[None, None], HEIGHT // 2, "depth")[0, :, 0]
    right = cut * (NOISE * torch.randn(cut.shape, generator=torch.Generator().manual_seed(1))).exp()
    wrong = right * torch.tensor([1.0, 1.3, 1.0, 0.8, 1.0, 1.0]).view(6, 1, 1)
    figure = Figure(figsize=(9.0, 3.0), dpi=90, layout="constrained")
    grid = figure.subplots(2, 6)
    for number, name in enumerate(("front", "right", "back", "left", "up", "down")):
        room.show(grid[0, number], cut[number], name)
        room.show(grid[1, number], wrong[number], "1.3 times" if number == 1 else "0.8 times" if number == 3 else "")
    ways = {"faces": agreement.cross_on_faces, "panorama": agreement.cross_on_panorama}
    words = []
    for name, way in ways.items():
        before, after = (value(way(room.predicted, faces)) for faces in (right, wrong))
        words.append(f"cross/{name}: {before:.3f} right, {after:.3f} with the defect")
    title = "above: cut from the panorama's prediction; below: predicted for each face"
    figure.suptitle(f"{title}\n{'; '.join(words)}", fontsize=9)
    return figure


def edges(room: Room) -> Figure:
    """Boundaries of a prediction that is smooth where the room is not."""
    wrong = F.avg_pool2d(pad(room.predicted[None], (3, 3, 3, 3))[None], 7, stride=1)[0, 0]
    true = measures.boundaries(room.depth)[0]
    figure, (left, middle, right) = panels(3, 11.0)
    room.show(left, wrong, "predicted distance, blurred")
    for axes, depth, title in ((middle, room.predicted, "right, found"), (right, wrong, "blurred, missed")):
        near, thick = (F.max_pool2d(x[None].float(), 3, 1, 1)[0] > 0 for x in (measures.boundaries(depth)[0], true))
        shown = torch.ones(HEIGHT, 2 * HEIGHT, 3)
        shown[thick & near] = torch.tensor([0.1, 0.5, 0.3])
        shown[thick & ~near] = torch.tensor([0.85, 0.2, 0.1])
        picture(axes, shown, f"boundaries, {title}: edges/depth {value(measures.edges(depth, room.depth)):.2f}")
    return figure


def planes(room: Room) -> Figure:
    """Walls from above, true and bulging."""
    wall = room.semseg == room.classes.index("wall")
    longitude = torch.arange(2 * HEIGHT) / (2 * HEIGHT) * 2 * math.pi
    wrong = room.predicted * (1 + 0.08 * torch.sin(5 * longitude))
    figure, axes = panels(2, 7.0, 3.0)
    for one, depth, title in ((axes[0], room.predicted, "right"), (axes[1], wrong, "bulging")):
        points = depth_to_points(depth[None, None])[0][:, wall & core(HEIGHT, 2 * HEIGHT)]
        one.plot(points[0], points[2], ".", markersize=0.6, color=RIGHT if title == "right" else WRONG)
        one.plot(0, 0, "k+")
        one.set_aspect("equal")
        one.tick_params(labelsize=7)
        score = value(measures.planarity(depth, room.depth, room.normals, wall))
        one.set_title(f"walls from above, {title}: planes/depth {score:.3f}", fontsize=9)
        one.set_xlabel("x in metres", fontsize=8)
    axes[0].set_ylabel("z in metres", fontsize=8)
    return figure


def whole(room: Room) -> Figure:
    """Faults of a whole prediction: scale, holes, mirrored normals, swapped classes."""
    figure = Figure(figsize=(9.0, 4.2), dpi=90, layout="constrained")
    grid = figure.subplots(2, 2)
    room.show(
        grid[0, 0], 1.2 * room.predicted, f"scale/depth {value(measures.scale(1.2 * room.predicted, room.depth)):.2f}"
    )
    holes = room.predicted.clone()
    holes[HEIGHT // 2 : 3 * HEIGHT // 4, HEIGHT // 2 : HEIGHT] = 0
    share = value(measures.holes(holes > 0, room.depth > 0))
    room.show(grid[0, 1], holes, f"holes/depth {share:.3f}")
    mirrored = room.normals * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    gain = value(measures.frame_gain(mirrored, room.normals)[0])
    picture(
        grid[1, 0],
        colour_normals(mirrored.movedim(0, -1).numpy()),
        f"normals, mirrored: frame/normals {gain:.0f} degrees",
    )
    wall, ceiling = (room.classes.index(name) for name in ("wall", "ceiling"))
    swapped = torch.where(room.semseg == wall, ceiling, torch.where(room.semseg == ceiling, wall, room.semseg))
    worst = max(measures.class_swaps(swapped, room.semseg, room.classes).values())
    picture(
        grid[1, 1],
        colour_semseg(swapped.numpy(), room.palette),
        f"wall and ceiling swapped: swap/semseg {value(worst):.2f}",
    )
    return figure


def intervals(count: int = 12) -> Figure:
    """Scores of two predictions on the same rooms, intervals of both, and that of the difference."""
    rooms = RoomsDataset("test", count, HEIGHT // 2, HEIGHT)
    scores: dict[str, dict[str, Ratio]] = {"one": {}, "other": {}}
    for i in range(count):
        depth = rooms[i]["depth"]
        hard = 0.03 + 0.15 * torch.rand((), generator=torch.Generator().manual_seed(i)).item()
        for name, factor in (("one", 1.0), ("other", 0.85)):
            g = torch.Generator().manual_seed(100 * i + len(name))
            error = (factor * hard * torch.randn(depth.shape, generator=g)).exp() - 1
            scores[name][rooms.name(i)] = (float(error.abs().mean()), 1.0)
    figure, (left, right) = panels(2, 9.0, 2.6)
    for place, (name, color) in enumerate((("one", WRONG), ("other", RIGHT))):
        points = [value(ratio) for ratio in scores[name].values()]
        left.plot(points, np.full(count, place + 0.15), "o", markersize=3, color=color, alpha=0.6)
        whiskers(left, bootstrap(list(scores[name].values())), place, color)
    for pair in zip(*([value(r) for r in model.values()] for model in scores.values()), strict=True):
        left.plot(pair, (0.15, 1.15), color="grey", linewidth=0.4)
    left.set_yticks([0, 1], ["one", "other"])
    left.set_ylim(-0.5, 1.6)
    left.set_title(f"AbsRel of {count} rooms and intervals: they overlap", fontsize=9)
    found = compare(scores["one"], scores["other"])
    whiskers(right, found, 0, "black")
    right.axvline(0, color="grey")
    right.set_ylim(-1, 1)
    right.set_yticks([])
    right.set_title("one minus other on the same rooms: 0 is outside", fontsize=9)
    for axes in (left, right):
        axes.tick_params(labelsize=7)
        axes.set_xlabel("AbsRel", fontsize=8)
        axes.grid(alpha=0.3, axis="x")
    return figure


def whiskers(axes: Axes, found: Any, place: float, color: str) -> None:
    """Draw an interval."""
    ends = [[found.value - found.low], [found.high - found.value]]
    axes.errorbar([found.value], [place], xerr=ends, fmt="D", capsize=4, color=color)


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG: 96 colours are enough."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw all figures."""
    room = Room()
    of_room: dict[str, Callable[[Room], Figure]] = {
        "seam": seam, "poles": poles, "tilt": tilt, "yaw": yaw, "cross": cross, "edges": edges, "planes": planes,
        "whole": whole,
    }  # fmt: skip
    for name, draw in of_room.items():
        save(draw(room), HERE / f"judge-{name}.png")
    save(intervals(), HERE / "judge-intervals.png")


if __name__ == "__main__":
    main()
