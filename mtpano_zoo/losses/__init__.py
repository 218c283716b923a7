"""Losses: functions of prediction, target and mask of the valid pixels, and the sum that training uses."""

from mtpano_zoo.losses.affine_invariant import AffineInvariantLoss, disparity_of
from mtpano_zoo.losses.auxiliary import distance_transform, edge_distance, image_gradient, point_map, sobel
from mtpano_zoo.losses.base import Loss, TaskLoss
from mtpano_zoo.losses.dense import affine_invariant_l1, edge_weighted_l1, frequency_l1, masked_l1
from mtpano_zoo.losses.depth import DAPLoss, dense_fidelity, depth_edges, mask_error, normals_l1, points_l1, silog
from mtpano_zoo.losses.multi_task import MultiTaskLoss
from mtpano_zoo.losses.published import PublishedLoss
from mtpano_zoo.losses.task_losses import (
    TASK_LOSSES,
    DepthLoss,
    DisparityLoss,
    LogDepthLoss,
    NormalsLoss,
    SemsegLoss,
    ValidLoss,
)
from mtpano_zoo.losses.validity import check_batch, valid_depth, valid_normals, valid_semseg

__all__ = (
    "TASK_LOSSES",
    "AffineInvariantLoss",
    "DAPLoss",
    "DepthLoss",
    "DisparityLoss",
    "LogDepthLoss",
    "Loss",
    "MultiTaskLoss",
    "NormalsLoss",
    "PublishedLoss",
    "SemsegLoss",
    "TaskLoss",
    "ValidLoss",
    "affine_invariant_l1",
    "check_batch",
    "dense_fidelity",
    "depth_edges",
    "disparity_of",
    "distance_transform",
    "edge_distance",
    "edge_weighted_l1",
    "frequency_l1",
    "image_gradient",
    "mask_error",
    "masked_l1",
    "normals_l1",
    "point_map",
    "points_l1",
    "silog",
    "sobel",
    "valid_depth",
    "valid_normals",
    "valid_semseg",
)
