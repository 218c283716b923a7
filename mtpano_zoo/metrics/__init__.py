"""Metrics: functions on maps and weights, and classes that sum over a data set in constant memory."""

from mtpano_zoo.metrics.depth import DepthMetrics
from mtpano_zoo.metrics.normals import NormalsMetrics, angular_error
from mtpano_zoo.metrics.pooling import defined_scores
from mtpano_zoo.metrics.semseg import SemsegMetrics

__all__ = ("DepthMetrics", "NormalsMetrics", "SemsegMetrics", "angular_error", "defined_scores")
