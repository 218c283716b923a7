"""Normals from depth, for teachers without normals."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.base import Teacher, ViewImages, ViewLabels

__all__ = ("NormalsFromDepth", "normals_from_depth")

EDGE = 0.02  # relative bend of inverse depth above which two neighbours belong to different surfaces


class NormalsFromDepth(nn.Module, Teacher):
    """Add to the labels of a teacher the normals of the surface that its depth describes.

    Normals do not depend on the scale of depth, but on its offset: they are undefined for disparity up to an offset.

    Args:
        teacher: Teacher with depth, metric or up to scale. If it has normals of its own, they are kept.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.classes = tuple(teacher.classes)
        self.provenance: Mapping[str, Any] = {
            "name": type(self).__name__,
            "options": {"edge": EDGE},
            "teacher": teacher.provenance,
        }

    def forward(self, seen: ViewImages) -> ViewLabels:
        """Label all views of a panorama.

        Raises:
            InputError: If the teacher has no depth, or only disparity.
        """
        labels = self.teacher(seen)
        if labels.normals is not None:
            return labels
        name = self.teacher.provenance["name"]
        if labels.depth is None:
            raise InputError(f"normals need depth, but {name} predicts none")
        if labels.depth_kind == "disparity":
            raise InputError(
                f"normals need depth, but {name} predicts disparity up to an offset, which bends every plane"
            )
        depth, intrinsics = labels.depth, seen.views.intrinsics.to(labels.depth)
        if labels.along_ray:
            depth = sphere.distance_to_z(depth, intrinsics)
        return replace(labels, normals=normals_from_depth(depth, intrinsics))


def normals_from_depth(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Return unit normals (V, 3, h, w), towards the camera and in its frame, of the surface of z-depth (V, h, w).

    A normal is the cross product of differences between neighbours. Inverse depth is linear over a plane in
    perspective, so a surface ends where it bends, and the difference is taken on the flatter side. Next to pixels
    without depth it is taken on the other side; if neither side has depth, or depth is not positive, the normal is
    zero.

    Args:
        depth: Z-depth in any unit.
        intrinsics: Pinhole matrices (V, 3, 3) in pixels.

    Example:
        >>> intrinsics = torch.tensor([[[4.0, 0.0, 2.0], [0.0, 4.0, 2.0], [0.0, 0.0, 1.0]]])
        >>> wall = torch.full((1, 4, 4), 2.0)
        >>> round(normals_from_depth(wall, intrinsics)[0, 2, 1, 1].item(), 4)
        -1.0
    """
    rays = sphere.perspective_rays(*depth.shape[-2:], intrinsics=intrinsics.to(depth), normalize=False)
    known = depth.isfinite() & (depth > 0)
    points = torch.where(known[..., None], depth[..., None] * rays, 0)
    inverse = torch.where(known, 1 / torch.where(known, depth, 1), 0)
    across, down = (_slope(points, inverse, known, axis) for axis in (2, 1))
    normals = sphere.unit(torch.linalg.cross(down, across))
    away = (normals * rays).sum(-1, keepdim=True) > 0
    return torch.where(away, -normals, normals).movedim(-1, 1)


def _slope(points: Tensor, inverse: Tensor, known: Tensor, axis: int) -> Tensor:
    """Return a tangent (V, h, w, 3) of the surface along an axis; zero where there is none."""
    first, last = (torch.zeros_like(known) for _ in range(2))
    first.select(axis, 0).fill_(True)
    last.select(axis, known.shape[axis] - 1).fill_(True)
    ahead_known = known & known.roll(-1, axis) & ~last
    back_known = known & known.roll(1, axis) & ~first
    ahead, back = points.roll(-1, axis) - points, points - points.roll(1, axis)
    rise, fall = inverse.roll(-1, axis) - inverse, inverse - inverse.roll(1, axis)
    both = ahead_known & back_known
    edge = both & ((rise - fall).abs() > EDGE * inverse)
    use_ahead = ahead_known & ~(edge & (fall.abs() < rise.abs()))
    use_back = back_known & ~(edge & (fall.abs() >= rise.abs()))
    return ahead * use_ahead[..., None] + back * use_back[..., None]
