"""What every network of the zoo has in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.layers import RecordedModule
from mtpano_zoo.tasks import check_tasks

if TYPE_CHECKING:
    from mtpano_zoo.prediction import Prediction

__all__ = ("IMAGENET_MEAN", "IMAGENET_STD", "PanoramaNetwork", "palette_for", "plain_palette")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PanoramaNetwork(RecordedModule):
    """A plain module from images (B, 3, H, W) in [0, 1] to a dict of maps by task, in our units and our frame.

    `forward` returns the main tasks that the network has: `semseg` logits (B, C, H, W), `depth` (B, 1, H, W) in metres
    along the ray, `normals` (B, 3, H, W) x right, y down, z forward and towards the camera, `valid` (B, 1, H, W) logits
    that the distance is defined and within the range of the network, `disparity` (B, 1, H, W) inverse distance up to
    scale and shift. For training it may add `aux`, intermediate predictions by task, and `ext`, auxiliary tasks. A
    subclass names its `tasks` and `input_size`; everything else has a default.

    Class attributes name the parts that code outside the network needs, by their paths, as `get_submodule` takes them.

    Attributes:
        tasks: main tasks, in standard order.
        classes: names of the semantic classes; empty without `semseg`.
        palette: colour (R, G, B) of every class, or None for the default colours.
        input_size: height and width that it was made for.
        multiple: height and width of an image must be multiples of it.
        card: where it comes from, as plain data with the keys of `checkpoints.yaml` (description, paper, license,
            upstream, training_data, ...) and `results`, its scores; empty when nothing is stated. It is saved and
            loaded with the network.
        encoder_part: the part that can start from pretrained weights, be frozen, or have its own learning rate.
        classifier_parts: convolutions that score the semantic classes, one output channel each: they are
            re-initialised for other classes.
        auxiliary_parts: parts that a warm-up trains alone.
        up_head: estimates where up is, (B, 3), from the levels of the network's `Encoder`, so that `predict` can notice
            a tilt; usually None.
        ranges: distances in metres, ascending, for each of which it predicts a mask of what is nearer; `valid` is the
            mask of the last one, or of `max_distance` if `forward` gets one of them. Empty without such masks.
        takes_auxiliary: whether `forward` takes `auxiliary=False`, which leaves out `aux` and `ext`.
        rolls: whether rolling the panorama by a multiple of `multiple` columns rolls the outputs by as much.

    Args:
        tasks: main tasks.
        input_size: height and width that it is made for.
        classes: names of the semantic classes, which `semseg` needs.
        palette: colour (R, G, B) of every class.
        image_mean: mean that images are normalised with.
        image_std: standard deviation that images are normalised with.

    Raises:
        InputError: If a task is unknown, classes are missing or repeated, or the palette does not fit.
    """

    encoder_part: ClassVar[str | None] = None
    classifier_parts: ClassVar[tuple[str, ...]] = ()
    auxiliary_parts: ClassVar[tuple[str, ...]] = ()
    takes_auxiliary: ClassVar[bool] = False
    ranges: tuple[float, ...] = ()
    rolls: bool = False
    multiple: int = 1

    def __init__(
        self,
        tasks: Sequence[str],
        input_size: tuple[int, int],
        *,
        classes: Sequence[str] = (),
        palette: Sequence[Sequence[int]] | None = None,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.tasks = check_tasks(tasks)
        self.classes = tuple(classes) if "semseg" in self.tasks else ()
        if "semseg" in self.tasks and not self.classes:
            raise InputError("A network with the task semseg needs the names of its classes: set classes=[...].")
        if isinstance(classes, str) or len(set(classes)) < len(classes):
            raise InputError(f"classes are different names in a list, not {classes!r}.")
        self.palette = None if palette is None else palette_for(classes, palette)
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.card: dict[str, Any] = {}
        self.up_head: nn.Module | None = None
        self.image_mean: Tensor
        self.image_std: Tensor
        mean, std = (torch.tensor(x, dtype=torch.float32).view(1, 3, 1, 1) for x in (image_mean, image_std))
        self.register_buffer("image_mean", mean, persistent=False)
        self.register_buffer("image_std", std, persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """Normalise an image (B, 3, H, W) in [0, 1] as the encoder expects it."""
        return (image - self.image_mean) / self.image_std

    def check_size(self, height: int, width: int, what: str = "The image") -> None:
        """Refuse an image that does not fit the grid of the network.

        Raises:
            InputError: If height or width is not a positive multiple of `multiple`.
        """
        if height < 1 or width < 1 or height % self.multiple or width % self.multiple:
            raise InputError(f"{what} is {height} x {width}, but both must be multiples of {self.multiple}.")

    def drop_up_head(self) -> None:
        """Remove the `up_head`, because it fits only the encoder as it is now."""
        self.up_head = None
        if "up_head" in self.config:
            self.config["up_head"] = False

    def predict(self, source: Any, **options: Any) -> "Prediction | list[Prediction]":
        """Predict for a path, an image, an array or a tensor: see `mtpano_zoo.prediction.predict`."""
        from mtpano_zoo.prediction import predict  # the network itself needs no image reader and no plots

        return predict(self, source, **options)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write weights, configuration and model card: see `mtpano_zoo.files.sharing.save_pretrained`."""
        from mtpano_zoo.files.sharing import save_pretrained  # the network itself needs no writer and no Hub

        save_pretrained(self, folder, overwrite=overwrite)

    def push_to_hub(
        self, repository: str, *, token: str | None = None, private: bool = False, message: str = "Upload model"
    ) -> str:
        """Upload what `save_pretrained` writes and return its address: see `mtpano_zoo.files.sharing.push_to_hub`."""
        from mtpano_zoo.files.sharing import push_to_hub

        return push_to_hub(self, repository, token=token, private=private, message=message)


def palette_for(classes: Sequence[str], palette: Any) -> list[list[int]]:
    """Return one colour (R, G, B) for each class, as plain data.

    Raises:
        InputError: If there are more or fewer, or a colour is not three whole numbers from 0 to 255.
    """
    colours = plain_palette(palette)
    if len(colours) != len(classes):
        raise InputError(f"palette has {len(colours)} colours for {len(classes)} classes.")
    return colours


def plain_palette(palette: Any) -> list[list[int]]:
    """Return colours (R, G, B) of classes as plain data.

    Raises:
        InputError: If a colour is not three whole numbers from 0 to 255.

    Example:
        >>> plain_palette(np.array([[255, 0, 0]]))
        [[255, 0, 0]]
        >>> plain_palette([])
        []
    """
    try:
        colours = np.asarray(palette, np.float64)
        colours = colours.reshape(-1, 3) if colours.size == 0 else colours
        fits = colours.ndim == 2 and colours.shape[1] == 3 and bool(np.isin(colours, np.arange(256)).all())
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise InputError(f"palette is three whole numbers from 0 to 255 for every class, not {palette!r}.")
    plain: list[list[int]] = colours.astype(int).tolist()
    return plain
