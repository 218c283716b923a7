"""A generator that needs no download: small versions of the FLUX.1 networks with random weights, to be trained here.

Its latents are blocks of pixels: a small generator can do without an autoencoder.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.sampling import Generator

__all__ = ("PixelCodec", "TinyFlux")

POOLED = 24
POOLED_TOKENS = 128  # characters; the longest caption of a rendered scene has 104
TEXT = cast(Any, transformers)  # its classes are not typed


class PixelCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Lossless replacement for the autoencoder of FLUX.1: a latent is a block of pixels.

    Args:
        block_size: Side of the block in pixels, a power of 2.
        scaling_factor: Latents are (pixels - shift_factor) * scaling_factor, with pixels in [-1, 1].
        shift_factor: See `scaling_factor`.
        block_out_channels: Do not pass it; it is set here, and diffusers computes the side of a block from its length.
        latent_channels: Do not pass it; it follows from the side of the block.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        block_size: int = 2,
        scaling_factor: float = 2.7,
        shift_factor: float = 0.0,
        block_out_channels: Sequence[int] | None = None,
        latent_channels: int | None = None,
    ) -> None:
        super().__init__()
        sides = block_size.bit_length()
        if block_size < 1 or block_size != 2 ** (sides - 1):
            raise InputError(f"block_size must be a power of 2, not {block_size}")
        self.register_to_config(block_out_channels=[1] * sides, latent_channels=3 * block_size**2)
        self.register_buffer("place", torch.zeros(1))

    def encode(self, images: Tensor) -> Any:
        """Return the latents of images (B, 3, H, W) in [-1, 1], as a distribution without variance."""
        latents = F.pixel_unshuffle(images, self.config.block_size)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents, sample=lambda generator=None: latents))

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:
        """Return the images of latents."""
        images = F.pixel_shuffle(latents, self.config.block_size)
        return SimpleNamespace(sample=images) if return_dict else (images,)


class TinyFlux(Generator):
    """A small text-to-panorama model with random weights; `save_pretrained` of its pipeline writes it to a folder.

    Args:
        words: Words that are one token each; others are spelt letter by letter.
        width: Width of the transformer, 32 per attention head.
        double_blocks: Blocks in which text and image have separate weights.
        single_blocks: Blocks in which text and image share weights.
        block_size: Pixels per latent along each side; a token covers twice as many.
        text_width: Width of the text encoder.
        text_layers: Layers of the text encoder.
        max_tokens: Largest number of tokens in a prompt.

    Raises:
        InputError: If `width` is not a multiple of 32, or `block_size` is not a power of 2.
    """

    def __init__(
        self,
        words: Sequence[str] = (),
        width: int = 128,
        double_blocks: int = 3,
        single_blocks: int = 3,
        block_size: int = 2,
        text_width: int = 64,
        text_layers: int = 2,
        max_tokens: int = 32,
    ) -> None:
        if width < 32 or width % 32:
            raise InputError(f"the width of the transformer must be a multiple of 32, not {width}")
        vae = PixelCodec(block_size)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * vae.config.latent_channels,
            num_layers=double_blocks,
            num_single_layers=single_blocks,
            attention_head_dim=32,
            num_attention_heads=width // 32,
            joint_attention_dim=text_width,
            pooled_projection_dim=POOLED,
            guidance_embeds=False,
            axes_dims_rope=(4, 14, 14),
        )
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
        texts = {**_pooled_encoder(), **_text_encoder(words, text_width, text_layers, max_tokens)}
        super().__init__(FluxPipeline(scheduler=scheduler, vae=vae, transformer=transformer, **texts))


def _pooled_encoder() -> dict[str, Any]:
    letters = list(bytes_to_unicode().values())  # type: ignore[no-untyped-call]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = TEXT.CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=POOLED_TOKENS
    )
    begin, end = len(pieces) - 2, len(pieces) - 1
    config = TEXT.CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=POOLED,
        intermediate_size=2 * POOLED,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=POOLED_TOKENS,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=end,
    )
    return {"tokenizer": tokenizer, "text_encoder": TEXT.CLIPTextModel(config)}


def _text_encoder(words: Sequence[str], width: int, layers: int, max_tokens: int) -> dict[str, Any]:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-()"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -1.0) for word in dict.fromkeys(words)]
    pieces += [(letter, -3.0) for letter in letters]
    tokenizer = TEXT.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=max_tokens)
    config = TEXT.T5Config(
        vocab_size=len(pieces),
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    return {"tokenizer_2": tokenizer, "text_encoder_2": TEXT.T5EncoderModel(config)}
