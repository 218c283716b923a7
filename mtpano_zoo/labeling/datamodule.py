"""The panoramas to label: from files, or from the data module of any data set."""

import contextlib
import os
import signal
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from mtpano_zoo.data.panoramas import PanoramaDataset
from mtpano_zoo.data.resizing import resize_map
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import check_present, find_images
from mtpano_zoo.image_io import panorama_of_file
from mtpano_zoo.labeling.encoding import encode_image
from mtpano_zoo.labeling.fingerprint import digest_of, digest_of_pixels, stamp_of
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.masks import shrink_masks
from mtpano_zoo.labeling.origin import Origin, digest_of_files, stamp_of_file
from mtpano_zoo.labeling.report import one_sentence
from mtpano_zoo.labeling.storage import LabelFolder
from mtpano_zoo.machine.claims import in_turn
from mtpano_zoo.output_paths import check_id

__all__ = ("ImageFiles", "LabelingData", "unaugmented_samples")

Item = dict[str, Any]

LOOKING = 16  # threads that check whether finished panoramas are unchanged: on network disks each check takes long


class ImageFiles(Dataset[Item]):
    """Panoramas in files, of any size: `image` uint8 (3, H, W), and `id`, the name without extension.

    What no camera has seen, beside a crop or transparent, is `ignored`, bool (H, W), and black in the image.

    Sub-folders become part of the name, ``a/b.jpg`` is ``a_b``. A finished panorama keeps its name: if an added image
    has the same one, `find_images` would rename every image.

    Args:
        sources: Images and folders; folders are searched with their sub-folders.
        out: Output folder; images in it are not labelled.
        keep_names: Keep the names of what is finished; false if those labels are about to be deleted, because a process
            that comes after that does not find the names any more.

    Raises:
        FileNotFoundError: If none of the images exists.
        InputError: If a folder holds no images, or there is no source at all.
    """

    def __init__(self, sources: Sequence[str | Path], out: Path, keep_names: bool = True) -> None:
        found = find_images(sources, out)
        check_present(found)  # before `overwrite` deletes labels that a mistyped path cannot replace
        self.paths = list(found)
        self.names = [target.relative_to(out).as_posix().replace("/", "_") for target in found.values()]
        folder = LabelFolder(out)
        finished = folder.finished() if keep_names else set()
        if former := finished.difference(self.names):
            for i in range(len(self)):
                if self.names[i] not in finished and (name := self._former_name(i, former, folder)):
                    self.names[i] = name
                    former.remove(name)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> str:
        """Return the id of a panorama."""
        return self.names[i]

    def stamp(self, i: int) -> str:
        """Return size and times of a file.

        Raises:
            OSError: If it is not there.
        """
        return stamp_of_file(self.paths[i])

    def fingerprint(self, i: int) -> str:
        """Return the digest of a file.

        Raises:
            OSError: If it cannot be read.
        """
        return digest_of_files([self.paths[i].read_bytes()])

    def _former_name(self, i: int, former: Container[str], folder: LabelFolder) -> str | None:
        """Return which of these names a panorama was labelled under, with more or fewer folders, or with its suffix."""
        path = Path(os.path.abspath(self.paths[i]))  # noqa: PTH100 - links keep their names
        for start in range(1, len(path.parts)):
            whole = "_".join(path.parts[start:])
            for name in (whole, whole.removesuffix(path.suffix)):
                if name in former and (origin := folder.origin(name)):
                    with contextlib.suppress(OSError):
                        if self.stamp(i) == origin.stamp or self.fingerprint(i) == origin.digest:
                            return name
        return None

    def __getitem__(self, i: int) -> Item:
        """Read one panorama.

        Raises:
            OSError: If it does not exist.
            InputError: If it is not a panorama.
        """
        panorama = panorama_of_file(self.paths[i])
        unseen = {} if panorama.seen is None else {"ignored": torch.from_numpy(~panorama.seen)}
        return {"image": torch.from_numpy(panorama.pixels).permute(2, 0, 1), "id": self.names[i], **unseen}


def unaugmented_samples(data: lightning.LightningDataModule, split: str) -> Dataset[Item]:
    """Return the samples of a data module as they are, without augmentation.

    Raises:
        InputError: If they are augmented, or can only be read in sequence.
    """
    data.prepare_data()
    data.setup({"train": "fit", "val": "validate"}.get(split, split))
    samples: Any = getattr(data, f"{split}_dataloader")().dataset
    if isinstance(samples, IterableDataset):
        raise InputError(f"{type(data).__name__} reads a stream, which cannot skip panoramas: pass files")
    augmentations = getattr(samples, "augmentations", {None: getattr(samples, "augmentation", None)})
    if any(augmentation is not None for augmentation in augmentations.values()):
        raise InputError(f"{type(data).__name__} augments its samples, so they would differ from the data set")
    return samples  # type: ignore[no-any-return]


class LabelingData(lightning.LightningDataModule):
    """Distribute the unfinished panoramas over the processes, one at a time.

    Processes of one run have fixed shares. Processes that were started independently share by claims: panoramas that
    another one has claimed are left for the end, and then labelled unless they are finished.

    An item has `name`, and either `sample`, the panorama from the data set, `jpeg`, the panorama to store, and
    `origin`; or `failure`, a sentence, if it cannot be read; and `claim`, to be released at the end. Names are known
    before anything is read if the data set has a method `name`; otherwise finished panoramas are read before they are
    skipped. So they are if only the pixels show whether they are unchanged: see `Origin`.

    Args:
        samples: The panoramas, with `image` float (3, H, W) in [0, 1] or uint8, and `id`.
        height: Rows of the stored panorama.
        width: Its columns.
        ledger: Account of finished panoramas and failures.
        max_height: Panoramas with more rows are first shrunk to this height: views of 512 pixels would skip pixels of
            larger ones, and a few large ones fill the memory.
        num_workers: Worker processes that read.
        store_images: Encode the panorama, to write it beside its labels.
    """

    def __init__(
        self,
        samples: Dataset[Item],
        height: int,
        width: int,
        ledger: Ledger,
        *,
        max_height: int = 2048,
        num_workers: int = 0,
        store_images: bool = True,
    ) -> None:
        super().__init__()
        if num_workers < 0:
            raise InputError(f"num_workers must not be negative, got {num_workers}")
        if max_height < height:
            raise InputError(f"max_height must not be less than the {height} rows of the labels, got {max_height}")
        self.items = _Items(samples, height, width, max_height, store_images, ledger.folder.marker.extension)
        self.ledger = ledger
        self.num_workers = num_workers

    def predict_dataloader(self) -> DataLoader[Item]:
        """Return the loader of this process's share, in order."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        # Share all panoramas, not the unfinished ones: processes may disagree about those.
        share = self._named(range(rank, len(self.items), processes))
        done = self.ledger.folder.finished()
        finished = [i for i in share if self.items.name(i) in done] if done else []
        with ThreadPoolExecutor(LOOKING) as pool:
            parts = pool.map(self._settled, [finished[first::LOOKING] for first in range(LOOKING)])
            settled = set().union(*parts)
        order = _Order([i for i in share if i not in settled], self.items, self.ledger)
        return DataLoader(
            self.items, batch_size=None, sampler=order, num_workers=self.num_workers, worker_init_fn=_ignore_sigterm
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave an item where it is: Lightning would look for tensors among the bytes of its JPEG, one by one."""
        return batch

    def _named(self, share: range) -> list[int]:
        """Return the panoramas of a share whose name is unique and can name a file; record the others as failed."""
        owners: dict[str, int] = {}
        named: list[int] = []
        for i in range(len(self.items)):
            try:
                name = self.items.name(i)
            except InputError as error:
                if i in share:
                    self.ledger.fail(self.items.shown(i), str(error))
                continue
            if name is not None and (first := owners.setdefault(name, i)) != i:
                if i in share:
                    both = f"{self.items.place(first)} and {self.items.place(i)}"
                    self.ledger.fail(name, f"{both} have the same name: rename one of them, or label them apart")
                continue
            if i in share:
                named.append(i)
        return named

    def _settled(self, indices: Sequence[int]) -> set[int]:
        return {i for i in indices if self.items.settled(i, self.ledger)}


def _ignore_sigterm(_: int) -> None:
    """Leave SIGTERM, which schedulers send to all processes of a job, to the process that writes labels."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Order(Sampler[int]):
    """Indices of the panoramas to label here, until reading more is useless.

    It runs in the main process, even if workers read.
    """

    def __init__(self, indices: Sequence[int], items: "_Items", ledger: Ledger) -> None:
        self.indices = indices
        self.items = items
        self.ledger = ledger

    def __len__(self) -> int:
        # A process with nothing left to do must take part in the end of the run, which Lightning skips at length 0.
        return max(1, len(self.indices))

    def __iter__(self) -> Iterator[int]:
        for i in in_turn(self.indices, lambda i: self.ledger.folder.claim(self.items.claim(i))):
            if self.ledger.stopped:
                return
            if not self._settled(i):
                yield i

    def _settled(self, i: int) -> bool:
        settled = self.items.settled(i, self.ledger)
        if settled:
            self.ledger.folder.release(self.items.claim(i))
        return settled


class _Items(Dataset[Item]):
    """Read panoramas in the workers and encode them there for storage; any failure becomes a sentence."""

    def __init__(
        self, samples: Dataset[Item], height: int, width: int, max_height: int, store_images: bool, extension: str
    ) -> None:
        self.samples: Any = samples
        self.height = height
        self.width = width
        self.max_height = max_height
        self.store_images = store_images
        self.extension = extension  # of the file that marks a panorama as finished

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, i: int) -> str | None:
        """Return the name of the labels; None if it is not known before the panorama is read.

        Raises:
            InputError: If it cannot be the name of a file.
        """
        return _file_name(self.samples.name(i), self.extension) if hasattr(self.samples, "name") else None

    def shown(self, i: int) -> str:
        """Return a readable name, even for a panorama whose id is empty."""
        known = str(self.samples.name(i)) if hasattr(self.samples, "name") else ""
        return known or f"panorama number {i}"

    def claim(self, i: int) -> str:
        """Return the key of a panorama among processes: its name, or else its number."""
        return self.name(i) or f"panorama number {i}"

    def place(self, i: int) -> str:
        """Return the place of a panorama."""
        if isinstance(self.samples, ImageFiles):
            return str(self.samples.paths[i])
        if isinstance(self.samples, PanoramaDataset):
            return self.samples.index.describe("image", i)
        return f"panorama number {i}"

    def settled(self, i: int, ledger: Ledger) -> bool:
        """Return whether a panorama needs no work, as far as that is known without reading it."""
        name = self.name(i)
        if name is None or not ledger.folder.has(name):
            return False
        return ledger.settle(name, self._stamp(i), lambda: digest_of(self.samples, i))

    def __getitem__(self, i: int) -> Item:
        item: Item = {"claim": self.claim(i)}
        try:
            stamp = self._stamp(i)
            sample = self.samples[i]
            name = _file_name(sample["id"], self.extension)
            origin = Origin(digest_of(self.samples, i) or digest_of_pixels(sample["image"]), stamp)
            pixels = _pixels(sample["image"])
            if len(pixels) > self.max_height:
                pixels = resize_map("image", pixels, self.max_height, 2 * self.max_height)
                sample = {**sample, "image": torch.from_numpy(pixels).permute(2, 0, 1)}
            if "ignored" in sample:
                sample = {**sample, "ignored": shrink_masks(sample["ignored"][None], self.height, self.width)[0]}
            jpeg = encode_image(pixels, self.height, self.width) if self.store_images else b""
            return item | {"name": name, "sample": sample, "jpeg": jpeg, "origin": origin}
        except Exception as error:  # whatever a decoder does with a damaged file, label the others
            return item | {"name": self.shown(i), "failure": one_sentence(error)}

    def _stamp(self, i: int) -> str:
        try:
            return stamp_of(self.samples, i)
        except OSError:  # reading it will report why
            return ""


def _file_name(sample_id: Any, extension: str) -> str:
    """Return an id as the name of a file with this extension.

    Raises:
        InputError: If it cannot be one.
    """
    return check_id(check_id(str(sample_id)).replace("/", "_"), extension)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    whole = image if image.dtype == torch.uint8 else (image * 255).round().byte()
    pixels: NDArray[np.uint8] = whole.permute(1, 2, 0).contiguous().numpy()
    return pixels
