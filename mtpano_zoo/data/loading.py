"""Loaders of samples: training depends on seed and epoch only, even after resuming; evaluation repeats no sample."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed
from lightning import LightningDataModule
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.errors import InputError

__all__ = (
    "EvaluationLoaders",
    "EvaluationSampler",
    "TrainingLoader",
    "TrainingSampler",
    "check_batches",
    "rank_and_size",
    "training_loader",
)


class EvaluationLoaders(LightningDataModule):
    """A data module whose loaders for validation, test and prediction differ only in their samples."""

    def _loader(self, split: str) -> DataLoader[Sample]:
        """Build the loader of ``val``, ``test`` or ``predict``."""
        raise NotImplementedError

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the loader of the validation set, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return the loader of the test set, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Return the loader of the samples to predict, by default the test set, in order."""
        return self._loader("predict")

    def evaluation_loader(self, samples: Dataset[Sample], split: str, **options: Any) -> DataLoader[Sample]:
        """Return a loader of samples, in order, that processes share; `options` are those of `DataLoader`."""
        return DataLoader(samples, sampler=self.evaluation_sampler(samples, split), **options)

    def evaluation_sampler(self, samples: Any, split: str) -> "EvaluationSampler | None":
        """Return the sampler of ``val``, ``test`` or ``predict`` if several processes share the samples, else None.

        With fewer samples than processes, validation and test leave them to Lightning's own sampler, which repeats
        some, because a process without any would make the others wait forever. For prediction, the sampler raises an
        error instead. Strategies that also exchange weights in every forward pass need equally many samples in all
        processes, so they keep Lightning's sampler too.
        """
        trainer = self.trainer
        if trainer is None or type(trainer.strategy) is not DDPStrategy or trainer.world_size == 1:
            return None
        return EvaluationSampler(samples) if len(samples) >= trainer.world_size or split == "predict" else None


def check_batches(batch_size: int, num_workers: int) -> None:
    """Refuse values that no loader can use.

    Raises:
        InputError: If the batch size is not positive, or the number of workers is negative.
    """
    if batch_size < 1 or num_workers < 0:
        raise InputError(f"batch_size must be positive and num_workers not negative: {batch_size}, {num_workers}")


class EvaluationSampler(DistributedSampler[Any]):
    """This process's share of the samples, in order. Unlike in Lightning's own, no sample is repeated."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset, shuffle=False)
        self.total_size = len(dataset)
        self.num_samples = len(range(self.rank, self.total_size, self.num_replicas))

    def __len__(self) -> int:
        """Return the number of samples of this process.

        Raises:
            InputError: If there are fewer samples than processes.
        """
        if self.total_size < self.num_replicas:
            raise InputError(
                f"{self.num_replicas} processes cannot share the panoramas, of which there are only {self.total_size}: "
                f"start at most {self.total_size}"
            )
        return self.num_samples


def training_loader(
    dataset: Dataset[Sample],
    augmentation: Augmentation | None,
    *,
    batch_size: int,
    seed: int = 0,
    sampler: "TrainingSampler | None" = None,
    **options: Any,
) -> "TrainingLoader":
    """Return a loader that shuffles, sets the epoch of the augmentation, and can resume within an epoch.

    An incomplete last batch is dropped if there is a complete one. Processes of `torch.distributed` share the samples.
    Lightning sets the epoch, keeps the position in its checkpoints and returns to it. A loop without Lightning calls
    `loader.sampler.set_epoch(epoch)` before every epoch, and may use `state_dict` and `load_state_dict`.

    Args:
        dataset: Samples that are already augmented.
        augmentation: The augmentation that the data set calls; None if it calls none.
        batch_size: Samples in a batch of this process.
        seed: Seed of the order.
        sampler: The sampler to use instead of one of the augmentation and the seed.
        options: Further arguments of `DataLoader`, such as `num_workers`, `pin_memory` and `persistent_workers`.

    Raises:
        InputError: If the batch size or an option is out of range.

    Example:
        >>> data = [{"image": torch.zeros(3, 2, 4)} for _ in range(5)]
        >>> len(training_loader(data, None, batch_size=2))
        2
    """
    sampler = sampler or TrainingSampler(dataset, augmentation, seed)
    drop_last = len(sampler) >= batch_size
    return TrainingLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=drop_last, **options)


class TrainingSampler(DistributedSampler[Any]):
    """This process's share of the samples, shuffled by seed and epoch; sets the epoch of the augmentation.

    Lightning keeps a `DistributedSampler` and calls its `set_epoch`, even in a single process.
    """

    def __init__(self, dataset: Dataset[Sample], augmentation: Augmentation | None, seed: int) -> None:
        rank, ranks = rank_and_size()
        super().__init__(dataset, ranks, rank, seed=seed)
        self.augmentation = augmentation
        self.skipped = 0  # samples of the next epoch that were seen before a resumption

    def __iter__(self) -> Iterator[Any]:
        """Run when the first index is requested: earlier samples are done, and no worker has one of this epoch yet."""
        if self.augmentation is not None:
            self.augmentation.set_epoch(self.epoch)
        return iter(list(super().__iter__())[self.skipped :])


class TrainingLoader(DataLoader[Sample]):
    """A `DataLoader` that knows its position: build it with :func:`training_loader`.

    A `TrainingSampler`, or an iterable data set, orders the samples. The loader sets how many of them it skips:
    it has `epoch`, `set_epoch` and `skipped`. If the order depends on other numbers than seed and epoch, it has them by
    name as `layout`, and an epoch only continues with the same ones.
    """

    _seen = 0  # samples of this process that were handed out
    _resumed: tuple[int, int] | None = None  # epoch and samples of it that this process has seen
    _layout: Mapping[str, int] = {}  # of the order when that state was saved

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Begin an epoch, or continue where a loaded state stopped.

        This is a generator, so that nothing happens before the first batch is requested: Lightning calls it before it
        sets the epoch.

        Raises:
            InputError: If the epoch cannot be continued, because the order of its samples is another one.
        """
        self._seen = 0
        if (order := self._order) is not None:
            if self._resumed is not None and self._resumed[0] == order.epoch:
                self._seen = self._resumed[1]
                self._check_layout()
            self._resumed = None
            order.skipped = self._seen
        for batch in super().__iter__():
            self._seen += self.batch_size or 1
            yield batch

    def _check_layout(self) -> None:
        own = getattr(self._order, "layout", {})
        for name, was in self._layout.items():
            if self._seen and own.get(name, was) != was:
                raise InputError(
                    f"The checkpoint was saved within an epoch, whose samples come in another order with {name} "
                    f"{own[name]} than with {was}: use {was}, or a checkpoint from the end of an epoch."
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the number of its samples that were handed out, in all processes, and the `layout`."""
        layout = dict(getattr(self._order, "layout", {}))
        seen = self._seen * rank_and_size()[1]
        return {"epoch": getattr(self._order, "epoch", 0), "samples": seen} | ({"layout": layout} if layout else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the samples that were handed out when the state was saved, by batches of any size.

        Older states count the batches of each process instead, which must have the same size as here.
        """
        batches = state.get("batches", 0) * (self.batch_size or 1)
        seen = state["samples"] // rank_and_size()[1] if "samples" in state else batches
        self._resumed = (state["epoch"], seen)
        self._layout = state.get("layout", {})
        if (order := self._order) is not None:
            order.set_epoch(state["epoch"])

    @property
    def epoch(self) -> int | None:
        """The epoch of the order of the samples; None if another sampler replaced ours."""
        return getattr(self._order, "epoch", None)

    @property
    def done(self) -> int:
        """How many of the `len(self)` batches of an epoch a loaded state leaves out."""
        share = len(self.dataset if isinstance(self.dataset, IterableDataset) else self.sampler)  # type: ignore[arg-type]
        left = max(share - (self._resumed[1] if self._resumed is not None else 0), 0)
        size = self.batch_size or 1
        return len(self) - (left // size if self.drop_last else -(-left // size))

    @property
    def _order(self) -> Any:
        order = self.dataset if isinstance(self.dataset, IterableDataset) else self.sampler
        return order if hasattr(order, "skipped") else None


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process, and how many processes train together.

    Example:
        >>> rank_and_size()  # without torch.distributed
        (0, 1)
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
