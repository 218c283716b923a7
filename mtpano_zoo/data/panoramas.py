"""Base of all file data sets: one reader, and a description per data set."""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.index import Index, find_samples
from mtpano_zoo.data.loading import EvaluationLoaders, check_batches, training_loader
from mtpano_zoo.data.reading import UNREADABLE, Decoder, reason_of
from mtpano_zoo.data.resizing import resize_map
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import check_panorama_size
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.tasks import MAIN_TASKS, SAMPLE_MAPS, SampleMap, check_tasks
from mtpano_zoo.text_files import read_lines

__all__ = ("REST", "SPLITS", "PanoramaDataModule", "PanoramaDataset", "Split", "UnreadableSampleError", "collate")

OnError = Literal["raise", "skip"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
REST = "rest"  # the panoramas that are read for prediction but are in no split
Mask = Callable[[dict[str, NDArray[Any]]], None]


class UnreadableSampleError(InputError):
    """A file of a sample cannot be used; the message names it and says why."""

    def __init__(self, message: str) -> None:
        # A loader raises the error of a worker again, with the traceback as message: its last line is the message.
        super().__init__(message.strip().rsplit(f"{type(self).__name__}: ", 1)[-1])


class PanoramaDataset(Dataset[Sample]):
    """Samples of an index, decoded, converted to the frame of the project and resized.

    ``dataset[i]`` is a sample with `image`, `id` and those of `semseg`, `depth` and `normals` that are requested and
    exist. With ``on_error="skip"`` loaders continue without unreadable files: a label counts as absent, a panorama is
    left out of its batch (if nothing is left, the batch holds one black panorama without labels and with the key
    `unreadable`, which is neither scored nor written), and the attribute `unreadable` counts them.

    Args:
        index: The samples.
        decoders: Functions from the files of a role to a map, by role.
        id_pattern: Format of the id of a sample from its fields.
        height: Rows of the maps.
        width: Columns, twice the rows.
        labels: Roles to read beside the image: tasks, and roles that come with their labels.
        mask: Function that changes decoded maps in place, in their own size, to remove labels that do not count.
        augmentation: Applied to every sample.
        on_error: ``raise`` stops at an unreadable file, ``skip`` continues.
    """

    def __init__(
        self,
        index: Index,
        decoders: Mapping[str, Decoder],
        id_pattern: str,
        height: int,
        width: int,
        labels: Sequence[str],
        mask: Mask | None = None,
        augmentation: Augmentation | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.index = index
        self.decoders = decoders
        self.id_pattern = id_pattern
        self.mask = mask
        self.height = height
        self.width = width
        self.labels = tuple(labels)
        self.augmentation = augmentation
        self.on_error = on_error
        # Shared with the workers; a flag per sample and role, so that a file that fails in every epoch is counted once.
        self._failed = torch.zeros(len(index), 1 + len(self.labels), dtype=torch.bool)
        self._failed.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def unreadable(self) -> int:
        """Number of samples with a file that could not be read so far, in any process."""
        return int(self._failed.any(1).sum())

    def __len__(self) -> int:
        return len(self.index)

    def name(self, i: int) -> str:
        """Return the id of a sample."""
        return self.id_pattern.format(**self.index.fields_of(i))

    def __getitem__(self, i: int) -> Sample:
        """Read one sample.

        Raises:
            IndexError: If there is no such sample.
            UnreadableSampleError: If a file is missing, damaged, or not what the data set promises.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of a set of {len(self)}")
        i %= len(self)
        maps: dict[str, NDArray[Any]] = {}
        for column, role in enumerate(("image", *self.labels)):
            if role != "image" and not self.index.has(role, i):
                continue
            try:
                maps[role] = self._read(role, i, maps)
            except UnreadableSampleError as error:
                if self.on_error == "raise" or role == "image":
                    raise
                self._note(i, column, error)
        if self.mask is not None:
            maps = {role: np.require(values, requirements="W") for role, values in maps.items()}
            self.mask(maps)
        sample: Sample = {
            role: _to_tensor(role, resize_map(role, values, self.height, self.width)) for role, values in maps.items()
        }
        sample["id"] = self.name(i)
        return sample if self.augmentation is None else self.augmentation(sample)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Read the samples of a batch, as loaders do, and treat errors as `on_error` says."""
        if self.on_error == "raise":
            return [self[i] for i in indices]
        samples = []
        for i in indices:
            try:
                samples.append(self[i])
            except UnreadableSampleError as error:
                self._note(i, 0, error)
        black = torch.zeros(3, self.height, self.width)
        return samples or [{"image": black, "id": self.name(indices[0]), "unreadable": True}]

    def _read(self, role: str, i: int, maps: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        try:
            if not self.index.has(role, i):
                raise InputError("another file of the panorama is missing")
            values = self.decoders[role](*self.index.read(role, i))
            if role == "image":
                check_panorama_size(values.shape[0], values.shape[1], "it")
            elif "image" in maps and values.shape[:2] != maps["image"].shape[:2]:
                (h, w), (rows, columns) = values.shape[:2], maps["image"].shape[:2]
                raise InputError(f"it is {w} x {h} pixels, but its panorama is {columns} x {rows}")
        except UNREADABLE as error:
            raise UnreadableSampleError(f"{self.index.describe(role, i)} cannot be used: {reason_of(error)}") from error
        return values

    def _note(self, i: int, column: int, error: UnreadableSampleError) -> None:
        if not self._failed[i, column]:
            self._failed[i, column] = True
            warnings.warn(f"left out: {error}", stacklevel=2)


class PanoramaDataModule(EvaluationLoaders):
    """Training, validation, test and prediction sets of a data set of files.

    A data set is a subclass: class attributes say where its files are, what their bytes mean and which classes it has,
    `split_of` returns the split of a sample, and the constructor adds options of its own. Files may be unpacked, in the
    zip files of the release, or partly so.

    Args:
        root: Folder of the data set, unpacked or with its zip files, or one zip file.
        height: Rows of the panoramas after resizing.
        width: Columns, twice the rows.
        tasks: Labels to read, by default all that the data set has.
        batch_size: Panoramas per batch.
        num_workers: Processes that read samples.
        augmentation: Applied to training samples.
        seed: Seed of the order of the training samples.
        on_error: ``raise`` stops at the first file that cannot be read and names it; ``skip`` warns and counts.
        exclude: Text file with the ids of samples to leave out, one per line.

    Raises:
        FileNotFoundError: If there is no such root.
        InputError: If an argument is out of range.
    """

    classes: Sequence[str] = ()
    palette: NDArray[np.uint8] | None = None
    files: Mapping[str, tuple[str, ...]]
    """Path patterns by role, relative to the root; the first of ``image`` makes the samples."""
    expressions: Mapping[str, str] = {}
    """Regular expressions of the fields of the patterns."""
    decoders: Mapping[str, Decoder]
    id_pattern: str
    prefix: str = ""
    """Folder, with its slash, that paths in archives start with; the root may contain it or be it."""
    archives: str = "*.zip"
    complete: int | None = None
    """Panoramas in the whole release, where that is known."""
    mask: Mask | None = None
    saturated: int | None = 65535
    """Number in 16-bit depth files that means "this far or farther"; None if there is none."""
    train_on_all: bool = False
    """Whether the samples of every split are for training too."""

    def __init__(
        self,
        root: str | Path,
        height: int = 512,
        width: int = 1024,
        tasks: Sequence[str] | None = None,
        batch_size: int = 4,
        num_workers: int = 0,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        on_error: OnError = "raise",
        exclude: str | Path | None = None,
    ) -> None:
        super().__init__()
        if height < 8 or width != 2 * height:
            raise InputError(f"a panorama is twice as wide as high, and at least 8 rows: got {height} x {width}")
        check_batches(batch_size, num_workers)
        if on_error not in get_args(OnError):
            raise InputError(f"on_error must be raise or skip, not {on_error!r}")
        offered = tuple(task for task in MAIN_TASKS if task in self.files)
        # An empty list reads images only.
        self.tasks = offered if tasks is None else () if tasks in ([], ()) else check_tasks(tasks)
        if absent := [task for task in self.tasks if task not in offered]:
            raise InputError(f"{type(self).__name__} has no {', '.join(absent)}, only {', '.join(offered) or 'images'}")
        self.root = Path(root).expanduser().absolute()
        if not self.root.exists():
            raise FileNotFoundError(
                f"the data root {self.root} does not exist: set `root` to the folder that the help of "
                f"{type(self).__name__} describes"
            )
        self.height = height
        self.width = width
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = augmentation
        self.seed = seed
        self.on_error = on_error
        lines = read_lines(user_path(exclude)) if exclude is not None else []
        self.excluded = frozenset(line.strip() for line in lines if line.strip())
        self._index: Index | None = None
        self._sets: dict[str, PanoramaDataset] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Roles of the files to read beside the image; a data set adds roles that come with the labels of a task."""
        return self.tasks

    def split_of(self, fields: Mapping[str, str]) -> Split | None:
        """Return the split of the sample with these fields; None leaves it out."""
        raise NotImplementedError

    def find(self) -> Index:
        """Find all samples below the root; a data set without path patterns overrides this."""
        return find_samples(self.root, self.files, self.expressions, prefix=self.prefix, archives=self.archives)

    @property
    def index(self) -> Index:
        """All samples below the root, found when first needed."""
        if self._index is None:
            self._index = self.find()
            if self.complete is not None and len(self._index) < self.complete:
                warnings.warn(
                    f"{self.root} holds {len(self._index)} of the {self.complete} panoramas of the release",
                    stacklevel=2,
                )
            names = {self.id_pattern.format(**self._index.fields_of(i)) for i in range(len(self._index))}
            if unknown := sorted(self.excluded - names):
                warnings.warn(
                    f"{len(unknown)} of {len(self.excluded)} ids in exclude match no sample below {self.root}, for "
                    f"example {unknown[0]}",
                    stacklevel=2,
                )
        return self._index

    def prepare_data(self) -> None:
        """Find the samples once, before other processes look for them."""
        _ = self.index

    def dataset(self, split: str) -> PanoramaDataset:
        """Return the set ``train``, ``val``, ``test``, ``predict`` or ``rest``, built when first needed.

        The last two have no labels but `ignored`, where the data set has it; ``rest`` holds the panoramas that only
        prediction reads.

        Raises:
            InputError: If it is empty.
        """
        if split not in self._sets:
            chosen = self._choose(split)
            if not len(chosen):
                advice = " (trainer.limit_val_batches: 0 trains without validation)" if split == "val" else ""
                raise InputError(
                    f"{self.root} holds {len(self.index)} panoramas, but none for {split}: see how "
                    f"{type(self).__name__} splits them{advice}"
                )
            unlabelled = split in ("predict", REST)
            self._sets[split] = PanoramaDataset(
                self.index.select(chosen),
                self.decoders,
                self.id_pattern,
                self.height,
                self.width,
                labels=[role for role in self.labels if role == "ignored" or not unlabelled],
                mask=self.mask,
                augmentation=self.augmentation if split == "train" else None,
                on_error=self.on_error,
            )
        return self._sets[split]

    def _choose(self, split: str) -> NDArray[np.intp]:
        chosen = []
        for i in range(len(self.index)):
            fields = self.index.fields_of(i)
            if self.id_pattern.format(**fields) in self.excluded:
                continue
            if split == REST:
                wanted = self.belongs(i, fields, "predict") and not any(
                    self.belongs(i, fields, other) for other in SPLITS
                )
            else:
                wanted = self.belongs(i, fields, split)
            if wanted:
                chosen.append(i)
        return np.array(chosen, np.intp)

    def belongs(self, i: int, fields: Mapping[str, str], split: str) -> bool:
        """Return whether a sample is in ``train``, ``val``, ``test`` or ``predict``, which is the test set."""
        own = self.split_of(fields)
        if split == "train" and self.train_on_all:
            return own is not None
        return own == ("test" if split == "predict" else split)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled loader; it drops an incomplete last batch unless it is the only one."""
        return training_loader(
            self.dataset("train"),
            self.augmentation,
            batch_size=self.batch_size,
            seed=self.seed,
            num_workers=self.num_workers,
            collate_fn=collate,
        )

    def _loader(self, split: str) -> DataLoader[Sample]:
        options = {"batch_size": self.batch_size, "num_workers": self.num_workers, "collate_fn": collate}
        return self.evaluation_loader(self.dataset(split), split, **options)

    def teardown(self, stage: str) -> None:
        """Report the number of unreadable samples."""
        for split, samples in self._sets.items():
            if samples.unreadable:
                warnings.warn(
                    f"{split}: {samples.unreadable} of {len(samples)} samples could not be read", stacklevel=2
                )


def collate(samples: Sequence[Sample]) -> Sample:
    """Make a batch; a map that only some of its samples have is empty for the others, and `has_KEY` says which have it.

    Samples without confidence are trusted fully.

    Example:
        >>> image = torch.zeros(3, 2, 4)
        >>> batch = collate([{"image": image, "depth": torch.ones(2, 4)}, {"image": image}])
        >>> batch["depth"].mean((1, 2)).tolist(), batch["has_depth"].tolist()
        ([1.0, 0.0], [True, False])
    """
    keys = dict.fromkeys(itertools.chain.from_iterable(samples))
    image = samples[0]["image"]
    empty = {key: _empty(SAMPLE_MAPS[key], image) for key in keys if key in SAMPLE_MAPS}
    has = {key: [key in sample for sample in samples] for key in keys}
    partial = [key for key in keys if not all(has[key])]
    # Entries such as captions have no empty value: use a list with None where a sample lacks one.
    lists = {key: [sample.get(key) for sample in samples] for key in partial if key not in empty}
    whole = [{key: sample.get(key, empty.get(key)) for key in keys if key not in lists} for sample in samples]
    batch: Sample = default_collate(whole)
    marks = {f"has_{key}": torch.tensor(has[key], device=image.device) for key in partial if key in empty}
    return batch | lists | marks


def _empty(kind: SampleMap, image: Tensor) -> Tensor:
    shape = (kind.channels, *image.shape[-2:]) if kind.channels else image.shape[-2:]
    return torch.full(shape, kind.empty, dtype=getattr(torch, kind.dtype), device=image.device)


def _to_tensor(role: str, values: NDArray[Any]) -> Tensor:
    if role == "image":
        planes = np.empty((3, *values.shape[:2]), np.uint8)
        cv2.split(values, list(planes))
        return torch.from_numpy(planes).float().div_(255)
    tensor = torch.from_numpy(np.require(values.transpose(2, 0, 1) if values.ndim == 3 else values, None, ["C", "W"]))
    return tensor.long() if role == "semseg" else tensor
