"""The loader of training samples: its order and its augmentation are functions of seed and epoch, also when resumed."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.data.augmentation import Augmentation, Sample


class TrainingLoader(DataLoader[Sample]):
    """A shuffling `DataLoader` that tells the augmentation the epoch and can resume within one.

    Order and augmentation depend on (seed, epoch) only. An incomplete last batch is dropped if there is a complete
    one. Lightning sets the epoch, saves the position in checkpoints and returns to it; in a loop of one's own,
    call `loader.sampler.set_epoch(epoch)` before every epoch.

    Args:
        dataset: Data set of samples; it calls the augmentation in its `__getitem__`.
        batch_size: Samples per batch, per process.
        augmentation: The same object as the data set calls, or None.
        seed: Another seed gives another order.
        trainer: Lightning's trainer, if any: knows the epoch of a resumed training and this process's share.
        options: Other options of `DataLoader`, such as `num_workers`, `pin_memory` and `persistent_workers`.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        batch_size: int = 1,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        trainer: Any = None,
        **options: Any,
    ) -> None:
        raise NotImplementedError
