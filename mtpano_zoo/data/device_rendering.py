"""Rendered scenes of a training: workers render them, or only draw them for the device of the training."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch

from mtpano_zoo.data.augmentation import Sample
from mtpano_zoo.data.loading import EvaluationLoaders
from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.errors import InputError
from mtpano_zoo.scenes import Room, render

__all__ = ("DRAWN", "Drawn", "RenderOn", "RenderingLoaders", "check_render_on", "collate_drawn", "render_drawn")

DRAWN = "drawn"  # key of a batch whose scenes are not rendered yet
RenderOn: TypeAlias = Literal["workers", "device"]


class Drawn:
    """A scene and its index in the set that finishes its sample.

    Loaders, and transfers to a device, pass an object like this on as it is.
    """

    def __init__(self, scene: Room, index: int) -> None:
        self.scene = scene
        self.index = index


def check_render_on(render_on: str) -> None:
    """Refuse an unknown place.

    Raises:
        InputError: If it is neither `workers` nor `device`.
    """
    if render_on not in get_args(RenderOn):
        raise InputError(f"render_on is {' or '.join(get_args(RenderOn))}, not {render_on!r}")


def collate_drawn(samples: Sequence[Sample]) -> Sample:
    """Make a batch of scenes that are not rendered yet."""
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def render_drawn(batch: Sample, samples: Any, size: tuple[int, int], device: torch.device | str) -> Sample:
    """Render the scenes of a batch on a device, and let the set `samples` finish them there, as it does by itself.

    The result depends on the device only by rounding.
    """
    drawn: list[Drawn] = batch[DRAWN]
    maps = render([one.scene for one in drawn], *size, device)
    del maps["id"]  # the set names its samples
    rendered = [{key: of_all[k] for key, of_all in maps.items()} for k in range(len(drawn))]
    for sample, one in zip(rendered, drawn, strict=True):
        if one.scene.sky is None:
            sample.pop("far", None)  # a closed room has it only because of others in its batch
    return collate([samples.finish(sample, one.index) for sample, one in zip(rendered, drawn, strict=True)])


class RenderingLoaders(EvaluationLoaders):
    """A data module that may leave rendering to the device of the training.

    Attributes:
        drawn_set: The training set whose `finish` completes rendered samples.
    """

    drawn_set: Any = None
    height: int
    width: int

    def left_to_device(self, samples: Any) -> Any:
        """Return the samples as scenes that are only drawn, for `collate_drawn`; `samples` itself will finish them."""
        self.drawn_set = samples
        return samples.only_drawn()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Render a batch that workers only drew."""
        if not isinstance(batch, dict) or DRAWN not in batch:
            return batch
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
        return render_drawn(batch, self.drawn_set, (self.height, self.width), device)
