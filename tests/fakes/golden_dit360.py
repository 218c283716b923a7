"""Numbers that the published DiT360 gave with weights made by a rule, and the networks that these weights go into.

Weights and most inputs are not stored: a key, a shape and a seed give them.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "generation" / "golden"
SEED = 601
WIDE = 1.7320507764816284  # b of an input of unit variance
FLUX = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
    "axes_dims_rope": [4, 6, 6],
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [4, 4, 8, 8],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 2,
    "sample_size": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def filled(key: str, shape: tuple[int, ...], a: float = 0.0, b: float = WIDE, seed: int = SEED) -> Tensor:
    """The rule "splitmix-uniform v1": float32(a + b s) with s uniform in [-1, 1)."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64((zlib.crc32(key.encode()) << 32) | seed)
        z = z + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    s = (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1
    return torch.from_numpy((a + b * s).astype(np.float32)).reshape(shape)


def rules(name: str) -> dict[str, Any]:
    """Which a and b a key has."""
    table: dict[str, Any] = json.loads((FOLDER / "rules.json").read_text())[name]
    return table


def transformer() -> FluxTransformer2DModel:
    return _fill(FluxTransformer2DModel(**FLUX), rules("flux"))


def autoencoder() -> AutoencoderKL:
    return _fill(AutoencoderKL(**VAE), rules("vae"))


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**SCHEDULER)


def pipeline() -> FluxPipeline:
    """The networks as a pipeline without texts."""
    parts = {"transformer": transformer(), "vae": autoencoder(), "scheduler": scheduler()}
    return FluxPipeline(**parts, **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")))


def adapter() -> dict[str, Tensor]:
    """A small adapter with the names of the published one."""
    return {key: filled(key, tuple(shape), a, b) for key, (shape, a, b) in rules("lora").items()}


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def _fill(network: Any, table: Mapping[str, Any]) -> Any:
    state = {key: filled(key, tuple(value.shape), *table[key]) for key, value in network.state_dict().items()}
    nn.Module.load_state_dict(network, state)
    return network.eval()
