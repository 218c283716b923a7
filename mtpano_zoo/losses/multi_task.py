"""The training loss of a multi-task panorama network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtpano_zoo.losses import published as paper
from mtpano_zoo.losses.auxiliary import edge_distance, image_gradient, point_map
from mtpano_zoo.losses.dense import edge_weighted_l1, frequency_l1, masked_l1
from mtpano_zoo.losses.means import several_processes
from mtpano_zoo.losses.semseg import cross_entropy, dice
from mtpano_zoo.losses.validity import trusted, valid_depth, valid_normals, valid_semseg
from mtpano_zoo.tasks import MAIN_TASKS, NO_LABEL


class MultiTaskLoss(nn.Module):
    """Weighted sum of the losses of all predictions for which the batch has labels.

    Main and intermediate predictions: cross-entropy + Dice for ``semseg``; L1 + edge + frequency for ``depth`` (metres;
    the latter two relative to the largest valid depth of the image) and for ``normals`` (after normalisation).
    Auxiliary tasks: L1 on labels that are derived from the image and the depth. After MTPano (arXiv 2602.05330).

    A label that the batch lacks, or that is invalid in every pixel, contributes exactly zero and gradients of exactly
    zero, so that distributed training always finds all parameters used. Nothing waits for the host, and everything is
    computed in float32 whatever the precision of the network.

    A batch may hold ``confidence``, how far a label is to be trusted, as pseudo-labels have it: all terms of the tasks
    in ``confidence_tasks`` that are means over pixels become means weighted by it, Dice counts by it, and where it is 0
    or no finite number there is no label. Only the frequency terms take every other pixel as it is: a spectrum has no
    pixels. If the batch holds ``depth_confidence`` or ``normals_confidence``, these are what weighs their task.

    Where several processes train together, every mean is over the pixels of all of them: the gradients that DDP
    averages are those of one process with the joined batch, also if some processes lack the labels of a task. What a
    process returns, and logs, is its own share times the number of processes. This holds in training mode where
    gradients are recorded; in validation every process takes means of its own. All processes must call the loss
    together, for the same tasks.

    Args:
        semseg_weight: Weight of the class loss.
        depth_weight: Weight of the depth loss.
        normals_weight: Weight of the normals loss.
        auxiliary_weight: Weight of the intermediate predictions, times the weight of their task.
        extended_weight: Weight of image gradient, edge distance and point map.
        dice_weight: Weight of Dice beside the cross-entropy.
        depth_edge_weight: Weight of the edge term of depth.
        depth_frequency_weight: Weight of the frequency term of depth.
        normals_edge_weight: Weight of the edge term of normals.
        normals_frequency_weight: Weight of the frequency term of normals.
        ignore_index: Class that means "no label".
        max_depth: Labels from here on, in metres, do not count; all finite ones count by default.
        confidence_tasks: Tasks that ``confidence`` weights; in the published pseudo-labels it is that of the classes.
        published: Compute what the published code computes (see `mtpano_zoo.losses.published`): it knows no confidence,
            takes means of every process on its own, and clamps the depth and point losses, which stops their gradient
            where they err most. The default leaves that to gradient clipping.
        published_clamp: Where it clamps them: at 10, and at 20 on Deep360; not during `AuxiliaryWarmup`.

    Raises:
        ValueError: If a task of ``confidence_tasks`` is unknown.
    """

    def __init__(
        self,
        semseg_weight: float = 1.0,
        depth_weight: float = 1.0,
        normals_weight: float = 1.0,
        auxiliary_weight: float = 0.3,
        extended_weight: float = 0.003,
        dice_weight: float = 1.0,
        depth_edge_weight: float = 0.5,
        depth_frequency_weight: float = 5e-3,
        normals_edge_weight: float = 0.1,
        normals_frequency_weight: float = 1e-4,
        ignore_index: int = NO_LABEL,
        max_depth: float | None = None,
        confidence_tasks: Sequence[str] = ("semseg",),
        published: bool = False,
        published_clamp: float = 10.0,
    ) -> None:
        super().__init__()
        if unknown := sorted(set(confidence_tasks) - set(MAIN_TASKS)):
            raise ValueError(f"confidence_tasks are some of {', '.join(MAIN_TASKS)}, not {', '.join(unknown)}")
        self.confidence_tasks = tuple(confidence_tasks)
        self.task_weights = {"semseg": semseg_weight, "depth": depth_weight, "normals": normals_weight}
        self.auxiliary_weight = auxiliary_weight
        self.extended_weight = extended_weight
        self.dice_weight = dice_weight
        self.depth_edge_weight = depth_edge_weight
        self.depth_frequency_weight = depth_frequency_weight
        self.normals_edge_weight = normals_edge_weight
        self.normals_frequency_weight = normals_frequency_weight
        self.ignore_index = ignore_index
        self.max_depth = max_depth
        self.published = published
        self.published_clamp = published_clamp
        self.clamps = published
        """Whether losses are clamped; `AuxiliaryWarmup` turns it off and on again."""

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses as scalars: ``total``, and un-weighted one per prediction.

        Args:
            outputs: What the network returns: ``semseg`` (B, C, H, W), ``depth`` (B, 1, H, W) and ``normals``
                (B, 3, H, W), any of them absent; optionally ``aux``, a dict of the same, and ``ext``, a dict of
                ``gradient``, ``edge_distance`` and ``point_map``.
            batch: ``image`` (B, 3, H, W), and of ``semseg`` (B, H, W), ``depth`` (B, H, W) and ``normals`` (B, 3, H, W)
                those that exist; optionally ``confidence``, ``depth_confidence`` and ``normals_confidence``, (B, H, W)
                in [0, 1].

        Returns:
            ``total``, and for each prediction its loss under the names ``depth``, ``aux_depth``, ``ext_point_map``...

        Raises:
            ValueError: If a prediction and its label differ in size, or an extended task is unknown.
        """
        losses: dict[str, Tensor] = {}
        across = self.training and torch.is_grad_enabled() and not self.published and several_processes()
        total = batch["image"].new_zeros((), dtype=torch.float32)
        # Autocast would compute the label filters and the sums in half precision.
        with torch.autocast(device_type=batch["image"].device.type, enabled=False):
            for task, weight in self.task_weights.items():
                if task in outputs:
                    losses[task] = self._task(task, outputs[task], batch, across)
                    total = total + weight * losses[task]
            for task, prediction in outputs.get("aux", {}).items():
                losses[f"aux_{task}"] = self._task(task, prediction, batch, across)
                total = total + self.auxiliary_weight * self.task_weights[task] * losses[f"aux_{task}"]
            for task, prediction in outputs.get("ext", {}).items():
                losses[f"ext_{task}"] = self._extended(task, prediction, batch, across)
                total = total + self.extended_weight * losses[f"ext_{task}"]
        return {"total": total, **losses}

    def _task(self, task: str, prediction: Tensor, batch: Mapping[str, Any], across: bool) -> Tensor:
        if task not in batch:
            if not across:
                return _connected_zero(prediction)
            batch = {**batch, task: self._no_labels(task, prediction)}
        _check_size(task, prediction, batch[task])
        weight = self._weight(task, batch)
        if task == "semseg":
            return self._semseg(prediction.float(), batch[task], weight, across)
        if task == "depth":
            return self._depth(prediction.float(), batch[task].float(), weight, across)
        return self._normals(prediction.float(), batch[task].float(), weight, across)

    def _no_labels(self, task: str, prediction: Tensor) -> Tensor:
        """Labels without a valid pixel, by which a process takes part in the means of the others."""
        if task == "normals":
            return torch.zeros_like(prediction)
        pixels = prediction[:, 0]
        if task == "depth":
            return torch.zeros_like(pixels)
        return torch.full_like(pixels, self.ignore_index, dtype=torch.long)

    def _weight(self, task: str, batch: Mapping[str, Any]) -> Tensor | None:
        name = f"{task}_confidence"
        if name not in batch and task in self.confidence_tasks:
            name = "confidence"
        if self.published or name not in batch:
            return None
        confidence: Tensor = batch[name]
        if confidence.shape[-2:] != batch[task].shape[-2:]:
            raise ValueError(
                f"{name} is {tuple(confidence.shape[-2:])} but {task} {tuple(batch[task].shape[-2:])}: resize them "
                "together"
            )
        return confidence.float()

    def _semseg(self, logits: Tensor, labels: Tensor, weight: Tensor | None, across: bool) -> Tensor:
        valid = trusted(valid_semseg(labels, logits.shape[1], self.ignore_index), weight)
        if self.published:
            overlap = paper.dice(logits, labels, valid)
        else:
            overlap = dice(logits, labels, valid, weight, across_ranks=across)
        return cross_entropy(logits, labels, valid, weight, across) + self.dice_weight * overlap

    def _depth(self, prediction: Tensor, target: Tensor, weight: Tensor | None, across: bool) -> Tensor:
        valid = trusted(valid_depth(target, max_depth=self.max_depth), weight)
        target = torch.where(valid, target, 0)[:, None]
        largest = target.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        edge, frequency = self._structure(prediction / largest, target / largest, valid, weight, across)
        return self._clamped(
            masked_l1(prediction, target, valid, weight, across)
            + self.depth_edge_weight * edge
            + self.depth_frequency_weight * frequency
        )

    def _normals(self, prediction: Tensor, target: Tensor, weight: Tensor | None, across: bool) -> Tensor:
        valid = trusted(valid_normals(target), weight)
        target = _unit(torch.where(valid[:, None], target, 0))
        prediction = _unit(torch.where(valid[:, None], prediction, 0))
        edge, frequency = self._structure(prediction, target, valid, weight, across)
        return (
            masked_l1(prediction, target, valid, weight, across)
            + self.normals_edge_weight * edge
            + self.normals_frequency_weight * frequency
        )

    def _structure(
        self, prediction: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, across: bool
    ) -> tuple[Tensor, Tensor]:
        """The edge and the frequency term."""
        maps = (prediction, target, valid)
        if self.published:
            return paper.edge_weighted_l1(*maps), paper.frequency_l1(*maps)
        return (
            edge_weighted_l1(*maps, weight=weight, across_ranks=across),
            frequency_l1(*maps, across_ranks=across),
        )

    def _clamped(self, loss: Tensor) -> Tensor:
        return loss.clamp(max=self.published_clamp) if self.clamps else loss

    def _extended(self, task: str, prediction: Tensor, batch: Mapping[str, Any], across: bool) -> Tensor:
        if task == "point_map":
            if "depth" not in batch:
                if not across:
                    return _connected_zero(prediction)
                batch = {**batch, "depth": self._no_labels("depth", prediction)}
            _check_size(task, prediction, batch["depth"])
            weight = self._weight("depth", batch)
            valid = trusted(valid_depth(batch["depth"], max_depth=self.max_depth), weight)
            points = (paper.point_map if self.published else point_map)(batch["depth"], valid)
            return self._clamped(masked_l1(prediction.float(), points, valid, weight, across))
        _check_size(task, prediction, batch["image"])
        if task == "gradient":
            target = (paper.image_gradient if self.published else image_gradient)(batch["image"])
        elif task == "edge_distance":
            target = (paper.edge_distance if self.published else edge_distance)(batch["image"])
        else:
            raise ValueError(f"ext holds {task!r}, but only gradient, edge_distance and point_map have labels")
        every_pixel = torch.ones_like(target[:, 0], dtype=torch.bool)
        return masked_l1(prediction.float(), target, every_pixel, across_ranks=across)


def _connected_zero(prediction: Tensor) -> Tensor:
    """Zero whose gradient reaches the prediction as zeros, even if that holds infinities."""
    return prediction[:0].sum(dtype=torch.float32)


def _unit(vectors: Tensor) -> Tensor:
    # F.normalize is slow over channels, and gives the zero vector, as a new head predicts it, a gradient of 1e12.
    return vectors * vectors.square().sum(dim=1, keepdim=True).clamp(min=1e-6).rsqrt()


def _check_size(task: str, prediction: Tensor, label: Tensor) -> None:
    if prediction.shape[-2:] != label.shape[-2:]:
        raise ValueError(
            f"{task} is predicted at {tuple(prediction.shape[-2:])}, its label is {tuple(label.shape[-2:])}: resize one"
        )
