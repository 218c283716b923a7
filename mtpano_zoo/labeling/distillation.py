"""Pseudo-labels of perspective views during training: from a teacher on the fly, or stored ones."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.back_projection import cut
from mtpano_zoo.labeling.depth_anywhere_faces import (
    FACES,
    depth_anywhere_cube,
    published_face_disparity,
    published_rotate,
)
from mtpano_zoo.labeling.teachers.base import Teacher, ViewImages, ViewLabels
from mtpano_zoo.labeling.views import CubeViews, Views, ViewStrategy
from mtpano_zoo.losses import valid_depth
from mtpano_zoo.sphere import cube_rotations, distance_to_z, to_perspective
from mtpano_zoo.training.distillation import FaceLabeler, FaceLabels, face_disparity

__all__ = ("PublishedTeacherLabels", "StoredLabels", "TeacherLabels")


class ViewLabeler(FaceLabeler):
    """Base of labelers whose views a strategy chooses.

    Args:
        views: Strategy for the views of a panorama: `CubeViews`, `TangentViews`, `IcosahedronViews` or `RandomViews`.
            Their argument `turn` is the largest angle of the random rotation of every panorama in every step. By
            default the views of Depth Anywhere, but with a rotation for each panorama: six faces of 256 x 256 pixels,
            rotated by up to 45 degrees about each axis.
        per_batch: Rotate all panoramas of a batch alike, as the published code does.
    """

    def __init__(self, views: ViewStrategy | None = None, per_batch: bool = False) -> None:
        self.views = CubeViews(fov=90.0, size=256, turn=45.0) if views is None else views
        self.per_batch = per_batch

    def cameras(self, batch: Mapping[str, Any], step: int) -> list[Views]:
        """Return the views of every panorama of a batch."""
        names = [str(step) if self.per_batch else f"{step}/{name}" for name in batch["id"]]
        return [self.views(name) for name in names]


class TeacherLabels(ViewLabeler):
    """Labels of every view by a frozen teacher, on the fly.

    The teacher sees the panorama before its colours were changed (`clean`), if the sample has it. Labels do not count
    where the teacher has no depth or no confidence, or where the sample is `ignored`.

    Args:
        teacher: Teacher with depth or disparity: `DepthEstimator`, `MoGe`, `OracleTeacher`, ...
        views: See `ViewLabeler`.
        per_batch: See `ViewLabeler`.
    """

    def __init__(self, teacher: Teacher, views: ViewStrategy | None = None, per_batch: bool = False) -> None:
        super().__init__(views, per_batch)
        self.teacher = frozen(teacher)

    def place(self, device: torch.device) -> None:
        """Move the teacher, if it has weights."""
        if isinstance(self.teacher, nn.Module):
            self.teacher.to(device)

    def __call__(self, batch: Mapping[str, Any], step: int) -> FaceLabels:
        """Let the teacher label the views of every panorama.

        Raises:
            InputError: If the teacher has no depth.
        """
        clean: Tensor = batch.get("clean", batch["image"]).float()
        found = []
        for i, views in enumerate(self.cameras(batch, step)):
            with torch.autocast(clean.device.type, enabled=False):
                images = cut(clean[i], views)
            asked = self.ask(images, views, {**sample_of(batch, i), "image": clean[i]})
            found.append((*asked, views.rotations.to(clean), views.intrinsics.to(clean)))
        return FaceLabels(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def ask(self, images: Tensor, views: Views, sample: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return inverse z-depth (V, h, w) of the views (V, 3, h, w) of a sample, and the mask where it counts.

        If all pixels of a panorama are ignored, the teacher does not run.
        """
        ignored: Tensor | None = sample.get("ignored")
        if ignored is not None and bool(ignored.all()):
            nothing = torch.zeros_like(images[:, 0])
            return nothing, nothing.bool()
        labels = self.teacher(ViewImages(images, views, dict(sample)))
        with torch.autocast(images.device.type, enabled=False):
            disparity, valid = z_disparity(labels, views)
            return disparity, valid if ignored is None else valid & ~_seen(ignored, views)


class StoredLabels(ViewLabeler):
    """Views of stored labels: `disparity` of the samples, such as `PseudoLabelDataModule` reads with `relative`.

    The views may differ from the labelled ones. They are still compared view by view, each with its own scale and
    shift, so that differences between parts of the panorama in the fusion matter less.

    Args:
        views: See `ViewLabeler`.
        per_batch: See `ViewLabeler`.
    """

    def __call__(self, batch: Mapping[str, Any], step: int) -> FaceLabels:
        """Cut the labels of a batch into views.

        Raises:
            InputError: If the samples hold no disparity.
        """
        if "disparity" not in batch or "disparity_valid" not in batch:
            raise InputError(
                "the unlabelled panoramas have no stored disparity: read them with PseudoLabelDataModule and "
                "relative: true, or let a teacher label them"
            )
        views = self.cameras(batch, step)
        stored: Tensor = batch["disparity"].float()
        rotations = torch.stack([one.rotations for one in views]).to(stored)
        intrinsics = torch.stack([one.intrinsics for one in views]).to(stored)
        size = (views[0].height, views[0].width)
        valid = batch["disparity_valid"] & stored.isfinite()
        if "ignored" in batch:
            valid = valid & ~batch["ignored"]
        disparity = face_disparity(torch.where(valid, stored, 0)[:, None], rotations, intrinsics, *size)
        # A pixel that is blended with one that does not count does not count either.
        share = to_perspective(valid.float()[:, None], rotations, *size, intrinsics=intrinsics)[:, :, 0]
        return FaceLabels(disparity, share > 0.999, rotations, intrinsics)


class PublishedTeacherLabels(TeacherLabels):
    """Labels and views of the published code: one rotation for the batch, its sampling, six faces.

    Use it to reproduce published runs: panoramas are sampled up to half a pixel off, predictions by nearest neighbours,
    and the smallest prediction of a batch shifts all others if it is negative; see
    `mtpano_zoo.labeling.depth_anywhere_faces`.

    Args:
        teacher: See `TeacherLabels`.
        size: Rows and columns of a face.
        turn: Limit of the three angles of the rotation, in degrees.
        seed: Seed of the rotations.
    """

    def __init__(self, teacher: Teacher, size: int = 256, turn: float = 45.0, seed: int = 0) -> None:
        super().__init__(teacher, CubeViews(fov=90.0, size=size, turn=turn, seed=seed), per_batch=True)

    def __call__(self, batch: Mapping[str, Any], step: int) -> FaceLabels:
        """Let the teacher label the six faces of every panorama."""
        clean: Tensor = batch.get("clean", batch["image"]).float()
        views = self.views(str(step))
        # The front face of the strategy is turned by R_x R_y R_z, and the published code applies the transposed matrix.
        turn = views.rotations[0]
        rotations = turn.mT @ cube_rotations()[list(FACES)]
        published = Views(rotations, views.intrinsics, views.height, views.width)
        turn = turn.to(clean)
        with torch.autocast(clean.device.type, enabled=False):
            faces = depth_anywhere_cube(published_rotate(clean, turn.mT), views.height)
        found = []
        for i, images in enumerate(faces):
            asked = self.ask(images, published, {**sample_of(batch, i), "image": clean[i]})
            found.append((*asked, published.rotations.to(clean), published.intrinsics.to(clean)))
        disparity, valid, turned, intrinsics = (torch.stack(parts) for parts in zip(*found, strict=True))
        return FaceLabels(disparity, valid, turned, intrinsics, turn)

    def cut(self, disparity: Tensor, labels: FaceLabels) -> Tensor:
        """Cut predictions into the six faces."""
        return published_face_disparity(disparity, cast(Tensor, labels.turn), labels.disparity.shape[-1])


def frozen(teacher: Teacher) -> Teacher:
    """Return the teacher, in evaluation mode and without gradients if it is a module."""
    if isinstance(teacher, nn.Module):
        teacher.eval().requires_grad_(False)
    return teacher


def sample_of(batch: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Return one sample of a batch."""
    return {key: value[i] for key, value in batch.items()}


def z_disparity(labels: ViewLabels, views: Views) -> tuple[Tensor, Tensor]:
    """Return a teacher's inverse z-depth (V, h, w), up to scale and shift, and the mask where it has one.

    Raises:
        InputError: If it has no depth.
    """
    if labels.depth is None:
        raise InputError("this teacher predicts no depth: choose another one for distillation")
    depth = labels.depth.float()
    valid = valid_depth(depth)
    if labels.confidence is not None:
        valid = valid & (labels.confidence > 0)
    depth = torch.where(valid, depth, 1)
    if labels.depth_kind == "disparity":
        return depth, valid
    if labels.along_ray:
        depth = distance_to_z(depth, views.intrinsics.to(depth))
    return 1 / depth, valid


def _seen(mask: Tensor, views: Views) -> Tensor:
    """Return a mask (H, W) as views (V, h, w) see it."""
    maps = mask.float()[None, None]
    cameras = (views.rotations.to(maps), views.height, views.width)
    return to_perspective(maps, *cameras, intrinsics=views.intrinsics.to(maps), mode="label")[0, :, 0] > 0.5
