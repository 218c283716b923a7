"""`mtpano label`: panoramas in, a folder of fused labels out, on one machine or many."""

import hashlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

import mtpano_zoo.data  # noqa: F401 - a data module that is imported can be named without its module
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.datamodule import ImageFiles, LabelingData, unaugmented_samples
from mtpano_zoo.labeling.encoding import JPEG_QUALITY
from mtpano_zoo.labeling.ledger import Ledger
from mtpano_zoo.labeling.manifest import check_manifest
from mtpano_zoo.labeling.masks import GroundedMasker, Masker
from mtpano_zoo.labeling.module import Labeler, PanoramaLabeler
from mtpano_zoo.labeling.report import LabelReport
from mtpano_zoo.labeling.storage import PANORAMAS, LabelFolder
from mtpano_zoo.labeling.teachers import Teacher
from mtpano_zoo.labeling.views import ViewStrategy
from mtpano_zoo.labeling.writer import LabelWriter
from mtpano_zoo.short_verbs import TRACEBACK, TRACEBACK_HELP, hyphenated
from mtpano_zoo.text_files import limit_configurations
from mtpano_zoo.training.option_errors import one_sentence, options_of
from mtpano_zoo.training.progress import progress_bar

__all__ = ("add_run_options", "add_shared_options", "label", "label_as_asked", "main", "print_once", "shared_settings")

SPLITS = ("train", "val", "test", "predict")
TRAINER = ("accelerator", "strategy", "devices", "num_nodes", "precision", "enable_progress_bar")
COMPLETE = "A complete command is `mtpano label PANORAMAS --config label_free/label.yaml --out labels`."
# Warnings about Lightning's own code, and about what is meant to be so.
EXPECTED = (
    r".*isinstance\(treespec, LeafSpec\)",
    r".*does not have many workers",
    r"Found \d+ module\(s\) in eval mode",
    r"Couldn't infer the batch indices",
    r"predict returned None",
)


def main(arguments: Sequence[str]) -> int:
    """Run `mtpano label` with these arguments and return the exit status.

    Raises:
        InputError: If an argument, an input or the folder is wrong, in one sentence.
    """
    limit_configurations(arguments)
    parser = build_parser()
    options = options_of(parser)
    with one_sentence(options, COMPLETE):
        config = parser.parse_args(hyphenated(arguments, options))
        built = parser.instantiate(config)
    names = ("height", "width", "invalid_mask", "no_depth_classes", "keep_views", "min_valid")
    masker = _masker(config, built)
    labeler = Labeler(built.views, built.teachers, masker=masker, **{name: config[name] for name in names})
    return label_as_asked(config, built, labeler, settings_of(config, built.teachers, masker))


def label_as_asked(config: Namespace, built: Namespace, labeler: PanoramaLabeler, settings: Mapping[str, Any]) -> int:
    """Label what the options of `add_shared_options` say, print what became of it, and return the exit status.

    Args:
        config: The options.
        built: The options with the classes that they name.
        labeler: Makes the labels.
        settings: See `label`.

    Raises:
        InputError: If no panoramas are named, or in two ways, or the folder holds something else.
    """
    if bool(config.sources) == bool(config.data):
        raise InputError("pass panoramas, as files and folders or as `data:` in the configuration, one of them")
    out = Path(config.out)
    check_manifest(out, labeler.manifest(settings), config.overwrite)
    samples = ImageFiles(config.sources, out) if config.sources else unaugmented_samples(built.data, config.split)
    report = label(
        samples,
        out,
        labeler,
        settings=settings,
        trainer=config.trainer.as_dict(),
        split=config.listed_as,
        max_height=config.max_height,
        num_workers=config.num_workers,
        writers=config.writers,
        overwrite=config.overwrite,
    )
    print_once(report.summary())
    return report.exit_code


def label(
    samples: Dataset[dict[str, Any]],
    out: str | Path,
    labeler: PanoramaLabeler,
    *,
    settings: Mapping[str, Any],
    trainer: Mapping[str, Any] | None = None,
    split: str | None = "train",
    max_height: int = 2048,
    num_workers: int = 0,
    writers: int = 2,
    overwrite: bool = False,
) -> LabelReport:
    """Label panoramas and write the labels to a folder; what is finished there is skipped.

    Args:
        samples: See `LabelingData`.
        out: See `mtpano_zoo.labeling.storage`.
        labeler: Makes the labels.
        settings: Plain data that decide what the labels are; a folder holds labels of one kind.
        trainer: Arguments of Lightning's Trainer: accelerator, devices, strategy and so on.
        split: List that the panoramas are added to: ``train``, ``val`` or ``test``; None for none.
        max_height: See `LabelingData`.
        num_workers: Processes that read.
        writers: Threads that encode and write.
        overwrite: Throw away labels that were made with other settings, or from another image of the same name.

    Returns:
        The report of all processes, in each of them.

    Raises:
        InputError: If an argument is out of range, or the folder holds something else.
    """
    ledger = Ledger(LabelFolder(Path(out), labeler.marker), overwrite)
    writer = LabelWriter(ledger, labeler.manifest(settings), split=split, threads=writers)
    data = LabelingData(
        samples,
        labeler.height,
        labeler.width,
        ledger,
        max_height=max_height,
        num_workers=num_workers,
        store_images=labeler.marker is PANORAMAS,
    )
    labeler.ledger = ledger
    options = {"enable_progress_bar": True, **(trainer or {})}
    precision = str(options.get("precision") or "32-true")
    if precision.endswith("-true") and precision[:2] not in ("32", "64"):
        raise InputError(f"precision {precision} would compute views in 16 bits too: take {precision[:-5]}-mixed")
    callbacks: list[Callback] = [writer]
    if options["enable_progress_bar"]:
        callbacks.append(progress_bar())
    with _quiet_lightning():
        try:
            runner = Trainer(
                **options,
                callbacks=callbacks,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
        except (ValueError, MisconfigurationException) as error:
            raise InputError(" ".join(str(error).split())) from error
        if _forks_or_spawns(runner):
            raise InputError("a strategy that forks or spawns processes keeps their reports from us: take ddp")
        try:
            runner.predict(labeler, datamodule=data, return_predictions=False)
        except SystemExit as end:  # which Lightning makes of Ctrl-C
            raise KeyboardInterrupt from end
    return ledger.report


def _forks_or_spawns(trainer: Trainer) -> bool:
    """Whether the strategy runs the prediction in processes that it forks or spawns from this one."""
    # Lightning has no public way to ask; `test_run_failures.py` fails where the private class means something else.
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes on every prediction, and restore the level of its logger afterwards."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)


def build_parser() -> ArgumentParser:
    """Build the parser of `mtpano label`; every option may stand in a YAML file."""
    parser = ArgumentParser(
        "mtpano label",
        description="Label panoramas by teachers that see perspective views of them, and fuse what they say.",
        epilog=f"{TRACEBACK}: {TRACEBACK_HELP}",
        exit_on_error=False,
    )
    parser.add_subclass_arguments(ViewStrategy, "views", required=False, help="which views are cut out")
    parser.add_argument("--teachers", type=list[Teacher], default=[], help="what labels them")
    parser.add_argument("--mask", nargs="+", type=str, default=[], help="what gets no label, in words: sky watermark")
    parser.add_subclass_arguments(
        Masker, "masker", required=False, help="what finds it, in place of Grounding DINO and SAM for the words of mask"
    )
    parser.add_argument("--min-valid", type=float, default=0.2, help="panoramas of which less is left are left out")
    add_shared_options(parser)
    parser.add_argument(
        "--no-depth-classes", type=list[str], default=[], help="classes without depth and normals: [sky]"
    )
    parser.add_argument("--keep-views", type=bool, default=True, help="write the labels of every view too")
    return parser


def add_shared_options(parser: ArgumentParser) -> None:
    """Add the options of everything that labels panoramas: which ones, in what size, into which folder, and where."""
    parser.add_argument("sources", nargs="*", type=str, help="panoramas, as files and folders")
    parser.add_subclass_arguments(LightningDataModule, "data", required=False, help="instead of files: any data set")
    parser.add_argument("--split", choices=SPLITS, default="predict", help="which samples of `data`")
    parser.add_argument("--height", type=int, default=512, help="rows of the labels")
    parser.add_argument("--width", type=int, default=1024, help="columns of the labels, twice the rows")
    parser.add_argument("--max-height", type=int, default=2048, help="panoramas of more rows are shrunk before")
    parser.add_argument("--invalid-mask", type=str | None, help="image whose white pixels get no label: the tripod")
    parser.add_argument("--listed-as", choices=SPLITS[:3], default="train", help="list in db_info that they get into")
    add_run_options(parser)


def add_run_options(parser: ArgumentParser) -> None:
    """Add the options of every run that writes a folder."""
    parser.add_argument("--config", action="config", help="YAML file with any of these options; may be repeated")
    parser.add_argument("--out", type=str, required=True, help="the folder, a new one or one to go on with")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read panoramas")
    parser.add_argument("--writers", type=int, default=2, help="threads that write")
    parser.add_argument("--overwrite", action="store_true", help="throw away what was made in another way")
    left_out = set(inspect.signature(Trainer).parameters) - set(TRAINER)
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip=left_out)


def _masker(config: Namespace, built: Namespace) -> Masker | None:
    """Return what masks panoramas, if anything.

    Raises:
        InputError: If a masker and words are both given: the masker has words of its own.
    """
    if not config.mask:
        found: Masker | None = built.masker
        return found
    if config.masker:
        raise InputError("pass the words of mask as `names` of the masker, not besides it")
    return GroundedMasker(config.mask)


def settings_of(config: Namespace, teachers: Sequence[Teacher], masker: Masker | None = None) -> dict[str, Any]:
    """Return what decides which labels are made: options, and the provenance of the teachers."""
    names = ("views", "height", "width", "max_height", "no_depth_classes", "keep_views")
    plain = config.as_dict()
    described = [
        _decisive({**chosen, "provenance": dict(teacher.provenance)})
        for chosen, teacher in zip(plain["teachers"], teachers, strict=True)
    ]
    masked = {} if masker is None else {"masker": _decisive(masker.provenance), "min_valid": config.min_valid}
    return {
        **{name: plain[name] for name in names},
        **masked,
        "teachers": described,
        **shared_settings(config),
    }


def shared_settings(config: Namespace) -> dict[str, Any]:
    """Return what decides how labels are written, of the options that every labeler has."""
    mask = config.invalid_mask
    return {
        "invalid_mask": None if mask is None else hashlib.sha256(Path(mask).read_bytes()).hexdigest(),
        "jpeg_quality": JPEG_QUALITY,
        "precision": str(config.trainer.precision or "32-true"),
    }


@rank_zero_only
def print_once(text: str) -> None:
    """Print in one process of many."""
    print(text)


def _decisive(settings: Any) -> Any:
    """Leave out what does not decide what the labels are, or is in the record of every run: memory, and versions."""
    if isinstance(settings, dict):
        return {key: _decisive(value) for key, value in settings.items() if key not in ("batch_size", "versions")}
    return settings
