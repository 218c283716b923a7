"""The LightningModule that every way of training builds on: a network, its loss, its metrics and its optimiser."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, Self, cast, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from mtpano_zoo.data.device_rendering import DRAWN
from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import (
    DESCRIPTION,
    card_after_training,
    check_not_nan,
    check_options,
    check_same_outputs,
    check_weights,
    describe_network,
    network_weights,
)
from mtpano_zoo.layers import add_lora
from mtpano_zoo.losses import Loss, check_batch
from mtpano_zoo.losses.validity import complete_labels
from mtpano_zoo.metrics import defined_scores, labels_of_metric, metrics_of
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.outputs import check_trainer_precision
from mtpano_zoo.prediction import Prediction, predict
from mtpano_zoo.tasks import MAIN_TASKS
from mtpano_zoo.training.optimizer import parameter_groups
from mtpano_zoo.training.processes import EpochMeans, draw_differently, mean_of_processes, named_losses
from mtpano_zoo.training.resuming import continue_epoch, read_plain_data_only
from mtpano_zoo.training.schedules import Schedule, training_length, with_schedule

__all__ = ("PanoramaModule",)

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class PanoramaModule(LightningModule):
    """Train and score a panorama network.

    A subclass may replace `training_step`; optimiser, schedule, freezing, checkpoints, logging and metrics are here.

    Logged names are ``train/loss`` and ``train/loss/TERM`` per step, and ``val/loss``, ``val/loss/TERM`` and
    ``val/TASK/METRIC`` per epoch (``val/semseg/mIoU``, ``val/depth/AbsRel``, ``val/normals/mean``, ...), with ``test``
    in place of ``val`` for the test set. Losses are means over all processes. Scores without a value, such as the IoU
    of a class that does not occur, are not logged; a logged NaN means that distances were not finite.
    ``val/TASK/nonfinite`` is the share of the pixels whose prediction was not finite. A batch without the labels of a
    task trains and scores the others, and its loss of that task is 0.

    Checkpoints describe their network in plain data, so that `load_model` needs nothing but the file. They also keep
    the state of the random generators: training on one device that resumes from the end of an epoch continues exactly.
    From within an epoch it continues with the next sample if training has a single loader from `mtpano_zoo.data`, as
    all data modules there have. Shards and `SemiSupervisedDataModule` refuse to continue within an epoch if sizes that
    their order depends on differ, such as the batch size or the number of processes. The position in several loaders (a
    dict or a list) is not kept. An `up_head` is removed, because training changes the encoder that it fits.

    Args:
        network: The network; its encoder (``encoder_part``) can have a learning rate of its own or be frozen.
        loss: What training minimises.
        lr: Learning rate of everything but the encoder.
        encoder_lr: Learning rate of the encoder; ``lr`` if omitted.
        weight_decay: Decay of the weights of linear and convolution layers; nothing else decays.
        optimizer: Adam (decay added to the gradient) or AdamW (decoupled decay).
        schedule: Decay of the learning rates per optimiser step until the end of the training.
        power: Exponent of the polynomial schedule.
        warmup_steps: Steps over which the learning rates rise linearly.
        freeze_encoder: Train without changing the encoder, its norm statistics included.
        lora_rank: Freeze the encoder except for updates of its attention of this rank, which learn at ``encoder_lr``.
            `load_model` reads such a checkpoint as the plain network, with the updates added to its weights.
        compile: Run the network through ``torch.compile``; names in checkpoints stay as they are.
        gradient_checkpointing: Recompute most activations in the backward pass instead of storing them: less memory,
            more time, the same gradients.
        metrics: Metrics by task, in place of those of `TASK_METRICS` with their defaults, e.g. with another alignment,
            range, weighting or pooling.

    Raises:
        InputError: If the network has no encoder to freeze, a rank does not fit, a rate is negative, or a choice is
            unknown.
    """

    def __init__(
        self,
        network: PanoramaNetwork,
        loss: Loss,
        lr: float = 1e-4,
        encoder_lr: float | None = None,
        weight_decay: float = 0.01,
        optimizer: Literal["adam", "adamw"] = "adamw",
        schedule: Schedule = "polynomial",
        power: float = 0.9,
        warmup_steps: int = 0,
        freeze_encoder: bool = False,
        lora_rank: int | None = None,
        compile: bool = False,
        gradient_checkpointing: bool = False,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        if (freeze_encoder or lora_rank is not None) and network.encoder_part is None:
            raise InputError(f"{type(network).__name__} has no encoder to freeze.")
        if min(lr, lr if encoder_lr is None else encoder_lr, weight_decay) < 0:
            raise InputError(
                f"lr, encoder_lr and weight_decay must not be negative, but are {lr}, {encoder_lr} and {weight_decay}."
            )
        if optimizer not in OPTIMIZERS or schedule not in get_args(Schedule):
            raise InputError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)} and schedule one of "
                f"{', '.join(get_args(Schedule))}, not {optimizer!r} and {schedule!r}."
            )
        learned, masked = getattr(loss, "ranges", ()), getattr(network, "ranges", ())
        if learned and masked and tuple(learned) != tuple(masked):
            raise InputError(
                f"the loss trains masks of the ranges {learned}, but the network has masks of {masked}: set both to "
                "the same ranges."
            )
        network.drop_up_head()  # no loss reaches it, and training changes the encoder that it fits
        self.network = network
        self.loss = loss
        self.lr = lr
        self.encoder_lr = lr if encoder_lr is None else encoder_lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.schedule: Schedule = schedule
        self.power = power
        self.warmup_steps = warmup_steps
        self.freeze_encoder = freeze_encoder or lora_rank is not None
        self.schedule_start = 0
        """Optimiser steps before the schedule begins; `AuxiliaryWarmup` sets it."""
        self._loader_state: dict[str, Any] | None = None  # of the checkpoint that training resumes from
        self._losses = {stage: EpochMeans() for stage in ("val", "test")}
        self.metrics = nn.ModuleDict({stage: self._build_metrics(metrics or {}) for stage in ("val", "test")})
        if freeze_encoder:
            self.encoder.requires_grad_(False)
        if lora_rank is not None:
            add_lora(self.encoder, lora_rank)
        if gradient_checkpointing:
            if not hasattr(network, "set_gradient_checkpointing"):
                raise InputError(f"{type(network).__name__} has no gradient checkpointing.")
            cast(Callable[[], None], network.set_gradient_checkpointing)()
        if compile:
            network.compile()  # in place: unlike torch.compile(network), it does not rename the parameters
        self.train()  # Lightning keeps the modes it finds, and a loaded network comes in evaluation mode

    def _build_metrics(self, chosen: dict[str, Metric]) -> nn.ModuleDict:
        tasks = self.network.tasks
        if unknown := sorted(chosen.keys() - set(tasks)):
            raise InputError(f"There are metrics for {', '.join(unknown)}, but the network has {', '.join(tasks)}.")
        return nn.ModuleDict(metrics_of(tasks, self.network.classes, chosen))

    def _metrics(self, stage: str) -> dict[str, Metric]:
        """Return the metrics of one stage by task, in the same order on every rank."""
        return cast(dict[str, Metric], dict(cast(nn.ModuleDict, self.metrics[stage]).items()))

    @property
    def encoder(self) -> nn.Module:
        """The network's encoder."""
        return self.network.get_submodule(cast(str, self.network.encoder_part))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in evaluation mode, so that its norm statistics do not change."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def setup(self, stage: str) -> None:
        """Check precision and size, and let the trainer read checkpoints as plain data only, before it reads one.

        Raises:
            InputError: If the precision would round labels.
        """
        if stage != "predict":
            check_trainer_precision(str(self.trainer.precision), "labels")
            self._compare_sizes()
        read_plain_data_only(self.trainer.strategy)

    def _compare_sizes(self) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        height, width = self.network.input_size
        found = getattr(data, "height", height), getattr(data, "width", width)
        if found != (height, width):
            rank_zero_warn(
                f"the data are {found[0]} x {found[1]}, but `load_model(...).predict` and `mtpano run` will run the "
                f"network at its input_size, {height} x {width}: set model.network.init_args.input_size to "
                f"{list(found)}, or height and width of the data to {height} and {width}."
            )

    @staticmethod
    def usage(checkpoint: str, config: str) -> str:
        """Return the commands that use a checkpoint of this training; paths are quoted for the shell."""
        return (
            f"The network is in {checkpoint}. To use it and to score it:\n"
            f"  mtpano run PANORAMA_OR_FOLDER --model {checkpoint}\n"
            f"  mtpano test --config {config} --ckpt_path {checkpoint}"
        )

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse Lightning's method, which reads URLs and builds whatever classes the file names.

        Raises:
            InputError: Always; the message says what to do instead.
        """
        raise InputError(
            f"{cls.__name__} is not read from a file: `load_model(path)` reads the network of a checkpoint, and "
            "`trainer.fit(module, ckpt_path=path)` continues its training."
        )

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Run the network on images (B, 3, H, W) in [0, 1]."""
        outputs: dict[str, Any] = self.network(image)
        return outputs

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Refuse a batch that cannot be trained on while it is on the host, where checking it is cheap.

        A data module's own hook of this name replaces it.

        Raises:
            InputError: If it is not a dict with `image`, or `check_batch` refuses it.
        """
        if isinstance(batch, Mapping) and DRAWN in batch:  # its data module renders it on the device
            return batch
        if not isinstance(batch, Mapping) or "image" not in batch:
            found = f"the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
            raise InputError(f"A batch is a dict with image (B, 3, H, W) and labels, as depth (B, H, W), not {found}.")
        if batch["image"].device.type == "cpu":
            used = {"image", *(key for task in self.network.tasks for key in MAIN_TASKS[task].labels)}
            check_batch({key: batch[key] for key in used & batch.keys()}, len(self.network.classes))
        return batch

    def on_train_start(self) -> None:
        """Let a resumed training continue within its epoch; let processes drop different units."""
        draw_differently(self.global_rank)
        # Lightning builds the loader, to know the length of the training, before it could restore the loader's state.
        loader: Any = self.trainer.train_dataloader
        if self._loader_state is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._loader_state)
            continue_epoch(self.trainer, getattr(loader, "epoch", None), getattr(loader, "done", None))
        self._loader_state = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        terms: dict[str, Tensor] = self.loss(self(batch["image"]), batch)
        self._log_losses("train", terms, len(batch["image"]))
        return terms["total"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one batch; the outputs are returned for callbacks that draw them."""
        return self._score("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one batch; the outputs are returned for callbacks that draw them."""
        return self._score("test", batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Return the fields of the `Prediction` of every sample; Lightning cannot collect frozen objects."""
        if "unreadable" in batch:
            return []
        precision: Literal["bfloat16", "float32"] = "bfloat16" if "bf16" in self.trainer.precision else "float32"
        predictions = cast(list[Prediction], predict(self.network, batch["image"], precision=precision))
        return [dict(vars(prediction)) for prediction in predictions]

    def _score(self, stage: str, batch: dict[str, Any]) -> dict[str, Any]:
        outputs: dict[str, Any] = self(batch["image"])
        if "unreadable" not in batch:
            self._log_losses(stage, self.loss(outputs, batch), len(batch["image"]))
        for task, metric in self._metrics(stage).items():
            if (labels := self.labels_for(task, metric, batch)) is not None:
                metric.update(outputs[task].float(), *labels)
        return outputs

    def labels_for(self, task: str, metric: Metric, batch: dict[str, Any]) -> tuple[Tensor, ...] | None:
        """Return what a metric compares a task with; None if the batch lacks it."""
        labels = complete_labels(labels_of_metric(task, metric), batch)
        return None if labels is None else tuple(labels.values())

    def _log_losses(self, stage: str, terms: dict[str, Tensor], batch_size: int) -> None:
        # Tensors stay on the device until Lightning writes them, every `log_every_n_steps`: no step waits for them.
        values = named_losses(stage, terms)
        if stage != "train":
            self._losses[stage].update(values, batch_size)
            return
        for name, value in mean_of_processes(values).items():
            self.log(name, value, prog_bar=name == "train/loss", batch_size=batch_size)

    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted validation counted."""
        self._forget("val")

    def on_test_epoch_start(self) -> None:
        """Forget what an interrupted test counted."""
        self._forget("test")

    def _forget(self, stage: str) -> None:
        self._losses[stage] = EpochMeans()
        for metric in self._metrics(stage).values():
            metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Log losses and metrics of the validation set."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log losses and metrics of the test set."""
        self._log_metrics("test")

    def _log_metrics(self, stage: str) -> None:
        for name, value in self._losses[stage].compute().items():
            self.log(name, value, prog_bar=name == f"{stage}/loss", sync_dist=True)  # equal on all ranks
        for task, metric in self._metrics(stage).items():
            # All ranks must agree on calling compute(), or those that do wait forever.
            if self.trainer.strategy.reduce_boolean_decision(metric.update_called, all=False):
                # Equal on all ranks, since compute() has gathered them.
                scores = {f"{stage}/{task}/{name}": value for name, value in defined_scores(metric).items()}
                self.log_dict(scores, sync_dist=True)
            metric.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimiser over `parameter_groups` and its schedule per step.

        Raises:
            InputError: If the schedule needs the length of the training and the trainer has none.
        """
        groups = parameter_groups(self, lr=self.lr, encoder_lr=self.encoder_lr, weight_decay=self.weight_decay)
        # Fused is one kernel for all parameters; a gradient scaler would have to clip inside it.
        fused = self.device.type == "cuda" and self.trainer.precision != "16-mixed"
        optimizer = OPTIMIZERS[self.optimizer](groups, lr=self.lr, fused=fused)
        return with_schedule(
            optimizer,
            training_length(self.trainer),
            schedule=self.schedule,
            power=self.power,
            warmup_steps=self.warmup_steps,
            start=self.schedule_start,
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer does, which refuses any fused optimiser, even one whose gradients nothing scales."""
        if gradient_clip_val and optimizer.defaults.get("fused"):
            precision = self.trainer.precision_plugin
            by_value = gradient_clip_algorithm == "value"
            clip = precision.clip_grad_by_value if by_value else precision.clip_grad_by_norm
            clip(optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of the network, the position in the epoch and the state of the random generators."""
        card = card_after_training(self.network.card)
        checkpoint[DESCRIPTION] = describe_network(self.network) | {"card": card}
        trainer = self._attached_trainer()
        loader: Any = None if trainer is None else trainer.train_dataloader
        if hasattr(loader, "state_dict"):
            checkpoint["loader"] = loader.state_dict()
        checkpoint["rng"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint fits before any of it is copied; restore the random generators when training resumes.

        Raises:
            InputError: If the checkpoint has other tasks, classes or options, or its weights do not fit the network
                or are NaN.
        """
        check_same_outputs(checkpoint.get(DESCRIPTION), self.network, "The checkpoint")
        trainer = self._attached_trainer()
        resumes = trainer is not None and trainer.training
        check_options(checkpoint, self.network, encoder_learns=self._encoder_learns() if resumes else None)
        weights = network_weights(checkpoint)
        check_weights(self.network, weights, "the checkpoint")
        check_not_nan(weights, "the checkpoint")
        self._loader_state = checkpoint.get("loader") if resumes else None
        rng = checkpoint.get("rng")
        if rng is not None and resumes:
            torch.set_rng_state(rng["cpu"])
            if len(rng["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(rng["cuda"])

    def _attached_trainer(self) -> Trainer | None:
        try:
            return self.trainer
        except RuntimeError:  # Lightning has no other public way to ask
            return None

    def _encoder_learns(self) -> bool:
        if self.network.encoder_part is None:
            return False
        return any(parameter.requires_grad for parameter in self.encoder.parameters())
