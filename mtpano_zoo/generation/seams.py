"""Remove the seam where the left and right edge of a panorama meet, in the transformer and in the autoencoder.

Everything works by hooks around unmodified diffusers networks, so adapters, offloading and fast attention keep working.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.tokens import crop_columns, position_ids, wrap_columns

__all__ = ("Seam", "check_seam", "wrapped_autoencoder", "wrapped_transformer")

Seam = Literal["published", "continued", "roll", "none"]
"""How the transformer treats the seam.

- ``published``: every call sees copies of the columns of the other side, with the positions of their originals, as in
  DiT360's training. The only effect is that these columns count twice in the attention.
- ``continued``: the positions of the copies continue those of the image: -1 and so on.
- ``roll``: every call sees the panorama turned by a random number of columns, so that no column stays at the seam.
- ``none``: the network is left as it is.
"""


def check_seam(seam: str) -> None:
    """Refuse an unknown way to treat the seam.

    Raises:
        InputError: If the name is not one of `Seam`.
    """
    if seam not in get_args(Seam):
        raise InputError(f"seam must be one of {', '.join(get_args(Seam))}, not {seam!r}")


@contextmanager
def wrapped_transformer(
    transformer: nn.Module,
    seam: Seam,
    rows: int,
    columns: int,
    *,
    padding: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Iterator[None]:
    """Make every call of a FLUX.1 transformer treat the seam in one of the ways of `Seam`.

    The caller passes tokens (B, rows * columns, C) and gets as many back, as without the hooks. Positions are float32.

    Args:
        transformer: Transformer that is called with keyword arguments, as diffusers' pipelines do.
        seam: How to treat the seam.
        rows: Rows of tokens.
        columns: Columns of tokens.
        padding: Columns copied to each side by ``published`` and ``continued``.
        generator: Random generator on the CPU for the turns of ``roll``, one per call. With a sequence of one per
            panorama of a batch, each panorama turns on its own. If omitted, the global one.

    Raises:
        InputError: If the seam is unknown, or `padding` is not between 0 and `columns`.
    """
    check_seam(seam)
    if not 0 <= padding <= columns:
        raise InputError(f"padding is a number of columns from 0 to {columns}, not {padding}")
    border = padding if seam in ("published", "continued") else 0
    generators = generator if isinstance(generator, Sequence) else [generator]
    turns = [0]

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        nonlocal turns
        tokens: Tensor = kwargs["hidden_states"]
        ids = position_ids(rows, columns, device=tokens.device, padding=border if seam == "continued" else 0)
        if seam == "published":
            ids = wrap_columns(ids, columns, border)
        if seam == "roll":
            turns = [int(torch.randint(columns, (), generator=one)) for one in generators]
        tokens = wrap_columns(_turned(tokens, columns, turns), columns, border)
        return args, kwargs | {"hidden_states": tokens, "img_ids": ids, "txt_ids": kwargs["txt_ids"].float()}

    def after(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
        inner = _turned(crop_columns(outputs[0], columns, border), columns, [-turn for turn in turns])
        return (inner, *outputs[1:]) if isinstance(outputs, tuple) else type(outputs)(sample=inner)

    # Offloading moves the tokens to its device only after this hook, so they may be on another device here.
    handles = [
        transformer.register_forward_pre_hook(before, with_kwargs=True),
        transformer.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _turned(tokens: Tensor, columns: int, turns: Sequence[int]) -> Tensor:
    """Turn all panoramas of a batch by the same number of columns, or each by its own."""
    if not any(turns):
        return tokens
    grids = torch.unflatten(tokens, -2, (-1, columns)).chunk(len(turns))
    return torch.cat([grid.roll(turn, -2) for grid, turn in zip(grids, turns, strict=True)]).flatten(-3, -2)


@contextmanager
def wrapped_autoencoder(vae: nn.Module) -> Iterator[None]:
    """Make every convolution of an `AutoencoderKL` see the columns of the other side beyond the left and right edge.

    Otherwise, each convolution pads with zeros, which leaves a seam in latents and images. Norms and attention see the
    whole image, so decoding commutes exactly with turning the panorama.
    """
    handles = []
    for layer in vae.modules():
        if not isinstance(layer, nn.Conv2d) or layer.kernel_size[1] == 1:
            continue
        if layer.stride[1] == 1:
            handles.append(layer.register_forward_pre_hook(_pad))
            handles.append(layer.register_forward_hook(_crop))
        else:  # diffusers pads the right side by one column before it halves the size
            handles.append(layer.register_forward_pre_hook(_replace_last_column))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pad(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    columns = int(layer.padding[1])  # type: ignore[index]
    return (F.pad(args[0], (columns, columns, 0, 0), mode="circular"), *args[1:])


def _crop(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    columns = int(layer.padding[1])  # type: ignore[index]
    return output[..., columns:-columns]


def _replace_last_column(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    image = args[0]
    return (torch.cat([image[..., :-1], image[..., :1]], -1), *args[1:])
