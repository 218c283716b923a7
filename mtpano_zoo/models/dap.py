"""DAP, Depth Any Panoramas (arXiv 2512.16913): distance in metres and masks of what is within range."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, cat, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import DPTNeck, Encoder, RegressionHead
from mtpano_zoo.layers.convolution import Convention, check_convention
from mtpano_zoo.models.base import IMAGENET_MEAN, IMAGENET_STD, PanoramaNetwork
from mtpano_zoo.outputs import check_range

__all__ = ("DAP",)

START = 2.0  # metres, the distance of a wall, where the sigmoid of the depth starts


class DAP(PanoramaNetwork):
    """Distance along the ray in metres, and where it is defined and below a range.

    An image (B, 3, H, W) in [0, 1] goes through an encoder that is tapped at four depths. All taps share layer norms.
    One DPT decoder turns them into the distance, `max_distance` times a sigmoid. Another one turns them into the masks,
    with one small head for every range on its fused map, so that a range costs little.

    Args:
        encoder: encoder of the image: a DINOv3 `ViTEncoder` of any size, or another encoder.
        tasks: `depth` and `valid`, or one of them; without `valid` there are no masks.
        convention: `sphere` (padding with neighbours on the sphere, pixel centres, every token at its place) or `paper`
            (what the published weights expect: zero padding, aligned corners, a second layer norm, and the first token
            dropped, with the others resampled along the flattened sequence).
        input_size: height and width that `predict` resizes to; the network itself takes any multiples of the patch.
        max_distance: the largest distance that it can predict, in metres.
        ranges: distances in metres, ascending, that each get a mask of what is nearer; `max_distance` by default.
            `valid` is the mask of the last one unless another is asked for.
        neck_widths: channels of the four decoder levels, finest first.
        fusion_width: channels of the decoders' fused maps.
        image_mean: mean that the encoder's images are normalised with.
        image_std: standard deviation that the encoder's images are normalised with.

    Raises:
        InputError: If there is another task, ranges do not ascend or exceed the largest distance, or sizes do not fit.

    Example:
        >>> import torch
        >>> from mtpano_zoo.layers import ViTEncoder
        >>> encoder = ViTEncoder("vit_tiny_patch16_dinov3_qkvb", width=32, depth=4, heads=2)
        >>> network = DAP(encoder, ranges=(10, 100), neck_widths=(8, 8, 8, 8), fusion_width=8)
        >>> outputs = network(torch.rand(1, 3, 32, 64))
        >>> outputs["depth"].shape, outputs["valid"].shape, outputs["ext"]["range_masks"].shape
        (torch.Size([1, 1, 32, 64]), torch.Size([1, 1, 32, 64]), torch.Size([1, 2, 32, 64]))
    """

    encoder_part = "encoder"
    takes_auxiliary = True

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str] = ("depth", "valid"),
        convention: Convention = "sphere",
        input_size: tuple[int, int] = (512, 1024),
        max_distance: float = 100.0,
        ranges: Sequence[float] | None = None,
        neck_widths: Sequence[int] = (256, 512, 1024, 1024),
        fusion_width: int = 256,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(tasks, input_size, image_mean=image_mean, image_std=image_std)
        if foreign := sorted(set(self.tasks) - {"depth", "valid"}):
            raise InputError(f"DAP predicts depth and valid, not {', '.join(foreign)}.")
        self.convention = check_convention(convention)
        if not isinstance(encoder, Encoder):
            raise InputError(f"encoder must be an Encoder such as a ViTEncoder, not {encoder!r}.")
        self.max_distance = float(max_distance)
        self.ranges = check_ranges((max_distance,) if ranges is None else ranges, self.max_distance)
        self.encoder = encoder
        self.multiple = encoder.multiple
        self.check_size(*self.input_size, "input_size")
        if convention == "paper":
            keep_periods(encoder)
        width = encoder.channels
        self.norms = nn.Sequential(*(LayerNorm2d(width, eps=1e-5) for _ in range(2 if convention == "paper" else 1)))
        self.necks = nn.ModuleDict(
            {
                task: DPTNeck(width, neck_widths, fusion_width, convention, readout=False, norm=False)
                for task in self.tasks
            }
        )
        if "depth" in self.tasks:
            share = min(START / self.max_distance, 0.5)
            self.depth_head = RegressionHead(fusion_width, 1, convention, bias=math.log(share / (1 - share)))
        if "valid" not in self.tasks:
            self.ranges = ()
        self.range_heads = nn.ModuleList(RegressionHead(fusion_width, 1, convention) for _ in self.ranges)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Train with less memory but more time: the backward pass recomputes the blocks of the encoder."""
        self.encoder.set_gradient_checkpointing(enabled)

    def forward(self, image: Tensor, auxiliary: bool = True, max_distance: float | None = None) -> dict[str, Any]:
        """Predict for images (B, 3, H, W) in [0, 1], H and W multiples of `multiple`.

        Args:
            image: the images.
            auxiliary: also return `ext` if there are several ranges.
            max_distance: the range, in metres, that `valid` is for; the last one by default.

        Returns:
            `depth` (B, 1, H, W) in metres, `valid` logits (B, 1, H, W), and in `ext` the logits `range_masks`
            (B, R, H, W) of all ranges.

        Raises:
            InputError: If the size is not a multiple of what the encoder asks for, or no mask has the range.
        """
        size = (image.shape[-2], image.shape[-1])
        self.check_size(*size)
        chosen = check_range(self.ranges, max_distance)
        taps, class_tokens = self.encoder(self.normalize(image))
        levels = [self.norms(tap) for tap in taps]
        if self.convention == "paper":
            levels = [shifted(level) for level in levels]
        fused = {task: neck(levels, class_tokens) for task, neck in self.necks.items()}
        outputs: dict[str, Any] = {}
        if "depth" in fused:
            outputs["depth"] = self.max_distance * self.depth_head(fused["depth"], size).sigmoid()
        if "valid" in fused and auxiliary and len(self.ranges) > 1:
            masks = [head(fused["valid"], size) for head in self.range_heads]
            outputs |= {"valid": masks[chosen], "ext": {"range_masks": cat(masks, dim=1)}}
        elif "valid" in fused:
            outputs["valid"] = self.range_heads[chosen](fused["valid"], size)
        return outputs


def check_ranges(ranges: Sequence[float], max_distance: float) -> tuple[float, ...]:
    """Return the ranges of the masks.

    Raises:
        InputError: If there is none, they do not ascend from above zero, or exceed the largest distance.

    Example:
        >>> check_ranges([10, 20], max_distance=100.0)
        (10.0, 20.0)
        >>> check_ranges([20, 10], max_distance=100.0)
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: ...
    """
    checked = tuple(float(distance) for distance in ranges)
    ascending = all(near < far for near, far in zip((0.0, *checked), checked, strict=False))
    if not checked or not ascending or not checked[-1] <= max_distance < math.inf:
        raise InputError(
            f"ranges are different distances in metres, ascending and at most max_distance, {max_distance:g}; "
            f"got {', '.join(f'{distance:g}' for distance in checked) or 'none'}."
        )
    return checked


class KeptPeriods(RotaryEmbeddingDinoV3):
    """Rotary positions whose periods are part of the state dict and keep their values in any precision.

    timm does not save its periods, and recomputes them instead of rounding when a network changes precision.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        periods = self.get_buffer("periods")
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        converted = self.get_buffer("periods")
        self.register_buffer("periods", converted if periods.is_meta else periods.to(converted), persistent=True)
        return self


def keep_periods(encoder: nn.Module) -> None:
    """Make the periods of the rotary positions part of the state dict.

    The published file holds them, and DINOv3's own are rounded to bfloat16, which timm's are not.
    """
    for module in encoder.modules():
        if isinstance(module, RotaryEmbeddingDinoV3):
            module.__class__ = KeptPeriods
            module.register_buffer("periods", module.get_buffer("periods"), persistent=True)


def shifted(level: Tensor) -> Tensor:
    """Shift a grid of tokens (B, C, h, w) as the published network does before its decoders.

    The first token is dropped, as if it were a class token, and the others are resampled to as many as there were:
    along the flattened sequence, or as a square image where their number is a square.
    """
    height, width = level.shape[-2:]
    tokens = level.flatten(2)[..., 1:]
    side = math.isqrt(tokens.shape[-1])
    if side * side == tokens.shape[-1]:
        return F.interpolate(
            tokens.reshape(*tokens.shape[:-1], side, side), (height, width), mode="bilinear", align_corners=False
        )
    resampled = F.interpolate(tokens, height * width, mode="linear", align_corners=False)
    return resampled.reshape(*resampled.shape[:-1], height, width)
