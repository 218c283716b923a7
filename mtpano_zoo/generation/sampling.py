"""From a prompt to a panorama, by diffusers' own FLUX.1 pipeline and hooks around its networks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.prompts import check_seed
from mtpano_zoo.generation.schedule import with_length
from mtpano_zoo.generation.seams import Seam, check_seam, wrapped_autoencoder, wrapped_transformer
from mtpano_zoo.generation.tokens import pack, unpack
from mtpano_zoo.limits import check_pixels

__all__ = ("Generator", "Length", "check_panorama_size")

Length = Literal["unpadded", "padded"]
"""Whether the tokens that decide the noise levels are only those of the panorama, or also those of padded columns."""

MAX_TOKENS, MAX_TOKENS_DISTILLED = 512, 256  # of a prompt, for FLUX.1-dev and FLUX.1-schnell


class Generator:
    """A text-to-panorama model with the interface of FLUX.1.

    A panorama depends on prompt, seed, size and settings only, not on what was generated before.

    Args:
        pipeline: `diffusers.FluxPipeline` with or without an adapter.
        prefix: Text put before every prompt.
    """

    def __init__(self, pipeline: Any, *, prefix: str = "") -> None:
        self.pipeline = pipeline
        self.prefix = prefix
        for network in self.networks().values():
            network.eval().requires_grad_(False)
        pipeline.set_progress_bar_config(disable=True)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Return the networks of the pipeline by name."""
        return {name: part for name, part in self.pipeline.components.items() if isinstance(part, torch.nn.Module)}

    @property
    def factor(self) -> int:
        """Pixels per latent along each side; a token covers twice as many."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def max_tokens(self) -> int:
        """Tokens of the second text encoder (T5) that a prompt is padded to; longer prompts are refused."""
        guided = self.pipeline.transformer.config.guidance_embeds  # schnell has no guidance
        return min(MAX_TOKENS if guided else MAX_TOKENS_DISTILLED, int(self.pipeline.tokenizer_2.model_max_length))

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return torch.device(self.pipeline._execution_device)

    @torch.no_grad()
    def generate(
        self,
        prompt: str | None,
        *,
        height: int = 1024,
        width: int = 2048,
        seed: int = 0,
        steps: int = 28,
        guidance: float = 2.8,
        seam: Seam = "roll",
        padding: int = 1,
        length: Length | None = None,
        wrap_autoencoder: bool = True,
        embeddings: tuple[Tensor, Tensor] | None = None,
    ) -> NDArray[np.uint8]:
        """Generate one panorama (H, W, 3).

        Args:
            prompt: What it shows. Ignored if there are `embeddings`.
            height: Rows, a multiple of those of a token.
            width: Columns, twice the rows.
            seed: Seed of the noise, and of the turns of ``roll``.
            steps: Sampling steps.
            guidance: How strongly a guidance-distilled base follows the prompt.
            seam: How the transformer treats the seam.
            padding: Columns of tokens that ``published`` and ``continued`` copy to each side.
            length: Tokens that decide the noise levels. If omitted, ``padded`` for the published seam, else
                ``unpadded``.
            wrap_autoencoder: Decode without a seam.
            embeddings: Text embeddings from `embed`, instead of a prompt.

        Raises:
            InputError: If a size or the prompt does not fit, a name is unknown, or the memory is too small.
        """
        if embeddings is None:
            embeddings = self.embed([str(prompt)])
        return self.generate_batch(
            embeddings,
            [seed],
            height=height,
            width=width,
            steps=steps,
            guidance=guidance,
            seam=seam,
            padding=padding,
            length=length,
            wrap_autoencoder=wrap_autoencoder,
        )[0]

    @torch.no_grad()
    def generate_batch(
        self,
        embeddings: tuple[Tensor, Tensor],
        seeds: Sequence[int],
        *,
        height: int = 1024,
        width: int = 2048,
        wrap_autoencoder: bool = True,
        **options: Any,
    ) -> list[NDArray[np.uint8]]:
        """Generate panoramas (H, W, 3) at once; each is the same as when generated alone, up to rounding.

        Args:
            embeddings: Text embeddings from `embed`, one for each seed.
            seeds: Seeds of the panoramas.
            height: See `generate`, also for the following arguments.
            width: See there.
            wrap_autoencoder: See there.
            **options: See there.

        Raises:
            InputError: If a size does not fit, a name is unknown, or the memory is too small.
        """
        noise = torch.cat([self.noise(height, width, seed) for seed in seeds])
        latents = self.sample(None, noise, seed=seeds, embeddings=embeddings, **options)
        images = [
            self.decode(one, wrap=wrap_autoencoder)[0] for one in torch.split(latents, 1)
        ]  # one at a time, because decoding takes the most memory
        return [(image * 255).round().byte().permute(1, 2, 0).cpu().numpy() for image in images]

    def noise(self, height: int, width: int, seed: int) -> Tensor:
        """Return the noise (1, C, h, w) of a seed, float32 on the CPU.

        Raises:
            InputError: If the size does not fit, or the seed is out of range.
        """
        check_panorama_size(height, width, 2 * self.factor)
        generator = torch.Generator().manual_seed(check_seed(seed))
        channels = self.pipeline.transformer.config.in_channels // 4
        return torch.randn(1, channels, height // self.factor, width // self.factor, generator=generator)

    @torch.no_grad()
    def sample(
        self,
        prompt: str | None,
        noise: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        steps: int = 28,
        guidance: float = 2.8,
        seam: Seam = "roll",
        padding: int = 1,
        length: Length | None = None,
        embeddings: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Turn noise into the latents of a panorama.

        Args:
            prompt: What it shows. Ignored if there are `embeddings`.
            noise: Noise (B, C, h, w).
            seed: Seed of the turns of ``roll``; a sequence has one per panorama.
            steps: See `generate`, also for the following arguments.
            guidance: See there.
            seam: See there.
            padding: See there.
            length: See there.
            embeddings: See there.

        Returns:
            Latents (B, C, h, w).

        Raises:
            InputError: If a name is unknown, a number or the prompt does not fit, or the memory is too small.
        """
        check_seam(seam)
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}")
        if length is not None and length not in get_args(Length):
            raise InputError(f"length must be one of {', '.join(get_args(Length))}, not {length!r}")
        text, pooled = self.embed([str(prompt)]) if embeddings is None else embeddings
        rows, columns = noise.shape[2] // 2, noise.shape[3] // 2
        padded = seam == "published" if length is None else length == "padded"
        kept = self.pipeline.scheduler
        self.pipeline.scheduler = with_length(kept, rows, columns, padding if padded else 0)
        turns = [torch.Generator().manual_seed(one) for one in (seed if isinstance(seed, Sequence) else [seed])]
        seamless = wrapped_transformer(self.pipeline.transformer, seam, rows, columns, padding=padding, generator=turns)
        try:
            with self.enough_memory(), seamless:
                tokens: Tensor = self.pipeline(
                    prompt_embeds=text,
                    pooled_prompt_embeds=pooled,
                    latents=pack(noise).to(self.device),
                    height=noise.shape[2] * self.factor,
                    width=noise.shape[3] * self.factor,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    output_type="latent",
                ).images
        finally:
            self.pipeline.scheduler = kept
        return unpack(tokens, rows, columns)

    def check_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Check that no prompt is empty or too long, and return the prompts with the prefix.

        Raises:
            InputError: If a prompt is empty or too long, or there is no text encoder.
        """
        if self.pipeline.tokenizer_2 is None:
            raise InputError(
                "the base was loaded without its text encoders (transformer_only): train on LatentsDataModule"
            )
        whole = [self.prefix + prompt.strip() for prompt in prompts]
        for prompt, text in zip(prompts, whole, strict=True):
            if not prompt.strip():
                raise InputError("a prompt is empty: say what the panorama shows")
            count = len(self.pipeline.tokenizer_2(text).input_ids)
            if count > self.max_tokens:
                raise InputError(
                    f"the prompt that begins with {text[:40]!r} has {count} tokens, of which {self.max_tokens} "
                    "would be read: shorten it"
                )
        return whole

    def embed(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the text embeddings (B, max_tokens, D) and the pooled embeddings (B, P) of prompts.

        Raises:
            InputError: If `check_prompts` raises it.
        """
        whole = self.check_prompts(prompts)
        text, pooled, _ = self.pipeline.encode_prompt(whole, None, max_sequence_length=self.max_tokens)
        return text, pooled

    @torch.no_grad()
    def encode(self, images: Tensor, *, wrap: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Return the scaled latents (B, C, h, w) of images (B, 3, H, W) in [0, 1].

        Args:
            images: Panoramas.
            wrap: Encode without a seam.
            generator: Random generator to sample from the encoder's distribution. If omitted, its mean is returned.
        """
        vae = self.pipeline.vae
        with ExitStack() as stack:
            if wrap:
                stack.enter_context(wrapped_autoencoder(vae))
            spread = vae.encode((2 * images - 1).to(self.device, vae.dtype)).latent_dist
        latents: Tensor = spread.mode() if generator is None else spread.sample(generator)
        scaled: Tensor = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def decode(self, latents: Tensor, *, wrap: bool = True, tiled_border: int = 0) -> Tensor:
        """Return the images (B, 3, H, W) in [0, 1] of scaled latents (B, C, h, w).

        Args:
            latents: Latents of panoramas.
            wrap: Decode without a seam.
            tiled_border: For an autoencoder that decodes in tiles: columns of latents that are copied to each side and
                cropped from the image afterwards, instead of wrapping every convolution.

        Raises:
            InputError: If the memory is too small, or a value is not finite.
        """
        vae = self.pipeline.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        if tiled_border:
            latents = torch.cat([latents[..., -tiled_border:], latents, latents[..., :tiled_border]], -1)
        with ExitStack() as stack:
            stack.enter_context(self.enough_memory())
            if wrap and not tiled_border:
                stack.enter_context(wrapped_autoencoder(vae))
            image: Tensor = vae.decode(latents.to(self.device, vae.dtype), return_dict=False)[0]
        if tiled_border:
            image = image[..., tiled_border * self.factor : -tiled_border * self.factor]
        if not image.isfinite().all():
            raise InputError(
                "the panorama has values that are not finite: the weights of the base or the adapter are damaged, or a "
                "number such as --strength or --guidance is too large"
            )
        return (image.float() / 2 + 0.5).clamp(0, 1)

    def memory(self) -> dict[str, float]:
        """Return the size of each network's weights in GB."""
        return {
            name: sum(p.numel() * p.element_size() for p in network.parameters()) / 1e9
            for name, network in self.networks().items()
        }

    @contextmanager
    def enough_memory(self) -> Iterator[None]:
        """Replace an out-of-memory error by a message that says what would fit.

        Raises:
            InputError: If the memory is too small.
        """
        try:
            yield
        except RuntimeError as error:  # main memory has no error class of its own
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            sizes = self.memory()
            raise InputError(
                f"the memory of the device is too small ({str(error).split('. ')[0]}): the weights alone take "
                f"{sum(sizes.values()):.1f} GB, the largest network {max(sizes.values()):.1f} GB, which is what "
                "--offload model needs; --offload group or sequential needs a few GB, and --quantize nf4 needs a "
                "quarter of the weights when generating"
            ) from error


def check_panorama_size(height: int, width: int, multiple: int) -> None:
    """Check that a size is that of a panorama, in whole tokens, and not too large.

    Raises:
        InputError: If it is not.
    """
    if width != 2 * height:
        raise InputError(f"a panorama is twice as wide as high, not {height} x {width}")
    if height < multiple or height % multiple:
        nearest = max(1, round(height / multiple)) * multiple
        raise InputError(
            f"height and width must be multiples of {multiple}, not {height} x {width}: the nearest is {nearest} x "
            f"{2 * nearest}"
        )
    check_pixels(height, width, "the panorama")
