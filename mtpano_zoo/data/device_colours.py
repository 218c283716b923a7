"""Photometric changes of albumentations on any device, for images that are rendered there."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ("DEVICE_CHANGES", "change_contrast", "change_gamma", "shift_hsv")

SECTOR = 30.0  # of hue: OpenCV counts 180 in 8 bits


def change_contrast(image: Tensor, alpha: float, beta: float) -> Tensor:
    """Return `alpha` times an image in [0, 1] plus `beta`, as `RandomBrightnessContrast` does."""
    return (image * alpha + beta).clamp(0, 1)


def change_gamma(image: Tensor, gamma: float) -> Tensor:
    """Return an image in [0, 1] to a power, as `RandomGamma` does."""
    return image.clamp(min=0).pow(gamma)


def shift_hsv(image: Tensor, hue_shift: float, sat_shift: float, val_shift: float) -> Tensor:
    """Shift hue, saturation and value of an image (3, H, W) in [0, 1], as `HueSaturationValue` does: in 8 bits.

    Hue counts 180 around the circle, the others 255. Grey pixels stay grey.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
        >>> shift_hsv(red, 60, 0, 0).flatten().tolist()  # a third of the circle
        [0.0, 1.0, 0.0]
    """
    red, green, blue = levels = (image * 255).round()
    value, lowest = levels.amax(0), levels.amin(0)
    spread = value - lowest
    divisor = spread.clamp(min=1)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = ((sector * SECTOR).round() % 180 + hue_shift) % 180
    saturation = (spread * 255 / value.clamp(min=1)).round()
    saturation = torch.where(saturation > 0, (saturation + int(sat_shift)).clamp(0, 255), 0)
    value = (value + int(val_shift)).clamp(0, 255)
    channels = []
    for offset in (5, 3, 1):
        position = (offset + hue.floor() / SECTOR) % 6
        share = torch.minimum(position, 4 - position).clamp(0, 1)
        channels.append(value - value * saturation / 255 * share)
    return torch.stack(channels).round().clamp(0, 255) / 255


DEVICE_CHANGES: Mapping[str, Callable[..., Tensor]] = {
    "RandomBrightnessContrast": change_contrast,
    "RandomGamma": change_gamma,
    "HueSaturationValue": shift_hsv,
}
"""Functions of an image and the parameters that the transform of this name draws."""
