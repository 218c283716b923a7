"""The samples of WebDataset tar files, read from beginning to end and shared by nodes and workers."""

import tarfile
from collections.abc import Iterator
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.loading import rank_and_size
from mtpano_zoo.data.panoramas import UnreadableSampleError
from mtpano_zoo.data.reading import (
    UNREADABLE,
    Decoder,
    decode_depth,
    decode_labels,
    decode_mask,
    decode_npy,
    decode_rgb,
    decode_vectors,
    reason_of,
)
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import BYTES_IN_ARCHIVE, check_bytes, max_bytes
from mtpano_zoo.tasks import CONFIDENCES, SAMPLE_MAPS
from mtpano_zoo.text_files import parse_json

__all__ = ("ARRAYS", "CONTENTS", "MASKS", "ShardDataset")

CONTENTS = "shards.json"

ARRAYS = ("disparity", *CONFIDENCES.values())
MASKS = tuple(role for role, kind in SAMPLE_MAPS.items() if kind.dtype == "bool")

Encoded = tuple[str, dict[str, bytes]]  # a name for messages, and the contents of the files of a sample by ending

DECODERS: dict[str, Decoder] = {
    "image.png": decode_rgb,
    "semseg.png": partial(decode_labels, lookup=range(256)),
    "depth.png": partial(decode_depth, unit=0.001),
    "depth.npy": decode_npy,
    "normals.png": partial(decode_vectors, middle=32768, scale=32767),
    **dict.fromkeys((f"{role}.npy" for role in ARRAYS), decode_npy),
    **dict.fromkeys((f"{role}.png" for role in MASKS), decode_mask),
}


class ShardDataset(IterableDataset[Sample]):
    """Samples of tar files; every process and worker yields those of its own files.

    With a `limit`, it is for training: `limit` samples, drawn through a buffer, with files ordered by (`seed`, epoch).

    Args:
        root: Folder of the files.
        shards: Number of samples by file name.
    """

    limit: int | None = None
    skipped = 0  # samples of the next epoch that this process has seen before a resumption
    batch_size = 1
    workers = 1
    buffer = 1
    seed = 0
    augmentation: Augmentation | None = None

    def __init__(self, root: Path, shards: dict[str, int]) -> None:
        self.root = root
        self.shards = shards
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        if self.limit is None:  # workers end with incomplete batches, so a loader would count too few
            raise TypeError("the number of batches is not known before they are read")
        return self.limit * self.workers

    @property
    def epoch(self) -> int:
        """The epoch that samples belong to."""
        return int(self._epoch)

    @property
    def layout(self) -> dict[str, int]:
        """What the order of the samples depends on, besides seed and epoch."""
        processes = rank_and_size()[1]
        sizes = {"batch_size": self.batch_size, "num_workers": self.workers, "processes": processes}
        return sizes | {"buffer": self.buffer}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the following samples, here and in all workers."""
        self._epoch.fill_(epoch)
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples of this process and worker.

        Raises:
            UnreadableSampleError: If a file or a member of it is damaged.
        """
        (rank, ranks), worker = rank_and_size(), get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        names = sorted(self.shards)
        places = ranks * workers
        if self.limit is None:
            place, few = rank * workers + worker_id, len(names) < places
            read = chain.from_iterable(map(self._read_all, names if few else names[place::places]))
            for encoded in islice(read, place, None, places) if few else read:
                yield _decode(*encoded)
            return
        # Batches come from the workers in turn: the first worker takes the role of the one that would be next.
        batches = self.skipped // self.batch_size
        worker_id = (worker_id + batches) % workers
        seen = -(-(batches - worker_id) // workers) * self.batch_size
        place, epoch = rank * workers + worker_id, self.epoch
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(names))
        mine = [names[i] for i in order[place::places]]
        rng = np.random.default_rng((self.seed, 1, epoch, place))
        if not any(self.shards[name] for name in mine):
            raise UnreadableSampleError(
                f"{self.root / mine[0]} and {len(mine) - 1} others cannot be used: they are empty"
            )
        passes = (_shuffled(chain.from_iterable(map(self._read_all, mine)), self.buffer, rng) for _ in count())
        for encoded in islice(chain.from_iterable(passes), seen, self.limit):
            sample = _decode(*encoded)
            yield sample if self.augmentation is None else self.augmentation(sample)

    def _read_all(self, name: str) -> Iterator[Encoded]:
        number = 0
        for encoded in self._read(name):
            number += 1
            yield encoded
        # Otherwise training would read a file without samples again and again.
        if number != self.shards[name]:
            raise UnreadableSampleError(
                f"{self.root / name} cannot be used: it holds {number} samples, but {CONTENTS} counts "
                f"{self.shards[name]}: copy it again, or write the shards again"
            )

    def _read(self, name: str) -> Iterator[Encoded]:
        path = self.root / name
        try:
            with path.open("rb") as file:
                for key, files in _members(file):
                    yield f"{path}, sample {key}", files
        except UNREADABLE as error:
            raise UnreadableSampleError(f"{path} cannot be used: {reason_of(error)}") from error


def _members(file: BinaryIO) -> Iterator[Encoded]:
    """Yield each sample's key and contents by suffix; the members of a sample are neighbours in the archive."""
    key, files = "", dict[str, bytes]()
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            if member.issparse():  # 100 bytes that claim gigabytes of zeros
                raise InputError(f"its member {member.name} is sparse, which shards are not")
            check_bytes(member.size, max_bytes(BYTES_IN_ARCHIVE), f"its member {member.name}")
            new, _, ending = member.name.partition(".")
            if new != key and files:
                yield key, files
                files = {}
            key = new
            content = archive.extractfile(member)
            if content is not None and (ending in DECODERS or ending == "json"):
                files[ending] = content.read()
    if files:
        yield key, files


def _decode(name: str, files: dict[str, bytes]) -> Sample:
    try:
        sample: Sample = {}
        for ending, content in files.items():
            if ending in DECODERS:
                values = torch.from_numpy(np.ascontiguousarray(DECODERS[ending](content)))
                values = values.permute(2, 0, 1).contiguous() if values.ndim == 3 else values
                sample[ending.partition(".")[0]] = values
        sample["image"] = sample["image"].float().div_(255)
        if "semseg" in sample:
            sample["semseg"] = sample["semseg"].long()
        return sample | {"id": str(parse_json(files["json"], "its JSON")["id"])}
    except (*UNREADABLE, TypeError) as error:
        raise UnreadableSampleError(f"{name} cannot be used: {reason_of(error)}") from error


def _shuffled(samples: Iterator[Encoded], size: int, rng: np.random.Generator) -> Iterator[Encoded]:
    held = list(islice(samples, size))
    for sample in samples:
        i = int(rng.integers(len(held)))
        held[i], drawn = sample, held[i]
        yield drawn
    yield from (held[i] for i in rng.permutation(len(held)))
