"""Metrics: functions on maps and weights, and classes that sum over a data set in constant memory."""

from mtpano_zoo.metrics.depth import DepthMetrics
from mtpano_zoo.metrics.disparity import DisparityMetrics
from mtpano_zoo.metrics.normals import NormalsMetrics, angular_error
from mtpano_zoo.metrics.pooling import defined_scores
from mtpano_zoo.metrics.relative_depth import DepthAnywhereMetrics, RelativeDepthMetrics
from mtpano_zoo.metrics.semseg import SemsegMetrics
from mtpano_zoo.metrics.task_metrics import TASK_METRICS, labels_of_metric, metrics_of
from mtpano_zoo.metrics.valid import ValidMetrics

__all__ = (
    "TASK_METRICS",
    "DepthAnywhereMetrics",
    "DepthMetrics",
    "DisparityMetrics",
    "NormalsMetrics",
    "RelativeDepthMetrics",
    "SemsegMetrics",
    "ValidMetrics",
    "angular_error",
    "defined_scores",
    "labels_of_metric",
    "metrics_of",
)
