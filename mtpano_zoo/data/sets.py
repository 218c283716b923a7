"""The sets of a data module, and all samples of a set: for inspection, statistics, pictures and shards."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from lightning import LightningDataModule
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mtpano_zoo.data.augmentation import Sample
from mtpano_zoo.data.panoramas import REST, SPLITS, PanoramaDataModule
from mtpano_zoo.data.pseudo_label_views import ViewDataset
from mtpano_zoo.errors import InputError

__all__ = ("read_all", "samples_of")


def samples_of(
    data: LightningDataModule, splits: Sequence[str], augmented: bool = False, *, rest: bool = False
) -> dict[str, tuple[Dataset[Sample], LightningDataModule]]:
    """Return the sets that are not empty, with their data modules, by split.

    Pseudo-labels are the merged maps, even if training takes those of single views.

    Args:
        data: The data module; a mixture yields each of its sets, by ``NAME/SPLIT``.
        splits: Which splits.
        augmented: Leave the augmentation on.
        rest: If these are all splits, also return samples that only prediction reads, as ``predict``.

    Raises:
        InputError: If all of them are empty.
        FileNotFoundError: If there is no data.
    """
    sets: dict[str, tuple[Dataset[Sample], LightningDataModule]] = {}
    empty: ValueError = InputError("no split was chosen")
    modules: dict[str, LightningDataModule] = getattr(data, "modules", {"": data})
    for name, module in modules.items():
        module.prepare_data()
        prefix = f"{name}/" if name else ""
        for split in splits:
            try:
                with warnings.catch_warnings():
                    # Only the data set of this loader is used, with workers of our own.
                    warnings.filterwarnings("ignore", message="This DataLoader will create")
                    samples = getattr(module, f"{split}_dataloader")().dataset
            except ValueError as error:
                empty = error
                continue
            if isinstance(samples, IterableDataset):
                raise InputError(
                    f"{type(module).__name__} only yields samples in sequence: use the data set that it was made from"
                )
            if isinstance(samples, ViewDataset):
                samples.set_merged(range(len(samples)))
            if not augmented and getattr(samples, "augmentation", None) is not None:
                samples.augmentation = None
            sets[f"{prefix}{split}"] = (samples, module)
        if rest and {*SPLITS} <= {*splits} and isinstance(module, PanoramaDataModule):
            with contextlib.suppress(ValueError):  # there is none
                sets[f"{prefix}predict"] = (module.dataset(REST), module)
    if not sets:
        raise empty
    return sets


def read_all(samples: Dataset[Any], workers: int, title: str | None) -> Iterator[Any]:
    """Yield every item of a set once, in order, from worker processes; a title shows a bar on standard error."""
    loader: DataLoader[Any] = DataLoader(samples, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=title is None) as bar:
        yield from bar.track(loader, len(loader), description=title or "")


def _as_it_is(item: Any) -> Any:
    return item
