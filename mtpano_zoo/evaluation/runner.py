"""`evaluate` scores predictors on a set, image by image, in any number of processes, and resumes where it stopped.

`OUT/NAME/` holds::

    manifest.json               settings that determine the numbers: predictor, data, protocol
    images/ID.safetensors       the row of one panorama, and what it adds to the sums of the metrics
    images.jsonl                all rows, once they are complete

The file of a panorama is complete or absent. Processes share the panoramas by claims; sums are added up in the order of
the panoramas, so that the numbers do not depend on which process scored which panorama.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torchmetrics import Metric

from mtpano_zoo.errors import InputError
from mtpano_zoo.evaluation.data_sets import EvaluationSet
from mtpano_zoo.evaluation.mistakes import common_mistakes, mistakes
from mtpano_zoo.evaluation.predictors import FolderPredictor, Predictor
from mtpano_zoo.evaluation.protocol import add, build_metrics, labels_of, scores_of
from mtpano_zoo.evaluation.scoring import matched_classes, measure, prepare, with_depth
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.machine.claims import Claims, in_turn, process_number, processes
from mtpano_zoo.manifest import claim_folder
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.tasks import MAIN_TASKS

__all__ = ("Judged", "evaluate", "plain")

FORMAT = "mtpano evaluation, 3"
ADVICE = "choose another folder with --out, or remove this one"
IMAGES, ROWS, CLAIMS = "images", "images.jsonl", ".claims"
LOOKED_AT = 3  # number of images that must all show a mistake before it is reported
SKIPS = ("yaw", "tilt", "cross")


class Judged:
    """Scores of one predictor on one set.

    Attributes:
        predictor: the predictor.
        rows: one per image: `id`, `scores` of that image by the protocol, and `measures`.
        contents: hash of the files of each image; empty for rendered scenes.
        metrics: the protocol's metrics over all images.
        by_solid_angle: the same metrics, weighted by solid angle.
        remarks: sentences about units, frames and classes that look wrong.
    """

    def __init__(self, predictor: Predictor, classes: Sequence[str], chosen: Mapping[str, Metric]) -> None:
        self.predictor = predictor
        self.classes = tuple(classes)
        self.chosen = chosen
        self.rows: list[dict[str, Any]] = []
        self.contents: list[str] = []
        self.remarks: list[str] = []
        self.metrics, self.by_solid_angle = (self._fresh(solid_angle) for solid_angle in (False, True))

    def _fresh(self, solid_angle: bool) -> dict[str, Metric]:
        tasks = [task for task in MAIN_TASKS if task != "semseg" or self.classes]
        return build_metrics(tasks, self.classes, self.chosen, solid_angle)

    def score(
        self, sample: Mapping[str, Any], maps: dict[str, Tensor], skip: Collection[str]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the row of one image, and by name the states of metrics over this image alone."""
        labels = labels_of(sample)
        own, weighted = (self._fresh(solid_angle) for solid_angle in (False, True))
        for metrics in (own, weighted):
            add(metrics, maps, labels)
        row = {
            "id": sample["id"],
            "scores": scores_of(own),
            "measures": measure(self.predictor, sample, self.classes, maps, skip),
            "missing": [task for task in MAIN_TASKS if task in labels and task not in maps],
        }
        states = {
            f"{group}/{task}/{name}": torch.as_tensor(value).contiguous()
            for group, metrics in (("pixel", own), ("solid_angle", weighted))
            for task, metric in metrics.items()
            if metric.update_called
            for name, value in metric.metric_state.items()
        }
        return row, states

    def take(self, row: dict[str, Any], states: Mapping[str, Tensor], contents: str) -> None:
        """Add what `score` returned for an image, and the hash of its files, to the rows and sums."""
        self.rows.append(row)
        self.contents.append(contents)
        of_metric: dict[tuple[str, str], dict[str, Tensor]] = {}
        for key, value in states.items():
            group, task, name = key.split("/")
            of_metric.setdefault((group, task), {})[name] = value
        for (group, task), state in of_metric.items():
            metric = (self.metrics if group == "pixel" else self.by_solid_angle)[task]
            metric.merge_state(state)
            metric._update_count = len(self.rows)  # without it, `compute` warns and `update_called` is false


def evaluate(
    predictors: Sequence[Predictor],
    data: EvaluationSet,
    out: str | Path,
    *,
    chosen: Mapping[str, Metric] | None = None,
    protocol: str = "defaults",
    skip: Collection[str] = (),
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[Judged]:
    """Score predictors on a set; panoramas that `OUT/NAME/` already has are not scored again.

    Every process of torchrun or SLURM, or started by hand with the same folder, scores panoramas that no other process
    has begun, and returns when all are scored.

    Args:
        predictors: predictors with different names.
        data: panoramas, see `mtpano_zoo.evaluation.data_sets.open_data`.
        out: output folder.
        chosen: metrics by task in place of the defaults, see `read_protocol`.
        protocol: name of the protocol, which the folder records.
        skip: measures to leave out: `yaw`, `tilt`, `cross`, which run a predictor again.
        force: score predictions in a folder even if they look wrong.
        report: called with progress messages.

    Raises:
        InputError: If names repeat, a folder holds results of other settings, or predictions in a folder seem to be in
            another unit or frame than stated.
    """
    names = [predictor.name for predictor in predictors]
    if not names or len({_slug(name) for name in names}) < len(names):
        raise InputError(f"pass at least one model, and no two with the same name: got {', '.join(names) or 'none'}")
    if unknown := sorted(set(skip) - set(SKIPS)):
        raise InputError(f"--skip takes {', '.join(SKIPS)}, not {unknown[0]}")
    data = replace(data, contents=cache(data.contents))  # once for all predictors: files must not change meanwhile
    return [
        _judge(predictor, data, Path(out) / _slug(predictor.name), chosen or {}, protocol, skip, force, report)
        for predictor in predictors
    ]


def _slug(name: str) -> str:
    """Return a name that is safe for a folder."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "model"


def _judge(
    predictor: Predictor,
    data: EvaluationSet,
    folder: Path,
    chosen: Mapping[str, Metric],
    protocol: str,
    skip: Collection[str],
    force: bool,
    report: Callable[[str], None],
) -> Judged:
    judged = Judged(predictor, data.classes, chosen)
    if matched_classes(predictor.classes, data.classes) is None and data.classes:
        judged.remarks.append("its classes and those of the data share no name: semseg is left out")
    elif predictor.classes and (unknown := [name for name in data.classes if name not in predictor.classes]):
        judged.remarks.append(f"it does not know these classes of the data, which count as wrong: {', '.join(unknown)}")
    samples = data.samples
    judged.remarks += _checked(predictor, data, force)
    settings = {"data": data.facts, "protocol": protocol, "skip": sorted(skip)}
    manifest = {"format": FORMAT, "model": predictor.facts(), "settings": settings}
    claim_folder(folder, manifest, ADVICE)
    _score_missing(judged, data, folder, skip, report)
    for i in range(len(samples)):
        path = _path(folder, samples.name(i))
        scored = _read(path)
        if scored is None:
            raise InputError(f"{path} was removed or damaged while others were scored: run this again")
        judged.take(*scored)
    judged.remarks += _missing(judged.rows)
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in judged.rows)
    write_bytes(folder / ROWS, rows)
    return judged


def _missing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for which tasks only some of the labelled panoramas have a prediction."""
    predicted = {name.split("/")[0] for row in rows for name in row["scores"]}
    counts = {task: sum(task in row.get("missing", ()) for row in rows) for task in sorted(predicted)}
    return [f"no prediction of {task} for {count} of the labelled panoramas" for task, count in counts.items() if count]


def _score_missing(
    judged: Judged, data: EvaluationSet, folder: Path, skip: Collection[str], report: Callable[[str], None]
) -> None:
    """Score the panoramas that no process has scored; those that another one works on come last."""
    samples, predictor = data.samples, judged.predictor
    claims = Claims(folder / CLAIMS)
    start = len(samples) * process_number() // processes()
    try:
        for i in in_turn(range(len(samples)), lambda i: claims.take(samples.name(i)), start):
            path, contents = _path(folder, samples.name(i)), data.contents(i)
            scored = _read(path)
            if scored is not None and scored[2] != contents:
                raise InputError(
                    f"the image or labels of {samples.name(i)} changed after they were scored: choose another folder "
                    f"with --out, or remove {path}"
                )
            if scored is None:
                sample = samples[i]
                maps = prepare(predictor(sample["image"], sample["id"]), predictor, data.classes)
                row, states = judged.score(sample, maps, skip)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, safetensors.torch.save(states, {"row": json.dumps(plain(row)), "contents": contents}))
                report(f"{predictor.name}: panorama {i + 1} of {len(samples)} is scored")
            claims.release(samples.name(i))
    finally:
        claims.close()


def _path(folder: Path, sample_id: str) -> Path:
    return path_below(folder / IMAGES, sample_id, ".safetensors")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], str] | None:
    """Return row, states and hash of the contents of a panorama; None if they are not there or damaged."""
    try:
        data = path.read_bytes()  # `safe_open` opens no file whose name is not UTF-8
        states = safetensors.torch.load(data)
        facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        return json.loads(facts["row"]), states, facts["contents"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _checked(predictor: Predictor, data: EvaluationSet, force: bool) -> list[str]:
    found = []
    for i in range(min(LOOKED_AT, len(data.samples))):
        sample = data.samples[i]
        labels = labels_of(sample)
        maps = prepare(predictor(sample["image"], sample["id"]), predictor, data.classes)
        found.append(mistakes(with_depth(maps, labels), labels))
    sentences = common_mistakes(found)
    if sentences and isinstance(predictor, FolderPredictor) and not force:
        raise InputError(f"{predictor.folder}: {'; '.join(sentences)}; correct it, or pass --force to score it anyway")
    return sentences


def plain(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None.

    Example:
        >>> plain({"a": (1.0, float("nan"))})
        {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
