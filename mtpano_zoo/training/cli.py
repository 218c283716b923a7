"""`mtpano fit|validate|test|predict`: LightningCLI over `MultiTaskModule` and any data module."""

import logging
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer, callbacks
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_warn

# A class that is imported can be named without its module.
import mtpano_zoo.data
import mtpano_zoo.models
import mtpano_zoo.zoo.pretrained  # noqa: F401
from mtpano_zoo.text_files import limit_configurations
from mtpano_zoo.training.callbacks import PredictionWriter, ProgressBar
from mtpano_zoo.training.checkpoint import read_checkpoint
from mtpano_zoo.training.module import MultiTaskModule

VERBS = ("fit", "validate", "test", "predict")
LOGGER = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "runs", "name": "", "default_hp_metric": False},
}


class MultiTaskCLI(LightningCLI):
    """Command line whose schema is the constructors: a YAML names classes and gives their arguments.

    Names and colours of the classes are linked from the data to the network, so they are written once. Every run logs
    to TensorBoard in a new folder ``runs/version_N``, with its configuration and checkpoints.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what data and network must agree on."""
        parser.link_arguments("data", "model.network.init_args.classes", classes_of, apply_on="instantiate")
        parser.link_arguments("data", "model.network.init_args.palette", palette_of, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; refuse a damaged checkpoint before anything is built, and say so where there is none."""
        try:
            self.config = parser.parse_args(cast(Sequence[str], args))
        except ArgumentError as error:
            raise ValueError(in_one_line(str(error))) from error
        verb = self.config["subcommand"]
        path = self.config[verb].get("ckpt_path")
        if path and Path(path).is_file():
            read_checkpoint(path)
        if verb != "fit" and not path:
            rank_zero_warn(f"`{verb}` takes the network as it was built, untrained: give the weights by --ckpt_path.")

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses is told in its own words."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ValueError(in_one_line(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the progress bar that does not wait for the device, and a writer, unless the user chose others."""
        config = self._get(self.config_init, "trainer")
        chosen = config["callbacks"] or []
        chosen = chosen if isinstance(chosen, list) else [chosen]
        kinds = [type(callback) for callback in chosen]
        if config["enable_progress_bar"] is not False and not any(issubclass(k, callbacks.ProgressBar) for k in kinds):
            chosen = [*chosen, ProgressBar(refresh_rate=10)]
        if self.subcommand == "predict" and not any(issubclass(k, callbacks.BasePredictionWriter) for k in kinds):
            chosen = [*chosen, PredictionWriter()]
        return super().instantiate_trainer(callbacks=chosen, **kwargs)

    def predict(self, **options: Any) -> None:
        """Predict without keeping in memory what has been written."""
        self.trainer.predict(**options | {"return_predictions": False})


class ConfigSaver(SaveConfigCallback):
    """Write the configuration of a run into its folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it.

        Raises:
            FileExistsError: There is one of an earlier run, which happens only without a logger.
        """
        try:
            super().setup(trainer, pl_module, stage)
        except RuntimeError as error:
            raise FileExistsError(
                f"{trainer.log_dir} holds the {self.config_filename} of an earlier run: give "
                "--trainer.default_root_dir another folder, or leave trainer.logger on: every run has its own then"
            ) from error


def main(args: list[str]) -> MultiTaskCLI:
    """Run one of the verbs fit, validate, test and predict, and return trainer, model and data as they are afterwards.

    Args:
        args: The verb and its options, e.g. ``["fit", "--config", "rooms.yaml"]``.
    """
    limit_configurations(args)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    with warnings.catch_warnings():
        # About Lightning's own code, and about what was asked for: a frozen encoder, every run in its own folder, and
        # averaged weights, which are the ones that a checkpoint gives to whoever does not train on.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer` in `LightningModule`")
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        warnings.filterwarnings("ignore", message=r"You're using the WeightAveraging callback, but loading")
        return MultiTaskCLI(
            MultiTaskModule,
            LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=ConfigSaver,
            trainer_defaults={"logger": LOGGER},
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False} | {verb: {"exit_on_error": False} for verb in VERBS},
            # The checkpoint describes its network; its other settings must not override those of the user.
            load_from_checkpoint_support=False,
            args=args,
        )


def classes_of(data: LightningDataModule) -> list[str]:
    """Give the names of the classes in the data, none if it has no classes."""
    return list(getattr(data, "classes", ()))


def palette_of(data: LightningDataModule) -> list[list[int]] | None:
    """Give the colours (R, G, B) of the classes, None for the default ones."""
    palette = getattr(data, "palette", None)
    return None if palette is None else [[int(value) for value in colour] for colour in palette]


def in_one_line(message: str) -> str:
    """Say what jsonargparse says of a wrong option, without the types that it tried and the value in full."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    noise = ("Does not validate", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
    return " ".join(line for line in lines if line and not line.startswith(noise))


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()
