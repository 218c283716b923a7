"""The metrics of each main task, by task in `TASK_METRICS`."""

from collections.abc import Callable, Sequence

from torchmetrics import Metric

from mtpano_zoo.metrics.depth import DepthMetrics
from mtpano_zoo.metrics.disparity import DisparityMetrics
from mtpano_zoo.metrics.normals import NormalsMetrics
from mtpano_zoo.metrics.semseg import SemsegMetrics
from mtpano_zoo.metrics.valid import ValidMetrics

__all__ = ("TASK_METRICS",)

# Functions that take the class names and return the metrics of a task with their defaults. Their `update` takes the
# output and the labels of the task, in the order of `mtpano_zoo.tasks.Task.labels`.
TASK_METRICS: dict[str, Callable[[Sequence[str]], Metric]] = {
    "semseg": lambda classes: SemsegMetrics(classes=classes),
    "depth": lambda _: DepthMetrics(),
    "normals": lambda _: NormalsMetrics(),
    "valid": lambda _: ValidMetrics(),
    "disparity": lambda _: DisparityMetrics(),
}
