"""Edit a part of a panorama from a prompt, without training: two panoramas are denoised side by side.

The first sample ends at the given panorama; the second follows the prompt. Where the mask keeps the panorama, the
second sample copies the first while the noise level is high: its latents after a step, and its tokens in every
attention layer. DiT360 (arXiv 2510.11712) calls the start of the first sample an inversion. With its settings, the
inversion does not use the network: it is plain noise.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.augment import latent_mask
from mtpano_zoo.generation.prompts import SEEDS
from mtpano_zoo.generation.sampling import Generator, check_panorama_size
from mtpano_zoo.generation.schedule import TRAINED_TOKENS, shift_for
from mtpano_zoo.generation.seams import wrapped_transformer
from mtpano_zoo.generation.tokens import crop_columns, pack, position_ids, unpack, wrap_columns

__all__ = (
    "consistent_edit",
    "edit",
    "invert",
    "published_edit",
    "replaced_tokens",
    "sigmas_for",
    "token_mask",
)

Predict = Callable[[Tensor, float, float], Tensor]
"""Function from tokens (B, N, C), a time and a guidance scale to velocities (B, N, C)."""


def sigmas_for(scheduler: Any, steps: int, tokens: int) -> Tensor:
    """Return the noise levels (steps + 1,) from 1 to 0 for a number of tokens, capped at that of 1024 x 2048 pixels."""
    levels = np.linspace(1.0, 1 / steps, steps)
    fresh = type(scheduler).from_config(scheduler.config)
    dynamic = fresh.config.get("use_dynamic_shifting")
    fresh.set_timesteps(sigmas=levels, mu=shift_for(min(tokens, TRAINED_TOKENS), fresh.config) if dynamic else None)
    sigmas: Tensor = fresh.sigmas
    return sigmas


def token_mask(keep: Tensor, columns: int, padding: int, wrap: bool) -> Tensor:
    """Pad a mask (rows, columns) of kept tokens by `padding` columns on each side; return it as (N, 1).

    With `wrap`, the padding is copied from the other side, as for the tokens. Otherwise the edge columns are repeated,
    as published.
    """
    flat = keep.float().reshape(-1, 1)
    if wrap or padding == 0:
        return wrap_columns(flat, columns, padding)
    grid = keep.float()
    return torch.cat([grid[:, :1].expand(-1, padding), grid, grid[:, -1:].expand(-1, padding)], 1).reshape(-1, 1)


@contextmanager
def replaced_tokens(transformer: nn.Module, keep: Tensor, text_tokens: int) -> Iterator[None]:
    """Replace the kept image tokens of the second sample by the first's at the input of every attention layer.

    Args:
        transformer: Transformer, to be called with a batch of two.
        keep: Whether each image token is kept, (N, 1).
        text_tokens: Number of text tokens, which come before the image tokens in single blocks.
    """

    def before(skipped: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden: Tensor = kwargs["hidden_states"]
            chosen = keep.to(hidden.device).bool()
            image = hidden[:, skipped:]
            second = torch.where(chosen, image[0], image[1])
            image = torch.stack([image[0], second])
            return args, kwargs | {"hidden_states": torch.cat([hidden[:, :skipped], image], 1)}

        return hook

    handles = []
    for blocks, skipped in (("transformer_blocks", 0), ("single_transformer_blocks", text_tokens)):
        for block in getattr(transformer, blocks):
            handles.append(block.attn.register_forward_pre_hook(before(skipped), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def invert(predict: Predict | None, start: Tensor, noise: Tensor, sigmas: Tensor, gamma: float = 1.0) -> Tensor:
    """Walk from latents towards noise with the published steps, which do not quite reach it.

    The network is evaluated at evenly spaced times, but the step sizes are those of the falling noise levels. With
    `gamma` 1, the pull towards the noise replaces the network, which is not called.

    Args:
        predict: Predicts velocities. Not needed with gamma 1.
        start: Tokens (1, N, C) of the panorama.
        noise: Tokens of the noise to walk to.
        sigmas: Falling noise levels (steps + 1,).
        gamma: Share of the pull towards the noise; the network has the rest.

    Raises:
        InputError: If gamma is not 1 and `predict` is None.
    """
    steps = len(sigmas) - 1
    state = start
    for i in range(steps):
        time = i / (steps + 1)
        pull = (noise - state) / (1 - time)
        if gamma == 1:
            velocity = pull
        elif predict is None:
            raise InputError("an inversion with gamma below 1 needs the network")
        else:
            own = predict(state, time, 0.0)
            velocity = own + gamma * (pull - own)
        state = state + velocity * (sigmas[i] - sigmas[i + 1])
    return state


def walk_to_noise(predict: Predict, start: Tensor, noise: Tensor, sigmas: Tensor, gamma: float) -> Tensor:
    """Walk from latents to noise along rising levels; with gamma 1, return the noise without calling the network."""
    if gamma == 1:
        return noise
    state, rising = start, sigmas.flip(0)
    for level, following in pairwise(rising):
        own = predict(state, float(level), 0.0)
        state = state + (own + gamma * ((noise - state) / (1 - level) - own)) * (following - level)
    return state


def run_pair(
    predict: Predict,
    pair: Tensor,
    start: Tensor,
    keep: Tensor,
    sigmas: Tensor,
    *,
    guidance: float = 3.5,
    eta: float = 1.0,
    stop: float = 0.99,
    replace_until: float = 0.5,
    keep_until: float = 0.5,
    replacing: Callable[[], Any],
) -> Tensor:
    """Denoise both panoramas and return their tokens (2, N, C).

    Args:
        predict: Predicts velocities.
        pair: Tokens (2, N, C) to start from.
        start: Tokens (1, N, C) of the given panorama.
        keep: Whether each token is kept, (N, 1).
        sigmas: Falling noise levels (steps + 1,).
        guidance: See `Generator.generate`.
        eta: Share of the pull towards the given panorama in the first sample; the network has the rest.
        stop: Share of the steps, from the first on, that have this pull.
        replace_until: Noise level above which tokens are copied in the attention.
        keep_until: Noise level down to which latents are copied.
        replacing: Returns a context in which tokens are copied in the attention.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        level = float(sigmas[i])
        if level > replace_until:
            with replacing():
                velocity = predict(pair, level, guidance)
        else:
            velocity = predict(pair, level, guidance)
        first = velocity[:1]
        if i < int(stop * steps):
            first = first + eta * ((pair[:1] - start) / level - first)
        drop = sigmas[i] - sigmas[i + 1]
        pair = torch.cat([pair[:1] - first * drop, pair[1:] - velocity[1:] * drop])
        if level >= keep_until:
            pair = torch.cat([pair[:1], torch.where(keep.bool(), pair[:1], pair[1:])])
    return pair


def published_edit(
    transformer: nn.Module,
    latents: Tensor,
    inverted: Tensor,
    new_noise: Tensor,
    keep: Tensor,
    text: Tensor,
    pooled: Tensor,
    sigmas: Tensor,
    *,
    wrap_mask: bool = False,
    padding: int = 1,
    **options: Any,
) -> Tensor:
    """Edit as published: columns are padded once, and the padding then evolves on its own.

    Args:
        transformer: A FLUX.1 transformer.
        latents: Latents of the panorama (1, C, h, w).
        inverted: Padded tokens that the first sample starts from.
        new_noise: Latents (1, C, h, w) that the second sample starts from.
        keep: Which tokens (rows, columns) are kept.
        text: Text embeddings (2, T, D), of the panorama's prompt and of the new one.
        pooled: Pooled text embeddings (2, P).
        sigmas: Falling noise levels (steps + 1,).
        wrap_mask: Pad the mask as the tokens are padded, instead of repeating its edge columns.
        padding: Columns padded on each side.
        options: See `run_pair`; ``replacing=False`` leaves the attention as it is.

    Returns:
        Tokens (2, N, C) without padding.
    """
    rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
    ids = wrap_columns(position_ids(rows, columns), columns, padding)
    mask = token_mask(keep, columns, padding, wrap_mask)
    start = wrap_columns(pack(latents), columns, padding)
    pair = torch.cat([inverted, wrap_columns(pack(new_noise), columns, padding)])
    predict = predictor(transformer, text, pooled, ids)
    pair = run_pair(predict, pair, start, mask, sigmas, **_copying(transformer, mask, text, options))
    return crop_columns(pair, columns, padding)


def consistent_edit(
    transformer: nn.Module,
    latents: Tensor,
    noise: Tensor,
    new_noise: Tensor,
    keep: Tensor,
    text: Tensor,
    pooled: Tensor,
    sigmas: Tensor,
    *,
    padding: int = 1,
    **options: Any,
) -> Tensor:
    """Edit without a seam: tokens, noise and mask wrap around, and the first sample starts from the noise itself.

    The arguments are those of `published_edit`, but the `noise` (1, C, h, w) of the first sample replaces `inverted`.

    Returns:
        Tokens (2, N, C).
    """
    rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
    ids = position_ids(rows, columns).to(latents.device)
    mask = token_mask(keep, columns, 0, True).to(latents.device)
    padded = token_mask(keep, columns, padding, True)
    pair = torch.cat([pack(noise), pack(new_noise)])
    predict = predictor(transformer, text, pooled, ids)
    with wrapped_transformer(transformer, "published", rows, columns, padding=padding):
        return run_pair(predict, pair, pack(latents), mask, sigmas, **_copying(transformer, padded, text, options))


def predictor(transformer: nn.Module, text: Tensor, pooled: Tensor, ids: Tensor) -> Predict:
    """Return a function that predicts velocities from tokens, time and guidance scale."""

    def predict(tokens: Tensor, time: float, guidance: float) -> Tensor:
        count = len(tokens)
        scale = torch.full((count,), guidance, device=tokens.device)
        config: Any = transformer.config
        dtype = text.dtype
        velocity: Tensor = transformer(
            hidden_states=tokens.to(dtype),
            timestep=torch.full((count,), time, device=tokens.device, dtype=dtype),
            guidance=scale if config.guidance_embeds else None,
            encoder_hidden_states=text[:count],
            pooled_projections=pooled[:count],
            txt_ids=torch.zeros(text.shape[1], 3, device=tokens.device),
            img_ids=ids,
            return_dict=False,
        )[0]
        return velocity.float()

    return predict


def _copying(transformer: nn.Module, mask: Tensor, text: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    options = dict(options)
    if options.pop("replacing", True):
        return options | {"replacing": lambda: replaced_tokens(transformer, mask, text.shape[1])}
    return options | {"replacing": nullcontext}


@torch.no_grad()
def edit(
    generator: Generator, image: Tensor, keep: Tensor, prompt: str, *, steps: int = 28, seed: int = 0, **options: Any
) -> Tensor:
    """Repaint the part of a panorama that is not kept.

    Args:
        generator: Generator that repaints.
        image: Panorama (3, H, W) in [0, 1].
        keep: Which pixels stay as they are, bool (H, W).
        prompt: What the result shows.
        steps: Sampling steps.
        seed: Seed of the noise.
        options: `guidance`, `replace_until` and `keep_until`, see `run_pair`.

    Returns:
        The panorama (3, H, W), on the CPU.

    Raises:
        InputError: If the size is not that of a panorama, the mask or the steps do not fit, or the prompt is empty or
            too long.
    """
    height, width = image.shape[1:]
    check_panorama_size(height, width, 2 * generator.factor)
    if keep.dtype != torch.bool or keep.shape != (height, width):
        raise InputError(f"keep must be a boolean mask ({height}, {width}), not {keep.dtype} {tuple(keep.shape)}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    kept = latent_mask(keep, 2 * generator.factor, "all")
    latents = generator.encode(image[None]).float()
    text, pooled = generator.embed([prompt, prompt])
    rows, columns = height // (2 * generator.factor), width // (2 * generator.factor)
    sigmas = sigmas_for(generator.pipeline.scheduler, steps, rows * columns)
    tokens = consistent_edit(
        generator.pipeline.transformer,
        latents,
        generator.noise(height, width, seed).to(latents),
        generator.noise(height, width, (seed + 1) % SEEDS).to(latents),
        kept,
        text,
        pooled,
        sigmas,
        **options,
    )
    made = generator.decode(unpack(tokens[1:], rows, columns))[0].cpu()
    return torch.where(keep, image, made)
