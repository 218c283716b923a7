"""What a trainer continues: checkpoints, which are local files of tensors and plain data only, and epochs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer

from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import read_checkpoint
from mtpano_zoo.zoo.entries import entries

__all__ = ("check_optimizers", "continue_epoch", "read_plain_data_only", "training_checkpoint")

ANEW = "start a new training from its weights, such as with --model.network=Pretrained --model.network.init_args.source"


def training_checkpoint(path: str | Path, weights_only: bool | None = None, *, resumes: bool = False) -> Path:
    """Check a checkpoint that a trainer is about to read; nothing in it is executed.

    Args:
        path: The user's ``ckpt_path``.
        weights_only: The user's ``weights_only``.
        resumes: Whether training is to continue, which needs the state of the optimiser.

    Returns:
        Its absolute path, which Lightning cannot mistake for a URL.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is not a file on this machine, if training did not write it, if it holds anything but tensors
            and plain data, if `weights_only` is False, or if training cannot resume from it.
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
    content = {} if _is_network(path) else read_checkpoint(file)
    if not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise InputError(
            f"{path} is not a training checkpoint, which ckpt_path needs: pass a network with its weights by "
            f"--model.network=Pretrained --model.network.init_args.source={path} instead."
        )
    if resumes and "optimizer_states" not in content:
        raise InputError(f"{path} holds weights only, from which training cannot resume: {ANEW}={path}")
    if resumes and not _is_sound(content["optimizer_states"]):
        raise InputError(f"The state of the optimiser in {path} is damaged, so training cannot resume: {ANEW}={path}")
    return file


def _is_network(path: str | Path) -> bool:
    """Return whether `load_model` can read the path but a trainer cannot."""
    source, path = str(path), Path(path)
    named = source.startswith(("hf-hub:", "local-dir:")) or source in entries()
    return named or path.suffix == ".safetensors" or (path / "config.json").is_file()


def _is_sound(states: Any) -> bool:
    """Return whether these are the states of one optimiser or more."""
    return isinstance(states, list) and len(states) > 0 and all(map(_is_state, states))


def _is_state(state: Any) -> bool:
    groups = state.get("param_groups") if isinstance(state, dict) and isinstance(state.get("state"), dict) else None
    return isinstance(groups, list) and all(isinstance(group, dict) and "params" in group for group in groups)


def read_plain_data_only(strategy: Strategy) -> None:
    """Let the strategy of a trainer read only checkpoints that `training_checkpoint` and `check_optimizers` allow.

    Lightning itself would also read URLs, run pickled code, and ignore the options of the optimiser.
    """
    if not isinstance(strategy.load_checkpoint, partial):
        strategy.load_checkpoint = partial(_load_plain_data, strategy.load_checkpoint)  # type: ignore[method-assign]
        restore = strategy.load_optimizer_state_dict
        strategy.load_optimizer_state_dict = partial(_load_optimizers, strategy, restore)  # type: ignore[method-assign]


def continue_epoch(trainer: Trainer, epoch: int | None, done: int | None) -> None:
    """Continue an epoch in which `max_steps` ended a training: Lightning has counted it already.

    If the loader knows how many of its batches are done, they are recounted, because the batch size may have changed.

    Args:
        trainer: A trainer that begins to train.
        epoch: The epoch that the loader continues, if it knows.
        done: How many of its batches are done, if it knows.
    """
    loop = trainer.fit_loop
    progress = cast(Any, loop.epoch_progress.current)
    is_whole = loop.epoch_loop.batch_progress.is_last_batch
    if epoch is None:
        return
    if done is not None:
        counts = cast(Any, loop.epoch_loop.batch_progress.current)
        more = (int(trainer.num_training_batches) if is_whole else done) - counts.ready
        for name in ("ready", "started", "processed", "completed"):
            setattr(counts, name, getattr(counts, name) + more)
    if epoch >= progress.processed or (is_whole and trainer.max_steps == -1):
        return
    progress.processed = epoch
    progress.completed = min(progress.completed, epoch)
    if not is_whole and not loop.restarting:
        # Otherwise its batches would be counted from 0, and the last one would not be known as such.
        loop.epoch_loop.restarting = True
        loop.epoch_loop.update_restart_stage()


def _load_plain_data(
    load: Callable[..., dict[str, Any]], checkpoint_path: str | Path, weights_only: bool | None = None
) -> dict[str, Any]:
    return load(training_checkpoint(checkpoint_path, weights_only), weights_only=True)


def _load_optimizers(
    strategy: Strategy, restore: Callable[[Mapping[str, Any]], None], checkpoint: Mapping[str, Any]
) -> None:
    check_optimizers(checkpoint, strategy.optimizers)
    restore(checkpoint)


def check_optimizers(checkpoint: Mapping[str, Any], optimizers: Sequence[Optimizer]) -> None:
    """Refuse to resume with another optimiser, learning rate or weight decay: those of the checkpoint would be used.

    Args:
        checkpoint: Content of a checkpoint.
        optimizers: The optimisers before their states are restored.

    Raises:
        InputError: If one of these options differs; the message names it.
    """
    for optimizer, state in zip(optimizers, checkpoint["optimizer_states"], strict=False):
        for group, stored in zip(optimizer.param_groups, state["param_groups"], strict=False):
            was, now = _options_of(stored), _options_of(group)
            changed = next((name for name, value in now.items() if was.get(name, value) != value), None)
            if changed is not None:
                raise InputError(
                    f"The checkpoint was trained with {changed} {was[changed]}, but here {changed} is {now[changed]}: "
                    f"to resume it, pass --model.{changed}={was[changed]}, or {ANEW}=PATH."
                )


def _options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a parameter group of an optimiser was built from, as far as it tells."""
    rate = "encoder_lr" if str(group.get("name")).startswith("encoder/") else "lr"
    keys = {"initial_lr": rate, "weight_decay": "weight_decay"}  # a schedule changes `lr`
    options = {option: group[key] for key, option in keys.items() if key in group}
    if "decoupled_weight_decay" in group:
        options["optimizer"] = "adamw" if group["decoupled_weight_decay"] else "adam"
    return options
