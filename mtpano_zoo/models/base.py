"""What every network of the zoo has in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtpano_zoo.tasks import check_tasks

if TYPE_CHECKING:
    from mtpano_zoo.prediction import Prediction

__all__ = ("IMAGENET_MEAN", "IMAGENET_STD", "NORMALS_FRAMES", "PanoramaNetwork")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Frame of a network's normals: the matrix that turns them into ours, x right, y down, z forward.
NORMALS_FRAMES = {
    "right-down-forward": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "forward-up-left": ((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)),
}


class PanoramaNetwork(nn.Module):
    """A plain module from images (B, 3, H, W) in [0, 1] to a dict of maps by task, and what a user wants to know of it.

    Attributes:
        tasks: main tasks, in standard order.
        classes: names of the semantic classes; empty without `semseg`.
        palette: colour (R, G, B) of every class, or None for the default colours.
        input_size: height and width that it was made for.
        config: the arguments that build it again, as plain data.
        normals_frame: frame of the normals that it gives, one of `NORMALS_FRAMES`.
        normals_to_camera: matrix (3, 3) that turns its normals into the frame x right, y down, z forward.
        takes_auxiliary: whether `forward` takes `auxiliary=False`, which leaves out what only training asks for.
        card: where it comes from, as plain data with the keys of `checkpoints.yaml` (description, paper, license,
            upstream, training_data, ...) and `results`, its scores; empty when nothing is said. It is saved and loaded
            with the network.
    """

    takes_auxiliary = False

    def __init__(
        self,
        tasks: Sequence[str],
        classes: Sequence[str],
        palette: Sequence[Sequence[int]] | None,
        input_size: tuple[int, int],
        normals_frame: str,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.tasks = check_tasks(tuple(tasks))
        self.classes = tuple(classes) if "semseg" in self.tasks else ()
        if "semseg" in self.tasks and not self.classes:
            raise ValueError("A network with the task semseg needs the names of its classes: give classes=[...].")
        if isinstance(classes, str) or len(set(classes)) < len(classes):
            raise ValueError(f"classes are different names in a list, not {classes!r}.")
        if palette is not None and len(palette) != len(classes):
            raise ValueError(f"palette has {len(palette)} colours for {len(classes)} classes.")
        if normals_frame not in NORMALS_FRAMES:
            raise ValueError(f"normals_frame must be one of {', '.join(NORMALS_FRAMES)}, not {normals_frame!r}.")
        self.normals_frame = normals_frame
        self.normals_to_camera = NORMALS_FRAMES[normals_frame]
        self.palette = palette
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.config = config
        self.card: dict[str, Any] = {}
        self.image_mean: Tensor
        self.image_std: Tensor
        self.register_buffer("image_mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """Normalise an image (B, 3, H, W) in [0, 1] as the encoder expects it."""
        return (image - self.image_mean) / self.image_std

    def predict(self, source: Any, **options: Any) -> "Prediction | list[Prediction]":
        """Predict for a path, an image, an array or a tensor: see `mtpano_zoo.prediction.predict`."""
        from mtpano_zoo.prediction import predict  # the network itself needs no image reader and no plots

        return predict(self, source, **options)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write weights, configuration and model card: see `mtpano_zoo.zoo.sharing.save_pretrained`."""
        from mtpano_zoo.zoo.sharing import save_pretrained  # the network itself needs no writer and no Hub

        save_pretrained(self, folder, overwrite=overwrite)

    def push_to_hub(
        self, repository: str, *, token: str | None = None, private: bool = False, message: str = "Upload model"
    ) -> str:
        """Upload what `save_pretrained` writes and return its address: see `mtpano_zoo.zoo.sharing.push_to_hub`."""
        from mtpano_zoo.zoo.sharing import push_to_hub

        return push_to_hub(self, repository, token=token, private=private, message=message)
