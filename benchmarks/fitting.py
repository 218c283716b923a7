"""Train by a configuration of the package, once."""

import shlex
from pathlib import Path

from mtpano_zoo.cli import main as mtpano

__all__ = ("fit_once", "run")


def run(*arguments: str) -> None:
    """Print a command of `mtpano` and run it.

    Raises:
        SystemExit: If it fails.
    """
    print(f"$ mtpano {shlex.join(arguments)}", flush=True)
    if status := mtpano(list(arguments)):
        raise SystemExit(status)


def fit_once(folder: Path, config: str, *arguments: str) -> Path:
    """Train without validation unless the folder has a finished training; return its checkpoint.

    Raises:
        SystemExit: If the training fails.
    """
    checkpoint = folder / "last.ckpt"
    if not checkpoint.exists():
        begun = len(list(folder.glob("version_*")))
        quiet = ("--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false")
        logger = (f"--trainer.logger.init_args.save_dir={folder}", f"--trainer.logger.init_args.version={begun}")
        run("fit", "--config", config, *arguments, *quiet, *logger)
        (folder / f"version_{begun}" / "checkpoints" / "last.ckpt").rename(checkpoint)
    return checkpoint
