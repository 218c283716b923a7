"""The report of an evaluation as plain data: scores, measures with intervals, comparisons, the protocol in words."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mtpano_zoo
from mtpano_zoo.evaluation.data_sets import EvaluationSet
from mtpano_zoo.evaluation.protocol import scores_of, words
from mtpano_zoo.evaluation.runner import Judged, plain
from mtpano_zoo.evaluation.scoring import MEANING
from mtpano_zoo.evaluation.statistics import Interval, bootstrap, compare
from mtpano_zoo.image_io import write_bytes

__all__ = (
    "CURVES",
    "FORMAT",
    "HARDNESS",
    "build_report",
    "full_name",
    "values_by_id",
    "write_json",
)

FORMAT = "mtpano evaluation report, 1"
CURVES = ("bands", "turned")  # several values each, shown as curves
# Scores that rank the images, of which the first that exists is used; 1 if larger is worse, else -1.
HARDNESS = {"depth/AbsRel": 1, "normals/mean": 1, "semseg/pixel_accuracy": -1, "disparity/AbsRel": 1}
WHY = {
    "turns": "yaw and tilt: a folder has no predictions for rotated panoramas",
    "faces": "cross-projection: it does not predict distances for perspective views",
}


def values_by_id(judged: Judged, name: str) -> dict[str, Any]:
    """Return a measure by image id; None where an image lacks it."""
    return {row["id"]: row["measures"].get(name) for row in judged.rows}


def build_report(
    judged: Sequence[Judged], data: EvaluationSet, protocol: str, skip: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the whole report as plain data.

    Args:
        judged: results of `evaluate`.
        data: panoramas that were scored.
        protocol: name of the protocol.
        skip: measures that were left out.
    """
    contents = "".join(judged[0].contents)
    files = {"files": hashlib.sha256(contents.encode()).hexdigest()} if contents else {}
    return {
        "format": FORMAT,
        "version": mtpano_zoo.__version__,
        "data": {"words": data.words, "panoramas": len(data.samples), **data.facts, **files},
        "protocol": {"name": protocol, "words": _protocol_words(judged[0], data)},
        "meaning": MEANING,
        "models": {one.predictor.name: _of_model(one, skip) for one in judged},
        "comparisons": [_comparison(a, b) for a, b in itertools.combinations(judged, 2)],
    }


def _protocol_words(judged: Judged, data: EvaluationSet) -> list[str]:
    scored = {task: metric for task, metric in judged.metrics.items() if metric.update_called}
    intervals = "Intervals are 95 % bootstrap intervals over the images (1000 draws with replacement, seed 0)."
    own = (
        "Measures are computed for every image and added up. Before seam, poles, yaw and tilt, a common scale of "
        "distances, an exchange of axes of normals and a swap of classes are undone, so that one mistake does not "
        "count twice. For the same reason scale, yaw, tilt, edges and planes use latitudes up to 60 degrees without a "
        "sixteenth of the columns at either edge, and poles and seam each leave out the region of the other."
    )
    turned = (
        "For yaw the panorama is rolled by a quarter, a half and 0.71 of its columns; for tilt the camera pitches and "
        "rolls by 10, 20 and 30 degrees: tilted labels are resampled, and pixels beside a boundary do not count there. "
        "For the cross-projection a network sees each cube face alone, on a sphere that is black elsewhere."
    )
    return [f"Scored on {len(data.samples)} panoramas: {data.words}.", *words(scored), intervals, own, turned]


def _of_model(judged: Judged, skip: Sequence[str]) -> dict[str, Any]:
    names = dict.fromkeys(name for row in judged.rows for name in row["measures"])
    left_out = [f"{name}: left out by --skip" for name in skip]
    left_out += [] if judged.predictor.turns else [WHY["turns"]]
    left_out += [] if judged.predictor.faces is not None else [WHY["faces"]]
    return {
        "words": judged.predictor.words,
        "remarks": judged.remarks,
        "left_out": left_out,
        "scores": scores_of(judged.metrics),
        "scores_by_solid_angle": scores_of(judged.by_solid_angle),
        "mean_over_images": {name: asdict(_mean_score(judged, name)) for name in _score_names(judged)},
        "measures": {
            name: asdict(bootstrap(list(values_by_id(judged, name).values())))
            for name in names
            if name.split("/")[0] not in CURVES
        },
        "curves": {name: _curve(judged, name) for name in names if name.split("/")[0] in CURVES},
        "worst": _worst_images(judged),
    }


def _score_names(judged: Judged) -> list[str]:
    names = dict.fromkeys(name for row in judged.rows for name in row["scores"])
    return [name for name in names if not name.startswith("semseg/IoU/")]


def _scores_by_id(judged: Judged, name: str) -> dict[str, Any]:
    """Return a score by image id: NaN if a prediction was not finite (rows store None); None without a label."""
    found = {row["id"]: row["scores"][name] for row in judged.rows if name in row["scores"]}
    known = {key: (math.nan if value is None else value, 1.0) for key, value in found.items()}
    return {row["id"]: known.get(row["id"]) for row in judged.rows}


def _mean_score(judged: Judged, name: str) -> Interval:
    return bootstrap(list(_scores_by_id(judged, name).values()))


def _curve(judged: Judged, name: str) -> dict[str, Any]:
    rows = [value for value in values_by_id(judged, name).values() if value is not None]
    points = dict.fromkeys(point for row in rows for point in row)
    return {point: asdict(bootstrap([row.get(point) for row in rows])) for point in points}


def full_name(name: str, names: Iterable[str]) -> str | None:
    """Return a score's name with the alignment that a protocol adds to it; None if there is no such score.

    Example:
        >>> full_name("depth/AbsRel", ["depth/RMSE", "depth/AbsRel/median_aligned"])
        'depth/AbsRel/median_aligned'
    """
    return next((found for found in names if found == name or found.startswith(f"{name}/")), None)


def _worst_images(judged: Judged) -> list[str]:
    """Return the ids of the three images with the worst score, the worst first."""
    for general, sign in HARDNESS.items():
        if (name := full_name(general, _score_names(judged))) is None:
            continue
        known = {key: value[0] * sign for key, value in _scores_by_id(judged, name).items() if value is not None}
        if known:
            return sorted(known, key=lambda key: (not math.isnan(known[key]), -known[key], key))[:3]
    return []


def _comparison(first: Judged, second: Judged) -> dict[str, Any]:
    names = [n for n in _score_names(first) if n in set(_score_names(second))]
    shared = dict.fromkeys(name for row in first.rows for name in row["measures"])
    also = {name for row in second.rows for name in row["measures"]}
    differences = {name: compare(_scores_by_id(first, name), _scores_by_id(second, name)) for name in names}
    differences |= {
        name: compare(values_by_id(first, name), values_by_id(second, name))
        for name in shared
        if name in also and name.split("/")[0] not in CURVES
    }
    return {
        "first": first.predictor.name,
        "second": second.predictor.name,
        "differences": {
            name: asdict(value) | {"separated": bool(value.low > 0 or value.high < 0)}
            for name, value in differences.items()
        },
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report; NaN and infinity become null."""
    write_bytes(path, (json.dumps(plain(report), indent=1) + "\n").encode())
