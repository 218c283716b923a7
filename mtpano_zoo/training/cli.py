"""`mtpano fit|validate|test|predict`: LightningCLI over any `LightningModule` and any data module."""

import contextlib
import logging
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, callbacks
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

# A class that is imported can be named without its module.
import mtpano_zoo.data
import mtpano_zoo.models
import mtpano_zoo.training.curation
import mtpano_zoo.training.distillation
import mtpano_zoo.training.multi_task
import mtpano_zoo.zoo.pretrained  # noqa: F401
from mtpano_zoo.errors import InputError, Terminated
from mtpano_zoo.files.checkpoint import read_checkpoint
from mtpano_zoo.models.base import plain_palette
from mtpano_zoo.resources import shipped
from mtpano_zoo.short_verbs import TRACEBACK, TRACEBACK_HELP
from mtpano_zoo.text_files import limit_configurations
from mtpano_zoo.training.base import PanoramaModule
from mtpano_zoo.training.callbacks import PredictionWriter
from mtpano_zoo.training.option_errors import one_sentence, options_of, refuse_null
from mtpano_zoo.training.progress import progress_bar
from mtpano_zoo.training.resuming import training_checkpoint
from mtpano_zoo.training.score_table import as_table

__all__ = (
    "ConfigSaver",
    "LastCheckpoint",
    "MultiTaskCLI",
    "classes_of",
    "complete_command",
    "main",
    "next_commands",
    "palette_of",
)

VERBS = ("fit", "validate", "test", "predict")
EPILOG = f"--model.help [CLASS] and --data.help CLASS list the options of model and data; {TRACEBACK}: {TRACEBACK_HELP}"
PARSER = {"exit_on_error": False, "epilog": EPILOG}
# Lightning finds these files itself, in the folder of the run.
CHECKPOINTS_OF_THE_RUN = ("best", "last", "hpc")
LOGGER = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "runs", "name": "", "default_hp_metric": False},
}


class MultiTaskCLI(LightningCLI):
    """Command line whose options are constructor arguments: a YAML file names classes and their arguments.

    Names and colours of the classes are linked from the data to the network, so they are written once. Every run logs
    to TensorBoard in a new folder ``runs/version_N``, with its configuration and checkpoints.

    Args:
        verb: The only subcommand that gets a parser: each takes a noticeable time to build.
        **options: Arguments of `LightningCLI`.
    """

    def __init__(self, verb: str, **options: Any) -> None:
        self._verb = verb
        super().__init__(LightningModule, LightningDataModule, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommand, and the arguments of the trainer's method that are not options."""
        return {self._verb: super().subcommands()[self._verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what data and network must agree on."""
        parser.set_defaults({"model": {"class_path": "MultiTaskModule"}})
        for name, of in (("classes", classes_of), ("palette", palette_of)):
            parser.link_arguments("data", f"model.init_args.network.init_args.{name}", of, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; refuse a damaged checkpoint before anything is built, and warn if there is none."""
        arguments = cast(Sequence[str], args)
        options = options_of(self._subcommand_parsers[self._verb])
        with one_sentence(options, complete_command(arguments)):
            self.config = parser.parse_args(arguments)
            refuse_null(self.config[self.config["subcommand"]])
        verb = self.config["subcommand"]
        options = self.config[verb]
        seed = options.get("seed_everything")
        if not 0 <= int(seed) < 2**32:
            raise InputError(f"seed_everything is a whole number from 0 to {2**32 - 1}, not {seed}.")
        path = options.get("ckpt_path")
        if path and path not in CHECKPOINTS_OF_THE_RUN:
            options["ckpt_path"] = str(training_checkpoint(path, options.get("weights_only"), resumes=verb == "fit"))
        if verb != "fit" and not path and not _starts_trained(options["model"]):
            rank_zero_warn(f"`{verb}` uses the network as built, untrained: pass its weights with --ckpt_path.")

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: Lightning would let a file name classes, sources and folders."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add progress, a checkpoint ``last.ckpt`` and a writer of predictions, unless the user chose others.

        Raises:
            InputError: If the trainer refuses an argument.
        """
        config = self._get(self.config_init, "trainer")
        if config["accumulate_grad_batches"] < 1:
            raise InputError(
                f"trainer.accumulate_grad_batches is 1 or more batches, not {config['accumulate_grad_batches']}."
            )
        if (config["gradient_clip_val"] or 0) < 0:
            raise InputError(f"trainer.gradient_clip_val must not be negative, but is {config['gradient_clip_val']}.")
        chosen = config["callbacks"] or []
        chosen = list(chosen) if isinstance(chosen, list) else [chosen]
        if any(isinstance(callback, callbacks.LearningRateFinder) for callback in chosen):
            raise InputError("LearningRateFinder has no effect, because the schedule sets the rate: choose model.lr.")
        if any(isinstance(callback, callbacks.BatchSizeFinder) for callback in chosen):
            raise InputError(
                "BatchSizeFinder changes the number of steps, which the schedule needs from the start: choose "
                "data.batch_size."
            )

        def has(kind: type[callbacks.Callback]) -> bool:
            return any(isinstance(callback, kind) for callback in chosen)

        if config["enable_progress_bar"] is not False and not has(callbacks.ProgressBar):
            chosen.append(progress_bar())
        if config["enable_checkpointing"] is not False and not has(callbacks.Checkpoint):
            chosen.append(LastCheckpoint(filename="last", enable_version_counter=False))
        if self.subcommand == "predict" and not has(callbacks.BasePredictionWriter):
            chosen.append(PredictionWriter())
        try:
            return super().instantiate_trainer(callbacks=chosen, **kwargs)
        except ValueError as error:
            raise InputError(" ".join(str(error).split())) from error

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; after Ctrl-C or SIGTERM, say if there is no checkpoint. A run that was refused leaves no folder."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        try:
            self._check_checkpoint_of_the_run(subcommand)
            super()._run_subcommand(subcommand)
        except (SystemExit, RuntimeError) as end:  # Lightning turns both into SystemExit
            # A loader raises a RuntimeError if its processes were asked to end, too.
            terminated = isinstance(end, SIGTERMException) or self.trainer.received_sigterm
            cause = Terminated() if terminated else end.__context__
            if not isinstance(cause, KeyboardInterrupt):
                raise
            missing = subcommand == "fit" and not any(_saved(self.trainer))
            raise type(cause)(*["No checkpoint was written."] * missing) from end
        finally:
            if made and self.trainer.is_global_zero and not (folder / "config.yaml").exists():
                _remove_empty_logs(made)

    def _check_checkpoint_of_the_run(self, subcommand: str) -> None:
        """Refuse "best", and "last" if there is none: Lightning would score the network as built.

        `fit` starts from scratch if there is no last checkpoint yet.
        """
        path = self.config_init[subcommand]["ckpt_path"]
        kept = [one for one in self.trainer.checkpoint_callbacks if isinstance(one, callbacks.ModelCheckpoint)]
        is_there = path == "last" and any(one._find_last_checkpoints(self.trainer) for one in kept)
        if subcommand != "fit" and path in ("best", "last") and not is_there:
            raise InputError(
                f"`{subcommand}` is a run of its own, which has no {path} checkpoint: pass the path of one, such as "
                "--ckpt_path runs/version_0/checkpoints/last.ckpt."
            )

    def fit(self, **options: Any) -> None:
        """Train, and say if the checkpoint was at the end of the training already."""
        path = options.get("ckpt_path")
        step = None
        if path and path not in CHECKPOINTS_OF_THE_RUN and self.trainer.is_global_zero:
            step = read_checkpoint(path).get("global_step")  # before the training, which may replace the file
        self.trainer.fit(**options)
        if step == self.trainer.global_step:
            print(
                f"No step was trained: {path} ends at step {step}, where this training ends too. To continue, raise "
                "trainer.max_epochs or trainer.max_steps."
            )

    def validate(self, **options: Any) -> None:
        """Score on the validation set and print a table."""
        _print_scores(self.trainer.validate(**options | {"verbose": False}))

    def test(self, **options: Any) -> None:
        """Score on the test set and print a table."""
        _print_scores(self.trainer.test(**options | {"verbose": False}))

    def predict(self, **options: Any) -> None:
        """Predict without keeping in memory what has been written."""
        self.trainer.predict(**options | {"return_predictions": False})


class LastCheckpoint(callbacks.ModelCheckpoint):
    """Save after every epoch, and when Lightning does.

    If not every epoch ends with its only validation, Lightning saves after validations alone.
    """

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints: that of Lightning's callback, which earlier releases used."""
        return super().state_key.replace(type(self).__name__, callbacks.ModelCheckpoint.__name__, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless a validation has just done so."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class ConfigSaver(SaveConfigCallback):
    """Write the configuration of a run into its folder when the run begins, not if it is refused before."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet, because the checkpoint and the data are checked later."""

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it; without a logger, scoring and prediction leave that of the training in the same folder.

        Raises:
            FileExistsError: If an earlier run left one where a training would write it.
        """
        try:
            super().setup(trainer, pl_module, str(trainer.state.fn))
        except RuntimeError as error:
            if trainer.state.fn != TrainerFn.FITTING:
                return
            raise FileExistsError(
                f"{trainer.log_dir} holds the {self.config_filename} of an earlier run: set "
                "--trainer.default_root_dir to another folder, or leave trainer.logger on: it gives every run its own"
            ) from error

    # Whichever is first; the last one is for a training that was at its end already.
    on_sanity_check_start = on_train_start = on_validation_start = on_test_start = on_predict_start = write
    on_fit_end = write


def main(args: list[str]) -> MultiTaskCLI:
    """Run one of the verbs fit, validate, test and predict, and return the command with its trainer, model and data.

    Args:
        args: The verb and its options, e.g. ``["fit", "--config", "rooms.yaml"]``.

    Raises:
        InputError: If an option is wrong, or does not fit the others.
    """
    limit_configurations(args)
    # The default interval of Timer is an enumeration, which YAML cannot write.
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    with warnings.catch_warnings(), one_sentence():
        # Warnings about Lightning's own code, and about what is intended: a frozen encoder, every run in its own
        # folder, and averaged weights, which a checkpoint holds for everything but further training.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer` in `LightningModule`")
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        warnings.filterwarnings("ignore", message=r"You're using the WeightAveraging callback, but loading")
        verb = _verb(args)
        args = ["--model.help=MultiTaskModule" if arg == "--model.help" else arg for arg in args]
        return MultiTaskCLI(
            verb,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=ConfigSaver,
            trainer_defaults={"logger": LOGGER},
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False, verb: PARSER},
            # The checkpoint describes its network; its other settings must not override those of the user.
            load_from_checkpoint_support=False,
            args=args,
        )


def next_commands(trainer: Trainer) -> str:
    """Return where training saved its network and which commands use it; on other ranks nothing."""
    paths = _saved(trainer)
    folder = Path(trainer.log_dir or trainer.default_root_dir)  # every rank asks: Lightning broadcasts the answer
    if not trainer.is_global_zero or not any(paths):
        meant = trainer.is_global_zero and paths and not getattr(trainer, "fast_dev_run", False)
        return "No checkpoint was written." if meant else ""
    path = next(filter(None, paths))
    usage = getattr(trainer.lightning_module, "usage", PanoramaModule.usage)
    text: str = usage(shlex.quote(path), shlex.quote(str(folder / "config.yaml")))
    of_the_best = any(getattr(one, "monitor", None) for one in trainer.checkpoint_callbacks)
    if of_the_best or not Path(path).is_file():  # or a folder of shards
        return text
    step = read_checkpoint(path)["global_step"]
    if step < trainer.global_step:
        text += f"\nIt was saved after step {step} of {trainer.global_step}: later steps are in no checkpoint."
    return text


def _remove_empty_logs(folders: Sequence[Path]) -> None:
    """Remove a folder with nothing but the files that TensorBoard's logger creates before a run begins.

    Args:
        folders: The folder, and those above it that go with it unless something else is in them.
    """
    files = {*folders[0].glob("*")}
    if files <= {*folders[0].glob("events.out.tfevents.*"), *folders[0].glob("hparams.yaml")}:
        for path in files:
            path.unlink()
        with contextlib.suppress(OSError):
            for folder in folders:
                folder.rmdir()


def _saved(trainer: Trainer) -> list[str]:
    """Return the paths of the checkpoints to use, empty where there is none."""
    checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, callbacks.ModelCheckpoint)]
    return [c.best_model_path if c.monitor else c.last_model_path or c.best_model_path for c in checkpoints]


def complete_command(arguments: Sequence[str]) -> str:
    """Return a sentence with a complete command line, close to one that lacks its network or data.

    Shipped configurations say in their first lines "Use it after NAME.yaml".
    """
    verb = _verb(arguments)
    folder = shipped("configs")
    paths = [Path(value) for option, value in pairwise(arguments) if option in ("--config", "-c")]
    names = [str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        comment = path.read_text(encoding="utf-8").replace("\n# ", " ")
        if found := re.search(r"Use it after (\S+\.yaml(?:(?:,| and) \S+\.yaml)*)", comment):
            before = [other for other in re.split(", | and ", found[1]) if other not in names]
            if before:
                command = " ".join(f"--config {other}" for other in (*before, *names))
                return f"{name} must follow {' and '.join(before)}: `mtpano {verb} {command}`."
    return (
        f"A complete command is `mtpano {verb} --config quickstart.yaml` or `--config base.yaml --config synpass.yaml`."
    )


def _verb(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if argument in VERBS), "fit")


def _starts_trained(model: Mapping[str, Any]) -> bool:
    network = model.get("init_args", {}).get("network") or {}
    return str(network.get("class_path", "")).endswith(".Pretrained")


def _print_scores(results: Sequence[Mapping[str, float]]) -> None:
    if getattr(rank_zero_only, "rank", 0) == 0:  # Lightning keeps it as an attribute of the function
        print(as_table(results))


def classes_of(data: LightningDataModule) -> list[str]:
    """Return the class names of the data; none if it has no classes.

    Example:
        >>> import types
        >>> classes_of(types.SimpleNamespace(classes=("floor", "wall"))), classes_of(types.SimpleNamespace())
        (['floor', 'wall'], [])
    """
    return list(getattr(data, "classes", ()))


def palette_of(data: LightningDataModule) -> list[list[int]] | None:
    """Return the colours (R, G, B) of the classes, None for the default ones.

    Example:
        >>> import types
        >>> palette_of(types.SimpleNamespace(palette=[(255, 0, 0)])), palette_of(types.SimpleNamespace())
        ([[255, 0, 0]], None)
    """
    palette = getattr(data, "palette", None)
    return None if palette is None else plain_palette(palette)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()
