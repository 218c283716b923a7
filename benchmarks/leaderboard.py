"""Score the networks of the package on rendered rooms, streets and real scenes, and write `docs/leaderboard.md`.

Scores are kept in --out, so the same command continues a stopped run, and a second process with the same folder shares
the work. Run: ``python benchmarks/leaderboard.py --real 3D60``.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mtpano_zoo.data import RoomsDataset, ThreeD60DataModule
from mtpano_zoo.evaluation.command import judge, open_predictors
from mtpano_zoo.evaluation.data_sets import EvaluationSet, open_data
from mtpano_zoo.evaluation.predictors import NetworkPredictor, Predictor
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.machine.claims import process_number
from mtpano_zoo.models.latitude import LatitudePrior

PAGE = Path(__file__).parents[1] / "docs" / "leaderboard.md"
NETWORKS = ("mtpano-small.photos", "mtpano-small.rooms", "mtpano-tiny.rooms")
PRIOR, PRIOR_ROOMS = "latitude prior", 200
ROOMS, STREETS, HEIGHT = 8, 8, 128
REAL_HEIGHT = 256
# Columns: title, place in the report, and decimals.
SCORES = {
    "AbsRel": ("mean_over_images", "depth/AbsRel", 3),
    "normals, degrees": ("mean_over_images", "normals/mean", 1),
    "right classes": ("mean_over_images", "semseg/pixel_accuracy", 3),
    "scale": ("measures", "scale/depth", 2),
    "edges": ("measures", "edges/depth", 2),
    "walls": ("measures", "planes/depth", 3),
}
PANORAMIC = {
    "seam": ("measures", "seam/depth", 2),
    "poles": ("measures", "poles/depth", 2),
    "yaw": ("measures", "yaw/depth", 3),
    "tilt": ("measures", "tilt/depth", 3),
    "cross, faces": ("measures", "cross/faces", 3),
    "cross, panorama": ("measures", "cross/panorama", 3),
}
PAIRED = ("depth/AbsRel", "normals/mean", "semseg/pixel_accuracy", "yaw/depth", "tilt/depth", "cross/faces")
HEAD = """# Leaderboard

Scores of the networks that ship with the package and of the best prediction that uses only the latitude of a pixel
(fitted to {prior} training rooms), computed by [`mtpano eval`](judge.md). `mtpano-small.photos` was trained on rendered
rooms, homes and streets, the others on rendered rooms only. The brackets contain 95 % bootstrap intervals over the
panoramas.

{date}, {machine}, PyTorch {torch}, mtpano_zoo {version}.

`python benchmarks/leaderboard.py{options}` writes this page. FOLDER contains 3D60, which we cannot redistribute.
"""
MEANING = (
    "[Evaluation reports](judge.md) explains the columns; `right classes` is the fraction of pixels. The prior ignores "
    "the image, so its low values of yaw and cross are not an achievement."
)


def data_sets(rooms: int, streets: int, real: Path | None) -> Iterator[tuple[str, EvaluationSet]]:
    """Yield the evaluation sets with their titles."""
    yield "Rooms", open_data("rooms", HEIGHT, rooms)
    yield "Streets", open_data("streets", HEIGHT, streets)
    if real is not None:
        samples = ThreeD60DataModule(real, height=REAL_HEIGHT, width=2 * REAL_HEIGHT).dataset("test")
        words = "scanned buildings of 3D60, its split test; distances and normals only"
        facts = {"data": "3D60", "split": "test", "height": REAL_HEIGHT}
        yield "Real scenes", EvaluationSet(samples, (), words, facts)


def predictors() -> list[Predictor]:
    """Return the networks and the baseline."""
    fitted = RoomsDataset("train", PRIOR_ROOMS, HEIGHT, 2 * HEIGHT)
    prior = LatitudePrior(fitted.classes, HEIGHT)
    prior.fit(fitted[i] for i in range(len(fitted)))
    return [*open_predictors(NETWORKS), NetworkPredictor(prior.eval(), PRIOR)]


def machine() -> str:
    """Return a description of the machine."""
    return f"one thread of {os.cpu_count()} {platform.machine()} cores, no GPU"


def cell(point: Mapping[str, Any] | None, digits: int) -> str:
    """Return a value with its interval."""
    if point is None or point["value"] != point["value"]:
        return ""
    value, low, high = (f"{point[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def table(report: Mapping[str, Any], columns: Mapping[str, tuple[str, str, int]]) -> list[str]:
    """Return the lines of a table of all models, without empty columns."""
    models = report["models"]
    found = {
        title: [cell(model[place].get(key), digits) for model in models.values()]
        for title, (place, key, digits) in columns.items()
    }
    kept = {title: cells for title, cells in found.items() if any(cells)}
    lines = [f"| | {' | '.join(kept)} |", f"|---|{'---|' * len(kept)}"]
    return lines + [f"| {name} | {' | '.join(cells[i] for cells in kept.values())} |" for i, name in enumerate(models)]


def paired(report: Mapping[str, Any]) -> list[str]:
    """Return sentences that compare the networks on the same panoramas."""
    sentences = []
    for comparison in report["comparisons"]:
        named = f"{comparison['first']} minus {comparison['second']}"
        parts = [
            f"{name} {point['value']:+.3g} ({point['low']:+.3g} to {point['high']:+.3g})"
            for name in PAIRED
            if (point := comparison["differences"].get(name)) and point["separated"]
        ]
        sentences.append(f"- {named}: {'; '.join(parts) or 'none'}.")
    return ["Differences on the same panoramas whose interval excludes 0:", "", *sentences]


def section(title: str, report: Mapping[str, Any]) -> list[str]:
    """Return the part of the page about one set."""
    data = report["data"]
    size = f"{data['height']} x {2 * data['height']}"
    lines = [f"## {title}", "", f"Panoramas: {data['panoramas']} of {size} pixels: {data['words']}.", ""]
    lines += [*table(report, SCORES), "", *table(report, PANORAMIC), "", *paired(report), ""]
    of_remark: dict[str, list[str]] = {}
    for name, model in report["models"].items():
        for remark in model["remarks"]:
            of_remark.setdefault(remark, []).append(name)
    remarks = [f"- {', '.join(names)}: {remark}." for remark, names in of_remark.items()]
    return lines + (["Remarks:", "", *remarks, ""] if remarks else [])


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page for reports by title."""
    first = next(iter(reports.values()))
    counts = {title: report["data"]["panoramas"] for title, report in reports.items()}
    options = f" --rooms {counts['Rooms']} --streets {counts['Streets']}"
    head = HEAD.format(
        options=f"{options} --real FOLDER" if "Real scenes" in counts else options,
        prior=PRIOR_ROOMS,
        date=datetime.now(UTC).date(),
        machine=machine(),
        torch=torch.__version__.partition("+")[0],
        version=first["version"],
    )
    lines = [line for title, report in reports.items() for line in section(title, report)]
    words = [f"- {sentence}" for sentence in first["protocol"]["words"][1:]]
    return "\n".join([head, *lines, "## Protocol", "", *words, "", MEANING, ""])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="3D60, or a part of it")
    parser.add_argument("--rooms", type=int, default=ROOMS, help="(default %(default)s)")
    parser.add_argument("--streets", type=int, default=STREETS, help="(default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/leaderboard"), help="(default %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="(default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        judged = list(data_sets(options.rooms, options.streets, options.real))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    models = predictors()
    reports: dict[str, dict[str, Any]] = {}
    for title, data in judged:
        begin = time.process_time()
        reports[title] = judge(models, data, options.out / title.lower().replace(" ", "-"), report=print)
        print(f"{title}: {time.process_time() - begin:.0f} s of processor time in this call", flush=True)
    if process_number() == 0:
        write_bytes(options.page, page(reports).encode())


if __name__ == "__main__":
    main()
