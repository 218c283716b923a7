"""`evaluate` scores predictors on a set, image by image, and goes on where it was stopped."""

import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchmetrics import Metric

from mtpano_zoo.errors import InputError
from mtpano_zoo.evaluation.data_sets import EvaluationSet
from mtpano_zoo.evaluation.mistakes import common_mistakes, mistakes
from mtpano_zoo.evaluation.predictors import FolderPredictor, Predictor
from mtpano_zoo.evaluation.protocol import add, build_metrics, labels_of, scores_of
from mtpano_zoo.evaluation.scoring import matched_classes, measure, prepare, with_depth
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.manifest import check_settings, read_manifest, write_manifest
from mtpano_zoo.tasks import MAIN_TASKS

__all__ = ("Judged", "evaluate", "plain")

FORMAT = "mtpano evaluation, 1"
ADVICE = "choose another folder by --out, or remove this one"
ROWS, STATE = "images.jsonl", "state.safetensors"
LOOKED_AT = 3  # images that must show a mistake before it is one
SKIPS = ("yaw", "tilt", "cross")


class Judged:
    """Scores of one predictor on one set.

    Attributes:
        predictor: what was judged.
        rows: one per image: `id`, `scores` of that image by the protocol, and `measures`.
        metrics: the protocol's metrics over all images.
        by_solid_angle: the same, weighted.
        remarks: sentences about units, frames and classes that look wrong.
    """

    def __init__(self, predictor: Predictor, classes: Sequence[str], chosen: Mapping[str, Metric]) -> None:
        self.predictor = predictor
        self.classes = tuple(classes)
        self.chosen = chosen
        self.rows: list[dict[str, Any]] = []
        self.remarks: list[str] = []
        self.metrics, self.by_solid_angle = (self._fresh(solid_angle) for solid_angle in (False, True))

    def _fresh(self, solid_angle: bool) -> dict[str, Metric]:
        tasks = [task for task in MAIN_TASKS if task != "semseg" or self.classes]
        return build_metrics(tasks, self.classes, self.chosen, solid_angle)

    def add(self, sample: Mapping[str, Any], maps: dict[str, Tensor], skip: Collection[str]) -> dict[str, Any]:
        """Score one image and return its row."""
        labels = labels_of(sample)
        own = self._fresh(False)
        for metrics in (own, self.metrics, self.by_solid_angle):
            add(metrics, maps, labels)
        row = {
            "id": sample["id"],
            "scores": scores_of(own),
            "measures": measure(self.predictor, sample, self.classes, maps, skip),
        }
        self.rows.append(row)
        return row

    def state(self) -> dict[str, Tensor]:
        """The sums of all metrics by name."""
        groups = {"pixel": self.metrics, "solid_angle": self.by_solid_angle}
        return {
            f"{group}/{task}/{name}": torch.as_tensor(value).contiguous()
            for group, metrics in groups.items()
            for task, metric in metrics.items()
            if metric.update_called
            for name, value in metric.metric_state.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        groups = {"pixel": self.metrics, "solid_angle": self.by_solid_angle}
        for key, value in state.items():
            group, task, name = key.split("/")
            metric = groups[group][task]
            setattr(metric, name, value)
            metric._update_count = 1  # `compute` warns, and `update_called` is false, without


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
    """Score predictors on a set. `OUT/NAME/` keeps one row per image, so that a second call goes on.

    Args:
        predictors: with different names.
        data: see `mtpano_zoo.evaluation.data_sets.open_data`.
        out: folder.
        chosen: metrics by task in place of the defaults, see `read_protocol`.
        protocol: its name, which the folder records.
        skip: measures that run a predictor again: `yaw`, `tilt`, `cross`.
        force: score predictions in a folder even if they look wrong.
        report: called with the progress.

    Raises:
        InputError: If names repeat, a folder holds results of other settings, or predictions in a folder look as if in
            another unit or frame than stated.
    """
    names = [predictor.name for predictor in predictors]
    if not names or len({_slug(name) for name in names}) < len(names):
        raise InputError(f"models need different names, and there must be one: got {', '.join(names) or 'none'}")
    if unknown := sorted(set(skip) - set(SKIPS)):
        raise InputError(f"--skip leaves out {', '.join(SKIPS)}, not {unknown[0]}")
    return [
        _judge(predictor, data, Path(out) / _slug(predictor.name), chosen or {}, protocol, skip, force, report)
        for predictor in predictors
    ]


def _slug(name: str) -> str:
    """Return a name as one for a folder."""
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
    _claim(folder, {"format": FORMAT, "model": predictor.facts(), "settings": settings})
    _resume(judged, folder, [samples.name(i) for i in range(len(samples))])
    for i in range(len(judged.rows), len(samples)):
        sample = samples[i]
        maps = prepare(predictor(sample["image"], sample["id"]), predictor, data.classes)
        row = judged.add(sample, maps, skip)
        # The row comes first: a state that counts fewer images than there are rows drops the rows beyond.
        _append(folder / ROWS, row)
        content = safetensors.torch.save(judged.state(), {"images": str(i + 1)})
        write_bytes(folder / STATE, content)
        report(f"{predictor.name}: {i + 1} of {len(samples)} panoramas")
    return judged


def _checked(predictor: Predictor, data: EvaluationSet, force: bool) -> list[str]:
    found = []
    for i in range(min(LOOKED_AT, len(data.samples))):
        sample = data.samples[i]
        labels = labels_of(sample)
        found.append(mistakes(with_depth(predictor(sample["image"], sample["id"]), labels), labels))
    sentences = common_mistakes(found)
    if sentences and isinstance(predictor, FolderPredictor) and not force:
        raise InputError(f"{predictor.folder}: {'; '.join(sentences)}; correct it, or score it all the same by --force")
    return sentences


def _claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    known = read_manifest(folder, FORMAT)
    if known is not None:
        check_settings(folder, known, json.loads(json.dumps(manifest)), ADVICE)
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something else than an evaluation: {ADVICE}")
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, manifest)


def _resume(judged: Judged, folder: Path, ids: Sequence[str]) -> None:
    """Take over the rows that are there, up to the first that the state does not count or that is cut off.

    Raises:
        InputError: If there are more than wanted: the sums over all of them cannot be taken apart.
    """
    rows = []
    written = (folder / ROWS).read_bytes() if (folder / ROWS).is_file() else b""
    for line in written.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            counted = int((file.metadata() or {}).get("images", 0))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError):
        counted, state = 0, {}
    if len(ids) < counted <= len(rows):
        raise InputError(f"{folder} holds {counted} panoramas, more than the {len(ids)} asked for: {ADVICE}")
    usable = 0 < counted <= len(rows) and [row.get("id") for row in rows[:counted]] == list(ids[:counted])
    kept = rows[:counted] if usable else []
    if usable:
        judged.restore(state)
        judged.rows = kept
    lines = b"".join(_line(row) for row in kept)
    if lines != written:
        write_bytes(folder / ROWS, lines)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(row)).encode() + b"\n"


def plain(value: Any) -> Any:
    """Replace what JSON does not know: NaN and infinity become null.

    Example:
        >>> plain({"a": (1.0, float("nan"))})
        {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _append(path: Path, row: Mapping[str, Any]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, _line(row))
    finally:
        os.close(descriptor)
