"""The metrics of each main task, by task in `TASK_METRICS`."""

from collections.abc import Callable, Mapping, Sequence

from torchmetrics import Metric

from mtpano_zoo.metrics.depth import DepthMetrics
from mtpano_zoo.metrics.disparity import DisparityMetrics
from mtpano_zoo.metrics.normals import NormalsMetrics
from mtpano_zoo.metrics.semseg import SemsegMetrics
from mtpano_zoo.metrics.valid import ValidMetrics
from mtpano_zoo.tasks import MAIN_TASKS

__all__ = ("TASK_METRICS", "labels_of_metric", "metrics_of")

# Functions that take the class names and return the metrics of a task with their defaults. Their `update` takes the
# output and the labels that `labels_of_metric` returns.
TASK_METRICS: dict[str, Callable[[Sequence[str]], Metric]] = {
    "semseg": lambda classes: SemsegMetrics(classes=classes),
    "depth": lambda _: DepthMetrics(),
    "normals": lambda _: NormalsMetrics(),
    "valid": lambda _: ValidMetrics(),
    "disparity": lambda _: DisparityMetrics(),
}


def labels_of_metric(task: str, metric: Metric) -> tuple[str, ...]:
    """Return which labels a metric compares the output of a task with: its own `compared_with`, or those of the task.

    Example:
        >>> from mtpano_zoo.metrics import RelativeDepthMetrics
        >>> labels_of_metric("disparity", DisparityMetrics()), labels_of_metric("disparity", RelativeDepthMetrics())
        (('disparity', 'disparity_valid'), ('depth',))
    """
    labels: tuple[str, ...] = getattr(metric, "compared_with", MAIN_TASKS[task].labels)
    return labels


def metrics_of(tasks: Sequence[str], classes: Sequence[str], chosen: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the metrics of tasks: copies of the chosen ones, else those of `TASK_METRICS` with their defaults.

    Example:
        >>> list(metrics_of(["semseg", "depth"], ["floor", "wall"], {}))
        ['semseg', 'depth']
    """
    metrics = {task: chosen[task].clone() if task in chosen else TASK_METRICS[task](classes) for task in tasks}
    if isinstance(semseg := metrics.get("semseg"), SemsegMetrics) and not semseg.classes:
        semseg.name_classes(classes)
    return metrics
