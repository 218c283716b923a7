"""Training on several data sets: a mixture of their samples, with the labels that each has."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.device_rendering import (
    DRAWN,
    Drawn,
    RenderingLoaders,
    RenderOn,
    check_render_on,
    collate_drawn,
)
from mtpano_zoo.data.loading import check_batches, training_loader
from mtpano_zoo.data.mixed_sampler import MixedSampler
from mtpano_zoo.data.panoramas import UnreadableSampleError, collate
from mtpano_zoo.data.scenes import SceneDataModule, SceneDataset
from mtpano_zoo.data.shards import ShardsDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.tasks import NO_LABEL
from mtpano_zoo.viz import default_palette

__all__ = ("MixedDataModule", "MixedDataset", "merge_classes")

ClassMap = Mapping[str, Mapping[str, str | None]]


class MixedDataModule(RenderingLoaders):
    """Several data modules as one: training draws from them by weight, and a batch may mix their samples.

    Where another sample of a batch has a label that a set lacks, the set's samples get "no label" and do not take part
    in that loss. Ids become ``NAME/ID``. Classes with the same name are one class; `class_map` renames or drops those
    of a set::

        data:
          class_path: MixedDataModule
          init_args:
            modules:
              structured3d: {class_path: Structured3DDataModule, init_args: {root: /data/structured3d}}
              rooms: {class_path: RoomsDataModule, init_args: {height: 512, width: 1024}}
            weights: {structured3d: 3, rooms: 1}
            class_map: {rooms: {bookcase: bookshelf, board: whiteboard, beam: null}}

    On the command line, ``--data.modules.rooms.height 256`` changes one argument of a set and keeps the others. Another
    configuration file that sets `modules` replaces all sets.

    Every epoch holds the same number of samples of each set, and continues where the last one stopped: no sample of a
    set comes again before all others have, over as many epochs as that takes. The samples, their order and augmentation
    depend on (`seed`, epoch) only. A sample that comes twice in an epoch is augmented differently.

    Validation, test and prediction go through all sets that have one, or through one named by `evaluate`, in a single
    loader: the metrics of `PanoramaModule` are then pooled over all pixels, where large sets outweigh small ones. To
    compare with published numbers, take the metrics of each set, which the callback `MetricsPerSet` logs as
    ``val/NAME/TASK/METRIC`` beside the pooled ones.

    Several processes share an epoch; if they do not divide its samples evenly, it gets a few more. Evaluation repeats
    none, see `EvaluationLoaders.evaluation_sampler`.

    Args:
        modules: The data modules by name, all of the same height and width. Their own batch sizes, workers and seeds
            do not matter; their augmentation does, for their samples.
        weights: Shares of the training samples, by name; by default the sizes of the sets. Sets of weight 0 are for
            evaluation only.
        class_map: New class names by set; null means no label. Classes that are not listed keep their names.
        classes: Classes of the mixture, in this order; others become "no label". By default all, in the order of the
            sets.
        evaluate: Set for validation, test and prediction; by default all.
        samples_per_epoch: Training samples per epoch; by default as many as the sets of weight above 0 hold.
        batch_size: Panoramas per batch.
        num_workers: Worker processes that read.
        augmentation: Augmentation for training samples of sets that have none of their own.
        seed: Seed of the draw of training samples.
        render_on: `device` leaves rendering and augmenting of training samples to the device of the training, see
            `SceneDataModule`; all sets must be scenes.

    Raises:
        InputError: If an argument is out of range or names an unknown set or class, a set is a `ShardsDataModule`,
            sizes differ, or not all sets can be rendered on the device.
    """

    def __init__(
        self,
        modules: dict[str, LightningDataModule],
        weights: dict[str, float] | None = None,
        class_map: dict[str, dict[str, str | None]] | None = None,
        classes: Sequence[str] | None = None,
        evaluate: str | None = None,
        samples_per_epoch: int | None = None,
        batch_size: int = 4,
        num_workers: int = 0,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        render_on: RenderOn = "workers",
    ) -> None:
        super().__init__()
        check_render_on(render_on)
        if not modules or any(not name or "/" in name for name in modules):
            raise InputError("a mixture needs data modules, with names without a slash")
        check_batches(batch_size, num_workers)
        if samples_per_epoch is not None and samples_per_epoch < 1:
            raise InputError(f"samples_per_epoch must be positive, not {samples_per_epoch}")
        named: dict[str, Collection[str]] = {
            "weights": weights or {},
            "class_map": class_map or {},
            "evaluate": [evaluate] if evaluate else [],
        }
        for argument, names in named.items():
            if unknown := sorted(set(names) - set(modules)):
                raise InputError(f"{argument} names {', '.join(unknown)}, but the sets are {', '.join(modules)}")
        if weights is not None and (missing := [name for name in modules if name not in weights]):
            raise InputError(f"weights lacks {', '.join(missing)}: 0 leaves a set out of the training")
        if weights is not None and (min(weights.values()) < 0 or sum(weights.values()) <= 0):
            raise InputError(f"weights must not be negative, nor all 0: {weights}")
        if packed := [name for name, module in modules.items() if isinstance(module, ShardsDataModule)]:
            raise InputError(
                f"{packed[0]} is a set of shards, which can only be read in sequence: use what they were made from"
            )
        if counting := [name for name, module in modules.items() if getattr(module, "views_from_step", 0)]:
            raise InputError(
                f"{counting[0]} counts its own batches, which a mixture does not have: set views_from_step to 0"
            )
        if render_on == "device":
            _check_rendered(modules)
        sizes = {name: _size(module) for name, module in modules.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {height} x {width}" for name, (height, width) in sizes.items())
            raise InputError(f"all sets of a mixture need the same height and width, not {listed}")
        self.modules = dict(modules)
        self.weights = weights
        self.evaluate = evaluate
        self.samples_per_epoch = samples_per_epoch
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = augmentation
        self.seed = seed
        self.height, self.width = next(iter(sizes.values()))
        own = {name: tuple(getattr(module, "classes", ())) for name, module in modules.items()}
        self.classes, self.lookups = merge_classes(own, class_map or {}, classes)
        self.palette = _merge_palettes(modules, self.lookups, len(self.classes))
        self.render_on = render_on
        self._train_set: MixedDataset | None = None

    def prepare_data(self) -> None:
        """Let every data module prepare itself."""
        for module in self.modules.values():
            module.prepare_data()

    def setup(self, stage: str) -> None:
        """Let every data module set itself up."""
        for module in self.modules.values():
            module.setup(stage)

    def teardown(self, stage: str) -> None:
        """Let every data module report at the end."""
        for module in self.modules.values():
            module.teardown(stage)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the loader of samples drawn by weight; it drops an incomplete last batch unless it is the only one."""
        if self._train_set is None:
            drawn = [name for name in self.modules if self.weights is None or self.weights[name] > 0]
            self._train_set = self.training_set(drawn)
        sizes = self._train_set.sizes
        shares = [self.weights[name] if self.weights else size for name, size in sizes.items()]
        sampler = MixedSampler(self._train_set, shares, self.samples_per_epoch or sum(sizes.values()), self.seed)
        samples, on_device = self._train_set, self.render_on == "device"
        if on_device:
            samples = self.left_to_device(samples)
        return training_loader(
            samples,
            None,
            sampler=sampler,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate_drawn if on_device else collate,
        )

    def training_set(self, names: Sequence[str], kind: type["MixedDataset"] | None = None) -> "MixedDataset":
        """Build the training samples of the named sets."""
        # Copies, because the sets belong to their modules, which may also be used on their own.
        parts = {name: copy.copy(cast(Any, self.modules[name].train_dataloader()).dataset) for name in names}
        # The mixture augments itself, since a sample drawn twice needs two names for that, and blackens poles after it.
        augmentations = {name: getattr(part, "augmentation", None) or self.augmentation for name, part in parts.items()}
        for part in parts.values():
            part.augmentation, part.blackens, part.draws_only = None, False, False
        return (kind or MixedDataset)(parts, self.lookups, augmentations)

    def _loader(self, split: str) -> DataLoader[Sample]:
        parts: dict[str, Dataset[Sample]] = {}
        error = None
        for name in [self.evaluate] if self.evaluate else self.modules:
            try:
                parts[name] = getattr(self.modules[name], f"{split}_dataloader")().dataset
            except ValueError as empty:
                error = empty
        if not parts:
            raise error or InputError(f"no set has samples for {split}")
        samples = MixedDataset(parts, self.lookups, {})
        options = {"batch_size": self.batch_size, "num_workers": self.num_workers, "collate_fn": collate}
        return self.evaluation_loader(samples, split, **options)


class MixedDataset(Dataset[Sample]):
    """Concatenated sets, with the classes of the mixture and ids ``NAME/ID``.

    An index beyond the end wraps around to the same sample, with other random numbers in its augmentation.

    Args:
        parts: The sets by name.
        lookups: Tables (N,) from classes of a set to classes of the mixture, by name.
        augmentations: Augmentations of the sets, by name.
    """

    def __init__(
        self,
        parts: Mapping[str, Dataset[Sample]],
        lookups: Mapping[str, Tensor],
        augmentations: Mapping[str, Augmentation | None],
    ) -> None:
        self.parts = dict(parts)
        self.lookups = lookups
        self.augmentations = augmentations
        self.sizes = {name: len(cast(Any, part)) for name, part in parts.items()}
        self._ends = np.cumsum(list(self.sizes.values()))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of every augmentation, and of every set that has epochs."""
        listeners: tuple[Any, ...] = (*self.parts.values(), *self.augmentations.values())
        for listener in listeners:
            if hasattr(listener, "set_epoch"):
                listener.set_epoch(epoch)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        name, i, turn = self._place(index)
        sample = self.parts[name][i]
        return _placed(sample, index) if DRAWN in sample else self._finish(name, sample, i, turn)

    def only_drawn(self) -> "MixedDataset":
        """Return the same samples as scenes that are not rendered yet; `finish` completes what was rendered."""
        drawn = copy.copy(self)
        drawn.parts = {name: cast(SceneDataset, part).only_drawn() for name, part in self.parts.items()}
        return drawn

    def finish(self, sample: Sample, index: int) -> Sample:
        """Complete the maps of a rendered scene."""
        name, i, turn = self._place(index)
        return self._finish(name, cast(SceneDataset, self.parts[name]).finish(sample, i), i, turn)

    def __iter__(self) -> Iterator[Sample]:
        """Read every sample once; without this, Python would count up until an index is refused."""
        return (self[i] for i in range(len(self)))

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Read the samples of a batch; unreadable ones are left out if their set skips them."""
        samples = []
        black: dict[str, Sample] = {}
        for index in indices:
            name, i, turn = self._place(index)
            read = getattr(self.parts[name], "__getitems__", None)
            sample = self.parts[name][i] if read is None else read([i])[0]
            if DRAWN in sample:
                samples.append(_placed(sample, index))
            elif "unreadable" in sample:
                black[name] = sample | {"id": f"{name}/{sample['id']}"}
            else:
                samples.append(self._finish(name, sample, i, turn))
        return self._complete(samples, black)

    def _complete(self, samples: list[Sample], black: Mapping[str, Sample]) -> list[Sample]:
        """Return the samples of a batch; if there are none, a black panorama of those that could not be read."""
        return samples or list(black.values())[:1]

    def _place(self, index: int) -> tuple[str, int, int]:
        turn, index = divmod(index, len(self))
        part = int(np.searchsorted(self._ends, index, side="right"))
        name = list(self.parts)[part]
        return name, index - int(self._ends[part]) + self.sizes[name], turn

    def _finish(self, name: str, sample: Sample, i: int, turn: int) -> Sample:
        sample = dict(sample)
        if "semseg" in sample:
            lookup = self.lookups[name]
            labels = sample["semseg"]
            if (unknown := labels[(labels != NO_LABEL) & ((labels < 0) | (labels >= len(lookup)))]).numel():
                raise UnreadableSampleError(
                    f"{sample['id']} of {name} holds the classes {unknown.unique().tolist()[:5]}, but {name} has "
                    f"{len(lookup)}"
                )
            padded = torch.full((NO_LABEL + 1,), NO_LABEL)
            padded[: len(lookup)] = lookup
            sample["semseg"] = padded.to(labels.device)[labels]
        own = f"{name}/{sample['id']}"
        if (augmentation := self.augmentations.get(name)) is not None:
            sample = augmentation(sample | {"id": f"{own}/{turn}" if turn else own})
        if isinstance(part := self.parts[name], SceneDataset):
            sample = part.blacken(sample, i)
        return sample | {"id": own}


def merge_classes(
    own: Mapping[str, Sequence[str]], class_map: ClassMap, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Merge class lists by name.

    Args:
        own: The classes of every set.
        class_map: New names by set; None drops a class.
        classes: The classes to keep, by default all in the order of their appearance.

    Returns:
        The classes, and by set the class (N,) of each of its own; 255 = none.

    Raises:
        InputError: If a name is unknown or there are more than 255 classes.

    Example:
        >>> classes, lookups = merge_classes({"a": ["wall", "floor"], "b": ["floor", "sky"]}, {})
        >>> classes
        ('wall', 'floor', 'sky')
        >>> lookups["b"][:2].tolist()
        [1, 2]
    """
    for name, renamed in class_map.items():
        if unknown := [old for old in renamed if old not in own[name]]:
            raise InputError(f"class_map: {name} has no class {', '.join(unknown)}, only {', '.join(own[name])}")
        if classes is not None and (lost := [new for new in renamed.values() if new and new not in classes]):
            raise InputError(f"class_map: {', '.join(lost)} is not among the classes of the mixture")
    renamed_sets = {name: [class_map.get(name, {}).get(old, old) for old in olds] for name, olds in own.items()}
    named = dict.fromkeys(new for new in chain.from_iterable(renamed_sets.values()) if new)
    merged = tuple(named if classes is None else classes)
    if len(merged) > NO_LABEL or len(set(merged)) < len(merged):
        raise InputError(
            f"a mixture has up to {NO_LABEL} different classes, not {len(merged)} with {len(set(merged))} names"
        )
    if never := [name for name in merged if name not in named]:
        raise InputError(f"no set of the mixture has a class {', '.join(never)}")
    index: dict[str | None, int] = {name: i for i, name in enumerate(merged)}
    lookups = {
        name: torch.tensor([index.get(new, NO_LABEL) for new in news], dtype=torch.int64)
        for name, news in renamed_sets.items()
    }
    return merged, lookups


def _merge_palettes(
    modules: Mapping[str, LightningDataModule], lookups: Mapping[str, Tensor], count: int
) -> NDArray[np.uint8] | None:
    """Return class colours: those of the first set with the class, or new ones where these are taken or missing."""
    colours: dict[int, tuple[int, ...]] = {}
    for name, module in modules.items():
        palette = getattr(module, "palette", None)
        for old, new in enumerate(lookups[name].tolist() if palette is not None else []):
            colour = tuple(int(value) for value in cast(Any, palette)[old])
            if new != NO_LABEL and new not in colours and colour not in colours.values():
                colours[new] = colour
    spare = (tuple(colour) for colour in default_palette(2 * count).tolist())
    for new in range(count):
        if new not in colours:
            colours[new] = next(colour for colour in spare if colour not in colours.values())
    return np.array([colours[new] for new in range(count)], np.uint8).reshape(-1, 3) if count else None


def _placed(sample: Sample, index: int) -> Sample:
    return sample | {DRAWN: Drawn(sample[DRAWN].scene, index)}


def _check_rendered(modules: Mapping[str, LightningDataModule]) -> None:
    for name, module in modules.items():
        if not isinstance(module, SceneDataModule) or module.train_set.cached:
            raise InputError(f"render_on: device is for rendered scenes without cache, and {name} is not: leave it out")


def _size(module: LightningDataModule) -> tuple[int, int]:
    stated: Any = module
    if not hasattr(stated, "height"):
        raise InputError(f"{type(module).__name__} does not state its height and width: it cannot be in a mixture")
    return stated.height, stated.width
