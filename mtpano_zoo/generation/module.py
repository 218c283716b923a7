"""Train a generator by flow matching on panoramas with captions."""

import shlex
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.adapters import add_adapter, save_adapter
from mtpano_zoo.generation.augment import MaskRule, latent_mask
from mtpano_zoo.generation.loading import PREFIX_FILE
from mtpano_zoo.generation.losses import YAWS, FlowLoss
from mtpano_zoo.generation.sampling import Generator, check_panorama_size
from mtpano_zoo.generation.schedule import Density, Weighting, draw_levels, level_weight
from mtpano_zoo.generation.seams import Seam, check_seam, wrapped_transformer
from mtpano_zoo.generation.tokens import pack, position_ids, unpack
from mtpano_zoo.image_io import write_bytes
from mtpano_zoo.training.processes import EpochMeans, draw_differently, named_losses
from mtpano_zoo.training.resuming import read_plain_data_only
from mtpano_zoo.training.schedules import Schedule, training_length, with_schedule

__all__ = ("DiT360Module",)

Learns = Literal["adapter", "everything"]
CURRENT = "current_model_state"  # where `WeightAveraging` keeps the weights; it writes their average to `state_dict`
WEIGHTS = {"state_dict", CURRENT}


class DiT360Module(LightningModule):
    """Train a FLUX.1 transformer on panoramas: an adapter, as in DiT360 (arXiv 2510.11712), or everything.

    A batch has `image` (B, 3, H, W) in [0, 1] or precomputed `latents` (B, C, h, w); `caption` or the embeddings `text`
    and `pooled`; and, if not every pixel is supervised, `mask` (B, H, W). Everything is computed on the training
    device, nothing in the loader's workers. Trained weights are float32, whatever the precision of the base.

    At the end, the run's folder `adapter` holds the adapter, or `generator` the whole generator, in the layout that
    `mtpano generate` and plain diffusers read.

    Args:
        base: Generator to train. If it has an adapter, training continues from its weights.
        loss: Loss to minimise.
        learns: Train an adapter, or the transformer and the T5 text encoder.
        rank: Rank of the adapter.
        alpha: Scale of the adapter, which adds alpha / rank B A.
        dropout: Dropout of the adapter in training.
        lr: Learning rate.
        weight_decay: Weight decay of AdamW.
        schedule: Schedule of the learning rate.
        warmup_steps: Steps over which the learning rate rises.
        seam: How the transformer treats the seam.
        padding: Columns that ``published`` and ``continued`` copy to each side.
        density: Distribution of the noise levels.
        weighting: Weight of a noise level in the loss.
        guidance: Guidance scale passed to a guidance-distilled base.
        mask_rule: Which latents are supervised if only some of their pixels are, see `latent_mask`. Precomputed latents
            have masks of the rule ``all``; others are refused.
        gradient_checkpointing: Use less memory and more time, with the same gradients.

    Raises:
        InputError: If a name is unknown, a number is out of range, or the base does not fit `learns`.
    """

    def __init__(
        self,
        base: Generator,
        loss: FlowLoss | None = None,
        learns: Learns = "adapter",
        rank: int = 64,
        alpha: float = 64.0,
        dropout: float = 0.05,
        lr: float = 2e-5,
        weight_decay: float = 1e-5,
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        seam: Seam = "published",
        padding: int = 1,
        density: Density = "none",
        weighting: Weighting = "none",
        guidance: float = 1.0,
        mask_rule: MaskRule = "all",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_seam(seam)
        if learns not in get_args(Learns):
            raise InputError(f"learns must be one of {', '.join(get_args(Learns))}, not {learns!r}")
        self.base = base
        self.loss = FlowLoss() if loss is None else loss
        self.learns = learns
        self.networks = nn.ModuleDict(base.networks())
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.schedule: Schedule = schedule
        self.seam: Seam = seam
        self.padding = padding
        self.guidance = guidance
        self.density: Density = density
        self.weighting: Weighting = weighting
        self.mask_rule: MaskRule = mask_rule
        transformer = base.pipeline.transformer
        self.networks.requires_grad_(False).eval()
        if learns == "adapter":
            add_adapter(transformer, rank, alpha, dropout)
        elif base.pipeline.text_encoder_2 is None:
            raise InputError("`learns: everything` trains the text encoder too: load the base with its text encoders")
        elif getattr(transformer, "peft_config", None):  # its layers would be written in a form that cannot be loaded
            raise InputError("`learns: everything` writes no adapter: load the base without one")
        else:
            transformer.requires_grad_(True)
            base.pipeline.text_encoder_2.encoder.requires_grad_(True)
        for parameter in self.networks.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # in 16 bits, small updates would round to zero
        transformer.train()
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.strict_loading = False  # a checkpoint holds only the trained weights
        self.written: Path | None = None
        self._validated = EpochMeans()

    def setup(self, stage: str) -> None:
        """Make the trainer read checkpoints as plain data only.

        Raises:
            InputError: If the strategy shards weights in a way that keeps the result from being written.
        """
        strategy = self.trainer.strategy
        read_plain_data_only(strategy)
        name = type(strategy).__name__
        if isinstance(strategy, FSDPStrategy) or getattr(strategy, "zero_stage_3", False):
            raise InputError(
                f"{name} shards weights in a way that keeps an adapter from being written: use ddp, deepspeed_stage_2, "
                "or ModelParallelStrategy, which shards them too"
            )
        if isinstance(strategy, ModelParallelStrategy):
            if self.learns == "everything":
                raise InputError(f"{name} shards the weights: with `learns: everything`, use ddp")
            if strategy._save_distributed_checkpoint:
                raise InputError(f"{name} would write sharded checkpoints: set save_distributed_checkpoint to false")

    def on_fit_start(self) -> None:
        """Check all captions first: a caption that is too long would end the training only when its turn comes.

        Raises:
            InputError: If a caption is empty or too long.
        """
        data = getattr(self.trainer, "datamodule", None)
        for name in ("train_set", "val_set"):
            if captions := getattr(getattr(data, name, None), "captions", None):
                self.base.check_prompts(captions)

    def on_train_start(self) -> None:
        """Let processes that train together draw different noise and noise levels."""
        draw_differently(self.global_rank)

    def configure_model(self) -> None:
        """Shard the transformer over the processes, block by block, if the strategy is `ModelParallelStrategy`."""
        mesh = self.device_mesh
        if mesh is None:
            return
        transformer = self.base.pipeline.transformer
        for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks, transformer):
            if not isinstance(block, FSDPModule):
                fully_shard(block, mesh=mesh["data_parallel"])

    def velocity(
        self, noisy: Tensor, sigma: Tensor, text: Tensor, pooled: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the velocities (B, C, h, w) that the transformer predicts.

        Args:
            noisy: Latents (B, C, h, w) at their noise level.
            sigma: Noise levels (B,), from 0 to 1.
            text: Text embeddings (B, T, D).
            pooled: Pooled text embeddings (B, P).
            generator: Random generator for the turn of the seam ``roll``. If omitted, the global one.
        """
        transformer = self.base.pipeline.transformer
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        guidance = torch.full_like(sigma, self.guidance) if transformer.config.guidance_embeds else None
        with wrapped_transformer(transformer, self.seam, rows, columns, padding=self.padding, generator=generator):
            tokens: Tensor = transformer(
                hidden_states=pack(noisy),
                timestep=sigma,
                guidance=guidance,
                encoder_hidden_states=text,
                pooled_projections=pooled,
                txt_ids=torch.zeros(text.shape[1], 3, device=text.device),
                img_ids=position_ids(rows, columns, device=noisy.device),
                return_dict=False,
            )[0]
        return unpack(tokens, rows, columns)

    def terms(
        self,
        batch: dict[str, Any],
        *,
        epoch: int,
        angle: float,
        noise: Tensor | None = None,
        sigma: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms of the loss of one batch.

        Args:
            batch: See the class.
            epoch: Number of the epoch, from 0.
            angle: Angle of the published yaw term in degrees.
            noise: Noise (B, C, h, w). If omitted, it is drawn.
            sigma: Noise levels (B,). If omitted, they are drawn.
            generator: Random generator on the CPU for noise, levels, turns and latents of images. If omitted, the
                global one; latents are then the mean of the encoder's distribution.

        Raises:
            InputError: If a shape does not fit, or the latents are precomputed with masks of another rule.
        """
        if "latents" in batch:
            latents = batch["latents"]
        else:
            height, width = batch["image"].shape[2:]
            check_panorama_size(height, width, 2 * self.base.factor)
            latents = self.base.encode(batch["image"], generator=generator)
        text, pooled = (batch["text"], batch["pooled"]) if "text" in batch else self._embedded(batch["caption"])
        if noise is None:
            noise = torch.randn(latents.shape, generator=generator).to(latents)
        if sigma is None:
            sigma = draw_levels(len(latents), self.density, generator=generator)
        sigma = sigma.to(latents)
        share = sigma.view(-1, 1, 1, 1)
        predicted = self.velocity((1 - share) * latents + share * noise, sigma, text, pooled, generator)
        weight = None if self.weighting == "none" else level_weight(sigma, self.weighting)
        return self.loss(
            predicted, noise - latents, weight=weight, mask=self._mask(batch, latents), epoch=epoch, angle=angle
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        angle = YAWS[int(torch.randint(len(YAWS), ()))]
        terms = self.terms(batch, epoch=self.current_epoch, angle=angle)
        for name, value in named_losses("train", terms).items():
            self.log(name, value, prog_bar=name == "train/loss", batch_size=_size(batch))
        return terms["total"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Compute the loss of one batch, with the same noise every time."""
        generator = torch.Generator().manual_seed(batch_idx)
        terms = self.terms(batch, epoch=self.current_epoch, angle=YAWS[0], generator=generator)
        self._validated.update(named_losses("val", terms), _size(batch))

    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted validation counted."""
        self._validated = EpochMeans()

    def on_validation_epoch_end(self) -> None:
        """Log the loss of the validation set."""
        for name, value in self._validated.compute().items():
            self.log(name, value, prog_bar=name == "val/loss", sync_dist=True)  # equal in all processes

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build AdamW for the trained parameters, and its schedule per step.

        Raises:
            InputError: If the schedule needs the length of the training and the trainer has none.
        """
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=self.lr, weight_decay=self.weight_decay, eps=1e-6)
        length = training_length(self.trainer)
        return with_schedule(optimizer, length, schedule=self.schedule, warmup_steps=self.warmup_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained parameters only; the rest is the base, gigabytes that are stored already."""
        named = self.named_parameters(remove_duplicate=False)  # T5's embedding has two names
        learnt = {name for name, parameter in named if parameter.requires_grad}
        for key in WEIGHTS & checkpoint.keys():
            checkpoint[key] = {k: v for k, v in checkpoint[key].items() if k in learnt}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the base where weights are averaged: `WeightAveraging` expects every weight."""
        if CURRENT in checkpoint:
            every = self.state_dict()
            for key in WEIGHTS:
                checkpoint[key] = every | checkpoint[key]

    def on_fit_end(self) -> None:
        """Write the trained weights for `mtpano generate`."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        state = self.trainer.strategy.lightning_module_state_dict()  # all processes gather the shards
        if not self.trainer.is_global_zero or getattr(self.trainer, "fast_dev_run", False):
            return
        if self.learns == "adapter":
            prefix = "networks.transformer."
            weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            self.written = save_adapter(self.base.pipeline.transformer, folder / "adapter", weights)
        else:
            self.written = folder / "generator"
            self.base.pipeline.save_pretrained(self.written)
        if self.base.prefix:
            beside = self.written.parent if self.written.is_file() else self.written
            write_bytes(beside / PREFIX_FILE, self.base.prefix.encode())
        rank_zero_info(f"What was trained is in {self.written}")

    def usage(self, checkpoint: str, config: str) -> str:
        """Return the command that uses the result; `mtpano generate` does not read checkpoints of the trainer."""
        if self.written is None:
            return f"To continue training from {checkpoint}:\n  mtpano fit --config {config} --ckpt_path {checkpoint}"
        result = shlex.quote(str(self.written))
        option = f"--base BASE --adapter {result}" if self.learns == "adapter" else f"--base {result}"
        return f'The result is in {result}. To use it:\n  mtpano generate "A PROMPT" {option} --out generated'

    def _embedded(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(self.learns == "everything" and torch.is_grad_enabled()):
            return self.base.embed(list(captions))

    def _mask(self, batch: dict[str, Any], latents: Tensor) -> Tensor | None:
        mask: Tensor | None = batch.get("mask")
        if mask is None:
            return None
        if "latents" not in batch or mask.shape[-2:] != latents.shape[-2:]:
            covered = [latent_mask(one.cpu(), self.base.factor, self.mask_rule) for one in mask]
            return torch.stack(covered).to(mask.device)
        if self.mask_rule != "all":
            raise InputError(
                f"`mask_rule: {self.mask_rule}` cannot be used with precomputed latents, whose masks are of the rule "
                "`all`: leave it out, or train on images"
            )
        return mask


def _size(batch: dict[str, Any]) -> int:
    return len(batch["caption"] if "caption" in batch else batch["text"])
