"""Convolutional networks from timm as encoders, wrapped at 0/360 degrees."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.encoder import Encoder, create_timm
from mtpano_zoo.layers.wrapped import wrap_layers
from mtpano_zoo.spelling import listed

__all__ = ("CNNEncoder", "load_pretrained")


class CNNEncoder(Encoder):
    """A convolutional timm network, tapped at four depths whose maps are resized to one grid.

    Convolutions and max-pools pad circularly along the width, so that the encoder has no seam, and along the height as
    the architecture does. A 1 x 1 convolution takes every tap to `width` channels; finer taps are averaged, coarser
    ones enlarged bilinearly. The class tokens are the means of the taps.

    Args:
        name: timm name, e.g. `tf_efficientnet_lite0`.
        pretrained: start from ImageNet: true downloads timm's weights; the path of a `.safetensors` or `.pth` file
            loads them by timm's names or, if the names differ, in timm's order.
        width: channels of the maps.
        stride: image pixels per map pixel.
        taps: four indices into timm's feature maps, shallowest first; 1 to 4 usually have strides 4, 8, 16, 32 (0 to 3
            if the first stage has stride 4, as in ConvNeXt).
        freeze_norms: keep batch-norm statistics fixed during training.

    Raises:
        FileNotFoundError: If the file of pretrained weights does not exist.
        InputError: If timm has no such network, it lacks one of the taps, one of its layers cannot be wrapped, strides
            do not fit one another, or the file of weights does not fit it.

    Example:
        >>> encoder = CNNEncoder("test_efficientnet", width=8)  # timm's miniature
        >>> maps, tokens = encoder(torch.rand(1, 3, 32, 64))
        >>> [tuple(x.shape) for x in (maps[0], maps[3], tokens[0])]
        [(1, 8, 4, 8), (1, 8, 4, 8), (1, 8)]
    """

    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        *,
        pretrained: bool | str | Path = False,
        width: int = 96,
        stride: int = 8,
        taps: Sequence[int] = (1, 2, 3, 4),
        freeze_norms: bool = True,
    ) -> None:
        super().__init__()
        if len(taps) != 4:
            raise InputError(f"taps must be four indices, not {list(taps)}.")
        self.cnn = create_timm(name, pretrained is True, features_only=True, out_indices=tuple(taps))
        if not hasattr(self.cnn, "set_grad_checkpointing"):  # timm's wrapper around a transformer lacks it
            raise InputError(f"{name!r} is not a convolutional network: use a ViTEncoder or another name.")
        _drop_unused(self.cnn)
        if not isinstance(pretrained, bool):
            load_pretrained(self.cnn, name, Path(pretrained))
        wrap_layers(self.cnn, name)
        self.reductions: list[int] = self.cnn.feature_info.reduction()
        if stride < 1 or any(reduction % stride and stride % reduction for reduction in self.reductions):
            raise InputError(
                f"stride must divide the taps' strides, {self.reductions}, or be a multiple, not {stride}."
            )
        self.project = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in self.cnn.feature_info.channels())
        self.channels = width
        self.stride = stride
        self.multiple = max(*self.reductions, stride)
        self.freeze_norms = freeze_norms

    def train(self, mode: bool = True) -> "CNNEncoder":
        """Set the mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.freeze_norms:
            for module in self.cnn.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Encode a normalised image (B, 3, H, W) as four maps (B, C, H / stride, W / stride) and tokens (B, C)."""
        size = (image.shape[-2] // self.stride, image.shape[-1] // self.stride)
        maps = [
            _to_grid(project(tap), reduction, self.stride, size)
            for project, tap, reduction in zip(self.project, self.cnn(image), self.reductions, strict=True)
        ]
        return maps, [x.mean(dim=(2, 3)) for x in maps]

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the stages in the backward pass; norms that are not frozen then update twice per step."""
        self.cnn.set_grad_checkpointing(enabled)


def _to_grid(x: Tensor, reduction: int, stride: int, size: tuple[int, int]) -> Tensor:
    """Resize a tap (B, C, h, w) to the common grid, across the seam."""
    if reduction <= stride:
        return F.avg_pool2d(x, stride // reduction) if reduction < stride else x
    scale = reduction // stride
    wide = F.interpolate(
        F.pad(x, (1, 1, 0, 0), mode="circular"), (size[0], size[1] + 2 * scale), mode="bilinear", align_corners=False
    )
    return wide[..., scale:-scale]


def _drop_unused(network: nn.Module) -> None:
    """Drop the stages that timm keeps after the last tap: no gradient would reach them."""
    blocks = getattr(network, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        last = cast("Any", network.feature_info).get_dicts()[-1]["stage"]
        network.blocks = blocks[:last]


def load_pretrained(features: nn.Module, name: str, path: Path) -> None:
    """Load the ImageNet weights of a whole network into its feature extractor."""
    state = _read_weights(path)
    with torch.device("meta"):
        whole = [key for key in create_timm(name, False).state_dict() if not key.endswith("num_batches_tracked")]
    # timm's feature extractor has the names of the whole network, with underscores in place of some dots.
    names = {key.replace(".", "_"): key for key in whole}
    own = {key: tensor for key, tensor in features.state_dict().items() if not key.endswith("num_batches_tracked")}
    sources = {key: names.get(key.replace(".", "_"), key) for key in own}
    if not state.keys() >= set(sources.values()) and len(state) == len(whole):
        state = dict(zip(whole, state.values(), strict=True))
    wrong = [source for key, source in sources.items() if source not in state or state[source].shape != own[key].shape]
    if wrong:
        raise InputError(f"{path} does not hold the weights of {name}: missing or of another shape: {listed(wrong)}.")
    features.load_state_dict({key: state[source] for key, source in sources.items()}, strict=False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file, without batch-norm counters."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of pretrained weights at {path}.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path} cannot be read as a file of weights: {type(error).__name__}.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is not a state dict of tensors: save only the weights.")
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
