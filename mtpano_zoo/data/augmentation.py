"""Augmentation that respects the sphere: what it makes of a sample is again a panorama with exact labels.

A sample is a dict of `image`, `semseg`, `depth` and `normals`, any of which may be missing, and `id`. Maps follow the
camera; other keys stay as they are.
"""

from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.sphere import Mode, rotate

Sample = dict[str, Any]

MODES: dict[str, Mode] = {"image": "image", "semseg": "label", "depth": "depth", "normals": "vectors"}


def rotate_sample(sample: Sample, rotation: Tensor) -> Sample:
    """What a camera turned by R (3, 3), camera-to-world, sees instead.

    The image is interpolated, classes and depth are taken from the nearest pixel, normals are interpolated and turned
    with the camera; holes (class 255, depth 0, normal 0) stay holes. A yaw by whole columns is exact.
    """
    rotated = dict(sample)
    for key, mode in MODES.items():
        if key in sample:
            maps: Tensor = sample[key]
            batch = maps[None] if maps.ndim == 3 else maps[None, None]
            rotated[key] = rotate(batch, rotation, mode).view(maps.shape)
    return rotated


def mirror_sample(sample: Sample) -> Sample:
    """What is seen in a mirrored world: left and right change places, and normals change the sign of their x."""
    mirrored = sample | {key: sample[key].flip(-1) for key in MODES if key in sample}
    if "normals" in mirrored:
        normals = mirrored["normals"]
        mirrored["normals"] = torch.stack((-normals[0], normals[1], normals[2]))
    return mirrored


class Augmentation:
    """Random turns of the camera, mirroring and changes of colour: a function from sample to sample.

    The result depends on (seed, epoch, `id` of the sample) only: not on the worker, the order or the number of
    workers. The epoch lies in memory that workers share, so :meth:`set_epoch` also reaches those that run already;
    `mtpano_zoo.data.loading.TrainingLoader` calls it before the first sample of every epoch.

    What is on by default is exact; tilts and rotations resample, and leave classes and depth off by up to half a
    pixel.

    Args:
        yaw: Probability of a turn about the vertical axis, by a random number of whole columns.
        mirror: Probability of changing left and right.
        tilt: Probability of tilting the camera.
        max_tilt: Largest tilt in degrees; every direction and every angle up to it is equally likely.
        rotation: Probability of a rotation drawn uniformly from all, instead of yaw and tilt.
        colour: Probability of changing the colours of the image.
        strength: How much colours change; 1 is moderate, 0 nothing.
        transforms: Instead of the built-in changes of colour, transforms of albumentations by name, each a mapping
            such as `{RandomGamma: {gamma_limit: [80, 120], p: 0.5}}`; only such as leave the geometry alone.
        seed: Another seed gives other samples.

    Raises:
        ValueError: An argument is out of range, or a transform is unknown or moves pixels.
    """

    def __init__(
        self,
        yaw: float = 1.0,
        mirror: float = 0.5,
        tilt: float = 0.0,
        max_tilt: float = 10.0,
        rotation: float = 0.0,
        colour: float = 0.0,
        strength: float = 1.0,
        transforms: list[dict[str, dict[str, Any]]] | None = None,
        seed: int = 0,
    ) -> None:
        for name, share in {"yaw": yaw, "mirror": mirror, "tilt": tilt, "rotation": rotation, "colour": colour}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"Augmentation: {name} is a probability between 0 and 1, got {share}")
        if not 0 <= max_tilt <= 180:
            raise ValueError(f"Augmentation: max_tilt must be between 0 and 180 degrees, got {max_tilt}")
        if not 0 <= strength <= 1:
            raise ValueError(f"Augmentation: strength must be between 0 and 1, got {strength}")
        self.yaw, self.mirror, self.tilt, self.max_tilt, self.rotation = yaw, mirror, tilt, max_tilt, rotation
        self.colour, self.seed = colour, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the samples from now on belong to, here and in all workers."""
        self._epoch.fill_(epoch)

    def __call__(self, sample: Sample) -> Sample:
        """The augmented sample; the given one is left alone.

        Raises:
            ValueError: The sample has no `id`.
        """
        if "id" not in sample:
            raise ValueError("Augmentation needs the key `id` in every sample: its random numbers come from it")
        raise NotImplementedError
