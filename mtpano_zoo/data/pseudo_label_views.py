"""Labels of single views in place of the merged maps, one per panorama and epoch."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mtpano_zoo.data.augmentation import Augmentation
from mtpano_zoo.data.index import Index
from mtpano_zoo.data.loading import TrainingSampler
from mtpano_zoo.data.panoramas import PanoramaDataset
from mtpano_zoo.data.source import PLAIN, Place
from mtpano_zoo.tasks import CONFIDENCES

__all__ = ("ViewDataset", "ViewIndex", "ViewSampler", "count_views")


class ViewDataset(PanoramaDataset):
    """The samples of another set, with the label of one view per panorama and epoch for some tasks.

    Args:
        samples: The set, whose labels are merged maps.
        tasks: Tasks that use a view.
        seed: Seed of the choice of views.

    Raises:
        FileNotFoundError: If the first panoramas have no view of a task.
    """

    def __init__(self, samples: PanoramaDataset, tasks: Sequence[str], seed: int) -> None:
        files = samples.index.files
        merged = [files[task][0] for task in tasks]
        views = {pattern: pattern.replace("merged", "label_{view}") for pattern in merged}
        without = frozenset(files[CONFIDENCES[task]][0] for task in tasks if task in CONFIDENCES)
        count = count_views(samples.index, tasks)
        index = ViewIndex(**vars(samples.index), views=views, without=without, count=count, seed=seed)
        super().__init__(
            index,
            samples.decoders,
            samples.id_pattern,
            samples.height,
            samples.width,
            labels=samples.labels,
            mask=samples.mask,
            augmentation=samples.augmentation,
            on_error=samples.on_error,
        )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the following samples, here and in all workers."""
        cast(ViewIndex, self.index).epoch.fill_(epoch)
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)

    def set_merged(self, indices: Sequence[int]) -> None:
        """Set the samples with merged maps until the next call, here and in all workers."""
        merged = cast(ViewIndex, self.index).merged
        merged.zero_()
        merged[list(indices)] = True


class ViewSampler(TrainingSampler):
    """Shuffle as `TrainingSampler`, and set at the start of every epoch which samples still use merged maps.

    Args:
        samples: The set.
        seed: Seed of the order.
        batch_size: Samples in a batch of this process.
        first_step: Number of the first batch with views, over all epochs.
    """

    def __init__(self, samples: ViewDataset, seed: int, batch_size: int, first_step: int) -> None:
        super().__init__(samples, cast(Augmentation, samples), seed)  # it needs `set_epoch` only
        self.samples = samples
        self.batch_size = batch_size
        self.first_step = first_step

    def __iter__(self) -> Iterator[Any]:
        """Run when the first index is requested, as in `TrainingSampler`."""
        order = list(super().__iter__())
        step = self.epoch * max(self.num_samples // self.batch_size, 1) + self.skipped // self.batch_size
        self.samples.set_merged(order[: max(self.first_step - step, 0) * self.batch_size])
        return iter(order)


@dataclass
class ViewIndex(Index):
    """An index that returns the file of one view in place of some merged maps.

    Args:
        views: Path pattern with the field ``view`` by pattern of the merged map.
        without: Patterns of merged maps that views do not have.
        count: Views per panorama.
        seed: Seed of the choice of views.
        epoch: Epoch, in memory that workers share.
        merged: Mask (N,) of samples that still use merged maps, in memory that workers share.
    """

    views: Mapping[str, str]
    without: frozenset[str]
    count: int
    seed: int
    epoch: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_())  # type: ignore[no-untyped-call]
    merged: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.merged = torch.zeros(len(self), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def view_of(self, i: int) -> int:
        """Return the view of a sample in this epoch; none comes again before all others have."""
        turn, place = divmod(int(self.epoch), self.count)
        text = f"{self.seed}/{turn}/{self.fields_of(i)['id']}"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return int(np.random.default_rng(int.from_bytes(digest)).permutation(self.count)[place])

    def has(self, role: str, i: int) -> bool:
        """Return whether the file of a role, or of its view, exists."""
        (pattern,) = self.files[role]
        if self.merged[i] or pattern not in self.views.keys() | self.without:
            return super().has(role, i)
        return pattern in self.views and (self.source.folder / self._locate(pattern, i)[0]).is_file()

    def _locate(self, pattern: str, i: int) -> tuple[str, Place]:
        if self.merged[i] or pattern not in self.views:
            return super()._locate(pattern, i)
        return self.views[pattern].format(**self.fields_of(i), view=self.view_of(i)), PLAIN


def count_views(index: Index, tasks: Sequence[str]) -> int:
    """Count the views of the first panoramas; a single one may lack some.

    Raises:
        FileNotFoundError: If they have none of a task.
    """
    fields = [index.fields_of(i) for i in range(min(10, len(index)))]
    counts = []
    for task in tasks:
        folders = [(index.source.folder / index.files[task][0].format(**one)).parent for one in fields]
        numbers = [int(path.stem[6:]) for folder in folders for path in folder.glob("label_[0-9]*.png")]
        if not numbers:
            raise FileNotFoundError(
                f"{folders[0]} has no labels of views, label_0.png and so on: label the panoramas with them, or take "
                f"{task} out of view_tasks"
            )
        counts.append(1 + max(numbers))
    return max(counts)
