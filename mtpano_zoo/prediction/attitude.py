"""How the cameras of panoramas were tilted, and what a network is shown of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mtpano_zoo.image_io import Panorama
from mtpano_zoo.prediction.levelling import UNCERTAIN, edge_rows, estimate_up, levelling_rotation
from mtpano_zoo.prediction.small_image import encoder_levels, unprepared
from mtpano_zoo.prediction.sources import network_input
from mtpano_zoo.sphere import rotate, solid_angles

__all__ = ("Attitude", "Shown", "level_input", "notices_tilt")

NOTICED = 8.0  # degrees of tilt from which an `up_head` is believed, which is right to a few degrees
AGREE = 12.0  # degrees within which edges may correct it without another look
# Share of the sphere that may be unseen in a whole panorama, as below a disc of 25 degrees that hides the tripod. Black
# there changed the tilt that the `up_head` of `mtpano-small.photos` saw in four photographs by up to 0.8 degrees.
UNSEEN = 0.05


class Attitude(NamedTuple):
    """Where up is (3,), in the frame of the camera, and the rotation (3, 3) to the camera that the network sees.

    Both are None if the camera stays as it is and nobody knows where up is.
    """

    up: Tensor | None
    turn: Tensor | None


class Shown(NamedTuple):
    """What a network is shown (B, 3, h, w), how each panorama was turned for it, and what its encoder sees in small.

    `whole` says which panoramas show nearly the whole sphere: no crops, and at most `UNSEEN` of it unseen. The
    encoder's levels (B, C, h, w) are missing if nothing needs them.
    """

    batch: Tensor
    attitudes: list[Attitude]
    whole: list[bool]
    levels: list[Tensor] | None


def notices_tilt(network: nn.Module) -> bool:
    """Return whether a network, or one prepared for inference, has an `up_head`."""
    return getattr(unprepared(network), "up_head", None) is not None


def level_input(
    network: nn.Module, panoramas: Sequence[Panorama | Tensor], size: tuple[int, int], level: bool | None
) -> Shown:
    """Return the input of a network as a level camera would see it, as far as it is known how the camera was tilted.

    Args:
        network: The network, or one prepared for inference.
        panoramas: Panoramas, or images (3, H, W) in [0, 1].
        size: Height and width of the input.
        level: As `predict` takes it.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    images = [panorama if isinstance(panorama, Tensor) else panorama.pixels for panorama in panoramas]
    attitudes = [_attitude(panorama, bool(level)) for panorama in panoramas]
    batch = torch.stack(
        [network_input(image, *size, device, one.turn) for image, one in zip(images, attitudes, strict=True)]
    )
    plain = unprepared(network)
    head = getattr(plain, "up_head", None) if level is None else None
    known = head is not None or (getattr(plain, "card", None) or {}).get("familiarity")
    whole = [_is_whole(panorama) for panorama in panoramas]
    levels = encoder_levels(plain, batch) if known and any(whole) else None
    if head is None or levels is None:
        return Shown(batch, attitudes, whole, levels)
    ups = _noticed(head, levels)
    tilted = [
        i
        for i, complete in enumerate(whole)
        if complete and attitudes[i].turn is None and levelling_rotation(ups[i], NOTICED) is not None
    ]
    for i in tilted:
        attitudes[i] = _estimated(_settled(plain, panoramas[i], batch[i], ups[i]))
        batch[i] = network_input(images[i], *size, device, attitudes[i].turn)
    return Shown(batch, attitudes, whole, encoder_levels(plain, batch) if tilted else levels)


def _is_whole(panorama: Panorama | Tensor) -> bool:
    seen = _seen(panorama)
    if seen is None or isinstance(panorama, Tensor):
        return True
    area = solid_angles(*seen.shape)[:, 0].numpy()
    return panorama.window is None and bool((~seen).mean(1) @ area <= UNSEEN * area.sum())


def _attitude(panorama: Panorama | Tensor, level: bool) -> Attitude:
    """Return the attitude that the edges show, if `level` is set and they do; otherwise the one in the file's pose."""
    if level and (up := _edges(panorama)) is not None:
        return _estimated(up)
    pose = None if isinstance(panorama, Tensor) else panorama.pose
    stated = None if pose is None else torch.tensor(pose.up)
    return Attitude(stated, levelling_rotation(stated))


def _settled(network: Any, panorama: Panorama | Tensor, shown: Tensor, noticed: Tensor) -> Tensor:
    """Return where up is in a panorama whose tilt the network has noticed, according to its edges if they are right.

    Where they contradict the network, it looks at the image as they would level it: it knows best what is upright.
    Edges mislead where there are few straight ones, and the network where the tilt is large.
    """
    edges = _edges(panorama)
    if edges is None:
        return noticed
    if float(edges @ noticed) < math.cos(math.radians(AGREE)):
        if (turn := levelling_rotation(edges, UNCERTAIN)) is None:
            return noticed
        level = rotate(shown[None], turn.to(shown))
        if levelling_rotation(_noticed(network.up_head, encoder_levels(network, level))[0], NOTICED) is not None:
            return noticed
    return edges


def _noticed(head: nn.Module, levels: Sequence[Tensor]) -> Tensor:
    weight = next(head.parameters())
    with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16):
        ups: Tensor = head([features.to(weight.dtype) for features in levels])
    return ups.float().cpu()


def _estimated(up: Tensor) -> Attitude:
    return Attitude(up, levelling_rotation(up, UNCERTAIN))


def _edges(panorama: Panorama | Tensor) -> Tensor | None:
    image = panorama if isinstance(panorama, Tensor) else panorama.pixels
    rows = edge_rows(image.shape[-2] if isinstance(image, Tensor) else image.shape[0])
    seen = _seen(panorama)
    small = network_input(image, rows, 2 * rows, torch.device("cpu"))
    return estimate_up(small, None if seen is None else torch.from_numpy(seen))


def _seen(panorama: Panorama | Tensor) -> Any:
    return None if isinstance(panorama, Tensor) else panorama.seen
