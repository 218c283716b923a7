"""Vision transformers from timm as encoders."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from timm.layers.helpers import to_2tuple
from timm.models.xcit import Xcit
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers.encoder import Encoder, create_timm

__all__ = ("ViTEncoder",)


class ViTEncoder(Encoder):
    """A timm vision transformer tapped after a quarter, a half, three quarters and all of its blocks.

    Args:
        name: timm name, e.g. `vit_small_patch16_dinov3_qkvb`, optionally with a tag of pretrained weights.
        pretrained: download and load timm's weights (DINOv3 weights have a licence of their own).
        width: token width instead of the architecture's own.
        depth: number of blocks instead of the architecture's own.
        heads: number of attention heads instead of the architecture's own.
        mlp_ratio: hidden width over token width instead of the architecture's own.
        patch_size: pixels per patch instead of the architecture's own.
        layer_scale: initial scale of every residual branch; DINOv3's own 1e-5 suits pretrained weights and long
            schedules, 1 trains from scratch in few steps.
        taps: numbers of the four blocks that are read, counted from 0, in place of the usual ones.

    Raises:
        InputError: If timm has no such vision transformer, it has fewer than four blocks, or the taps are not four of
            them.

    Example:
        >>> encoder = ViTEncoder("vit_tiny_patch16_dinov3_qkvb", width=32, depth=4, heads=2)
        >>> maps, tokens = encoder(torch.rand(1, 3, 32, 64))
        >>> len(maps), maps[0].shape, tokens[0].shape
        (4, torch.Size([1, 32, 2, 4]), torch.Size([1, 32]))
    """

    def __init__(
        self,
        name: str = "vit_large_patch16_dinov3_qkvb",
        *,
        pretrained: bool = False,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float | None = None,
        patch_size: int | None = None,
        layer_scale: float | None = None,
        taps: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        overrides: dict[str, Any] = {
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": mlp_ratio,
            "patch_size": patch_size,
            "init_values": layer_scale,
        }
        overrides = {key: value for key, value in overrides.items() if value is not None}
        if "xcit" not in name:  # XCiT takes any size anyway
            overrides["dynamic_img_size"] = True
        vit = create_timm(name, pretrained, num_classes=0, **overrides)
        if not hasattr(vit, "blocks") or not hasattr(vit, "patch_embed"):
            raise InputError(f"{name!r} is not a vision transformer: use a CNNEncoder or another name.")
        blocks = len(vit.blocks)
        if blocks < 4:
            raise InputError(f"The encoder {name!r} has {blocks} blocks, but four are tapped: set depth to 4 or more.")
        self.taps = [blocks * (i + 1) // 4 - 1 for i in range(4)] if taps is None else list(taps)
        if len(self.taps) != 4 or sorted(set(self.taps) & set(range(blocks))) != self.taps:
            raise InputError(f"taps are the numbers of four blocks from 0 to {blocks - 1}, ascending, not {self.taps}.")
        self.channels: int = vit.embed_dim
        self.stride: int = to_2tuple(vit.patch_embed.patch_size)[0]
        self.multiple = self.stride
        # Taps are read before the final norm, whose parameters would never get a gradient.
        vit.norm = nn.Identity()
        # The class token of XCiT enters after the blocks, where nothing is tapped.
        if isinstance(vit, Xcit):
            self.has_class_token = False
            del vit.cls_token, vit.cls_attn_blocks
        else:
            self.has_class_token = vit.num_prefix_tokens > 0
        self.vit = vit

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Encode a normalised image (B, 3, H, W).

        Returns:
            Four maps (B, C, H / patch, W / patch) and four class tokens (B, C), or means of the patches if the
            architecture has no class token.
        """
        options: dict[str, Any] = {"return_prefix_tokens": True} if self.has_class_token else {}
        # As tokens: timm's maps are copies with channels first, but everything downstream works on channels last.
        # timm builds the grid of rotary positions on the default device; a copy from the host would stall the GPU.
        with nullcontext() if torch.compiler.is_compiling() else image.device:
            taps = self.vit.forward_intermediates(
                image, indices=self.taps, norm=False, intermediates_only=True, output_fmt="NLC", **options
            )
        grid = (image.shape[-2] // self.stride, image.shape[-1] // self.stride)
        tokens = [tap[0] for tap in taps] if self.has_class_token else taps
        class_tokens = [tap[1][:, 0] for tap in taps] if self.has_class_token else [tap.mean(1) for tap in taps]
        return [x.unflatten(1, grid).permute(0, 3, 1, 2) for x in tokens], class_tokens

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the blocks in the backward pass instead of keeping their intermediate results.

        The batch norms inside the blocks of XCiT then update their running statistics twice per step.
        """
        self.vit.set_grad_checkpointing(enabled)
