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

# A class that is imported can be named without its module.
import mtpano_zoo.data
import mtpano_zoo.zoo.pretrained  # noqa: F401
from mtpano_zoo.data.panoramas import SPLITS
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
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.outputs import check_trainer_precision
from mtpano_zoo.short_verbs import TRACEBACK, TRACEBACK_HELP, hyphenated
from mtpano_zoo.text_files import limit_configurations
from mtpano_zoo.training.option_errors import one_sentence, options_of, refuse_null
from mtpano_zoo.training.progress import progress_bar

__all__ = ("add_run_options", "add_shared_options", "label", "label_as_asked", "main", "print_once", "shared_settings")

TRAINER = ("accelerator", "strategy", "devices", "num_nodes", "precision", "enable_progress_bar")
COMPLETE = "A complete command is `mtpano label PANORAMAS --config label_free/label.yaml --out labels`."
# Warnings about Lightning's own code, and about intended behaviour.
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
        refuse_null(config)
        built = parser.instantiate(config)
    names = ("height", "width", "invalid_mask", "no_depth_classes", "keep_views", "min_valid")
    masker = _masker(config, built)
    labeler = Labeler(built.views, built.teachers, masker=masker, **{name: config[name] for name in names})
    return label_as_asked(config, built, labeler, settings_of(config, built.teachers, masker))


def label_as_asked(config: Namespace, built: Namespace, labeler: PanoramaLabeler, settings: Mapping[str, Any]) -> int:
    """Label the panoramas of the options of `add_shared_options`, print the outcome, and return the exit status.

    Args:
        config: The options.
        built: The options with the classes that they name.
        labeler: Makes the labels.
        settings: See `label`.

    Raises:
        InputError: If panoramas are named in no way or in both ways, or the folder holds something else.
    """
    if bool(config.sources) == bool(config.data):
        raise InputError("pass panoramas either as files and folders or as `data:` in the configuration")
    out = user_path(config.out)
    labels_stay = check_manifest(out, labeler.manifest(settings), config.overwrite)
    samples = (
        ImageFiles(config.sources, out, keep_names=labels_stay)
        if config.sources
        else unaugmented_samples(built.data, config.split)
    )
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
    """Label panoramas and write the labels to a folder, skipping finished ones.

    Args:
        samples: See `LabelingData`.
        out: See `mtpano_zoo.labeling.storage`.
        labeler: Makes the labels.
        settings: Plain data that determine the labels; a folder holds labels of one kind.
        trainer: Arguments of Lightning's Trainer: accelerator, devices, strategy and so on.
        split: List to add the panoramas to: ``train``, ``val`` or ``test``; None for no list.
        max_height: See `LabelingData`.
        num_workers: Worker processes that read.
        writers: Threads that fuse, encode and write.
        overwrite: Delete labels that were made with other settings, or from another image of the same name.

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
    check_trainer_precision(str(options.get("precision") or "32-true"), "views")
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
            raise InputError("a strategy that forks or spawns processes does not return their reports: use ddp")
        try:
            runner.predict(labeler, datamodule=data, return_predictions=False)
        except SystemExit as end:  # Lightning turns Ctrl-C into it
            raise KeyboardInterrupt from end
    return ledger.report


def _forks_or_spawns(trainer: Trainer) -> bool:
    """Return whether the strategy runs the prediction in processes that it forks or spawns from this one."""
    # Lightning has no public way to ask; `test_run_failures.py` fails if the private class changes its meaning.
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
    """Build the parser of `mtpano label`; a YAML file may set every option."""
    parser = ArgumentParser(
        "mtpano label",
        description="Label panoramas with teachers that see perspective views of them, and fuse their labels.",
        epilog=f"{TRACEBACK}: {TRACEBACK_HELP}",
        exit_on_error=False,
    )
    parser.add_subclass_arguments(ViewStrategy, "views", required=False, help="perspective views to cut out")
    parser.add_argument("--teachers", type=list[Teacher], default=[], help="networks that label the views")
    parser.add_argument(
        "--mask", nargs="+", type=str, default=[], help="things that get no label, in words: sky watermark"
    )
    parser.add_subclass_arguments(
        Masker,
        "masker",
        required=False,
        help="finder of things without label, in place of --mask, which uses Grounding DINO and SAM",
    )
    parser.add_argument(
        "--min-valid", type=float, default=0.2, help="fraction of unmasked pixels that a panorama needs"
    )
    add_shared_options(parser)
    parser.add_argument(
        "--no-depth-classes", type=list[str], default=[], help="classes without depth and normals: [sky]"
    )
    parser.add_argument(
        "--keep-views", type=bool, default=True, help="also write the labels of every view: most of the files"
    )
    return parser


def add_shared_options(parser: ArgumentParser) -> None:
    """Add the options of all commands that label panoramas: sources, sizes, lists, and those of a run."""
    parser.add_argument(
        "sources", nargs="*", type=str, help="images, folders, patterns in quotes, or @list.txt of these"
    )
    parser.add_subclass_arguments(LightningDataModule, "data", required=False, help="a data set, instead of files")
    parser.add_argument("--split", choices=(*SPLITS, "predict"), default="predict", help="samples of `data` to label")
    parser.add_argument("--height", type=int, default=512, help="rows of the labels")
    parser.add_argument("--width", type=int, default=1024, help="columns of the labels, twice the rows")
    parser.add_argument("--max-height", type=int, default=2048, help="panoramas with more rows are shrunk first")
    parser.add_argument(
        "--invalid-mask", type=str | None, help="image whose white pixels get no label, e.g. the tripod"
    )
    parser.add_argument("--listed-as", choices=SPLITS, default="train", help="list in db_info to add them to")
    add_run_options(parser)


def add_run_options(parser: ArgumentParser) -> None:
    """Add the options of every run that writes a folder."""
    parser.add_argument("--config", action="config", help="YAML file with any of these options; may be repeated")
    parser.add_argument("--out", type=str, required=True, help="output folder, new or to continue")
    parser.add_argument("--num-workers", type=int, default=2, help="number of processes that read panoramas")
    parser.add_argument("--writers", type=int, default=2, help="number of threads that fuse and write")
    parser.add_argument("--overwrite", action="store_true", help="delete results of other settings or images")
    left_out = set(inspect.signature(Trainer).parameters) - set(TRAINER)
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip=left_out)


def _masker(config: Namespace, built: Namespace) -> Masker | None:
    """Return the masker of panoramas, if there is one.

    Raises:
        InputError: If both a masker and words are set: the masker has words of its own.
    """
    if not config.mask:
        found: Masker | None = built.masker
        return found
    if config.masker:
        raise InputError("pass the words of --mask as `names` of the masker instead")
    return GroundedMasker(config.mask)


def settings_of(config: Namespace, teachers: Sequence[Teacher], masker: Masker | None = None) -> dict[str, Any]:
    """Return the settings that determine the labels: options, and the provenance of the teachers."""
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
    """Return the settings of every labeler that determine how labels are written."""
    mask = config.invalid_mask
    return {
        "invalid_mask": None if mask is None else hashlib.sha256(user_path(mask).read_bytes()).hexdigest(),
        "jpeg_quality": JPEG_QUALITY,
        "precision": str(config.trainer.precision or "32-true"),
    }


@rank_zero_only
def print_once(text: str) -> None:
    """Print in one process of many."""
    print(text)


def _decisive(settings: Any) -> Any:
    """Leave out settings that do not change the labels, or that run records hold: batch sizes and versions."""
    if isinstance(settings, dict):
        return {key: _decisive(value) for key, value in settings.items() if key not in ("batch_size", "versions")}
    return settings
