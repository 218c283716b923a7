"""`mtpano generate`: prompts in, a folder of panoramas out, resumable and with any number of processes.

The folder is a `LabelFolder` of `mtpano_zoo.labeling.storage`: a panorama is either complete or absent, the next
process removes what a killed one left behind, and processes share the work by claims::

    img/NAME.jpg      the panorama
    prompts.jsonl     its prompt, seed and file, as `GeneratedDataModule` reads it
    origins/NAME.txt  a hash of its prompt and seed
    manifest.json     settings and base, the same for all panoramas
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

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.prompts import Wanted
from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.labeling.encoding import encode_image
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.manifest import software, write_record
from mtpano_zoo.labeling.origin import Origin
from mtpano_zoo.labeling.report import LabelReport, one_sentence
from mtpano_zoo.labeling.storage import IMAGES, LabelFolder, check_folders
from mtpano_zoo.machine.claims import in_turn
from mtpano_zoo.manifest import claim_folder, read_manifest

__all__ = ("FORMAT", "generate", "manifest_of", "prepare_folder")

FORMAT = "mtpano generated panoramas, 1"
PROMPTS = "prompts.jsonl"
LIST_AFTER = 60.0  # seconds between updates of the list of finished panoramas and their prompts
LATE = ("precision", "files", "quantize")  # settings that earlier releases did not record
OTHER_TEXT = (
    "it was made from another prompt or seed: keep --seed and the order of the existing prompts, or choose another "
    "folder for --out"
)
Embeddings = tuple[Tensor, Tensor]


def manifest_of(model: Mapping[str, Any], settings: Mapping[str, Any], form: str = FORMAT) -> dict[str, Any]:
    """Return the manifest of a folder, as plain data."""
    plain: dict[str, Any] = json.loads(json.dumps({"format": form, "model": model, "settings": settings}))
    return plain


def prepare_folder(root: Path, manifest: Mapping[str, Any]) -> None:
    """Create the folder, or check that its results have the same settings, as far as its manifest records them.

    Raises:
        InputError: If the folder holds something else.
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
    """Generate the panoramas that a folder does not have yet.

    Args:
        generator: Generator of the panoramas.
        wanted: Panoramas to generate.
        root: The folder, see `prepare_folder`.
        options: Keyword arguments of `Generator.generate`: size, steps, seam and so on.
        batch_size: Panoramas generated at once.
        process: Number of this process; each begins at another place of the list.
        processes: Number of processes.

    Returns:
        The outcome of every panorama.

    Raises:
        InputError: If the batch size is not positive.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
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
    """Return a panorama with the embeddings of its prompt; nothing if it exists already or the prompt does not fit."""
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
    """Generate a batch of panoramas and write them."""
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
        ledger.stop(f"{folder.root} cannot be written to: {one_sentence(error)}; finished panoramas are kept")
    finally:
        for one in wanted:
            folder.release(one.name)


def _origin(one: Wanted) -> Origin:
    made_from = f"{one.seed}\n{one.prompt}"
    return Origin(f"sha256 {hashlib.sha256(made_from.encode()).hexdigest()}")


def _list(folder: LabelFolder, wanted: Sequence[Wanted]) -> None:
    """Write the prompts of the finished panoramas, except those that were made from another prompt or seed."""
    known = {
        one.name: {"image": f"{IMAGES}/{one.name}.jpg", "caption": one.prompt, "seed": one.seed}
        for one in wanted
        if (made := folder.origin(one.name)) is not None and made.digest == _origin(one).digest
    }
    folder.add_lines(PROMPTS, known)
