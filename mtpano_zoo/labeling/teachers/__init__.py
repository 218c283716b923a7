"""Networks that label perspective images, and an oracle that knows the ground truth."""

from mtpano_zoo.labeling.teachers.base import DepthKind, Teacher, ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.depth_estimator import DepthEstimator
from mtpano_zoo.labeling.teachers.moge import MoGe
from mtpano_zoo.labeling.teachers.normals import NormalsFromDepth, normals_from_depth
from mtpano_zoo.labeling.teachers.oracle import OracleTeacher
from mtpano_zoo.labeling.teachers.segmenter import Segmenter

__all__ = (
    "DepthEstimator",
    "DepthKind",
    "MoGe",
    "NormalsFromDepth",
    "OracleTeacher",
    "Segmenter",
    "Teacher",
    "ViewImages",
    "ViewLabels",
    "normals_from_depth",
)
