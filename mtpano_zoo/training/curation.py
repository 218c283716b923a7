"""Training of the discriminator that scores pseudo-labels, on a labeler's errors."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

import mtpano_zoo
from mtpano_zoo.errors import InputError
from mtpano_zoo.losses import valid_depth
from mtpano_zoo.losses.means import mean, several_processes
from mtpano_zoo.losses.validity import complete_labels
from mtpano_zoo.manifest import describe_model
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.models.patch_discriminator import PatchDiscriminator, difference_by_patch, known_logarithm
from mtpano_zoo.prediction import Prediction, predict
from mtpano_zoo.training.label_failures import FAILURES
from mtpano_zoo.training.processes import EpochMeans, draw_differently, mean_of_processes
from mtpano_zoo.training.resuming import read_plain_data_only
from mtpano_zoo.training.schedules import training_length, with_schedule

__all__ = ("DESCRIPTION", "DISCRIMINATOR_FORMAT", "DepthQualityModule", "estimation_error")

Targets = Literal["graded", "binary"]
DESCRIPTION = "discriminator"
"""Key of the description inside a checkpoint."""
DISCRIMINATOR_FORMAT = 3
"""1 did not learn where the truth is far; 2 did not estimate distances from the image."""
NOTICEABLE = 0.05  # change of the log-distance below which a pixel does not count as damaged


class DepthQualityModule(LightningModule):
    """Train a `PatchDiscriminator` on a labeler's errors, which are known where there is ground truth.

    Every step shows it the same panoramas twice: with their true distances, and with those that the labeler predicts.
    Some of them are damaged; with `graded` also true ones, because otherwise the discriminator could recognise the
    truth by its sharp edges, without looking at the image.

    `binary` is the plain PatchGAN of the DAP paper (arXiv 2512.16913): truth is real, and the labeler's output is fake.
    Then sharp edges are enough to tell them apart, and all labels of one labeler get nearly the same score. `graded`
    asks for more: the target of a patch is the mean of exp(-e / tolerance) over its pixels, e being the error of the
    log-distance, so that a score says how large the errors are. Where the truth is `far`, such as the sky, a pixel
    counts 1 if it has no distance, and 0 otherwise; where the truth has a distance, a hole counts 0. A damaged pixel
    counts 0, however close to the truth it happens to be: the errors of a blurred label are hardly larger than those of
    the labeler, yet it is a failure. In training, the mean error of the log-distances that the discriminator estimates
    from the image alone is added to the loss, and logged as ``train/estimation``.

    Logged are ``train/loss``, ``val/loss``, and ``val/correlation``, the correlation of patch scores with their targets
    over undamaged predictions alone.

    Args:
        discriminator: The network to train.
        labeler: The network whose labels it will score; it is not trained.
        targets: `graded` or `binary`.
        tolerance: Error of the log-distance at which a pixel counts 1 / e.
        smoothing: Margin of the targets, which lie between `smoothing` and 1 - `smoothing`, so that being ever more
            certain is not rewarded.
        failures: How often labels are damaged in which way, relative to each other, by name in `FAILURES`.
        failure_share: Share of the labels that are damaged, if they have what a failure damages.
        lr: Learning rate of Adam at the start; it falls linearly to zero.

    Raises:
        InputError: If the labeler has no depth, or an argument is out of range.
    """

    def __init__(
        self,
        discriminator: PatchDiscriminator,
        labeler: PanoramaNetwork,
        targets: Targets = "graded",
        tolerance: float = 0.2,
        smoothing: float = 0.05,
        failures: Mapping[str, float] | None = None,
        failure_share: float = 0.5,
        lr: float = 2e-4,
    ) -> None:
        super().__init__()
        if "depth" not in labeler.tasks:
            raise InputError(f"a labeler predicts depth, but {type(labeler).__name__} has {', '.join(labeler.tasks)}")
        if targets not in get_args(Targets):
            raise InputError(f"targets are one of {', '.join(get_args(Targets))}, not {targets!r}")
        if tolerance <= 0 or not 0 <= smoothing < 0.5 or not 0 <= failure_share <= 1 or lr < 0:
            raise InputError(
                "tolerance must be positive, smoothing from 0 to below 0.5, failure_share from 0 to 1 and lr not "
                f"negative: got {tolerance}, {smoothing}, {failure_share} and {lr}"
            )
        failures = failures or {}
        if unknown := [name for name in failures if name not in FAILURES]:
            raise InputError(f"failures are some of {', '.join(FAILURES)}, not {', '.join(unknown)}")
        if wrong := [name for name, often in failures.items() if not 0 < often < math.inf]:
            raise InputError(f"failures are named with a positive number, but {wrong[0]} has {failures[wrong[0]]}")
        self.discriminator = discriminator
        self.labeler = labeler.requires_grad_(False).eval()
        self.targets = targets
        self.tolerance = tolerance
        self.smoothing = smoothing
        self.failures = dict(failures)
        self.failure_share = failure_share
        self.lr = lr
        self._validated = EpochMeans()

    def train(self, mode: bool = True) -> "DepthQualityModule":
        """Set the mode; the labeler stays in evaluation mode."""
        super().train(mode)
        self.labeler.eval()
        return self

    @staticmethod
    def usage(checkpoint: str, config: str) -> str:
        """Return the commands that use a checkpoint of this training; paths are quoted for the shell."""
        return (
            f"The discriminator is in {checkpoint}. To score labels with it:\n"
            f"  mtpano curate score LABELS --discriminator {checkpoint} --out scores"
        )

    def setup(self, stage: str) -> None:
        """Let the trainer read checkpoints as plain data only, before it reads one."""
        read_plain_data_only(self.trainer.strategy)

    def on_train_start(self) -> None:
        """Let processes that train together damage their labels in different ways."""
        draw_differently(self.global_rank)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        said = self._predict(batch["image"])
        truth = self._damage(batch["depth"]) if self.targets == "graded" else batch["depth"]
        damaged = self._damage(said)
        logits, estimates = self.discriminator.judge(batch["image"], torch.stack((truth, damaged), dim=1))
        real = self._loss(batch, logits[:, 0], truth, batch["depth"], real=True)
        fake = self._loss(batch, logits[:, 1], damaged, said, real=False)
        loss = (real + fake) / 2
        values = {}
        if self.targets == "graded":
            values["train/estimation"] = estimation_error(estimates, batch["depth"], self._across_ranks)
            loss = loss + values["train/estimation"]
        for name, value in mean_of_processes({**values, "train/loss": loss}).items():
            self.log(name, value, prog_bar=name == "train/loss", batch_size=len(said))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score one batch, without further damage."""
        said = self._predict(batch["image"])
        logits = self.discriminator(batch["image"], torch.stack((batch["depth"], said), dim=1))
        real = self._loss(batch, logits[:, 0], batch["depth"], real=True)
        fake = self._loss(batch, logits[:, 1], said, real=False)
        scores = logits[:, 1].sigmoid()
        quality, share = self._quality(batch, said, scores.shape[-2:])
        pairs = torch.stack((scores[share > 0], quality[share > 0]))
        correlation = torch.corrcoef(pairs)[0, 1].nan_to_num() if pairs.shape[1] > 1 else pairs.new_zeros(())
        values = {"val/loss": (real + fake) / 2, "val/correlation": correlation}
        self._validated.update(values, len(said))

    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted validation counted."""
        self._validated = EpochMeans()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation set."""
        self.log_dict(self._validated.compute(), sync_dist=True, prog_bar=True)  # equal in all processes

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build Adam over the discriminator.

        Raises:
            InputError: If the training has no end.
        """
        optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=self.lr)
        return with_schedule(optimizer, training_length(self.trainer), power=1.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the discriminator and its kind of targets; of the labeler keep only a hash of its weights."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: value for key, value in state.items() if not key.startswith("labeler.")}
        checkpoint[DESCRIPTION] = {
            **self.discriminator.describe(),
            "format": DISCRIMINATOR_FORMAT,
            "labeler": describe_model(self.labeler)["weights"],
            "targets": self.targets,
            "version": mtpano_zoo.__version__,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the labeler's weights, which come from its own file.

        Raises:
            InputError: If the discriminator is for another labeler, or the checkpoint holds none.
        """
        described = checkpoint.get(DESCRIPTION)
        if not described:
            raise InputError("The checkpoint holds no discriminator: pass the one that this configuration trained.")
        if described["labeler"] != describe_model(self.labeler)["weights"]:
            raise InputError(
                "The checkpoint holds a discriminator for another labeler: train one for this labeler from the start."
            )
        own = {f"labeler.{key}": value for key, value in self.labeler.state_dict().items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **own}

    @torch.no_grad()
    def _predict(self, image: Tensor) -> Tensor:
        """Return the labeler's distances of images (B, 3, H, W): metres (B, H, W), 0 = none."""
        predictions = cast("list[Prediction]", predict(self.labeler, image.clamp(0, 1)))
        return torch.stack([torch.from_numpy(one.depth) for one in predictions]).to(image.device)

    def _damage(self, depth: Tensor) -> Tensor:
        """Damage a share of the labels of a batch, each in one way."""
        if not self.failures:
            return depth
        often = torch.tensor(list(self.failures.values()), dtype=torch.float32, device=depth.device)
        kinds = often.multinomial(len(depth), replacement=True)
        chances = torch.rand(2, len(depth), device=depth.device)
        depth = torch.where(valid_depth(depth), depth, 0)
        damaged = depth.clone()
        for number, name in enumerate(self.failures):
            chosen = (kinds == number) & (chances[0] < self.failure_share)
            damaged[chosen] = FAILURES[name](depth, chances[1])[chosen]
        return damaged

    def _loss(
        self, batch: dict[str, Any], logits: Tensor, label: Tensor, intact: Tensor | None = None, *, real: bool
    ) -> Tensor:
        """Return the loss of the logits (B, h, w) of labels (B, H, W); `intact` are the labels before damage."""
        quality, share = self._quality(batch, label, logits.shape[-2:], intact)
        if self.targets == "binary":
            quality = torch.full_like(quality, float(real))
        target = self.smoothing + (1 - 2 * self.smoothing) * quality
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return mean((share * errors).sum(), share.sum(), 1e-6, self._across_ranks)

    @property
    def _across_ranks(self) -> bool:
        """Whether means are over all processes: in training, not in validation, where one may have more batches."""
        return self.training and torch.is_grad_enabled() and several_processes()

    def _quality(
        self, batch: dict[str, Any], label: Tensor, size: torch.Size, intact: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return how accurate labels are, and the share of pixels where that is known, by patch (B, h, w)."""
        truth = batch["depth"]
        measured, labelled = valid_depth(truth), valid_depth(label)
        labels = complete_labels(("depth", "far"), batch)
        known = measured if labels is None else measured | labels["far"]
        right = (-_log_error(label, truth) / self.tolerance).exp() * (known & (labelled == measured))
        if intact is not None:
            right = right * (_log_error(label, intact) < NOTICEABLE) * (labelled == valid_depth(intact))
        share = F.adaptive_avg_pool2d(known.to(label.dtype), (size[0], size[1]))
        return F.adaptive_avg_pool2d(right, (size[0], size[1])) / share.clamp_min(1e-6), share


def estimation_error(estimates: list[Tensor], depth: Tensor, across_ranks: bool = False) -> Tensor:
    """Return the mean error of log-distances (B, 1, h, w) that were estimated from the image, over their sizes.

    For ``across_ranks`` see `mtpano_zoo.losses.means.mean`.
    """
    truth, errors = known_logarithm(depth[:, None]), depth.new_zeros(())
    for estimate in estimates:
        difference, share = difference_by_patch(truth, estimate)
        errors = errors + mean(difference.abs().sum(), share.sum(), 1e-6, across_ranks)
    return errors / max(1, len(estimates))


def _log_error(depth: Tensor, other: Tensor) -> Tensor:
    """Return the difference of log-distances, 0 where one of them has none."""
    both = valid_depth(depth) & valid_depth(other)
    return (torch.where(both, depth, 1).log() - torch.where(both, other, 1).log()).abs()
