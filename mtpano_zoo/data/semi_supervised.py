"""Training on two data sets: labelled panoramas, and unlabelled ones, of which only the image is used."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.loading import TrainingLoader
from mtpano_zoo.data.mixed import MixedDataModule, MixedDataset
from mtpano_zoo.data.mixed_sampler import MixedSampler
from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.errors import InputError

__all__ = ("SemiSupervisedDataModule",)

LABELLED, UNLABELLED = "labelled", "unlabelled"


class SemiSupervisedDataModule(MixedDataModule):
    """Batches of labelled panoramas, followed by `ratio` times as many unlabelled ones, for `DistillationModule`.

    The key `labelled` of a batch is the number of labelled panoramas. An epoch goes through the labelled set once; both
    sets continue where the last epoch stopped, so that no panorama comes again before all others of its set have. The
    order depends on `batch_size`, `ratio` and the number of processes, so training that resumes within an epoch needs
    the same ones.

    If augmentation changes the colours of an unlabelled panorama, the sample has `clean`, the image before that change
    but rotated and mirrored alike, for the teacher. Labels of the unlabelled set are never trained on; only an oracle
    uses them. Skip reading them with ``tasks: []``.

    Validation, test, prediction and classes are those of the labelled set.

    Args:
        labelled: Panoramas with labels.
        unlabelled: Other panoramas, of the same height and width.
        ratio: Unlabelled panoramas for each labelled one. Depth Anywhere tries 1, 2 and 4.
        batch_size: Labelled panoramas per batch.
        num_workers: Worker processes that read.
        augmentation: Augmentation for training samples of a set that has none of its own.
        seed: Seed of the draw of training samples.

    Raises:
        InputError: If an argument is out of range, a set is a `ShardsDataModule`, or sizes differ.
    """

    def __init__(
        self,
        labelled: LightningDataModule,
        unlabelled: LightningDataModule,
        ratio: int = 1,
        batch_size: int = 4,
        num_workers: int = 0,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        if ratio < 1:
            raise InputError(
                f"ratio must be a positive number of unlabelled panoramas for each labelled one, got {ratio}"
            )
        super().__init__(
            {LABELLED: labelled, UNLABELLED: unlabelled},
            weights={LABELLED: 1, UNLABELLED: ratio},
            classes=list(getattr(labelled, "classes", ())),
            evaluate=LABELLED,
            batch_size=batch_size,
            num_workers=num_workers,
            augmentation=augmentation,
            seed=seed,
        )
        self.ratio = ratio

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the loader of both sets; labelled panoramas that do not fill a batch wait for the next epoch."""
        if self._train_set is None:
            self._train_set = self.training_set([LABELLED, UNLABELLED], SemiSupervisedDataset)
        sampler = SemiSupervisedSampler(self._train_set, self.batch_size, self.ratio, self.seed)
        return TrainingLoader(
            self._train_set,
            batch_size=self.batch_size * (1 + self.ratio),
            sampler=sampler,
            drop_last=True,
            num_workers=self.num_workers,
            collate_fn=collate_in_order,
        )


class SemiSupervisedDataset(MixedDataset):
    """Keep the image of an unlabelled sample as it is before an augmentation changes its colours.

    A batch always has samples of both sets. If none of a set could be read, a black panorama without valid pixels takes
    their place: a process whose batch lacked one of the losses would leave the others waiting for it.
    """

    def _finish(self, name: str, sample: Sample, i: int, turn: int) -> Sample:
        augmentation = self.augmentations.get(name)
        if name == UNLABELLED and augmentation is not None and augmentation.probabilities["photometric"] > 0:
            sample = sample | {"clean": sample["image"]}
        return super()._finish(name, sample, i, turn)

    def _complete(self, samples: list[Sample], black: Mapping[str, Sample]) -> list[Sample]:
        missing = [sample for name, sample in black.items() if not any(_is_of(name, one) for one in samples)]
        return samples + [sample | _nothing_counts(*sample["image"].shape[-2:]) for sample in missing]


class SemiSupervisedSampler(MixedSampler):
    """This process's share of an epoch, ordered so that every batch has its labelled samples first.

    Args:
        samples: The two sets.
        batch_size: Labelled samples in a batch of this process.
        ratio: Unlabelled samples for each of them.
        seed: Seed of the draw.

    Raises:
        InputError: If there are fewer labelled samples than a step of all processes takes.
    """

    def __init__(self, samples: MixedDataset, batch_size: int, ratio: int, seed: int) -> None:
        super().__init__(samples, (1, ratio), 1, seed)
        self.layout = {"batch_size": batch_size, "ratio": ratio, "processes": self.num_replicas}
        """What the order depends on, besides seed and epoch, see `TrainingLoader`."""
        steps = samples.sizes[LABELLED] // (batch_size * self.num_replicas)
        if steps == 0:
            raise InputError(
                f"there are {samples.sizes[LABELLED]} labelled panoramas, fewer than the {batch_size} of a batch in "
                f"{self.num_replicas} processes: make batch_size smaller"
            )
        self.pattern = np.tile(np.repeat([True, False], [batch_size, batch_size * ratio]), steps)
        self.pattern = np.repeat(self.pattern, self.num_replicas)  # process r of n takes every n-th index from r on
        self.num_samples = len(self.pattern) // self.num_replicas
        self.total_size = len(self.pattern)
        self.counts = np.array([self.pattern.sum(), (~self.pattern).sum()])

    def draw(self, epoch: int) -> NDArray[np.intp]:
        """Return the indices of an epoch, all processes together."""
        order = np.empty(self.total_size, np.intp)
        for part, (chosen, places) in enumerate(zip(self.pieces(epoch), (self.pattern, ~self.pattern), strict=True)):
            order[places] = np.random.default_rng((self.seed, 2, part, epoch)).permutation(chosen)
        return order


def _nothing_counts(height: int, width: int) -> Sample:
    """Return labels without any valid pixel, for teachers and for stored labels."""
    never = torch.zeros(height, width, dtype=torch.bool)
    return {"ignored": ~never, "disparity": torch.zeros(height, width), "disparity_valid": never}


def _is_of(name: str, sample: Sample) -> bool:
    return cast(str, sample["id"]).startswith(f"{name}/")


def collate_in_order(samples: Sequence[Sample]) -> Sample:
    """Make a batch with the labelled samples first, even if some could not be read."""
    labelled = [sample for sample in samples if _is_of(LABELLED, sample)]
    others = [sample for sample in samples if not _is_of(LABELLED, sample)]
    batch: dict[str, Any] = collate([*labelled, *others])
    return batch | {"labelled": len(labelled)}
