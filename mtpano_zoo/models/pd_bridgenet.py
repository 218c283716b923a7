"""PD-BridgeNet of MTPano (arXiv 2602.05330): two streams over one encoder, joined by a bridge."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import (
    AuxiliaryHead,
    BridgeBlock,
    DPTNeck,
    Encoder,
    InvariantBlock,
    RegressionHead,
    ScaleAggregator,
    SegmentationHead,
    TaskAdapter,
    UpHead,
    Upsample,
    VariantBlock,
    checkpointed,
    geometry_encoding,
    zero_init_projection,
)
from mtpano_zoo.layers.convolution import Convention, check_convention
from mtpano_zoo.models.base import IMAGENET_MEAN, IMAGENET_STD, PanoramaNetwork
from mtpano_zoo.tasks import MAIN_TASKS, TASKS, auxiliary_tasks_of

__all__ = ("PDBridgeNet",)

LEVELS = 4


class PDBridgeNet(PanoramaNetwork):
    """Semantic classes, distance in metres and surface normals of a panorama.

    An image (B, 3, H, W) in [0, 1] goes through an encoder that is tapped at four depths. Every tap is refined
    twice: for the rotation-invariant tasks (semseg, depth) and, modulated by ray direction and position, for the
    rotation-variant ones (normals). The levels of each stream are aggregated; auxiliary heads on the aggregate predict
    every task once and yield its task feature; a bridge lets the aggregate attend to the features of all tasks without
    sending gradients to those of the other stream. The bridge's output and the task's own feature are added to
    the levels, which a DPT decoder per task turns into the prediction.

    Args:
        encoder: encoder of the image, a `ViTEncoder` or a `CNNEncoder`.
        classes: names of the semantic classes.
        tasks: any of `semseg`, `depth`, `normals`, `valid`, `disparity`.
        convention: `sphere` (wrapped padding, pixel-centre rays, no seam after the encoder) or `paper` (what the
            published weights expect: zero padding, end-inclusive rays, angles in radians).
        input_size: height and width that `predict` resizes to; the network itself takes any multiples of what its
            encoder asks for.
        bridge_width: channels of aggregates, task features and bridge.
        neck_widths: channels of the four decoder levels, finest first.
        fusion_width: channels of the decoder's fused map.
        shared_stream: refine and aggregate once for all tasks, without geometry; the baseline without two streams.
        bridge: let the streams attend to one another's tasks. By default, only `paper` has bridges: trained from
            scratch on rooms, they did not help (benchmarks/README.md).
        token_mixer: refine levels with a kernel that widens towards the poles instead of a 3 x 3 convolution. By
            default, only `paper` does so, for the same reason.
        up_head: have an `up_head`, by which `predict` notices that a camera is tilted. It is for networks that
            benchmarks/photos_up.py has fitted one to: no loss reaches it, and an untrained one tells nothing.
        palette: colour (R, G, B) of every class.
        image_mean: mean that the encoder's images are normalised with.
        image_std: standard deviation that the encoder's images are normalised with.

    Raises:
        InputError: If a task is unknown, classes are missing, or sizes do not fit one another.
    """

    encoder_part = "encoder"
    classifier_parts = ("heads.semseg.classify", "auxiliary_heads.semseg.predictor")
    auxiliary_parts = ("aggregators", "auxiliary_heads")
    takes_auxiliary = True

    def __init__(
        self,
        encoder: Encoder,
        classes: Sequence[str] = (),
        tasks: Sequence[str] = ("semseg", "depth", "normals"),
        convention: Convention = "sphere",
        input_size: tuple[int, int] = (512, 1024),
        bridge_width: int = 256,
        neck_widths: Sequence[int] = (256, 512, 1024, 1024),
        fusion_width: int = 256,
        shared_stream: bool = False,
        bridge: bool | None = None,
        token_mixer: bool | None = None,
        up_head: bool = False,
        palette: Sequence[Sequence[int]] | None = None,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(
            tasks, input_size, classes=classes, palette=palette, image_mean=image_mean, image_std=image_std
        )
        self.convention = check_convention(convention)
        if not isinstance(encoder, Encoder):
            raise InputError(f"encoder must be an Encoder such as a ViTEncoder, not {encoder!r}.")
        self.encoder = encoder
        self.multiple = encoder.multiple
        self.check_size(*self.input_size, "input_size")
        bridge = convention == "paper" if bridge is None else bridge
        token_mixer = convention == "paper" if token_mixer is None else token_mixer
        self.config |= {"bridge": bridge, "token_mixer": token_mixer}  # whatever the defaults become later
        self.upsample = Upsample(convention, align_corners=False)
        self.gradient_checkpointing = False
        self._build_streams(shared_stream, bridge, token_mixer, bridge_width)
        self._build_decoders(bridge_width, neck_widths, fusion_width)
        self.up_head = UpHead(encoder.channels).eval().requires_grad_(False) if up_head else None

    def _build_streams(self, shared_stream: bool, bridge: bool, token_mixer: bool, bridge_width: int) -> None:
        """Build everything between the encoder and the decoders."""
        convention, width = self.convention, self.encoder.channels
        all_tasks = self.tasks + auxiliary_tasks_of(self.tasks)
        self.stream_of = {task: "invariant" if shared_stream else TASKS[task].stream for task in all_tasks}
        # The published networks carry both streams whatever their tasks, but distributed training fails where a
        # parameter is reached by no loss.
        streams = [s for s in ("invariant", "variant") if s in self.stream_of.values()]
        decoded = [s for s in streams if s in [self.stream_of[task] for task in self.tasks]]

        blocks: dict[str, type[InvariantBlock]] = {"invariant": InvariantBlock, "variant": VariantBlock}
        self.refiners = nn.ModuleDict(
            {s: PerLevel(_Refiner(blocks[s], width, convention, token_mixer) for _ in range(LEVELS)) for s in streams}
        )
        self.aggregators = nn.ModuleDict({s: ScaleAggregator(width, LEVELS, bridge_width) for s in streams})
        self.auxiliary_heads = nn.ModuleDict(
            {task: AuxiliaryHead(bridge_width, self._channels(task), convention) for task in all_tasks}
        )
        self.bridges = nn.ModuleDict()
        self.stream_injectors = nn.ModuleDict()
        for s in decoded if bridge else ():
            foreign = [task for task in all_tasks if self.stream_of[task] != s]
            self.bridges[s] = BridgeBlock(bridge_width, all_tasks, foreign, convention)
            self.stream_injectors[s] = _injectors(bridge_width, width)

    def _build_decoders(self, bridge_width: int, neck_widths: Sequence[int], fusion_width: int) -> None:
        """Build injectors, adapter, neck and head of every task."""
        convention, width = self.convention, self.encoder.channels
        self.task_injectors = nn.ModuleDict({task: _injectors(bridge_width, width) for task in self.tasks})
        self.adapters = nn.ModuleDict(
            {task: PerLevel(TaskAdapter(width, convention) for _ in range(LEVELS)) for task in self.tasks}
        )
        self.necks = nn.ModuleDict({task: DPTNeck(width, neck_widths, fusion_width, convention) for task in self.tasks})
        self.heads = nn.ModuleDict({task: self._head(task, fusion_width) for task in self.tasks})

    def _channels(self, task: str) -> int:
        return TASKS[task].channels or len(self.classes)

    def _head(self, task: str, width: int) -> nn.Module:
        if task == "semseg":
            return SegmentationHead(width, self._channels(task), self.convention)
        # Depth starts at about two metres, the distance of a wall, where neither of its activations is saturated.
        return RegressionHead(width, self._channels(task), self.convention, bias=2.0 if task == "depth" else 0.0)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Train with less memory but more time: the backward pass recomputes encoder blocks, refiners and decoders."""
        self.gradient_checkpointing = enabled
        self.encoder.set_gradient_checkpointing(enabled)

    def forward(self, image: Tensor, auxiliary: bool = True) -> dict[str, Any]:
        """Predict all tasks for images (B, 3, H, W) in [0, 1], H and W multiples of `multiple`.

        Args:
            image: the images.
            auxiliary: also return `aux` and `ext`; if false, features that no main task needs are not computed.

        Returns:
            `semseg` logits (B, C, H, W), `depth` (B, 1, H, W) in metres, `normals` (B, 3, H, W) not yet normalised,
            `valid` logits (B, 1, H, W), `disparity` (B, 1, H, W), `aux` (the same tasks, predicted before the decoders)
            and `ext` (`gradient` (B, 2, H, W), `edge_distance` (B, 1, H, W), `point_map` (B, 3, H, W) in metres, x
            right, y down, z forward), each only if the network has the task.

        Raises:
            InputError: If the size is not a multiple of what the encoder asks for.
        """
        size = (image.shape[-2], image.shape[-1])
        self.check_size(*size)
        levels, features, class_tokens = self.encode(image, auxiliary)
        outputs: dict[str, Any] = {}
        for task in self.tasks:
            outputs[task] = self.decode(task, levels[self.stream_of[task]], features[task], class_tokens, size)
        if auxiliary:
            predictors = {task: head.get_submodule("predictor") for task, head in self.auxiliary_heads.items()}
            predicted = {task: self.upsample(predictors[task](x), size) for task, x in features.items()}
            outputs["aux"] = {task: x for task, x in predicted.items() if task in MAIN_TASKS}
            outputs["ext"] = {task: x for task, x in predicted.items() if task not in MAIN_TASKS}
        return outputs

    def encode(
        self, image: Tensor, auxiliary: bool = True
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor], Sequence[Tensor]]:
        """Compute everything before the decoders for images (B, 3, H, W) in [0, 1].

        Args:
            image: the images.
            auxiliary: also compute features that no main task needs.

        Returns:
            The levels (B, C, h, w) of each stream, each task's feature (B, C, h, w), and the encoder's class tokens.
        """
        levels, aggregated, features, class_tokens = self.refine(image, auxiliary)
        for stream in self.bridges:
            levels[stream] = self.cross(stream, levels[stream], aggregated[stream], features)
        return levels, features, class_tokens

    def refine(
        self, image: Tensor, auxiliary: bool = True
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor], dict[str, Tensor], Sequence[Tensor]]:
        """Compute everything before the bridges for images (B, 3, H, W) in [0, 1].

        Args:
            image: the images.
            auxiliary: also compute features that no main task needs.

        Returns:
            The levels (B, C, h, w) of each stream, its aggregated map (B, C, h, w), each task's feature (B, C, h, w),
            and the encoder's class tokens.
        """
        tasks, streams = self._needed(auxiliary)
        taps, class_tokens = self.encoder(self.normalize(image))
        geometry = geometry_encoding(self.convention, like=taps[0])
        levels = {stream: self._run(self.refiners[stream], taps, geometry) for stream in streams}
        aggregated = {stream: self.aggregators[stream](levels[stream]) for stream in streams}
        features = {task: self.auxiliary_heads[task](aggregated[self.stream_of[task]]) for task in tasks}
        return levels, aggregated, features, class_tokens

    def cross(
        self, stream: str, levels: Sequence[Tensor], aggregated: Tensor, features: dict[str, Tensor]
    ) -> list[Tensor]:
        """Add what the stream's bridge finds in the features of all tasks to its levels (B, C, h, w)."""
        bridged = self.bridges[stream](aggregated, features)
        return _add(levels, self.stream_injectors[stream]([bridged] * LEVELS))

    def decode(
        self,
        task: str,
        levels: Sequence[Tensor],
        feature: Tensor,
        class_tokens: Sequence[Tensor],
        size: tuple[int, int],
    ) -> Tensor:
        """Predict one task, (B, C, H, W), from the levels of its stream, its feature and the class tokens."""
        adapted = self._run(self.adapters[task], levels)
        own = _add(self.task_injectors[task]([feature] * LEVELS), adapted)
        fused = self._run(self.necks[task], _add(levels, own), class_tokens)
        output: Tensor = self._run(self.heads[task], fused, size)
        if MAIN_TASKS[task].kind == "positive":
            # Softplus keeps a gradient where the published ReLU has none.
            output = (F.relu if self.convention == "paper" else F.softplus)(output)
        return output

    def _run(self, module: nn.Module, *inputs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpointed(module, *inputs)
        return module(*inputs)

    def _needed(self, auxiliary: bool) -> tuple[list[str], list[str]]:
        """Return which task features and streams have to be computed, each in its order."""
        every = auxiliary or len(self.bridges) > 0  # a bridge attends to the features of all tasks
        tasks = [task for task in self.auxiliary_heads if every or task in self.tasks]
        streams = {self.stream_of[task] for task in tasks}
        return tasks, [stream for stream in self.refiners if stream in streams]


class PerLevel(nn.ModuleList):
    """One module for each of the encoder's levels."""

    def forward(self, levels: Sequence[Tensor], *context: Tensor) -> list[Tensor]:
        """Apply every module to its level (B, C, h, w)."""
        return [module(level, *context) for module, level in zip(self, levels, strict=True)]


def _add(levels: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [level + other for level, other in zip(levels, others, strict=True)]


class _Refiner(nn.Module):
    """Two blocks on one tap."""

    def __init__(self, block: type[InvariantBlock], channels: int, convention: Convention, token_mixer: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(channels, convention, token_mixer) for _ in range(2))

    def forward(self, x: Tensor, geometry: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, geometry)
        return x


def _injectors(in_channels: int, out_channels: int) -> PerLevel:
    return PerLevel(zero_init_projection(in_channels, out_channels) for _ in range(LEVELS))
