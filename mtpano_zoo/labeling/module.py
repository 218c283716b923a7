"""Modules that label a panorama: by teachers that see views of it, fused, or in any other way."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import read_panorama
from mtpano_zoo.labeling.back_projection import cut
from mtpano_zoo.labeling.encoding import EncodedLabels, encode_labels
from mtpano_zoo.labeling.fusion import PanoramaLabels, fuse
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.manifest import describe
from mtpano_zoo.labeling.masks import Masker, shrink_masks
from mtpano_zoo.labeling.report import one_sentence
from mtpano_zoo.labeling.storage import PANORAMAS
from mtpano_zoo.labeling.teachers.base import Teacher, ViewImages, ViewLabels
from mtpano_zoo.labeling.views import Views, ViewStrategy
from mtpano_zoo.output_paths import user_path

__all__ = ("Labeler", "PanoramaLabeler", "read_mask")


class TooLittleLeftError(InputError):
    """The masks leave too little of a panorama."""


class PanoramaLabeler(lightning.LightningModule):
    """Base of modules that turn panoramas, one at a time, into files of a folder; a subclass defines the files.

    The result for a panorama depends on its name and its sample only, not on earlier panoramas or on the process.

    Args:
        height: Rows of the labels.
        width: Columns, twice the rows.

    Raises:
        InputError: If the size is not that of a panorama.
    """

    marker = PANORAMAS
    classes: tuple[str, ...] = ()
    invalid: Tensor | None = None
    """Pixels without label in any panorama, bool (height, width)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        if height < 8 or width != 2 * height:
            raise InputError(f"labels are twice as wide as high, and at least 8 rows: got {height} x {width}")
        self.height = height
        self.width = width
        self.ledger: Ledger | None = None
        """Account of finished panoramas; without one, everything is labelled."""
        self.metric: bool | None = None
        """Whether the depth of the last panorama was in metres; None before the first, or without depth."""

    def label(self, name: str, sample: Mapping[str, Any]) -> Any:
        """Label one panorama; see `observe`."""
        return self.finish(self.observe(name, sample))

    def observe(self, name: str, sample: Mapping[str, Any]) -> Any:
        """Run the networks on one panorama.

        Args:
            name: Name of the panorama.
            sample: `image` (3, H, W) of any size, float in [0, 1] or uint8, and any other maps of the data set. Where
                `ignored` (H, W) is true, there is no label.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `observe`")

    def finish(self, observed: Any) -> Any:
        """Return the labels from the result of `observe`; a run calls this in another thread."""
        return observed

    def encode(self, labels: Any) -> EncodedLabels:
        """Return the files of labels; a run calls this in another thread."""
        return encode_labels(labels)

    def manifest(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest of labels that are made with these settings."""
        return describe(settings, self.classes)

    def predict_step(self, item: Mapping[str, Any], batch_idx: int) -> Any:
        """Observe an item of `LabelingData`; return a sentence if there are no labels of it, or None to skip it."""
        if self.ledger is not None and not self.ledger.wants(item):
            return None
        if "failure" in item:
            return str(item["failure"])
        try:
            return self.observe(item["name"], item["sample"])
        except TooLittleLeftError as error:
            if self.ledger is None:
                return str(error)
            self.ledger.leave_out(item["name"], str(error))
            return None
        except Exception as error:  # teachers are third-party code: whatever one raises, label the rest
            if isinstance(error, torch.OutOfMemoryError) and self.device.type == "cuda":
                torch.cuda.empty_cache()
            return one_sentence(error)

    def _image(self, sample: Mapping[str, Any]) -> Tensor:
        """Return the panorama (3, H, W) in [0, 1] on the device of the labeler."""
        image: Tensor = sample["image"].to(self.device)
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()

    def _hidden(self, sample: Mapping[str, Any]) -> Tensor | None:
        """Return the pixels (height, width) that get no label: those of `invalid`, and what the sample ignores."""
        hidden = None if self.invalid is None else self.invalid.to(self.device)
        if "ignored" in sample:
            ignored = shrink_masks(sample["ignored"].to(self.device)[None], self.height, self.width)[0]
            hidden = ignored if hidden is None else hidden | ignored
        return hidden


@dataclass(frozen=True)
class _Observed:
    """What the teachers see of a panorama, and what masks leave of it.

    Args:
        labels: Labels of every teacher.
        views: The cameras.
        invalid: Pixels without any label, bool (H, W).
        masks: Masks by name, bool (H, W).
    """

    labels: Sequence[ViewLabels]
    views: Views
    invalid: Tensor | None
    masks: dict[str, Tensor]


class Labeler(PanoramaLabeler):
    """Label panoramas one at a time with perspective teachers.

    The labels of a panorama depend on its name and its pixels only, not on earlier panoramas or on the process. Mixed
    precision applies to the teachers; views and fusion are computed in float32.

    Args:
        views: Strategy for the views.
        teachers: Teachers to label them; those that predict classes must predict the same ones. Modules move to the
            device with this one. There may be none if there is a masker.
        height: Rows of the labels.
        width: Columns, twice the rows.
        invalid_mask: Image of any size whose white pixels get no label in any panorama, such as tripod or watermark.
        no_depth_classes: Names of classes without depth and normals, such as sky.
        keep_views: Also return every view's own labels.
        masker: Finder of parts of each panorama that get no label, such as sky and watermarks.
        min_valid: Fraction of unmasked pixels below which a panorama is left out.

    Raises:
        InputError: If sizes, classes or mask do not fit.
    """

    def __init__(
        self,
        views: ViewStrategy | None,
        teachers: Sequence[Teacher],
        *,
        height: int = 512,
        width: int = 1024,
        invalid_mask: str | Path | None = None,
        no_depth_classes: Sequence[str] = (),
        keep_views: bool = True,
        masker: Masker | None = None,
        min_valid: float = 0.2,
    ) -> None:
        super().__init__(height, width)
        if not teachers and masker is None:
            raise InputError(
                "at least one teacher is needed: pass --config label_free/label.yaml, or name it under `teachers:`"
            )
        if teachers and views is None:
            raise InputError("teachers need views: choose them under `views:`")
        if not 0 <= min_valid <= 1:
            raise InputError(f"min_valid must be a fraction of the panorama, from 0 to 1, got {min_valid}")
        for one in teachers:
            if not (hasattr(one, "classes") and hasattr(one, "provenance")):
                raise InputError(f"{type(one).__name__} is not a teacher: it has no `classes` and `provenance`")
        named = {teacher.classes for teacher in teachers if teacher.classes}
        if len(named) > 1:
            raise InputError("the teachers predict different classes, which cannot be averaged: keep one of them")
        self.classes: tuple[str, ...] = next(iter(named), ())
        if unknown := [name for name in no_depth_classes if name not in self.classes]:
            raise InputError(f"no_depth_classes: no teacher knows {', '.join(unknown)}")
        self.no_depth = tuple(self.classes.index(name) for name in no_depth_classes)
        self.views = views
        self.teachers = tuple(teachers)
        self.masker = masker
        self.min_valid = min_valid
        parts: list[object] = [*teachers, masker]
        self.networks = nn.ModuleList(part for part in parts if isinstance(part, nn.Module)).eval()
        self.keep_views = keep_views
        self.invalid = None if invalid_mask is None else read_mask(invalid_mask, height, width)

    @torch.no_grad()
    def masks(self, image: Tensor) -> dict[str, Tensor]:
        """Return masks (H, W) by name in the size of the labels, of an image (3, h, w) in [0, 1]."""
        if self.masker is None:
            return {}
        found = shrink_masks(self.masker(image), self.height, self.width)
        return dict(zip(self.masker.names, found, strict=True))

    @torch.no_grad()
    def observe(self, name: str, sample: Mapping[str, Any]) -> _Observed | PanoramaLabels:
        """Let the teachers label the views of one panorama.

        On a GPU, the views are fused here: threads would not fuse faster there, but keep the views of several
        panoramas in its memory.

        Args:
            name: Name of the panorama, which determines the views.
            sample: `image` (3, H, W) of any size, float in [0, 1] or uint8; `ignored`, where there is no label; any
                other maps that a teacher needs.

        Raises:
            TooLittleLeftError: If the masks leave less than `min_valid` of the panorama.
        """
        image = self._image(sample)
        masks = self.masks(image)
        invalid = self._hidden(sample)
        for mask in masks.values():
            invalid = mask if invalid is None else invalid | mask
        if masks and invalid is not None:
            if (left := 1 - invalid.float().mean().item()) < self.min_valid:
                sentence = f"only {left:.0%} of its pixels are not masked, less than {self.min_valid:.0%}"
                raise TooLittleLeftError(sentence)
            masks["merged"] = invalid
        if self.views is None or not self.teachers:
            return PanoramaLabels(masks=masks)
        with torch.autocast(self.device.type, enabled=False):
            views = self.views(name)
            seen = ViewImages(cut(image, views), views, {**sample, "image": image})
        labels = [_in_float32(teacher(seen)) for teacher in self.teachers]
        kinds = {one.depth_kind for one in labels if one.depth is not None}
        self.metric = "metric" in kinds if kinds else None
        observed = _Observed(labels, views, invalid, masks)
        return observed if self.device.type == "cpu" else self._fused(observed)

    def finish(self, observed: _Observed | PanoramaLabels) -> PanoramaLabels:
        """Fuse the labels of the views, unless `observe` has done it.

        Raises:
            InputError: If a teacher's labels do not fit, or are not finite in more than half of the views.
        """
        return observed if isinstance(observed, PanoramaLabels) else self._fused(observed)

    @torch.no_grad()
    def _fused(self, observed: _Observed) -> PanoramaLabels:
        with torch.autocast(self.device.type, enabled=False):
            fused = fuse(
                observed.labels,
                observed.views,
                self.height,
                self.width,
                invalid=observed.invalid,
                no_depth_classes=self.no_depth,
                keep_views=self.keep_views,
            )
        return dataclasses.replace(fused, masks=observed.masks)


def _in_float32(labels: ViewLabels) -> ViewLabels:
    wide: dict[str, Any] = {
        field.name: value.float()
        for field in dataclasses.fields(labels)
        if isinstance(value := getattr(labels, field.name), Tensor) and value.dtype != torch.float32
    }
    return dataclasses.replace(labels, **wide)


def read_mask(path: str | Path, height: int, width: int) -> Tensor:
    """Read an image of any size as a mask (height, width): true where it is at least partly white."""
    white = (read_panorama(user_path(path)).mean(-1) > 127).astype(np.float32)
    share = cv2.resize(white, (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(share > 0)
