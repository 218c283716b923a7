"""Whether a picture looks like what a network was trained on.

The outputs do not show it: a network that only knows rooms is as confident about a street as about a room. The deepest
features of its encoder show it to some degree, so their means over the sphere are compared, channel by channel, with
those of training images.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.prediction.small_image import encoder_levels, encoder_of, unprepared
from mtpano_zoo.sphere import solid_angles

__all__ = ("check_familiarity", "doubts", "fit_familiarity", "mean_features", "strangeness")

MARGIN = 1.05  # factor between the strangest held-out image and the limit
LARGEST = 1e9  # bound on the numbers in a card, safe in float32
SMALLEST = 1e-6  # lower bound on the spread of a channel, which may be constant


def mean_features(levels: Sequence[Tensor]) -> Tensor:
    """Return the means over the sphere (B, C) of the deepest of an encoder's levels (B, C, h, w).

    Example:
        >>> mean_features([torch.full((1, 2, 4, 8), 3.0)]).round(decimals=3).tolist()
        [[3.0, 3.0]]
    """
    deepest = levels[-1]
    area = solid_angles(*deepest.shape[-2:]).to(deepest)
    return (deepest * area).sum((2, 3)) / (area.sum() * deepest.shape[-1])


def strangeness(features: Tensor, known: Mapping[str, Any]) -> Tensor:
    """Return how far features (B, C) are from those of training images (B,): the root mean square of their z-scores.

    Raises:
        InputError: If the training images' features have another number of channels.

    Example:
        >>> strangeness(torch.tensor([[1.0, 5.0]]), {"mean": [1.0, 1.0], "spread": [2.0, 2.0]}).round(decimals=3)
        tensor([1.4140])
    """
    _check_channels(known, features.shape[1], "the network")
    mean, spread = features.new_tensor(known["mean"]), features.new_tensor(known["spread"])
    return ((features - mean) / spread).square().mean(1).sqrt()


def fit_familiarity(network: nn.Module, images: Iterable[Tensor], held_out: Iterable[Tensor]) -> dict[str, Any]:
    """Return the value of `card["familiarity"]` for a network.

    Args:
        network: A network with an `Encoder`, in evaluation mode.
        images: Panoramas (3, H, W) in [0, 1] like those it was trained on.
        held_out: Other panoramas of the same kind, none of which may count as strange.

    Returns:
        `mean` and `spread` of each channel, and `limit`, the strangeness above which an image is doubted.

    Raises:
        InputError: If the network has no encoder, or a set has fewer than two images.
    """
    seen, others = (
        [mean_features(encoder_levels(network, image[None])) for image in some] for some in (images, held_out)
    )
    if min(len(seen), len(others)) < 2:
        raise InputError("familiarity needs at least two images to learn from and two held-out ones")
    features = torch.cat(seen)
    known = {"mean": features.mean(0), "spread": features.std(0).clamp(min=SMALLEST)}
    rounded = {key: [float(f"{value:.4g}") for value in values.tolist()] for key, values in known.items()}
    limit = MARGIN * strangeness(torch.cat(others), rounded).max().item()
    return rounded | {"limit": round(limit, 2)}


def check_familiarity(known: Any, network: nn.Module, source: object) -> None:
    """Refuse a familiarity entry of a network's card that does not have the form that `fit_familiarity` returns.

    Raises:
        InputError: If it has another form, or the network has no encoder or one with another number of channels.
    """
    fits = isinstance(known, Mapping) and {"mean", "spread", "limit"} <= known.keys()
    if fits:
        lists = [known["mean"], known["spread"]]
        fits = all(isinstance(values, list) and values for values in lists) and len(lists[0]) == len(lists[1])
        numbers = [*(value for values in lists for value in values), known["limit"]] if fits else []
        fits = fits and all(isinstance(n, int | float) and abs(n) < LARGEST for n in numbers)
        fits = fits and min(lists[1]) >= SMALLEST and known["limit"] > 0
    if not fits:
        raise InputError(
            f"{source} has a card whose familiarity does not hold `mean` and `spread`, two lists of equal length, and "
            "`limit`, a number, with positive spread and limit: leave it out or fit it again"
        )
    try:
        channels = encoder_of(network).channels
    except InputError as error:
        raise InputError(
            f"{source} has a card with familiarity, but {type(network).__name__} has no Encoder whose features it "
            "could describe: leave it out"
        ) from error
    _check_channels(known, channels, source)


def _check_channels(known: Mapping[str, Any], channels: int, source: object) -> None:
    if len(known["mean"]) != channels:
        raise InputError(
            f"{source} has a card whose familiarity has {len(known['mean'])} channels, but the encoder has "
            f"{channels}: leave it out or fit it again"
        )


def doubts(network: nn.Module, levels: Sequence[Tensor] | None, whole: Sequence[bool]) -> list[tuple[str, ...]]:
    """Return reasons not to trust the maps of each panorama, as sentences; usually none.

    Whether an image is a panorama at all is checked when its file is read: see `mtpano_zoo.image_io.doubts`.

    Args:
        network: A network of the zoo; without `card["familiarity"]`, nothing is doubted.
        levels: What `encoder_levels` returns for the panoramas as the network sees them.
        whole: Whether each image shows nearly the whole sphere; those that do not are not judged.

    Raises:
        InputError: If the card does not fit the network.
    """
    known = (getattr(unprepared(network), "card", None) or {}).get("familiarity")
    if not known or levels is None or not any(whole):
        return [()] * len(whole)
    found: list[tuple[str, ...]] = []
    for far, complete in zip(strangeness(mean_features(levels), known).tolist(), whole, strict=True):
        sentence = (
            f"it looks like nothing that the network was trained on (strangeness {far:.1f}, limit {known['limit']:g}): "
            "do not trust its maps"
        )
        found.append((sentence,) if complete and far > known["limit"] else ())
    return found
