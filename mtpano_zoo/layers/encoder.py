"""The vision transformer that reads the panorama, from timm."""

from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.layers.helpers import to_2tuple
from timm.models.xcit import Xcit
from torch import Tensor, nn

from mtpano_zoo.errors import InputError

__all__ = ("ViTEncoder",)


class ViTEncoder(nn.Module):
    """A timm vision transformer tapped after a quarter, a half, three quarters and all of its blocks.

    Args:
        name: timm name, e.g. `vit_small_patch16_dinov3_qkvb`; it may carry a tag of pretrained weights. Not an address:
            a name is read from files of others too, which must not make timm ask a repository or a folder.
        pretrained: download and load timm's weights (DINOv3 weights have a licence of their own).
        width: tokens' width instead of the architecture's own.
        depth: number of blocks instead of the architecture's own.
        heads: attention heads instead of the architecture's own.
        mlp_ratio: width of the hidden layer over that of the tokens instead of the architecture's own.
        patch_size: pixels per patch instead of the architecture's own.
        layer_scale: start of the scales on every residual branch; DINOv3's own 1e-5 suits pretrained weights and long
            schedules, 1 trains from scratch in few steps.

    Raises:
        ValueError: if timm has no such vision transformer, or it has fewer than four blocks.
        OSError: if its weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float | None = None,
        patch_size: int | None = None,
        layer_scale: float | None = None,
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
        if "xcit" not in name:  # XCiT takes any size as it is
            overrides["dynamic_img_size"] = True
        if ":" in name or not timm.is_model(name):
            raise InputError(f"timm has no vision transformer {name!r}: give a name of timm.list_models('vit_*').")
        try:
            vit: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **overrides)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"timm has no vision transformer {name!r} with these sizes: {error}") from error
        except (ImportError, OSError) as error:  # ImportError is what the client of the Hub raises for a SOCKS proxy
            socks = "a SOCKS proxy needs the package socksio" if isinstance(error, ImportError) else ""
            reason = socks or str(error).partition("\n")[0].rstrip(".")
            raise OSError(
                f"timm's weights of {name!r} cannot be downloaded: {reason}; or give pretrained: false."
            ) from error
        blocks = len(vit.blocks)
        if blocks < 4:
            raise ValueError(f"The encoder {name!r} has {blocks} blocks, but four of them are tapped: give depth >= 4.")
        self.taps = [blocks * (i + 1) // 4 - 1 for i in range(4)]
        self.channels: int = vit.embed_dim
        self.patch_size: int = to_2tuple(vit.patch_embed.patch_size)[0]
        # Taps are read before the final norm, which would otherwise be a parameter without a gradient.
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
            Four maps (B, C, H / patch, W / patch) and four class tokens (B, C); where the architecture has no class
            token, the mean of the patches stands for it.
        """
        options: dict[str, Any] = {"return_prefix_tokens": True} if self.has_class_token else {}
        # As tokens: timm's maps are copies with channels first, and all that follows works on channels last.
        # timm builds the grid of rotary positions on the default device, and the GPU would wait for the host's copy.
        with nullcontext() if torch.compiler.is_compiling() else image.device:
            taps = self.vit.forward_intermediates(
                image, indices=self.taps, norm=False, intermediates_only=True, output_fmt="NLC", **options
            )
        grid = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        tokens = [tap[0] for tap in taps] if self.has_class_token else taps
        class_tokens = [tap[1][:, 0] for tap in taps] if self.has_class_token else [tap.mean(1) for tap in taps]
        return [x.unflatten(1, grid).permute(0, 3, 1, 2) for x in tokens], class_tokens

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Let the backward pass compute the blocks again instead of keeping what they computed.

        The batch norms inside the blocks of XCiT then move their running statistics twice per step.
        """
        self.vit.set_grad_checkpointing(enabled)
