"""Whether a picture looks like what a network was trained on.

Outputs do not tell: a network that only knows rooms is as sure of a street as of a room. The deepest features of its
encoder do, to a degree: their means over the sphere are compared, channel by channel, with those of training images.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.resize import resize
from mtpano_zoo.sphere import solid_angles

if TYPE_CHECKING:
    from mtpano_zoo.layers import Encoder

__all__ = ("check_familiarity", "doubts", "encoder_of", "fit_familiarity", "mean_features", "strangeness")

SIZE = (128, 256)  # what is strange in a picture is seen in a small one, for a tenth of the time
MARGIN = 1.05  # between the strangest of the held-out images and the limit
LARGEST = 1e9  # of a number in a card: float32 computes with it
SMALLEST = 1e-6  # spread of a channel, of which the network makes nothing


def encoder_of(network: nn.Module) -> "Encoder":
    """Return the encoder of a network, whose features stand for what it sees.

    Raises:
        InputError: If the network has no `Encoder`.
    """
    from mtpano_zoo.layers import Encoder  # with timm, which takes a second to import

    part = getattr(network, "encoder_part", None)
    encoder = None if part is None else network.get_submodule(part)
    if not isinstance(encoder, Encoder):
        raise InputError(f"{type(network).__name__} has no Encoder, whose features are compared: name another network")
    return encoder


@torch.no_grad()
def mean_features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the means over the sphere (B, C) of the deepest features of panoramas (B, 3, H, W) in [0, 1].

    Raises:
        InputError: If the network has no `Encoder`.
    """
    encoder = encoder_of(network)
    weight = next(encoder.parameters())
    height, width = (max(1, round(side / encoder.multiple)) * encoder.multiple for side in SIZE)
    small = resize(images.to(weight.device), height, width)
    normalize: Any = network.normalize
    with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16):
        deepest: Tensor = encoder(normalize(small).to(weight.dtype))[0][-1].float()
    area = solid_angles(*deepest.shape[-2:]).to(deepest)
    means: Tensor = (deepest * area).sum((2, 3)) / (area.sum() * deepest.shape[-1])
    return means


def strangeness(features: Tensor, known: Mapping[str, Any]) -> Tensor:
    """Return how far features (B, C) are from those of training images: root mean square of standard deviations (B,).

    Raises:
        InputError: If these have another number of channels.

    Example:
        >>> strangeness(torch.tensor([[1.0, 5.0]]), {"mean": [1.0, 1.0], "spread": [2.0, 2.0]}).round(decimals=3)
        tensor([1.4140])
    """
    _check_channels(known, features.shape[1], "the network")
    mean, spread = features.new_tensor(known["mean"]), features.new_tensor(known["spread"])
    return ((features - mean) / spread).square().mean(1).sqrt()


def fit_familiarity(network: nn.Module, images: Iterable[Tensor], held_out: Iterable[Tensor]) -> dict[str, Any]:
    """Return what `card["familiarity"]` of a network holds.

    Args:
        network: Has an `Encoder`, in evaluation mode.
        images: Panoramas (3, H, W) in [0, 1] as it was trained on.
        held_out: Others of the kind, none of which is to be called strange.

    Returns:
        `mean` and `spread` of each channel, and `limit`, the strangeness from which on a picture is doubted.

    Raises:
        InputError: If the network has no encoder, or there are fewer than two images of a set.
    """
    seen, others = ([mean_features(network, image[None]) for image in some] for some in (images, held_out))
    if min(len(seen), len(others)) < 2:
        raise InputError("familiarity needs two images to learn from and two held-out ones at least")
    features = torch.cat(seen)
    known = {"mean": features.mean(0), "spread": features.std(0).clamp(min=SMALLEST)}
    rounded = {key: [float(f"{value:.4g}") for value in values.tolist()] for key, values in known.items()}
    limit = MARGIN * strangeness(torch.cat(others), rounded).max().item()
    return rounded | {"limit": round(limit, 2)}


def check_familiarity(known: Any, network: nn.Module, source: object) -> None:
    """Refuse what the card of a network says about familiarity if it is not what `fit_familiarity` returns for it.

    Raises:
        InputError: If it is not, or the network has no encoder or one with another number of channels.
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
            f"{source} has a card whose familiarity is not `mean` and `spread`, lists of equally many numbers, and "
            "`limit`, of which spread and limit are positive: leave it out or fit it again"
        )
    try:
        channels = encoder_of(network).channels
    except InputError as error:
        raise InputError(
            f"{source} has a card with familiarity, but {type(network).__name__} has no Encoder, of whose features it "
            "would be: leave it out"
        ) from error
    _check_channels(known, channels, source)


def _check_channels(known: Mapping[str, Any], channels: int, source: object) -> None:
    if len(known["mean"]) != channels:
        raise InputError(
            f"{source} has a card whose familiarity is of {len(known['mean'])} channels, but the encoder has "
            f"{channels}: leave it out or fit it again"
        )


def doubts(network: nn.Module, images: Tensor, whole: Sequence[bool]) -> list[tuple[str, ...]]:
    """Return what speaks against trusting the maps of panoramas, in sentences; mostly nothing.

    Whether an image is a panorama at all is asked when its file is read: see `mtpano_zoo.image_io.doubts`.

    Args:
        network: Of the zoo; without `card["familiarity"]`, nothing is doubted.
        images: As the network sees them (B, 3, H, W), in [0, 1].
        whole: Whether an image shows all of the sphere; those that do not are not judged.

    Raises:
        InputError: If the card does not fit the network.
    """
    network = getattr(network, "network", network)  # what was prepared for inference holds it
    known = (getattr(network, "card", None) or {}).get("familiarity")
    if not known or not any(whole):
        return [()] * len(images)
    found: list[tuple[str, ...]] = []
    for far, complete in zip(strangeness(mean_features(network, images), known).tolist(), whole, strict=True):
        sentence = (
            f"it looks like nothing that the network was trained on (strangeness {far:.1f}, limit {known['limit']:g}): "
            "do not trust its maps"
        )
        found.append((sentence,) if complete and far > known["limit"] else ())
    return found
