"""Augmentation that respects the sphere: its result is again a panorama with exact labels.

A sample is a dict of `id` and maps, any of which may be missing. The maps in `mtpano_zoo.tasks.SAMPLE_MAPS` follow the
camera; other keys stay as they are.
"""

import hashlib
import math
import os
import warnings
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mtpano_zoo.data.device_colours import DEVICE_CHANGES
from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere import rotate, rotation_matrix
from mtpano_zoo.tasks import SAMPLE_MAPS

__all__ = ("Augmentation", "Sample", "mirror_sample", "rotate_sample")

Sample = dict[str, Any]


def rotate_sample(sample: Sample, rotation: Tensor) -> Sample:
    """Return the sample that a camera turned by R (3, 3), camera-to-world, sees.

    The image is interpolated, classes and depth are taken from the nearest pixel, normals are interpolated and turned
    with the camera; holes (class 255, depth 0, normal 0) stay holes. A yaw by whole columns is exact.

    Example:
        >>> half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
        >>> sample = {"depth": torch.arange(1.0, 9.0).expand(4, 8)}
        >>> rotate_sample(sample, half_turn)["depth"][1].tolist()
        [5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0]
    """
    rotated = dict(sample)
    for key in sample.keys() & SAMPLE_MAPS.keys():
        maps: Tensor = sample[key]
        turn = rotation.to(maps.device)
        rotated[key] = rotate(maps.reshape(1, -1, *maps.shape[-2:]), turn, SAMPLE_MAPS[key].sampling).view(maps.shape)
    return rotated


def mirror_sample(sample: Sample) -> Sample:
    """Return the sample of a mirrored world: left and right swap, and the x of normals changes its sign.

    Example:
        >>> mirror_sample({"depth": torch.arange(4.0).expand(2, 4)})["depth"][0].tolist()
        [3.0, 2.0, 1.0, 0.0]
    """
    mirrored = sample | {key: sample[key].flip(-1) for key in sample.keys() & SAMPLE_MAPS.keys()}
    for key in mirrored.keys() & SAMPLE_MAPS.keys():
        if SAMPLE_MAPS[key].sampling == "vectors":
            mirrored[key][0].neg_()
    return mirrored


class Augmentation:
    """Random rotations of the camera, mirroring and photometric changes: a function from sample to sample.

    The result depends on (seed, epoch, `id` of the sample) only: not on the worker, the order or the number of
    workers. The epoch is in memory that workers share, so :meth:`set_epoch` also reaches running workers;
    `mtpano_zoo.data.loading.training_loader` calls it before the first sample of every epoch.

    The default changes are exact. Tilts and rotations resample: they blur the image and the normals a little, and
    move classes and depth by up to half a pixel.

    Args:
        yaw: Probability of a rotation about the vertical axis, by a random number of whole columns.
        mirror: Probability of swapping left and right.
        tilt: Probability of tilting the camera, in any direction.
        max_tilt: Largest tilt in degrees; all angles up to it are equally likely.
        rotation: Probability of a rotation drawn uniformly from all rotations, instead of yaw and tilt.
        photometric: Probability of changing brightness, contrast, gamma, hue and saturation of the image.
        strength: How much these change: 0 is nothing, 1 moderate, 2 the most.
        transforms: Photometric changes to apply instead, in this order: transforms of albumentations that change only
            the image, by name, such as `{RandomGamma: {gamma_limit: [80, 120], p: 0.5}}`.
        seed: Seed of the random numbers.

    Raises:
        InputError: If an argument is out of range, or a transform is unknown, has wrong arguments or moves pixels.
    """

    def __init__(
        self,
        yaw: float = 1.0,
        mirror: float = 0.5,
        tilt: float = 0.0,
        max_tilt: float = 10.0,
        rotation: float = 0.0,
        photometric: float = 0.0,
        strength: float = 1.0,
        transforms: list[dict[str, dict[str, Any]]] | None = None,
        seed: int = 0,
    ) -> None:
        shares = {"yaw": yaw, "mirror": mirror, "tilt": tilt, "rotation": rotation, "photometric": photometric}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"Augmentation: {name} is a probability between 0 and 1, got {share}")
        if not 0 <= max_tilt <= 180:
            raise InputError(f"Augmentation: max_tilt must be between 0 and 180 degrees, got {max_tilt}")
        if not 0 <= strength <= 2:
            raise InputError(f"Augmentation: strength must be between 0 and 2, got {strength}")
        if transforms is not None and photometric == 0:
            raise InputError("Augmentation: transforms are never applied as long as photometric is 0, set it to 1")
        self.probabilities = shares
        self.max_tilt = max_tilt
        self.seed = seed
        chosen = _builtin_transforms(strength) if transforms is None else transforms
        self._transforms = [_build_transform(entry) for entry in chosen] if photometric else []
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the following samples, here and in all workers."""
        self._epoch.fill_(epoch)

    def __call__(self, sample: Sample) -> Sample:
        """Return the augmented sample; the given one does not change.

        Raises:
            InputError: If the sample has no `id`.
        """
        if "id" not in sample:
            raise InputError("Augmentation needs an `id` in every sample, because random numbers come from it")
        rng = self._generator(sample["id"])
        # Always draw all numbers, so that another probability of one change leaves the others as they were.
        share = dict(zip(self.probabilities, rng.random(len(self.probabilities)), strict=True))
        happens = {name: share[name] < probability for name, probability in self.probabilities.items()}
        turn, heading, angle, pitch, roll = rng.random(5)
        widths = [sample[key].shape[-1] for key in sample.keys() & SAMPLE_MAPS.keys()]
        if happens["mirror"]:
            sample = mirror_sample(sample)
        if happens["rotation"]:
            # The viewing direction is uniform on the sphere, and so is the angle about it.
            pitch = math.degrees(math.asin(2 * pitch - 1))
            sample = rotate_sample(sample, _rotation(360 * turn, pitch, 360 * roll))
        elif (happens["yaw"] or happens["tilt"]) and widths:
            yaw = math.floor(turn * widths[0]) * 360 / widths[0] if happens["yaw"] else 0.0
            rotation = _rotation(yaw)
            if happens["tilt"]:
                tilt = _rotation(360 * heading, self.max_tilt * angle) @ _rotation(-360 * heading)
                rotation = rotation @ tilt
            sample = rotate_sample(sample, rotation)
        if happens["photometric"] and "image" in sample:
            sample = sample | {"image": self._change_colours(sample["image"], rng)}
        return dict(sample)

    def change_on_device(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Apply the transforms to an image (3, H, W) in [0, 1] where it is, with the numbers that they draw for it.

        Those without a form for devices run on the host.
        """
        for transform in self._transforms:
            transform.set_random_seed(int(rng.integers(2**32)))
            change = DEVICE_CHANGES.get(type(transform).__name__)
            if change is None:
                pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
                image = torch.from_numpy(transform(image=pixels)["image"]).permute(2, 0, 1).to(image.device)
            else:
                transform(image=np.zeros((1, 1, 3), np.float32))  # only to draw; it may draw not to change anything
                drawn = {name: value for name, value in transform.params.items() if name != "shape"}
                image = change(image, **drawn) if drawn else image
        return image.clamp(0, 1).contiguous()

    def _generator(self, name: str) -> np.random.Generator:
        text = f"{self.seed}/{int(self._epoch)}/{name}"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))

    def _change_colours(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Apply the transforms of albumentations to an image (3, H, W) in [0, 1]."""
        if image.device.type != "cpu":
            return self.change_on_device(image, rng)
        if get_worker_info() is not None:
            # Workers share the cores, so use one thread each. Pass 0 for this: setting 1 after a fork waits for threads
            # that only the main process has.
            cv2.setNumThreads(0)
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        for transform in self._transforms:
            # One seed each: transforms that share one, as in albumentations' own Compose, draw equal numbers.
            transform.set_random_seed(int(rng.integers(2**32)))
            pixels = transform(image=pixels)["image"]
        return torch.from_numpy(pixels).permute(2, 0, 1).clamp(0, 1).contiguous()


def _rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Tensor:
    return rotation_matrix(yaw, pitch, roll, dtype=torch.float64)


def _builtin_transforms(strength: float) -> list[dict[str, dict[str, Any]]]:
    gamma = (100 / (1 + 0.25 * strength), 100 * (1 + 0.25 * strength))
    return [
        {"RandomBrightnessContrast": {"brightness_limit": 0.2 * strength, "contrast_limit": 0.2 * strength, "p": 1}},
        {"RandomGamma": {"gamma_limit": gamma, "p": 1}},
        {
            "HueSaturationValue": {
                "hue_shift_limit": 10 * strength,
                "sat_shift_limit": 30 * strength,
                "val_shift_limit": 0,
                "p": 1,
            }
        },
    ]


def _build_transform(entry: dict[str, dict[str, Any]]) -> Any:
    """Build a transform from {name: arguments}.

    Raises:
        InputError: If it is unknown, has wrong arguments or moves pixels.
    """
    # Imported here, because it takes a second or two, and would otherwise ask a server for newer versions of itself.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    if len(entry) != 1:
        raise InputError(f"Augmentation: every transform is one name with its arguments, got {', '.join(entry)}")
    ((name, arguments),) = entry.items()
    kind = getattr(albumentations, name, None)
    if not (isinstance(kind, type) and issubclass(kind, albumentations.ImageOnlyTransform)):
        raise InputError(f"Augmentation: {name} is not a transform of albumentations that changes only the image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # albumentations only warns about unknown arguments
            return kind(**(arguments or {}))
    except (TypeError, ValueError, Warning) as error:
        raise InputError(f"Augmentation: {name} refuses its arguments: {' '.join(str(error).split())}") from error
