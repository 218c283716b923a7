"""Checkpoints that a trainer may read: local files of tensors and plain data, whatever Lightning would accept."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy

from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import read_checkpoint
from mtpano_zoo.zoo.entries import entries

__all__ = ("read_plain_data_only", "training_checkpoint")


def training_checkpoint(path: str | Path, weights_only: bool | None = None) -> Path:
    """Check a checkpoint that a trainer is about to read; nothing in it is executed.

    Args:
        path: The user's ``ckpt_path``.
        weights_only: The user's ``weights_only``.

    Returns:
        Its absolute path, which Lightning cannot mistake for a URL.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is not a file on this machine, if training did not write it, if it holds anything but tensors
            and plain data, or if `weights_only` is False.
    """
    if weights_only is False:
        raise InputError(
            "weights_only=False would let a checkpoint run code, which is never allowed here: leave it out."
        )
    if "://" in str(path) or "::" in str(path):
        raise InputError(f"{path} is a URL, but a checkpoint must be a file on this machine: download it first.")
    file = Path(path).expanduser().absolute()
    if not file.is_file() and not _is_network(path):
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    if _is_network(path) or not {"state_dict", "pytorch-lightning_version"} <= read_checkpoint(file).keys():
        raise InputError(
            f"{path} is not a training checkpoint, which ckpt_path needs: pass a network with its weights by "
            f"--model.network=Pretrained --model.network.init_args.source={path} instead."
        )
    return file


def _is_network(path: str | Path) -> bool:
    """Return whether `load_model` can read the path but a trainer cannot."""
    source, path = str(path), Path(path)
    named = source.startswith(("hf-hub:", "local-dir:")) or source in entries()
    return named or path.suffix == ".safetensors" or (path / "config.json").is_file()


def read_plain_data_only(strategy: Strategy) -> None:
    """Let the strategy of a trainer read only checkpoints that `training_checkpoint` allows.

    Lightning itself would also read URLs, and run pickled code.
    """
    if not isinstance(strategy.load_checkpoint, partial):
        strategy.load_checkpoint = partial(_load_plain_data, strategy.load_checkpoint)  # type: ignore[method-assign]


def _load_plain_data(
    load: Callable[..., dict[str, Any]], checkpoint_path: str | Path, weights_only: bool | None = None
) -> dict[str, Any]:
    return load(training_checkpoint(checkpoint_path, weights_only), weights_only=True)
