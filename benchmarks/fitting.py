"""Train by a configuration of the package, once."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from mtpano_zoo.cli import main as mtpano

__all__ = ("fit_once", "run")


def run(*arguments: str, processes: int = 1) -> None:
    """Print a command of `mtpano` and run it; a trainer with several processes needs a program of its own to repeat.

    Raises:
        SystemExit: If it fails.
    """
    print(f"$ mtpano {shlex.join(arguments)}", flush=True)
    if processes == 1:
        status = mtpano(list(arguments))
    else:
        command = (sys.executable, "-m", "mtpano_zoo.cli", *arguments)
        status = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode
    if status:
        raise SystemExit(status)


def fit_once(folder: Path, config: str, *arguments: str, processes: int = 1) -> Path:
    """Train without validation unless the folder has a finished training; return its checkpoint.

    Args:
        folder: Folder of the training.
        config: Name of a configuration.
        *arguments: More arguments of `mtpano fit`.
        processes: Processes that train together, with one thread each if there are several.

    Raises:
        SystemExit: If the training fails.
    """
    checkpoint = folder / "last.ckpt"
    if not checkpoint.exists():
        begun = len(list(folder.glob("version_*")))
        quiet = ("--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false")
        logger = (f"--trainer.logger.init_args.save_dir={folder}", f"--trainer.logger.init_args.version={begun}")
        together = (f"--trainer.devices={processes}", *(["--trainer.strategy=ddp"] if processes > 1 else []))
        run("fit", "--config", config, *arguments, *quiet, *logger, *together, processes=processes)
        (folder / f"version_{begun}" / "checkpoints" / "last.ckpt").rename(checkpoint)
    return checkpoint
