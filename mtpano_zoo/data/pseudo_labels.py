"""Panoramas labelled by networks that see perspective views of them, in the layout of MTPano."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.classes import ADE20K_CLASSES
from mtpano_zoo.data.index import Index
from mtpano_zoo.data.loading import training_loader
from mtpano_zoo.data.panoramas import PanoramaDataModule, PanoramaDataset, collate
from mtpano_zoo.data.reading import (
    FORWARD_UP_LEFT,
    NO_LABEL,
    Decoder,
    decode_depth,
    decode_labels,
    decode_rgb,
    decode_vectors,
    open_image,
)
from mtpano_zoo.data.source import PLAIN, Place


def decode_confidence(data: bytes) -> NDArray[np.float32]:
    """Decode an 8-bit grey image of confidences (H, W), 255 = certain.

    Raises:
        ValueError: It is not 8-bit grey.
    """
    image = open_image(data)
    if image.mode != "L":
        raise ValueError(f"its confidence is stored as mode {image.mode}, but it is 8-bit grey")
    return np.asarray(image, np.float32) / np.float32(255)


class PseudoLabelDataModule(PanoramaDataModule):
    """Pseudo-labels of MTPano (arXiv 2602.05330): classes of ADE20K, depth and normals that networks gave to views.

    The authors cut 32 perspective views out of every panorama, had InternImage-H (classes) and MoGe-2 (depth, normals)
    label them, and warped each back to a sparse panorama of its own; `merged` joins the views. Their data (140,000 and
    408,000 panoramas) are not public; this reads what anybody has generated in their layout::

        img/ID.jpg                            8-bit RGB, 1024 x 512
        semseg/ID/merged.png                  8-bit, ADE20K class 0 to 149 in its own order, 255 none
        semseg/ID/merged_confidence.png       8-bit, confidence 255 = 1; where there is no such file it is 1
        depth/ID/merged.png                   16-bit, millimetres along the ray, 0 none
        normals/ID/merged.png                 127.5 (1 + n), towards the camera; (128, 128, 128) none
        semseg|depth|normals/ID/label_K.png   the same of view K, 0 to 31, empty where the view does not reach
        db_info/panomtdu_SPLIT.json           list of ids, SPLIT is train, val or test

    A file that is missing means "no label". What the file names of the lists look like beyond this, and that normals
    are (R, G, B) = (forward, up, left), is inferred from the authors' code. A network that was trained on pseudo-labels
    of all panoramas of a benchmark has seen its test images.

    `confidence` goes into the sample, and `MultiTaskLoss` weighs the class loss by it; the authors' code loads it but
    never uses it. In training, the tasks in `view_tasks` have the label of one view per panorama and epoch, which
    depends on (`seed`, epoch, id); after 32 epochs every view was there once. The authors train so on depth, with a
    random view in every step, after 1,000 steps on the merged maps: to come close, train 1,000 steps and continue from
    the checkpoint with ``view_tasks: [depth]``. Validation and test are on the merged maps.

    Args:
        root: Folder that holds `img` and `db_info`.
        view_tasks: Tasks whose training labels are those of one view.
        view_count: Views per panorama.
        confidence: Read the confidence of the classes; not with ``semseg`` in `view_tasks`, as it is that of `merged`.
        options: See `PanoramaDataModule`.

    Raises:
        FileNotFoundError: There is no list of ids.
        ValueError: An argument is out of range, or a list is not one.

    Cite: J. Zhang et al., "MTPano", arXiv 2602.05330.
    """

    classes = ADE20K_CLASSES
    id_pattern = "{id}"
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("img/{id}.jpg",),
        "semseg": ("semseg/{id}/merged.png",),
        "depth": ("depth/{id}/merged.png",),
        "normals": ("normals/{id}/merged.png",),
        "confidence": ("semseg/{id}/merged_confidence.png",),
    }
    decoders: Mapping[str, Decoder] = {
        "image": decode_rgb,
        "semseg": partial(decode_labels, lookup=[*range(150), *[-1] * 105, NO_LABEL]),
        "depth": partial(decode_depth, unit=0.001),
        "normals": partial(decode_vectors, middle=127.5, scale=127.5, to_camera=FORWARD_UP_LEFT),
        "confidence": decode_confidence,
    }

    def __init__(
        self,
        root: str | Path,
        *,
        view_tasks: Sequence[str] = (),
        view_count: int = 32,
        confidence: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        if unknown := [task for task in view_tasks if task not in self.tasks]:
            raise ValueError(f"view_tasks are some of the tasks {', '.join(self.tasks)}, not {', '.join(unknown)}")
        if view_count < 1:
            raise ValueError(f"a panorama has at least one view, got view_count={view_count}")
        self.view_tasks, self.view_count = tuple(view_tasks), view_count
        if confidence and "semseg" in self.tasks:
            self.tasks = (*self.tasks, "confidence")
        self._lists: dict[str, frozenset[str]] | None = None

    @property
    def lists(self) -> dict[str, frozenset[str]]:
        """Ids by split, read when first needed."""
        if self._lists is None:
            folder = self.root / "db_info"
            paths = {split: folder / f"panomtdu_{split}.json" for split in ("train", "val", "test")}
            lists = {split: read_list(path) if path.is_file() else frozenset() for split, path in paths.items()}
            if not any(lists.values()):
                raise FileNotFoundError(f"{folder} has no list of ids, panomtdu_train.json, _val or _test")
            there = {self.index.fields_of(i)["id"] for i in range(len(self.index))}
            if missing := sorted(frozenset().union(*lists.values()) - there):
                warnings.warn(f"{self.root}: {len(missing)} ids of the lists have no image: {missing[0]}", stacklevel=2)
            self._lists = lists
        return self._lists

    def belongs(self, i: int, fields: Mapping[str, str], split: str) -> bool:
        """By the lists, which may overlap."""
        return fields["id"] in self.lists["test" if split == "predict" else split]

    def dataset(self, split: str) -> PanoramaDataset:
        """Return the set ``train``, ``val``, ``test`` or ``predict``; that of training gives labels of views."""
        samples = super().dataset(split)
        if split == "train" and self.view_tasks and not isinstance(samples, ViewDataset):
            samples = self._sets[split] = ViewDataset(samples, self.view_tasks, self.view_count, self.seed)
        return samples

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled, without an incomplete last batch if there is a complete one."""
        samples = self.dataset("train")
        told = samples if isinstance(samples, ViewDataset) else self.augmentation
        return training_loader(
            samples,
            cast(Augmentation | None, told),  # whoever has `set_epoch` will do
            batch_size=self.batch_size,
            seed=self.seed,
            num_workers=self.num_workers,
            collate_fn=collate,
        )


def read_list(path: Path) -> frozenset[str]:
    """Read a list of ids.

    Raises:
        ValueError: It is not a JSON list of strings.
    """
    try:
        ids = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise ValueError(f"{path} is not a list of ids in quotes")
    return frozenset(ids)


class ViewDataset(PanoramaDataset):
    """The samples of another set, with the label of one view per panorama and epoch for some tasks.

    Args:
        samples: The set, whose labels are merged maps.
        tasks: Which tasks take a view.
        count: Views per panorama.
        seed: Another seed chooses other views.
    """

    def __init__(self, samples: PanoramaDataset, tasks: Sequence[str], count: int, seed: int) -> None:
        read = [task for task in samples.tasks if task != "confidence" or "semseg" not in tasks]
        views = {samples.index.files[task][0]: f"{task}/{{id}}/label_{{view}}.png" for task in tasks}
        index = ViewIndex(**vars(samples.index), views=views, count=count, seed=seed)
        options = (samples.height, samples.width, read, samples.mask, samples.augmentation, samples.on_error)
        super().__init__(index, samples.decoders, samples.id_pattern, *options)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the samples from now on belong to, here and in all workers."""
        cast(ViewIndex, self.index).epoch.fill_(epoch)
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)


@dataclass
class ViewIndex(Index):
    """An index that gives the file of one view in place of some merged maps.

    Args:
        views: Path pattern with the field ``view`` by pattern of the merged map.
        count: Views per panorama.
        seed: Another seed chooses other views.
        epoch: In memory that workers share.
    """

    views: Mapping[str, str]
    count: int
    seed: int
    epoch: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_())  # type: ignore[no-untyped-call]

    def view_of(self, i: int) -> int:
        """Return the view of a sample in this epoch; none comes again before all others have."""
        turn, place = divmod(int(self.epoch), self.count)
        text = f"{self.seed}/{turn}/{self.fields_of(i)['id']}"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return int(np.random.default_rng(int.from_bytes(digest)).permutation(self.count)[place])

    def has(self, role: str, i: int) -> bool:
        """Whether the file of a role, or of its view, is there."""
        if self.files[role][0] not in self.views:
            return super().has(role, i)
        return (self.source.folder / self._locate(self.files[role][0], i)[0]).is_file()

    def _locate(self, pattern: str, i: int) -> tuple[str, Place]:
        if pattern not in self.views:
            return super()._locate(pattern, i)
        return self.views[pattern].format(**self.fields_of(i), view=self.view_of(i)), PLAIN
