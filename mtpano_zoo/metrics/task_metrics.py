"""The metrics of each main task; `TASK_METRICS` is the list of them."""

from collections.abc import Callable, Sequence

from torchmetrics import Metric

from mtpano_zoo.metrics.depth import DepthMetrics
from mtpano_zoo.metrics.disparity import DisparityMetrics
from mtpano_zoo.metrics.normals import NormalsMetrics
from mtpano_zoo.metrics.semseg import SemsegMetrics
from mtpano_zoo.metrics.valid import ValidMetrics

__all__ = ("TASK_METRICS",)

# The metrics of each main task with their defaults, for the names of the classes. `update` takes the output and the
# labels of the task, in the order of `mtpano_zoo.tasks.Task.labels`.
TASK_METRICS: dict[str, Callable[[Sequence[str]], Metric]] = {
    "semseg": lambda classes: SemsegMetrics(classes=classes),
    "depth": lambda _: DepthMetrics(),
    "normals": lambda _: NormalsMetrics(),
    "valid": lambda _: ValidMetrics(),
    "disparity": lambda _: DisparityMetrics(),
}
