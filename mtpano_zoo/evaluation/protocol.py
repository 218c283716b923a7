"""The published protocols: the metrics of every task, from `TASK_METRICS` or a configuration `evaluate-*.yaml`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torchmetrics import Metric

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import read_file
from mtpano_zoo.losses.validity import valid_depth
from mtpano_zoo.metrics import defined_scores, labels_of_metric, metrics_of
from mtpano_zoo.metrics.pooling import PanoramaMetric
from mtpano_zoo.resources import configuration, shipped
from mtpano_zoo.tasks import MAIN_TASKS
from mtpano_zoo.text_files import read_yaml

__all__ = ("DEFAULTS", "add", "build_metrics", "labels_of", "read_protocol", "recorded_name", "scores_of", "words")

DEFAULTS = "defaults"


def read_protocol(name: str | Path | None) -> dict[str, Metric]:
    """Return the metrics by task of a shipped configuration, such as `evaluate-unaligned-10m.yaml`, or of a file.

    As for `mtpano test`, they are in its section `model: metrics:` or `model: init_args: metrics:`. Without a name the
    result is empty, and the defaults of `TASK_METRICS` apply.

    Raises:
        InputError: If the file has no such section, or a metric cannot be built.

    Example:
        >>> read_protocol("evaluate-unaligned-10m.yaml")["depth"].max_depth
        10.0
    """
    if name is None:
        return {}
    path = configuration(name)
    content = read_yaml(path)
    section = _section(content, "model", "metrics") or _section(content, "model", "init_args", "metrics")
    if not isinstance(section, dict) or not section.keys() <= MAIN_TASKS.keys():
        raise InputError(f"{path} is not a protocol: it needs `model: {{metrics: {{depth: ...}}}}` with tasks as keys")
    metrics: dict[str, Metric] = {}
    for task, described in section.items():
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(Metric, "metric", required=True)
        try:
            metrics[task] = parser.instantiate(parser.parse_object({"metric": described})).metric
        except Exception as error:  # jsonargparse raises its own errors, argparse's and those of the constructor
            raise InputError(f"{path}: the metric of {task} cannot be built ({str(error).splitlines()[0]})") from error
    return metrics


def recorded_name(name: str | Path | None) -> str:
    """Return what an evaluation records of a protocol: its name, with a hash of the content if it is your own file.

    Example:
        >>> recorded_name("evaluate-unaligned-10m.yaml"), recorded_name(None)
        ('evaluate-unaligned-10m.yaml', 'defaults')
    """
    if name is None:
        return DEFAULTS
    path = configuration(name)
    if path.resolve().is_relative_to(shipped("configs").resolve()):
        return path.name
    return f"{path.name} ({hashlib.sha256(read_file(path)).hexdigest()[:16]})"


def _section(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def build_metrics(
    tasks: Sequence[str], classes: Sequence[str], chosen: Mapping[str, Metric], solid_angle: bool = False
) -> dict[str, Metric]:
    """Return fresh metrics by task; with `solid_angle` a pixel counts by the solid angle that it covers."""
    metrics = metrics_of(tasks, classes, chosen)
    for metric in metrics.values():
        metric.reset()
        if solid_angle:
            metric.weighting = "solid_angle"
    return metrics


def labels_of(sample: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the labels of a sample; if it has no inverse distances, derive them from its depth.

    Example:
        >>> labels_of({"depth": torch.tensor([[2.0, 0.0]])})["disparity"].tolist()
        [[0.5, 0.0]]
    """
    labels = {key: values for key, values in sample.items() if isinstance(values, Tensor) and key != "image"}
    if "depth" in labels and "disparity" not in labels:
        known = valid_depth(labels["depth"])
        labels["disparity"] = torch.where(known, 1 / torch.where(known, labels["depth"], 1), 0)
        labels["disparity_valid"] = known
    return labels


def add(metrics: Mapping[str, Metric], maps: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> None:
    """Add an image to every metric whose map and labels exist."""
    for task, metric in metrics.items():
        needed = labels_of_metric(task, metric)
        if task not in maps or not all(key in labels for key in needed):
            continue
        values = maps[task][None]
        if task == "valid":
            values = torch.where(values, 1.0, -1.0)
        if task in ("valid", "disparity"):
            values = values[:, None]
        metric.update(values, *(labels[key][None] for key in needed))


def scores_of(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return the scores that have a value, named `TASK/SCORE`."""
    return {
        f"{task}/{name}": float(value)
        for task, metric in metrics.items()
        if metric.update_called
        for name, value in defined_scores(metric).items()
    }


def words(metrics: Mapping[str, Metric]) -> list[str]:
    """Return sentences about what the metrics count."""
    sentences = ["Scores count pixels; those by solid angle weight a pixel by the part of the sphere that it covers."]
    for task, metric in metrics.items():
        parts = metric.facts() if isinstance(metric, PanoramaMetric) else []
        if reduction := getattr(metric, "reduction", None):
            parts.append("all pixels pooled" if reduction == "pixel" else "averaged over images")
        sentences.append(f"{task}: {', '.join(filter(None, (type(metric).__name__, '; '.join(parts))))}.")
    return sentences
