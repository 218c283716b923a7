"""The networks of the zoo in miniature; `tests/models/test_networks.py` tries all of them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published_students import CONSTANTS, drawn_student
from splitmix import filled
from torch import Tensor, nn

from mtpano_zoo.layers import CNNEncoder, Encoder, ViTEncoder
from mtpano_zoo.models import DAP, BiFuse, EGformer, HoHoNet, PanoramaNetwork, PDBridgeNet, UniFuse

CLASSES = ("floor", "wall", "ceiling")


@dataclass(frozen=True)
class Tiny:
    """A network of a few hundred thousand parameters.

    Attributes:
        build: builds it; all its sizes divide 32 x 64, which is the size that it is made for.
        silent: beginnings of the names of parameters that no output depends on.
        traced: whether it is compiled and exported, which takes most of the time.
        rough: largest error in bfloat16, relative to the largest value.
        fewer: constants of its module with which it has all its kinds of blocks, but not as many: a compiler and an
            exporter take time for every one.
    """

    build: Callable[[], PanoramaNetwork]
    silent: tuple[str, ...] = ()
    traced: bool = True
    rough: float = 0.1
    fewer: Mapping[str, Any] = field(default_factory=dict)


def tiny_vit(**overrides: Any) -> ViTEncoder:
    """Build a vision transformer of four blocks."""
    sizes = {"name": "vit_small_patch16_dinov3_qkvb", "width": 32, "depth": 4, "heads": 2, "patch_size": 8}
    return ViTEncoder(**(sizes | overrides))


def tiny_bridgenet(encoder: Encoder | None = None, **overrides: Any) -> PDBridgeNet:
    """Build a PD-BridgeNet of 0.3 M parameters with all its parts."""
    arguments: dict[str, Any] = {
        "classes": CLASSES,
        "input_size": (32, 64),
        "bridge": True,
        "token_mixer": True,
        "bridge_width": 16,
        "neck_widths": (8, 8, 16, 16),
        "fusion_width": 8,
    }
    return PDBridgeNet(encoder or tiny_vit(), **(arguments | overrides))


def tiny_hohonet(**overrides: Any) -> HoHoNet:
    """Build a HoHoNet of 0.6 M parameters."""
    sizes = {"height": 32, "input_size": (32, 64), "width": 32, "heads": 2, "embedding": 16, "components": 16}
    return HoHoNet("test_resnet", **(sizes | overrides))


def tiny_dap(**overrides: Any) -> DAP:
    """Build a DAP of 0.1 M parameters with masks at 2, 3 and 5 m."""
    arguments: dict[str, Any] = {
        "encoder": tiny_vit(),
        "input_size": (32, 64),
        "max_distance": 10.0,
        "ranges": (2, 3, 5),
        "neck_widths": (8, 8, 16, 16),
        "fusion_width": 8,
    }
    return DAP(**(arguments | overrides))


# Every class of `NETWORKS`, and its variants as far as they are built of other parts.
TINY: dict[str, Tiny] = {
    "PDBridgeNet": Tiny(tiny_bridgenet),
    "PDBridgeNet as published": Tiny(lambda: tiny_bridgenet(convention="paper"), traced=False),
    "PDBridgeNet as published for semseg": Tiny(
        lambda: tiny_bridgenet(convention="paper", tasks=("semseg",)),
        # It carries a variant stream that no loss reaches; its weights still load strictly.
        silent=("refiners.variant.", "aggregators.variant.", "bridges.variant.", "stream_injectors.variant."),
        traced=False,
    ),
    "DAP": Tiny(tiny_dap),
    "DAP as published": Tiny(lambda: tiny_dap(convention="paper", ranges=None), traced=False),
    "DAP for distances alone": Tiny(lambda: tiny_dap(tasks=("depth",)), traced=False),
    "PDBridgeNet with a CNN": Tiny(
        lambda: tiny_bridgenet(CNNEncoder("test_efficientnet", width=16), bridge=False), traced=False
    ),
    "BiFuse": Tiny(lambda: BiFuse("test_resnet", input_size=(32, 64))),
    "BiFuse as published": Tiny(lambda: BiFuse("test_resnet", convention="paper", input_size=(32, 64)), traced=False),
    # With weights as large as these, it moves by a tenth where the image alone is rounded: see test_egformer.py.
    "EGformer": Tiny(
        lambda: EGformer(width=8, input_size=(32, 64)),
        rough=0.5,
        fewer={"LEVELS": 3, "DEFORMABLE_HEADS": {"encoder": (1,), "decoder": (2,)}},
    ),
    "EGformer as published": Tiny(
        lambda: EGformer(width=8, convention="paper", input_size=(32, 64)), traced=False, rough=0.5
    ),
    "HoHoNet": Tiny(lambda: tiny_hohonet()),
    "HoHoNet as published": Tiny(lambda: tiny_hohonet(convention="paper"), traced=False),
    "UniFuse": Tiny(lambda: UniFuse("test_resnet", input_size=(32, 64))),
    "UniFuse as published": Tiny(lambda: UniFuse("test_resnet", convention="paper", input_size=(32, 64)), traced=False),
}


def published_mtpano() -> dict[str, Tensor]:
    """A state dict with the names of the published MTPano checkpoint, 4 M parameters and 13 classes."""
    shapes = json.loads((Path(__file__).parents[1] / "reference" / "golden" / "keys.json").read_text())
    draw = torch.Generator().manual_seed(0)
    state = {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    state |= {key: torch.tensor(7) for key in state if key.endswith("num_batches_tracked")}
    state |= {key: value.abs() + 0.5 for key, value in state.items() if key.endswith("running_var")}
    height, width = state["RayDir"].shape[-2:]
    down, around = torch.linspace(0, np.pi, height)[:, None], torch.linspace(0, 2 * np.pi, width)[None]
    rays = [down.sin() * around.cos(), down.cos().expand(height, width), down.sin() * around.sin()]
    angles = [down.expand(height, width), around.expand(height, width)]
    return state | {"RayDir": torch.stack(rays)[None], "PE": torch.stack(angles)[None]}


def published_dap(seed: int = 101) -> dict[str, Tensor]:
    """The state dict of the published DAP code at a small size, 3 M parameters, by the rule of its golden files."""
    file = Path(__file__).parents[1] / "reference" / "golden" / "dap_keys.json"
    state = {key: filled(key, shape, seed, a, b) for key, (shape, a, b) in json.loads(file.read_text()).items()}
    blocks, mask = "core.pretrained.model.blocks.", torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(128)
    state |= {key.replace("bias", "bias_mask"): mask.clone() for key in state if key.endswith("attn.qkv.bias")}
    state["core.pretrained.model.rope_embed.periods"] = 100 ** (torch.arange(16) / 16)
    return state | {key.replace(".model.", "."): value for key, value in state.items() if key.startswith(blocks)}


# A published state dict of every format of `mtpano_zoo.reference.FORMATS`.
PUBLISHED: dict[str, Callable[[], dict[str, Tensor]]] = {
    "dap": published_dap,
    "mtpano": published_mtpano,
    **{name: partial(drawn_student, name) for name in CONSTANTS},
}


def randomised(network: nn.Module) -> nn.Module:
    """Leave no branch at zero, which would hide what stands before it, and let norms have seen something."""
    with torch.no_grad():
        for parameter in network.parameters():
            # Of wide layers less, whose sums would grow from layer to layer where no norm follows.
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.add_(min(0.1, inputs**-0.5) * torch.randn_like(parameter))
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return network
