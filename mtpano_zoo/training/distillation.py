"""Training of any distance network on labelled panoramas, and on a perspective teacher's labels of unlabelled ones.

After Depth Anywhere (Wang & Liu, NeurIPS 2024, arXiv 2406.12849).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses import AffineInvariantLoss, Loss, affine_invariant_l1, disparity_of, valid_depth
from mtpano_zoo.losses.means import several_processes
from mtpano_zoo.metrics import labels_of_metric
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.sphere import to_perspective, z_to_distance
from mtpano_zoo.training.base import PanoramaModule

__all__ = ("DistillationModule", "FaceLabeler", "FaceLabels", "face_disparity")


@dataclass(frozen=True)
class FaceLabels:
    """Labels of V perspective views of each of U panoramas: the inverse of z-depth, up to scale and shift.

    Args:
        disparity: Inverse z-depth (U, V, h, w); every view has its own scale and shift.
        valid: Mask of the pixels that count, bool (U, V, h, w).
        rotations: Rotations (U, V, 3, 3) from camera to panorama.
        intrinsics: Pinhole matrices (U, V, 3, 3) in pixels, where integers are pixel centres.
        turn: Rotation (3, 3) of all panoramas before they were cut, for a labeler that cuts in its own way.
    """

    disparity: Tensor
    valid: Tensor
    rotations: Tensor
    intrinsics: Tensor
    turn: Tensor | None = None


class FaceLabeler(ABC):
    """Label perspective views of unlabelled panoramas, and cut predictions into the same views."""

    @abstractmethod
    def __call__(self, batch: Mapping[str, Any], step: int) -> FaceLabels:
        """Label views of a batch of panoramas.

        Args:
            batch: `image`, `id`, and the other maps of the samples.
            step: Training step. The same batch and step return the same labels.
        """

    def cut(self, disparity: Tensor, labels: FaceLabels) -> Tensor:
        """Return the inverse z-depth (U, V, h, w) in the views of labels from inverse distances (U, 1, H, W)."""
        return face_disparity(disparity, labels.rotations, labels.intrinsics, *labels.disparity.shape[-2:])

    def place(self, device: torch.device) -> None:  # noqa: B027 - a labeler without weights has nothing to move
        """Move weights to a device."""


class DistillationModule(PanoramaModule):
    """Train a distance network on labelled panoramas, and on pseudo-labels of perspective views of unlabelled ones.

    A batch holds labelled panoramas first, then unlabelled ones; `labelled` is the number of labelled ones, which
    `SemiSupervisedDataModule` sets. Without this key all are labelled, and training is supervised: the term below is
    left out and the loss has weight one. Validation and test are those of `PanoramaModule`; labels in metres score
    inverse distances too.

    The network sees the augmented panoramas, not rotated further. The inverse distances that it predicts for unlabelled
    ones are cut into the views of the pseudo-labels, converted to inverse z-depth, and compared view by view up to
    scale and shift. If views are rotated at random in every step, a teacher's errors at the borders of its views are
    never at the same place twice. Views that are empty or constant contribute nothing.

    ``train/loss/pseudo`` and the terms of the loss are logged too.

    Args:
        network: A network with the task `disparity`, or `depth`, whose inverse is then trained.
        labels: Source of pseudo-labels: a teacher (`mtpano_zoo.labeling.distillation.TeacherLabels`) or stored ones
            (`StoredLabels` there).
        loss: Loss of the labelled panoramas; by default `AffineInvariantLoss` on labels up to 10 m.
        label_weight: Weight of that loss.
        pseudo_weight: Weight of the loss on pseudo-labels.
        **options: Optimiser, schedule, freezing and metrics, see `PanoramaModule`.

    Raises:
        InputError: If the network predicts no distances, or a weight is negative.
    """

    def __init__(
        self,
        network: PanoramaNetwork,
        labels: FaceLabeler | None = None,
        loss: Loss | None = None,
        label_weight: float = 0.5,
        pseudo_weight: float = 0.5,
        **options: Any,
    ) -> None:
        if not {"disparity", "depth"} & set(network.tasks):
            raise InputError(f"distillation needs the task disparity or depth, but the network has {network.tasks}")
        if min(label_weight, pseudo_weight) < 0:
            raise InputError(f"weights of losses must not be negative, got {label_weight} and {pseudo_weight}")
        super().__init__(network, AffineInvariantLoss() if loss is None else loss, **options)
        self.labels = labels
        self.label_weight = label_weight
        self.pseudo_weight = pseudo_weight

    def on_fit_start(self) -> None:
        """Move the teacher to the device of the network; it is not part of the module, so no checkpoint holds it."""
        if self.labels is not None:
            self.labels.place(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            InputError: If there are unlabelled panoramas, but `labels` is not set.
        """
        size = len(batch["image"])
        count = int(batch.get("labelled", size))
        if count == size:
            return super().training_step(batch, batch_idx)
        if self.labels is None:
            raise InputError("the batch holds unlabelled panoramas: set `labels` to a source of pseudo-labels")
        with torch.no_grad():
            pseudo = self.labels(_part(batch, slice(count, None)), self.global_step)
        outputs = self(batch["image"])
        known = self.loss(_part(outputs, slice(count)), _part(batch, slice(count)))
        unknown = self.face_loss(disparity_of(outputs)[count:], pseudo)
        total: Tensor = self.label_weight * known["total"] + self.pseudo_weight * unknown
        self._log_losses("train", known | {"pseudo": unknown, "total": total}, size)
        return total

    def labels_for(self, task: str, metric: Metric, batch: dict[str, Any]) -> tuple[Tensor, ...] | None:
        """Also compare inverse distances with labels in metres, which most data sets have."""
        if task != "disparity" or "depth" not in batch or labels_of_metric(task, metric) == ("depth",):
            return super().labels_for(task, metric, batch)
        depth = batch["depth"].float()
        valid = valid_depth(depth)
        return 1 / torch.where(valid, depth, 1), valid

    def face_loss(self, disparity: Tensor, labels: FaceLabels) -> Tensor:
        """Return the loss of inverse distances (U, 1, H, W) on pseudo-labels, pooled over their valid pixels."""
        if self.labels is None:
            raise InputError("`labels` is not set, so nothing can cut a prediction into views")
        across = self.training and torch.is_grad_enabled() and several_processes()
        with torch.autocast(disparity.device.type, enabled=False):
            faces = self.labels.cut(disparity.float(), labels)
            target = labels.disparity.float().flatten(0, 1)
            return affine_invariant_l1(faces.flatten(0, 1), target, labels.valid.flatten(0, 1), across_ranks=across)


def face_disparity(disparity: Tensor, rotations: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return the inverse z-depth (B, V, h, w) of views, from the inverse distance along the ray (B, 1, H, W).

    z-depth is the distance over the length of the ray with z = 1, so its inverse is a product: nothing is inverted, and
    values at or below zero do no harm.

    Args:
        disparity: Inverse distances.
        rotations: Rotations (B, V, 3, 3) from camera to panorama.
        intrinsics: Pinhole matrices (B, V, 3, 3) of the views in pixels.
        height: Rows of a view.
        width: Columns of a view.

    Example:
        >>> view = (torch.eye(3)[None, None], torch.tensor([[[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]]]))
        >>> face_disparity(torch.ones(1, 1, 32, 64), *view, 3, 3)[0, 0, 1].round(decimals=3).tolist()
        [1.4140000343322754, 1.0, 1.4140000343322754]
    """
    views = to_perspective(disparity, rotations, height, width, intrinsics=intrinsics)[:, :, 0]
    return z_to_distance(views, intrinsics)


def _part(batch: Mapping[str, Any], chosen: slice) -> dict[str, Any]:
    """Return some of the samples of a batch, or of the outputs of a network."""
    return {
        key: _part(value, chosen) if isinstance(value, Mapping) else value[chosen]
        for key, value in batch.items()
        if key != "labelled"
    }
