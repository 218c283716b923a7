"""Panoramas labelled by networks through perspective views, in the layout of MTPano."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mtpano_zoo.classes import ADE20K_CLASSES
from mtpano_zoo.data.augmentation import Sample
from mtpano_zoo.data.folder import read_classes
from mtpano_zoo.data.loading import training_loader
from mtpano_zoo.data.panoramas import SPLITS, PanoramaDataModule, PanoramaDataset, collate
from mtpano_zoo.data.pseudo_label_views import ViewDataset, ViewSampler
from mtpano_zoo.data.reading import (
    FORWARD_UP_LEFT,
    Decoder,
    decode_confidence,
    decode_depth,
    decode_labels,
    decode_mask,
    decode_rgb,
    decode_vectors,
)
from mtpano_zoo.errors import InputError
from mtpano_zoo.manifest import MANIFEST
from mtpano_zoo.tasks import CONFIDENCES, NO_LABEL, SAMPLE_MAPS
from mtpano_zoo.text_files import read_json

__all__ = (
    "PseudoLabelDataModule",
    "decode_disparity",
    "decode_known",
    "in_metres",
    "read_list",
)

FORMAT = "mtpano pseudo-labels"  # a version follows


def decode_disparity(data: bytes) -> NDArray[np.float32]:
    """Decode depth and invert it; 0 where there is none."""
    depth = decode_depth(data, unit=0.001)
    return np.divide(np.float32(1), depth, out=np.zeros_like(depth), where=depth > 0)


def decode_known(data: bytes) -> NDArray[np.bool_]:
    """Decode the mask of pixels with depth."""
    return decode_depth(data, unit=0.001) > 0


def drop_ignored(maps: dict[str, NDArray[Any]]) -> None:
    """Remove the labels where none counts; `ignored` stays, for teachers that label the panorama again.

    Example:
        >>> maps = {"depth": np.ones((1, 2), np.float32), "ignored": np.array([[True, False]])}
        >>> drop_ignored(maps)
        >>> maps["depth"].tolist()
        [[0.0, 1.0]]
    """
    if "ignored" in maps:
        for role in maps.keys() - {"image", "ignored"}:
            maps[role][maps["ignored"]] = SAMPLE_MAPS[role].empty


class PseudoLabelDataModule(PanoramaDataModule):
    """Pseudo-labels of MTPano (arXiv 2602.05330): classes of ADE20K, depth and normals that networks assign to views.

    The authors cut 32 perspective views out of every panorama, had InternImage-H (classes) and MoGe-2 (depth, normals)
    label them, and warped each back to a sparse panorama of its own; `merged` joins the views. Their data (140,000 and
    408,000 panoramas) are not public; this reads any labels in their layout::

        img/ID.jpg                            8-bit RGB, 1024 x 512
        semseg/ID/merged.png                  8-bit, ADE20K class 0 to 149 in its own order, 255 none
        depth/ID/merged.png                   16-bit, millimetres along the ray, 0 none, 65535 too far
        normals/ID/merged.png                 127.5 (1 + n), towards the camera; (128, 128, 128) none
        far/ID/merged.png                     8-bit, 255 = farther than anything measured; published labels have none
        TASK/ID/merged_confidence.png         8-bit, confidence 255 = 1; where there is no such file it is 1. Published
                                              labels have it of semseg only
        masks/ID/merged.png                   8-bit, 255 where no label counts, as `mtpano label --mask` writes it
        TASK/ID/label_K.png                   as merged, of view K, 0 to 31, empty where the view does not reach
        db_info/panomtdu_SPLIT.json           list of ids, SPLIT is train, val or test

    A missing file means "no label". The names of the list files, and that normals are (R, G, B) = (forward, up, left),
    are inferred from the authors' code. A network that was trained on pseudo-labels of all panoramas of a benchmark has
    seen its test images. A file `classes.yaml` names the classes if they are not those of ADE20K, see
    `FolderDataModule`. Depth that `mtpano label` made without a teacher of metric depth is known only up to scale: it
    is refused; read the other tasks with ``tasks: [semseg, normals]``.

    The confidences become part of the sample, and `MultiTaskLoss` weights every task by its own; the authors' code
    loads the confidence of the classes but never uses it.

    In training, the tasks in `view_tasks` have the merged map in the first batches, and the label of one view from
    batch `views_from_step` on. The authors train depth this way: merged for 1,000 steps of warm-up and 1,000 more, then
    one random view, which is ``view_tasks: [depth]`` and ``views_from_step: 2000``. The choice of the view depends on
    (`seed`, epoch, id); after as many epochs as there are views, each was chosen once. Validation and test use the
    merged maps.

    Args:
        root: Folder that holds `img` and `db_info`.
        view_tasks: Tasks whose training labels come from one view.
        views_from_step: First batch with views, counted by every process from 0 over whole epochs, however it reads
            ahead and wherever it resumes. With accumulated gradients an optimiser step is several batches.
        relative: Return depth as `disparity`, inverse distance up to scale, for `DistillationModule`, even if the
            labels are known only up to scale.
        confidence: Read confidences, which belong to `merged`; a task with a view has none.
        options: See `PanoramaDataModule`.

    Raises:
        FileNotFoundError: If there is no list of ids, or no view of a task in `view_tasks`.
        InputError: If an argument is out of range, or a list is damaged.
        InputError: If depth is known only up to scale.

    Cite: J. Zhang et al., "MTPano", arXiv 2602.05330.
    """

    classes: Sequence[str] = ADE20K_CLASSES
    id_pattern = "{id}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("img/{id}.jpg",),
        **{task: (f"{task}/{{id}}/merged.png",) for task in CONFIDENCES},
        **{role: (f"{task}/{{id}}/merged_confidence.png",) for task, role in CONFIDENCES.items()},
        "far": ("far/{id}/merged.png",),
        "ignored": ("masks/{id}/merged.png",),
    }
    mask = staticmethod(drop_ignored)

    def __init__(
        self,
        root: str | Path,
        *,
        view_tasks: Sequence[str] = (),
        views_from_step: int = 0,
        relative: bool = False,
        confidence: bool = True,
        **options: Any,
    ) -> None:
        if relative:
            depth = type(self).files["depth"]
            kept = {role: files for role, files in type(self).files.items() if not role.startswith("depth")}
            self.files = kept | {"disparity": depth, "disparity_valid": depth}
        super().__init__(root, **options)
        if unknown := [task for task in view_tasks if task not in self.tasks]:
            raise InputError(f"view_tasks must be among the tasks {', '.join(self.tasks)}, not {', '.join(unknown)}")
        if views_from_step < 0:
            raise InputError(f"views_from_step counts batches from 0, got {views_from_step}")
        if "depth" in self.tasks and not in_metres(self.root):
            others = ", ".join(task for task in self.tasks if task != "depth")
            raise InputError(
                f"{self.root} holds depth that is known only up to scale, because none of the teachers that made it "
                f"knows metres: leave it out with the option tasks=[{others}], or label again with a teacher of metric "
                "depth, or read it as disparity with relative=true"
            )
        self.view_tasks = tuple(view_tasks)
        self.views_from_step = views_from_step
        if (named := self.root / "classes.yaml").is_file():
            self.classes, self.palette = read_classes(named)
        count = len(self.classes)
        self.decoders: Mapping[str, Decoder] = {
            "image": decode_rgb,
            "semseg": partial(decode_labels, lookup=[*range(count), *[-1] * (NO_LABEL - count), NO_LABEL]),
            "depth": partial(decode_depth, unit=0.001),
            "normals": partial(decode_vectors, middle=127.5, scale=127.5, to_camera=FORWARD_UP_LEFT),
            **dict.fromkeys(CONFIDENCES.values(), decode_confidence),
            "disparity": decode_disparity,
            "disparity_valid": decode_known,
            **dict.fromkeys(("far", "ignored"), decode_mask),
        }
        self.confidence = confidence
        self._lists: dict[str, frozenset[str]] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Roles of the tasks, of their validity, confidence and far mask, and of the mask where no label counts."""
        confidences = [CONFIDENCES[task] for task in self.tasks if self.confidence and task in CONFIDENCES]
        valid = ["disparity_valid"] if "disparity" in self.tasks else []
        far = ["far"] if "depth" in self.tasks else []
        return (*self.tasks, *valid, *confidences, *far, "ignored")

    @property
    def lists(self) -> dict[str, frozenset[str]]:
        """Ids by split, read when first needed."""
        if self._lists is None:
            folder = self.root / "db_info"
            paths: dict[str, Path] = {split: folder / f"panomtdu_{split}.json" for split in SPLITS}
            lists = {split: read_list(path) if path.is_file() else frozenset() for split, path in paths.items()}
            if not any(lists.values()):
                raise FileNotFoundError(f"{folder} has no list of ids, panomtdu_train.json, _val or _test")
            there = {self.index.fields_of(i)["id"] for i in range(len(self.index))}
            if missing := sorted(frozenset().union(*lists.values()) - there):
                warnings.warn(f"{self.root}: {len(missing)} ids of the lists have no image: {missing[0]}", stacklevel=2)
            self._lists = lists
        return self._lists

    def belongs(self, i: int, fields: Mapping[str, str], split: str) -> bool:
        """Return whether a sample is in the list of a split; lists may overlap."""
        return fields["id"] in self.lists["test" if split == "predict" else split]

    def dataset(self, split: str) -> PanoramaDataset:
        """Return the set ``train``, ``val``, ``test`` or ``predict``; the training set may return labels of views."""
        samples = super().dataset(split)
        if split == "train" and self.view_tasks and not isinstance(samples, ViewDataset):
            samples = self._sets[split] = ViewDataset(samples, self.view_tasks, self.seed)
        return samples

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled loader; it drops an incomplete last batch unless it is the only one."""
        samples = self.dataset("train")
        if not isinstance(samples, ViewDataset):
            return super().train_dataloader()
        sampler = ViewSampler(samples, self.seed, self.batch_size, self.views_from_step)
        return training_loader(
            samples,
            None,
            sampler=sampler,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
        )


def in_metres(root: Path) -> bool:
    """Return whether depth labels are in metres: not if `mtpano label` made them without a teacher of metric depth.

    Every run of it records this at its end. If none has ended yet, the manifest names the teachers: depth is aligned
    with the metric ones; a teacher that does not state its kind counts as metric, and so do labels without teachers.

    Raises:
        InputError: If the manifest or a record is damaged.
    """
    manifest = root / MANIFEST
    content = read_json(manifest) if manifest.is_file() else None
    if not isinstance(content, dict) or not str(content.get("format")).startswith(FORMAT):
        return True
    try:
        recorded = [read_json(record).get("metric_depth") for record in sorted((root / "runs").glob("*.json"))]
        if known := [metric for metric in recorded if metric is not None]:
            return all(known)
        kinds = [_depth_kind(teacher["provenance"]) for teacher in content["settings"].get("teachers", ())]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{manifest} or a record in {root / 'runs'} is damaged: label the panoramas again") from error
    return "metric" in kinds or not any(kinds)


def _depth_kind(provenance: Mapping[str, Any]) -> str | None:
    """Return the kind of a teacher's depth; None if it names none, or has no depth."""
    if "teacher" in provenance:  # it extends the labels of another teacher
        return _depth_kind(provenance["teacher"])
    if provenance.get("name") == "MoGe":
        return "metric"
    options = provenance.get("options", {})
    if "depth" not in options.get("tasks", ("depth",)):
        return None
    kind: str | None = options.get("kind", options.get("depth_kind"))
    return kind


def read_list(path: Path) -> frozenset[str]:
    """Read a list of ids.

    Raises:
        InputError: If it is not a JSON list of strings.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "panomtdu_train.json")
        ...     _ = path.write_text('["a", "b"]')
        ...     sorted(read_list(path))
        ['a', 'b']
    """
    ids = read_json(path)
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise InputError(f"{path} is not a list of ids in quotes")
    return frozenset(ids)
