"""Data sets as WebDataset tar files, read from beginning to end and shared by nodes and workers."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.data.augmentation import Augmentation, Sample
from mtpano_zoo.data.loading import EvaluationLoaders, TrainingLoader, rank_and_size
from mtpano_zoo.data.panoramas import SPLITS, collate
from mtpano_zoo.data.reading import UNREADABLE, reason_of
from mtpano_zoo.data.sets import read_all, samples_of
from mtpano_zoo.data.shard_dataset import ARRAYS, CONTENTS, MASKS, ShardDataset
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import MAX_DEPTH, encode_depth, encode_normals, write_bytes
from mtpano_zoo.output_paths import check_id, left_out
from mtpano_zoo.text_files import read_json

__all__ = ("ShardsDataModule", "write_shards")

Packed = tuple[dict[str, bytes], tuple[int, int]]  # contents of the files of a sample by ending, height and width


def write_shards(
    data: LightningDataModule,
    out: str | Path,
    splits: Sequence[str] = SPLITS,
    *,
    shard_size: int = 500,
    workers: int = 0,
    progress: bool = True,
) -> dict[str, int]:
    """Write the splits of a data module for `ShardsDataModule`, in its size, without augmentation.

    The tar files have the usual WebDataset form, `SPLIT-000000.tar`: members `00000000.image.png` (8-bit RGB),
    `.semseg.png` (class, 255 none), `.depth.png` (16-bit, millimetres along the ray, 0 none; `.depth.npy`, metres, if
    any is beyond 65.535 m), `.normals.png` (16-bit, 32768 + 32767 n, x right, y down, z forward), any existing
    `.disparity.npy`, `.confidence.npy`, `.depth_confidence.npy` and `.normals_confidence.npy`, the masks `.far.png`,
    `.disparity_valid.png` and `.ignored.png` (8-bit, 255 true), and `.json` (id). Classes, size and the
    number of samples are in `shards.json`, which is written last.

    Args:
        data: The data module; of a mixture, write the sets one by one.
        out: A new or empty folder.
        splits: Which splits; empty ones are skipped.
        shard_size: Samples per file; the last one of a split has fewer.
        workers: Worker processes that read.
        progress: Show a bar on standard error.

    Returns:
        The number of samples by split.

    Raises:
        InputError: If it is a mixture, `shard_size` is not positive, or all splits are empty.
        InputError: If samples cannot be read, have an id that cannot name a file, or have other maps; the shards hold
            all other samples.
        FileExistsError: If the folder is not empty.
    """
    if hasattr(data, "modules"):
        raise InputError("shards hold samples of one data set: write the sets of a mixture one by one")
    if shard_size < 1:
        raise InputError(f"a shard holds at least 1 sample, not {shard_size}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty: choose a new folder")
    out.mkdir(parents=True, exist_ok=True)
    palette = getattr(data, "palette", None)
    contents: dict[str, Any] = {
        "classes": list(getattr(data, "classes", ())),
        "palette": None if palette is None else np.asarray(palette).tolist(),
        "shards": {},
    }
    failed: list[str] = []
    for split, (samples, _) in samples_of(data, splits).items():
        encoded = read_all(_Encoder(samples), workers, f"writing {split}" if progress else None)
        counts: dict[str, int] = {}
        numbered = enumerate(_without_failures(encoded, failed))
        for first in numbered:
            name = f"{split}-{len(counts):06d}.tar"
            contents["height"], contents["width"] = first[1][1]
            group = chain([first], islice(numbered, shard_size - 1))
            counts[name] = _write_tar(out / name, ((number, files) for number, (files, _) in group))
        contents["shards"][split] = counts
    totals = {split: sum(counts.values()) for split, counts in contents["shards"].items()}
    if any(totals.values()):
        write_bytes(out / CONTENTS, json.dumps(contents, indent=1).encode())
    if failed:
        raise left_out(failed, sum(totals.values()) + len(failed), out)
    return totals


def _without_failures(encoded: Iterator[Packed | str], failed: list[str]) -> Iterator[Packed]:
    """Yield the encoded samples, and collect the sentences about the others in a list."""
    for item in encoded:
        if isinstance(item, str):
            failed.append(item)
        else:
            yield item


def _write_tar(path: Path, samples: Iterator[tuple[int, dict[str, bytes]]]) -> int:
    temporary = path.with_name(f".{path.name}.tmp")
    written = 0
    try:
        with tarfile.open(temporary, "w") as archive:
            for number, files in samples:
                written += 1
                for ending, content in files.items():
                    member = tarfile.TarInfo(f"{number:08d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return written


class _Encoder(Dataset[Packed | str]):
    """Encode the samples of a set: files by ending, with height and width; or a sentence that says why not."""

    def __init__(self, samples: Dataset[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(cast(Any, self.samples))

    def __getitem__(self, i: int) -> Packed | str:
        try:
            return self._encode(self.samples[i])
        except (ValueError, OSError) as error:
            return str(error)

    def _encode(self, sample: Sample) -> Packed:
        check_id(sample["id"])
        image = (sample["image"] * 255).round().byte().permute(1, 2, 0).numpy()
        files = {"image.png": _png(image)}
        if "semseg" in sample:
            files["semseg.png"] = _png(sample["semseg"].byte().numpy())
        if "depth" in sample:
            depth = sample["depth"].numpy()
            far = depth.max() > MAX_DEPTH
            files["depth.npy" if far else "depth.png"] = _npy(depth) if far else _png(encode_depth(depth))
        if "normals" in sample:
            files["normals.png"] = _png(encode_normals(sample["normals"].permute(1, 2, 0).numpy(), 16))
        files |= {f"{role}.npy": _npy(sample[role].numpy()) for role in ARRAYS if role in sample}
        files |= {f"{role}.png": _png(sample[role].byte().mul(255).numpy()) for role in MASKS if role in sample}
        held = {ending.partition(".")[0] for ending in files}
        if lost := [role for role, values in sample.items() if isinstance(values, Tensor) and role not in held]:
            raise InputError(f"{sample['id']} has {', '.join(lost)}, which shards cannot hold")
        files["json"] = json.dumps({"id": sample["id"]}).encode()
        return files, image.shape[:2]


def _png(array: NDArray[Any]) -> bytes:
    written, data = cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)
    if not written:
        raise InputError(f"an array {array.shape} of {array.dtype} cannot be encoded as PNG")
    return bytes(data.tobytes())


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


class ShardsDataModule(EvaluationLoaders):
    """Data sets that `write_shards` (`mtpano data pack`) wrote, with their classes and size.

    Processes and their workers share the shards of a split: each file is read by one of them, from beginning to end. In
    training, the order of the shards depends on (`seed`, epoch), and samples are drawn from a buffer. Every process
    yields the same number of batches: a few samples are left out, and a worker with fewer samples than others starts
    again. Training that resumes within an epoch skips the samples that it has seen, and needs the same batch size and
    as many workers and processes. Validation, test and prediction use every sample once; with fewer shards than
    processes, all of them read all shards and each takes its own samples.

    Args:
        root: Folder with the tar files and `shards.json`.
        batch_size: Panoramas per batch.
        num_workers: Worker processes that read; training needs a shard for each.
        augmentation: Applied to training samples.
        buffer: Number of encoded samples in the memory of every worker, from which the next one is drawn.
        seed: Seed of the order of the training samples.

    Raises:
        FileNotFoundError: If there are no shards.
        InputError: If an argument is out of range, or `shards.json` is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        batch_size: int = 4,
        num_workers: int = 0,
        augmentation: Augmentation | None = None,
        buffer: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0 or buffer < 1:
            raise InputError(
                "batch_size and buffer must be positive and num_workers not negative, not "
                f"{batch_size}, {buffer} and {num_workers}"
            )
        self.root = Path(root).expanduser().absolute()
        if not (self.root / CONTENTS).is_file():
            raise FileNotFoundError(
                f"{self.root} has no {CONTENTS}: it holds no shards, or writing them was interrupted"
            )
        try:
            contents = read_json(self.root / CONTENTS)
            if not isinstance(contents["classes"], list):
                raise InputError("classes is no list")
            self.classes = tuple(map(str, contents["classes"]))
            palette = contents["palette"]
            self.palette = None if palette is None else np.array(palette, np.uint8).reshape(-1, 3)
            self.height = int(contents["height"])
            self.width = int(contents["width"])
            self.shards = {str(split): _counts(shards) for split, shards in contents["shards"].items()}
        except (*UNREADABLE, TypeError, AttributeError) as error:
            message = f"{self.root / CONTENTS} is damaged ({reason_of(error)}): write the shards again"
            raise InputError(message) from error
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = augmentation
        self.buffer = buffer
        self.seed = seed

    def _samples(self, split: str) -> "ShardDataset":
        if not self.shards.get(split):
            raise InputError(f"{self.root} has no shards for {split}, only for {', '.join(self.shards)}")
        return ShardDataset(self.root, self.shards[split])

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled loader, with the same number of batches in every process."""
        samples = self._samples("train")
        ranks, workers = rank_and_size()[1], max(self.num_workers, 1)
        share = sum(samples.shards.values()) // (ranks * workers)
        if ranks * workers > len(samples.shards) or share < self.batch_size:
            raise InputError(
                f"{ranks} processes with {workers} workers cannot share {len(samples.shards)} shards of together "
                f"{sum(samples.shards.values())} samples in batches of {self.batch_size}: use fewer workers, smaller "
                "batches or smaller shards"
            )
        # Workers form the batches of a loader without knowing of each other.
        samples.limit, samples.workers = share // self.batch_size * self.batch_size, workers
        samples.batch_size = self.batch_size
        samples.augmentation = self.augmentation
        samples.buffer = self.buffer
        samples.seed = self.seed
        loader = TrainingLoader(samples, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=collate)
        setattr(loader.sampler, "set_epoch", samples.set_epoch)  # noqa: B010 - Lightning looks for it here
        return loader

    def _loader(self, split: str) -> DataLoader[Sample]:
        split = "test" if split == "predict" else split
        samples, ranks = self._samples(split), rank_and_size()[1]
        if (count := sum(samples.shards.values())) < ranks:
            raise InputError(f"{ranks} processes cannot share the {count} samples for {split}: use fewer")
        workers = min(self.num_workers, max(len(samples.shards) // ranks, 1))
        return DataLoader(samples, batch_size=self.batch_size, num_workers=workers, collate_fn=collate)


def _counts(shards: Any) -> dict[str, int]:
    """Check the names of the files of a split and their numbers of samples.

    Raises:
        InputError: If a file is not in the folder itself, or its number is not a count.
    """
    for name, held in shards.items():
        if Path(name).name != name or "\\" in name or type(held) is not int or held < 0:
            raise InputError(f"{name!r} with {held!r} samples is not a file of the folder with a number of samples")
    return dict(shards)
