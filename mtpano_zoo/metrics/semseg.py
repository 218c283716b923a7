"""Intersection over union of class maps."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses.validity import valid_semseg
from mtpano_zoo.metrics.pooling import (
    NONFINITE,
    PanoramaMetric,
    Weighting,
    check_choice,
    check_maps,
    pixel_weights,
)
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("SemsegMetrics", "confusion_matrix", "intersection_over_union", "predicted_classes")


def confusion_matrix(prediction: Tensor, labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Return float64 sums of weights (C, C + 1): labels in rows, predictions in columns.

    The last column counts predictions outside [0, C), which are wrong and belong to no class.

    Args:
        prediction: Class indices (B, H, W) of any integer type.
        labels: Class indices of the same shape, in range wherever the weight is not zero.
        weights: Weights (B, H, W), zero for pixels that do not count.
        num_classes: Number C of classes.

    Example:
        >>> prediction, labels = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 0]]])
        >>> confusion_matrix(prediction, labels, torch.ones(1, 1, 3), 2).tolist()
        [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    columns = num_classes + 1
    prediction, labels = prediction.long(), labels.long()  # short integers hold classes, but overflow on cell numbers
    predicted = torch.where((prediction >= 0) & (prediction < num_classes), prediction, num_classes)
    cells = torch.where(weights > 0, labels, 0) * columns + predicted
    # Not bincount: on a GPU it waits for the host.
    sums = weights.new_zeros(num_classes * columns, dtype=torch.float64)
    return sums.scatter_add_(0, cells.flatten(), weights.double().flatten()).view(num_classes, columns)


def intersection_over_union(confusion: Tensor) -> Tensor:
    """Return the IoU (C,) from a confusion matrix (C, C + 1); NaN for classes in neither labels nor predictions.

    Example:
        >>> intersection_over_union(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])).tolist()
        [0.5, 0.5]
    """
    hits = confusion.diagonal()
    return hits / (confusion.sum(dim=1) + confusion[:, :-1].sum(dim=0) - hits)


def predicted_classes(prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Return class indices (B, H, W), -1 where a logit is not finite, and the mask (B, H, W) where all are finite.

    Args:
        prediction: Logits (B, C, H, W), or class indices (B, H, W) of any integer type.

    Example:
        >>> logits = torch.tensor([[1.0, 5.0], [2.0, torch.nan]]).view(1, 2, 1, 2)
        >>> classes, finite = predicted_classes(logits)
        >>> classes.tolist(), finite.tolist()
        ([[[1, -1]]], [[[True, False]]])
    """
    if prediction.ndim == 4:
        finite = prediction.isfinite().all(dim=1)
        return torch.where(finite, prediction.argmax(dim=1), -1), finite
    return prediction.long(), torch.ones_like(prediction, dtype=torch.bool)


class SemsegMetrics(PanoramaMetric):
    """mIoU over the whole data set, IoU per class, and pixel accuracy, as fractions.

    `compute` returns ``mIoU``, ``pixel_accuracy``, ``nonfinite`` and ``IoU/<class>``; all NaN if no pixel was valid.
    ``nonfinite`` is the fraction of pixels with a NaN or infinite logit, which get no class and count as wrong.

    Args:
        classes: Names of the classes, or their number; by default those of the network that `PanoramaModule` scores.
        ignore_index: Label of the pixels that do not count; labels outside the classes do not count either.
        weighting: Weight every ``"pixel"`` equally, or by its ``"solid_angle"``, so that poles do not dominate.
        absent_classes: How a class in no label and no prediction changes the mean: ``"skip"`` leaves it out
            (its IoU is NaN), ``"zero"`` counts it as 0, as the published MTPano code does.
        unscored: Names of classes that mIoU leaves out. Their pixels still count: predicted as another class, they are
            errors of that class.

    Example:
        >>> metric = SemsegMetrics(["floor", "wall"])
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 255]]]))
        >>> metric.compute()["mIoU"].item()
        1.0
    """

    confusion: Tensor
    nonfinite: Tensor

    def __init__(
        self,
        classes: Sequence[str] | int | None = None,
        ignore_index: int = NO_LABEL,
        weighting: Weighting = "pixel",
        absent_classes: Literal["skip", "zero"] = "skip",
        unscored: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_choice("weighting", weighting, ("pixel", "solid_angle"))
        check_choice("absent_classes", absent_classes, ("skip", "zero"))
        self.ignore_index = ignore_index
        self.weighting: Weighting = weighting
        self.absent_classes = absent_classes
        self.unscored = frozenset(unscored)
        self.classes: tuple[str, ...] = ()
        if classes is not None:
            self.name_classes(classes)

    def name_classes(self, classes: Sequence[str] | int) -> None:
        """Set the class names, or their number, if the constructor did not.

        Raises:
            InputError: If names are missing or repeat, or `unscored` holds an unknown class or every class.
        """
        self.classes = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise InputError(f"classes must be different names, or their number: got {classes!r}")
        if unknown := sorted(self.unscored - set(self.classes)):
            raise InputError(f"unscored names {', '.join(unknown)}, but the classes are {', '.join(self.classes)}")
        if len(self.unscored) == len(self.classes):
            raise InputError("unscored names every class: none is left for the mean")
        count = len(self.classes)
        self.add_state("confusion", torch.zeros(count, count + 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("nonfinite", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            prediction: Logits (B, C, H, W), or class indices (B, H, W) of any integer type.
            target: Class indices (B, H, W) of any integer type.
            valid: Further restriction of the pixels that count, bool (B, H, W).

        Raises:
            InputError: If shapes do not fit, or there are no classes yet.
        """
        if not self.classes:
            raise InputError("SemsegMetrics needs classes: their names, or their number")
        check_maps(prediction, target, valid)
        count = len(self.classes)
        if prediction.ndim == 4 and prediction.shape[1] != count:
            raise InputError(f"prediction has {prediction.shape[1]} channels, but there are {count} classes")
        prediction, finite = predicted_classes(prediction)
        mask = valid_semseg(target, count, self.ignore_index)
        weights = pixel_weights(mask if valid is None else mask & valid, self.weighting)
        self.confusion = self.confusion + confusion_matrix(prediction, target, weights, count)
        self.nonfinite = self.nonfinite + torch.where(finite, 0, weights).sum()

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scores by name."""
        total = self.confusion.sum()
        iou = intersection_over_union(self.confusion)
        if self.absent_classes == "zero":
            iou = torch.where(total > 0, iou.nan_to_num(0.0), iou)
        scored = iou[[i for i, name in enumerate(self.classes) if name not in self.unscored]]
        scores = {"mIoU": scored.nanmean(), "pixel_accuracy": self.confusion.diagonal().sum() / total}
        scores[NONFINITE] = self.nonfinite / total
        scores |= {f"IoU/{name}": value for name, value in zip(self.classes, iou.unbind(), strict=True)}
        return {name: value.float() for name, value in scores.items()}

    def facts(self) -> list[str]:
        """Return phrases about what the scores count, for the report of an evaluation."""
        absent = "left out of the mean" if self.absent_classes == "skip" else "counted as 0"
        counted = f"one confusion matrix over the set, {len(self.classes)} classes, absent ones {absent}"
        return [counted, *([f"mIoU without {', '.join(sorted(self.unscored))}"] if self.unscored else [])]

    def defined(self) -> dict[str, Tensor]:
        """Return the scores that have a value, by name; classes that do not occur have no IoU."""
        return {name: value for name, value in self.compute().items() if not value.isnan()}
