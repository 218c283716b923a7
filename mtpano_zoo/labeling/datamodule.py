"""The panoramas to label: from files, or from the data module of any data set."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from mtpano_zoo.data.reading import resize_map
from mtpano_zoo.image_io import read_panorama
from mtpano_zoo.labeling.encoding import encode_image
from mtpano_zoo.labeling.report import one_sentence
from mtpano_zoo.run import find_images

__all__ = ("ImageFiles", "LabelingData", "samples_of")

Item = dict[str, Any]


class ImageFiles(Dataset[Item]):
    """Panoramas in files, of any size: `image` uint8 (3, H, W) and `id`, the name without extension.

    Sub-folders become part of the name, ``a/b.jpg`` is ``a_b``.

    Args:
        sources: images and folders; folders are searched with their sub-folders.
        out: where the labels go; what lies there is no panorama to label.

    Raises:
        ValueError: a folder without images, no source at all, or two images with the same name.
    """

    def __init__(self, sources: Sequence[str | Path], out: Path) -> None:
        self.names: list[str] = []
        self.paths: list[Path] = []
        owners: dict[str, Path] = {}
        for path, target in find_images(sources, out).items():
            name = _file_name(target.relative_to(out).as_posix())
            if (other := owners.setdefault(name, path)) != path:
                raise ValueError(f"{other} and {path} would both be called {name}: rename one, or label them apart")
            self.names.append(name)
            self.paths.append(path)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> str:
        """Return the id of a panorama."""
        return self.names[i]

    def __getitem__(self, i: int) -> Item:
        """Read one panorama.

        Raises:
            OSError: it is not there.
            ValueError: it is no panorama.
        """
        return {"image": torch.from_numpy(read_panorama(self.paths[i])).permute(2, 0, 1), "id": self.names[i]}


def samples_of(data: lightning.LightningDataModule, split: str) -> Dataset[Item]:
    """Return the samples of a data module as they are, without augmentation.

    Raises:
        ValueError: they are augmented, or can only be read one after the other.
    """
    data.prepare_data()
    data.setup({"train": "fit", "val": "validate"}.get(split, split))
    samples: Any = getattr(data, f"{split}_dataloader")().dataset
    if isinstance(samples, IterableDataset):
        raise ValueError(f"{type(data).__name__} reads a stream, of which nothing can be skipped: give it files")
    augmentations = getattr(samples, "augmentations", {None: getattr(samples, "augmentation", None)})
    if any(augmentation is not None for augmentation in augmentations.values()):
        raise ValueError(f"{type(data).__name__} augments its samples, which are then not those of the data set")
    return samples  # type: ignore[no-any-return]


class LabelingData(lightning.LightningDataModule):
    """Gives every process its share of the panoramas that are not finished, one at a time.

    An item has `name`, and either `sample`, with the panorama as the data set gives it, and `jpeg`, the panorama as it
    is stored; or `failure`, a sentence, where it cannot be read. Names are known before anything is read if the data
    set has a method `name`; else finished panoramas are read before they are skipped.

    Args:
        samples: the panoramas, with `image` float (3, H, W) in [0, 1] or uint8, and `id`.
        height: rows of the stored panorama.
        width: its columns.
        max_height: panoramas with more rows are shrunk to so many before anything is done with them: views of 512
            pixels would skip pixels of larger ones, and a few large ones fill the memory.
        num_workers: processes that read.
        finished: gives the names of what need not be read; asked when the loader is made.
        stopped: whether to give out nothing more.
    """

    def __init__(
        self,
        samples: Dataset[Item],
        height: int,
        width: int,
        *,
        max_height: int = 2048,
        num_workers: int = 0,
        finished: Callable[[], set[str]] = set,
        stopped: Callable[[], bool] = bool,
    ) -> None:
        super().__init__()
        if num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {num_workers}")
        if max_height < height:
            raise ValueError(f"max_height must not be less than the {height} rows of the labels, got {max_height}")
        self.items = _Items(samples, height, width, max_height)
        self.num_workers, self.finished, self.stopped = num_workers, finished, stopped
        self.skipped: list[str] = []

    def predict_dataloader(self) -> DataLoader[Item]:
        """The share of this process, in order."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        # Shares of all panoramas, not of the unfinished ones: of those, every process may see others.
        share = range(rank, len(self.items), processes)
        known = {i: name for i in share if (name := self.items.name(i)) is not None}
        done = self.finished() if known else set()
        self.skipped = [name for name in known.values() if name in done]
        todo = [i for i in share if known.get(i) not in done]
        return DataLoader(
            self.items, batch_size=None, sampler=_UntilStopped(todo, self.stopped), num_workers=self.num_workers
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave an item where it is: Lightning would look for tensors among the bytes of its JPEG, one by one."""
        return batch


class _UntilStopped(Sampler[int]):
    """Indices, until there is no use in reading on. Runs in the main process, also if workers read."""

    def __init__(self, indices: Sequence[int], stopped: Callable[[], bool]) -> None:
        self.indices, self.stopped = indices, stopped

    def __len__(self) -> int:
        # A process with nothing left to do has to take part in the end of the run, which Lightning leaves out at 0.
        return max(1, len(self.indices))

    def __iter__(self) -> Iterator[int]:
        for i in self.indices:
            if self.stopped():
                return
            yield i


class _Items(Dataset[Item]):
    """Reads panoramas in the workers, and encodes there what is stored of them; whatever fails becomes a sentence."""

    def __init__(self, samples: Dataset[Item], height: int, width: int, max_height: int) -> None:
        self.samples: Any = samples
        self.height, self.width, self.max_height = height, width, max_height

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, i: int) -> str | None:
        return _file_name(self.samples.name(i)) if hasattr(self.samples, "name") else None

    def __getitem__(self, i: int) -> Item:
        try:
            sample = self.samples[i]
            pixels = _pixels(sample["image"])
            if len(pixels) > self.max_height:
                pixels = resize_map("image", pixels, self.max_height, 2 * self.max_height)
                sample = {**sample, "image": torch.from_numpy(pixels).permute(2, 0, 1)}
            jpeg = encode_image(pixels, self.height, self.width)
            return {"name": _file_name(sample["id"]), "sample": sample, "jpeg": jpeg}
        except Exception as error:  # whatever a decoder does with a damaged file: the others are to be labelled
            return {"name": self.name(i) or f"panorama number {i}", "failure": one_sentence(error)}


def _file_name(name: str) -> str:
    """An id as the name of a file."""
    return name.replace("/", "_")


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    whole = image if image.dtype == torch.uint8 else (image * 255).round().byte()
    pixels: NDArray[np.uint8] = whole.permute(1, 2, 0).contiguous().numpy()
    return pixels
