"""`mtpano generate`: texts in, a folder of panoramas out, by any number of processes, and resumable.

The folder is one of `mtpano_zoo.labeling.storage`: a panorama is there completely or not at all, what a killed process
left is removed by the next one, and processes share the work by claims::

    img/NAME.jpg      the panorama
    prompts.jsonl     its text, seed and file, as `GeneratedDataModule` reads it
    origins/NAME.txt  what it was made from
    manifest.json     settings and base, which are the same for all
    runs/             a record of every run
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.claims import in_turn
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.prompts import Wanted
from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.labeling.encoding import encode_image
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.manifest import software, write_record
from mtpano_zoo.labeling.origin import Origin
from mtpano_zoo.labeling.report import LabelReport, one_sentence
from mtpano_zoo.labeling.storage import IMAGES, LabelFolder, check_folders
from mtpano_zoo.manifest import claim_folder, read_manifest

__all__ = ("FORMAT", "generate", "manifest_of", "prepare_folder")

FORMAT = "mtpano generated panoramas, 1"
PROMPTS = "prompts.jsonl"
LIST_AFTER = 60.0  # seconds after which the list of finished panoramas and their texts is written again
LATE = ("precision", "files", "quantize")  # settings that earlier releases did not record
OTHER_TEXT = (
    "it was made from another text or seed: keep --seed and the order of the prompts that are there, or give another "
    "folder as --out"
)
Embeddings = tuple[Tensor, Tensor]


def manifest_of(model: Mapping[str, Any], settings: Mapping[str, Any], form: str = FORMAT) -> dict[str, Any]:
    """Return the manifest of a folder, as plain data."""
    plain: dict[str, Any] = json.loads(json.dumps({"format": form, "model": model, "settings": settings}))
    return plain


def prepare_folder(root: Path, manifest: Mapping[str, Any]) -> None:
    """Make the folder, or see that it holds what was made with the same settings, as far as its manifest names them.

    Raises:
        InputError: If it holds something else.
    """
    known = read_manifest(root, manifest["format"])
    if known is not None and isinstance(known.get("settings"), dict):
        unknown = [name for name in LATE if name not in known["settings"]]
        settings = {name: value for name, value in manifest["settings"].items() if name not in unknown}
        manifest = {**manifest, "settings": settings}
    claim_folder(root, manifest, "or choose another folder as --out")
    check_folders(root)


def generate(
    generator: Generator,
    wanted: Sequence[Wanted],
    root: Path,
    options: Mapping[str, Any],
    *,
    batch_size: int = 1,
    process: int = 0,
    processes: int = 1,
) -> LabelReport:
    """Make the panoramas that are not in a folder yet.

    Args:
        generator: Makes them.
        wanted: Which.
        root: The folder, see `prepare_folder`.
        options: Keyword arguments of `Generator.generate`: size, steps, seam and so on.
        batch_size: Panoramas that the transformer sees at once.
        process: Number of this process; each begins at another place of the list.
        processes: How many there are.

    Returns:
        What became of each.

    Raises:
        InputError: If the batch size is not positive.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1, not {batch_size}")
    folder = LabelFolder(root)
    ledger = Ledger(folder, made_otherwise=OTHER_TEXT)
    started = datetime.now(UTC)
    begin = listed = time.monotonic()
    with folder:
        batch: list[tuple[Wanted, Embeddings]] = []
        for one in in_turn(wanted, lambda one: folder.claim(one.name), len(wanted) * process // processes):
            batch += _embedded(generator, one, folder, ledger)
            if len(batch) == batch_size:
                _make(generator, batch, folder, ledger, options)
                batch = []
            if ledger.stopped:
                break
            if time.monotonic() - listed > LIST_AFTER:
                _list(folder, wanted)
                listed = time.monotonic()
        _make(generator, batch, folder, ledger, options)
        _list(folder, wanted)
        ledger.report.seconds = time.monotonic() - begin
        record = {
            "started": started.isoformat(timespec="seconds"),
            "software": software(),
            "process": process,
            "processes": processes,
            **ledger.report.as_record(),
        }
        with suppress(OSError):  # the reason has been reported
            write_record(folder, started.strftime("%Y%m%dT%H%M%SZ"), record)
    return ledger.report


def _embedded(
    generator: Generator, one: Wanted, folder: LabelFolder, ledger: Ledger
) -> list[tuple[Wanted, Embeddings]]:
    """Return a panorama with the embeddings of its text, unless it is there, or the text does not fit."""
    try:
        if ledger.wants({"name": one.name, "origin": _origin(one)}):
            return [(one, generator.embed([one.prompt]))]
    except InputError as error:
        ledger.fail(one.name, one_sentence(error))
    folder.release(one.name)
    return []


def _make(
    generator: Generator,
    batch: Sequence[tuple[Wanted, Embeddings]],
    folder: LabelFolder,
    ledger: Ledger,
    options: Mapping[str, Any],
) -> None:
    """Make panoramas at once and write them."""
    if not batch:
        return
    wanted = [one for one, _ in batch]
    try:
        text, pooled = (torch.cat(parts) for parts in zip(*(embeddings for _, embeddings in batch), strict=True))
        images = generator.generate_batch((text, pooled), [one.seed for one in wanted], **options)
        for one, image in zip(wanted, images, strict=True):
            jpeg = encode_image(image, *image.shape[:2])
            ledger.write({"name": one.name, "origin": _origin(one), "jpeg": jpeg}, {})
    except InputError as error:
        for one in wanted:
            ledger.fail(one.name, one_sentence(error))
    except OSError as error:
        ledger.stop(f"{folder.root} cannot be written to: {one_sentence(error)}; what is finished is kept")
    finally:
        for one in wanted:
            folder.release(one.name)


def _origin(one: Wanted) -> Origin:
    made_from = f"{one.seed}\n{one.prompt}"
    return Origin(f"sha256 {hashlib.sha256(made_from.encode()).hexdigest()}")


def _list(folder: LabelFolder, wanted: Sequence[Wanted]) -> None:
    """Write the texts of what is there."""
    known = {one.name: {"image": f"{IMAGES}/{one.name}.jpg", "caption": one.prompt, "seed": one.seed} for one in wanted}
    folder.add_lines(PROMPTS, known)
