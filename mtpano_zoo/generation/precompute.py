"""Latents and embeddings of a training set, computed once: training then needs neither autoencoder nor text encoders.

Any number of processes write the folder, and the same command continues a killed run::

    000000.safetensors   latents (N, C, h, w), text (N, T, D), pooled (N, P) in bfloat16, mask (N, h, w) of N images
    manifest.json        list of images, base, size, precision, quantization, number of files

The autoencoder wraps around, so turning a panorama by whole latents turns its latents. Turns are therefore still drawn
in training.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.augment import latent_mask
from mtpano_zoo.generation.data import Photos, PhotosDataModule, PromptsDataset
from mtpano_zoo.generation.run import manifest_of, prepare_folder
from mtpano_zoo.generation.sampling import Generator, check_panorama_size
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.manifest import read_manifest

__all__ = ("LatentsDataModule", "LatentsDataset", "precompute")

FORMAT = "mtpano precomputed latents, 1"
T = TypeVar("T")

KEYS = ("latents", "text", "pooled", "mask")
SIZES = "bytes of the images and masks"  # key of the metadata; unlike dates, sizes survive copying


def precompute(
    generator: Generator,
    table: Path,
    root: Path,
    *,
    height: int,
    model: Mapping[str, Any],
    loaded: Mapping[str, str],
    shard_size: int = 32,
    process: int = 0,
    processes: int = 1,
) -> tuple[int, int]:
    """Write latents and embeddings of a list of images; return how many files were written and how many existed.

    Args:
        generator: Generator that encodes.
        table: List of images, see `PromptsDataset`.
        root: Folder to write to: a new one, or one to continue.
        height: Rows that images are resized to.
        model: What identifies the base, for the manifest.
        loaded: Precision and quantization of the networks, for the manifest.
        shard_size: Images per file.
        process: Number of this process; each writes different files.
        processes: Number of processes.

    Raises:
        InputError: If the size, the list, an image or the folder does not fit.
        OSError: If a file cannot be read or written.
    """
    check_panorama_size(height, 2 * height, 2 * generator.factor)
    if shard_size < 1:
        raise InputError(f"a file must hold at least 1 image, not {shard_size}")
    data = PromptsDataset(table, height, mirror=0.0, turns=None)
    generator.check_prompts(data.captions)  # first, because a corrected list needs another folder
    shards = -(-len(data) // shard_size)
    settings = {"height": height, "prefix": generator.prefix, "shard_size": shard_size, "shards": shards}
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    prepare_folder(root, manifest_of(model, settings | {"list": digest, **loaded}, FORMAT))
    written = there = 0
    for number in range(process, shards, processes):
        path = root / _name(number)
        rows = range(number * shard_size, len(data))[:shard_size]
        sizes = [file.stat().st_size if file.exists() else None for file in data.files(rows)]
        if path.exists():
            # Images that were moved away are not needed any more.
            if None not in sizes and _sizes(path) not in (None, json.dumps(sizes)):
                raise InputError(
                    f"{path} is of other images: some have changed since. Delete it to encode them again, or choose "
                    "another folder."
                )
            there += 1
            continue
        samples = [_encoded(generator, data[i]) for i in rows]
        tensors = {key: torch.stack([sample[key] for sample in samples]) for key in KEYS}
        write_bytes(path, save(tensors, {SIZES: json.dumps(sizes)}))
        written += 1
    return written, there


class LatentsDataset(Dataset[dict[str, Tensor]]):
    """Samples that `precompute` wrote: `latents` (C, h, w), `text` (T, D), `pooled` (P,) in float32 and `mask` (h, w).

    Args:
        root: Folder of `precompute`.
        turned: Turn panoramas, but not photographs, by a random number of latent columns.

    Raises:
        InputError: If `precompute` did not write the folder, or has not finished it.
    """

    def __init__(self, root: str | Path, turned: bool = False) -> None:
        root = Path(root)
        manifest = read_manifest(root, FORMAT)
        if manifest is None:
            raise InputError(f"{root} has no manifest.json: pass a folder that `mtpano generate precompute` wrote")
        self.turned = turned
        self.paths = [root / _name(number) for number in range(manifest["settings"]["shards"])]
        if missing := [path.name for path in self.paths if not path.is_file()]:
            raise InputError(
                f"{root} lacks {missing[0]} and {len(missing) - 1} more: run `mtpano generate precompute` to the end"
            )
        self.places: list[tuple[int, int]] = []
        for number, path in enumerate(self.paths):
            self.places += [(number, i) for i in range(_length(path))]
        self._photographs: list[bool] | None = None

    def __len__(self) -> int:
        return len(self.places)

    @property
    def photographs(self) -> list[bool]:
        """Whether each sample is a photograph: those that are not supervised everywhere are."""
        if self._photographs is None:
            self._photographs = []
            for path in self.paths:
                with safe_open(path, "pt") as file:
                    self._photographs += (~file.get_tensor("mask").flatten(1).all(1)).tolist()
        return self._photographs

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read one sample."""
        number, place = self.places[index]
        with safe_open(self.paths[number], "pt") as file:
            sample: dict[str, Tensor] = {key: file.get_slice(key)[place : place + 1][0] for key in KEYS}
        sample = {key: value if key == "mask" else value.float() for key, value in sample.items()}
        if self.turned and sample["mask"].all():
            turn = int(torch.randint(sample["latents"].shape[-1], ()))
            sample["latents"] = sample["latents"].roll(turn, -1)
        return sample


class LatentsDataModule(PhotosDataModule):
    """Latents and embeddings that `mtpano generate precompute` wrote.

    Args:
        train: Folder to train on.
        val: Folder for validation. If omitted, there is no validation.
        batch_size: Images per batch.
        num_workers: Worker processes that read files.
        photos: Which photographs an epoch has, see `mtpano_zoo.generation.data.in_epoch`.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        batch_size: int = 1,
        num_workers: int = 2,
        photos: Photos = "all",
    ) -> None:
        super().__init__(batch_size, num_workers, photos)
        self.train_set = LatentsDataset(train, turned=True)
        self.val_set = None if val is None else LatentsDataset(val)


@torch.no_grad()
def _encoded(generator: Generator, sample: Mapping[str, Any]) -> dict[str, Tensor]:
    latents = generator.encode(sample["image"][None])[0]
    text, pooled = generator.embed([sample["caption"]])
    narrow = {"latents": latents, "text": text[0], "pooled": pooled[0]}
    mask = latent_mask(sample["mask"], generator.factor)
    return {key: value.to("cpu", torch.bfloat16) for key, value in narrow.items()} | {"mask": mask}


def _name(number: int) -> str:
    return f"{number:06d}.safetensors"


def _read(path: Path, what: Callable[[Any], T]) -> T:
    try:
        with safe_open(path, "pt") as file:
            return what(file)
    except SafetensorError as error:
        raise InputError(
            f"{path} is damaged ({error}): remove it and run `mtpano generate precompute` again"
        ) from error


def _length(path: Path) -> int:
    return int(_read(path, lambda file: file.get_slice("latents").get_shape()[0]))


def _sizes(path: Path) -> str | None:
    """Return the sizes of the images that a file was made of, if it states them."""
    return _read(path, lambda file: (file.metadata() or {}).get(SIZES))
