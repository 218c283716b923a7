"""Losses: functions on prediction, target and mask of the valid pixels, and the sum that training uses.

What the published code computes in their place is in `mtpano_zoo.losses.published`.
"""

from mtpano_zoo.losses.auxiliary import distance_transform, edge_distance, image_gradient, point_map, sobel
from mtpano_zoo.losses.dense import edge_weighted_l1, frequency_l1, masked_l1
from mtpano_zoo.losses.multi_task import MultiTaskLoss
from mtpano_zoo.losses.semseg import cross_entropy, dice
from mtpano_zoo.losses.validity import check_batch, valid_depth, valid_normals, valid_semseg

__all__ = (
    "MultiTaskLoss",
    "check_batch",
    "cross_entropy",
    "dice",
    "distance_transform",
    "edge_distance",
    "edge_weighted_l1",
    "frequency_l1",
    "image_gradient",
    "masked_l1",
    "point_map",
    "sobel",
    "valid_depth",
    "valid_normals",
    "valid_semseg",
)
