"""The training loss of a multi-task panorama network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses.auxiliary import edge_distance, image_gradient, point_map
from mtpano_zoo.losses.base import BatchLabels, Loss, TaskLoss, check_not_negative
from mtpano_zoo.losses.dense import masked_l1
from mtpano_zoo.losses.means import several_processes
from mtpano_zoo.losses.task_losses import TASK_LOSSES
from mtpano_zoo.losses.validity import complete_labels, map_shape, trusted, valid_depth
from mtpano_zoo.outputs import check_output
from mtpano_zoo.tasks import CONFIDENCES, MAIN_TASKS, SAMPLE_MAPS

__all__ = ("MultiTaskLoss", "connected_zero")


class MultiTaskLoss(Loss):
    """Weighted sum of the losses of all predictions for which the batch has labels. After MTPano (arXiv 2602.05330).

    Main and intermediate predictions of a task have the same loss. Image gradient, edge distance and point map have an
    L1 loss on labels that are derived from the image and the depth.

    A label that the batch lacks, or that is invalid in every pixel, contributes exactly zero and gradients of exactly
    zero, so that distributed training always finds all parameters used. A sample takes part in a task only if it has
    all maps of its label: `has_far` and the like say which samples of a batch have a map that others lack. Nothing
    synchronises with the host, and everything is computed in float32 whatever the precision of the network.

    A batch may hold `confidence`, which says how far each label can be trusted, as in pseudo-labels. It weights all
    means over pixels, and the counts of Dice, of the tasks in `confidence_tasks`; where it is 0 or not finite, there is
    no label. Only the frequency terms use the other pixels unweighted, because a spectrum has no pixels. If the batch
    holds `depth_confidence` or `normals_confidence`, these weight their task.

    Where several processes train together, every mean is over the pixels of all of them: the gradients that DDP
    averages are those of one process with the joined batch, even if some processes lack the labels of a task. A process
    returns its own share times the number of processes. This holds in training mode where gradients are recorded; in
    validation every process takes its own means. All processes must call the loss together, for the same tasks.

    Args:
        weights: weights by task; 1 for tasks that are not listed.
        losses: losses by task, in place of those of `TASK_LOSSES` with their defaults.
        auxiliary_weight: weight of the intermediate predictions, times the weight of their task.
        extended_weight: weight of image gradient, edge distance and point map.
        confidence_tasks: tasks that `confidence` weights; in the published pseudo-labels it belongs to the classes.

    Raises:
        InputError: If a task is unknown, or a weight is negative.

    Example:
        >>> batch = {"image": torch.rand(1, 3, 16, 32), "depth": torch.full((1, 16, 32), 2.0)}
        >>> terms = MultiTaskLoss()({"depth": torch.full((1, 1, 16, 32), 3.0)}, batch)
        >>> list(terms), bool(terms["total"] > 0)
        (['total', 'depth'], True)
    """

    joins_processes = True
    """Whether means are over the pixels of all processes that train together."""
    derived: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "gradient": image_gradient,
        "edge_distance": edge_distance,
        "point_map": point_map,
    }
    """Functions that derive the labels of the extended tasks."""

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        losses: dict[str, TaskLoss] | None = None,
        auxiliary_weight: float = 0.3,
        extended_weight: float = 0.003,
        confidence_tasks: Sequence[str] = ("semseg",),
    ) -> None:
        super().__init__()
        if unknown := sorted({*(weights or {}), *(losses or {}), *confidence_tasks} - set(MAIN_TASKS)):
            raise InputError(f"There is no task {', '.join(unknown)}: a loss can have {', '.join(MAIN_TASKS)}.")
        others = {"auxiliary_weight": auxiliary_weight, "extended_weight": extended_weight}
        check_not_negative({**(weights or {}), **others})
        self.weights = dict.fromkeys(MAIN_TASKS, 1.0) | dict(weights or {})
        self.losses = nn.ModuleDict({task: kind() for task, kind in TASK_LOSSES.items()} | (losses or {}))
        self.auxiliary_weight = auxiliary_weight
        self.extended_weight = extended_weight
        self.confidence_tasks = tuple(confidence_tasks)

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `total`, and for each prediction its loss: `depth`, `aux_depth`, `ext_point_map`, ...

        Args:
            outputs: main tasks (B, C, H, W) by name, any of them absent; optionally `aux`, a dict of the same, and
                `ext`, a dict of `gradient`, `edge_distance` and `point_map`.
            batch: `image` (B, 3, H, W), and those labels and confidences that exist.

        Raises:
            InputError: If a prediction and its label differ in shape, or an extended task is unknown.
        """
        losses: dict[str, Tensor] = {}
        known: dict[str, BatchLabels | None] = {}
        across = self.joins_processes and self.training and torch.is_grad_enabled() and several_processes()
        total = batch["image"].new_zeros((), dtype=torch.float32)
        # Autocast would compute the label filters and the sums in half precision.
        with torch.autocast(device_type=batch["image"].device.type, enabled=False):
            for task in MAIN_TASKS:
                if task in outputs:
                    losses[task] = self._task(task, outputs[task], batch, across, known)
                    total = total + self.weights[task] * losses[task]
            for task, prediction in outputs.get("aux", {}).items():
                losses[f"aux_{task}"] = self._task(task, prediction, batch, across, known)
                total = total + self.auxiliary_weight * self.weights[task] * losses[f"aux_{task}"]
            for task, prediction in outputs.get("ext", {}).items():
                losses[f"ext_{task}"] = self.extended(task, prediction, batch, across)
                total = total + self.extended_weight * losses[f"ext_{task}"]
        return {"total": total, **losses}

    def _task(
        self,
        task: str,
        prediction: Tensor,
        batch: Mapping[str, Any],
        across: bool,
        known: dict[str, BatchLabels | None],
    ) -> Tensor:
        if task not in known:
            found = self.labels(MAIN_TASKS[task].labels, prediction, batch, across)
            known[task] = None if found is None else BatchLabels(found)
        labels = known[task]
        if labels is None:
            return connected_zero(prediction)
        for key, label in labels.items():
            _check_size(task, prediction, key, label)
        loss = self.losses[task]
        prediction = prediction if getattr(loss, "takes_any_precision", False) else prediction.float()
        return self.limited(task, loss(prediction, labels, self.confidence(task, batch), across))

    def limited(self, task: str, loss: Tensor) -> Tensor:
        """Return the loss of a main or auxiliary task as it is: gradient clipping is enough."""
        return loss

    def labels(
        self, keys: Sequence[str], prediction: Tensor, batch: Mapping[str, Any], across: bool
    ) -> dict[str, Tensor] | None:
        """Return the labels of a task, or None if the batch lacks one; see `complete_labels`.

        If other processes may have it, empty labels let this process take part in their means.
        """
        labels = complete_labels(keys, batch)
        if labels is None and across:
            return {key: _no_labels(key, prediction) for key in keys}
        return labels

    def confidence(self, task: str, batch: Mapping[str, Any]) -> Tensor | None:
        """Return the weights (B, H, W) of the labels of a task; None if all can be trusted."""
        role = MAIN_TASKS[task].labels[0]
        own = [CONFIDENCES[role]] if role in CONFIDENCES and task != "semseg" else []
        names = [*own, "confidence"] if task in self.confidence_tasks else own
        name = next((name for name in names if name in batch), None)
        label = batch.get(role)
        if name is None or label is None:
            return None
        confidence: Tensor = batch[name]
        if confidence.shape[-2:] != label.shape[-2:]:
            raise InputError(
                f"{name} is {tuple(confidence.shape[-2:])} but {task} {tuple(label.shape[-2:])}: resize them together."
            )
        return confidence.float()

    def extended(self, task: str, prediction: Tensor, batch: Mapping[str, Any], across: bool) -> Tensor:
        """Return the loss of an extended task on the label that is derived for it."""
        if task not in self.derived:
            advice = " DAPLoss trains range_masks." if task == "range_masks" else ""
            raise InputError(f"ext holds {task!r}, but only gradient, edge_distance and point_map have labels.{advice}")
        if task == "point_map":
            labels = self.labels(("depth",), prediction, batch, across)
            if labels is None:
                return connected_zero(prediction)
            depth = labels["depth"]
            _check_size(task, prediction, "depth", depth)
            weight = self.confidence("depth", batch)
            limit = getattr(self.losses["depth"], "max_depth", None)
            valid = trusted(valid_depth(depth, max_depth=limit), weight)
            points = self.derived[task](depth, valid)
            return self.limited(task, masked_l1(prediction.float(), points, valid, weight, across))
        _check_size(task, prediction, "image", batch["image"])
        target = self.derived[task](batch["image"])
        every_pixel = torch.ones_like(target[:, 0], dtype=torch.bool)
        return masked_l1(prediction.float(), target, every_pixel, across_ranks=across)


def connected_zero(prediction: Tensor) -> Tensor:
    """Return a zero whose gradient reaches the prediction as zeros, even if the prediction holds infinities.

    Example:
        >>> prediction = torch.tensor([torch.inf], requires_grad=True)
        >>> connected_zero(prediction).backward()
        >>> prediction.grad
        tensor([0.])
    """
    return prediction[:0].sum(dtype=torch.float32)


def _no_labels(key: str, prediction: Tensor) -> Tensor:
    kind = SAMPLE_MAPS[key]
    shape = map_shape(key, len(prediction), *prediction.shape[-2:])
    return torch.full(shape, kind.empty, dtype=getattr(torch, kind.dtype), device=prediction.device)


def _check_size(task: str, prediction: Tensor, key: str, label: Tensor) -> None:
    """Refuse shapes that differ: broadcasting could compare every image with the labels of all others."""
    check_output(task, prediction)
    if tuple(label.shape) != map_shape(key, len(prediction), *prediction.shape[-2:]):
        raise InputError(
            f"{task} is predicted as {tuple(prediction.shape)}, its label {key} is {tuple(label.shape)}: resize or "
            "reshape one."
        )
