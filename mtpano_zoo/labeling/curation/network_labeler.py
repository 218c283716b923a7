"""First stage: a network of the zoo labels whole panoramas."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.fusion import PanoramaLabels
from mtpano_zoo.labeling.module import PanoramaLabeler, read_mask
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.prediction import Prediction, predict
from mtpano_zoo.resize import resize
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("NetworkLabeler",)

FAR = {"file": "8-bit PNG", "unit": "255 = farther than anything that is measured, such as the sky"}


class NetworkLabeler(PanoramaLabeler):
    """Label panoramas with a network's predictions: distances, and classes and normals if it has them.

    Where the network predicts that a distance is not valid, there is none, and the pixel is marked as far.

    Args:
        network: Any network with the task `depth`.
        height: Rows of the labels; the panorama is resized to them before the network sees it.
        width: Columns, twice the rows.
        invalid_mask: Image of any size whose white pixels get no label in any panorama, such as tripod or watermark.

    Raises:
        InputError: If the size is not that of a panorama, or the network has no depth or too many classes.
    """

    def __init__(
        self, network: PanoramaNetwork, *, height: int = 512, width: int = 1024, invalid_mask: str | Path | None = None
    ) -> None:
        super().__init__(height, width)
        if "depth" not in network.tasks:
            raise InputError(
                f"a labeler predicts depth in metres, but {type(network).__name__} has {', '.join(network.tasks)}"
            )
        if len(network.classes) > NO_LABEL:
            raise InputError(f"labels have at most {NO_LABEL} classes, but the network has {len(network.classes)}")
        self.network = network.eval()
        self.classes = tuple(network.classes)
        self.invalid = None if invalid_mask is None else read_mask(invalid_mask, height, width)

    def manifest(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest of labels that are made with these settings."""
        manifest = super().manifest(settings)
        if "valid" in self.network.tasks:
            manifest["encoding"] = {**manifest["encoding"], "far": FAR}
        return manifest

    def observe(self, name: str, sample: Mapping[str, Any]) -> PanoramaLabels:
        """Label one panorama.

        Raises:
            InputError: If the network predicts no finite distance, and no pixel as far.
        """
        image = resize(self._image(sample), self.height, self.width).clamp(0, 1)
        lower = self._trainer is not None and "bf16" in str(self.trainer.precision)
        precision: Literal["bfloat16", "float32"] = "bfloat16" if lower else "float32"
        said = cast(Prediction, predict(self.network, image, precision=precision))
        self.metric = True
        depth = torch.from_numpy(said.depth)
        semseg = None if said.semseg is None else torch.from_numpy(said.semseg.astype(np.uint8))
        normals = None if said.normals is None else torch.from_numpy(said.normals).permute(2, 0, 1)
        far = None if said.valid is None else ~torch.from_numpy(said.valid)
        if not (depth > 0).any() and not (far is not None and far.any()):
            raise InputError("the network predicted no finite distance for it")
        hidden = self._hidden(sample)
        hidden = torch.zeros_like(depth, dtype=torch.bool) if hidden is None else hidden.cpu()
        if normals is not None:
            normals = normals.masked_fill(hidden if far is None else hidden | far, 0)
        return PanoramaLabels(
            None if semseg is None else semseg.masked_fill(hidden, NO_LABEL),
            depth.masked_fill(hidden, 0),
            normals,
            far=None if far is None else far & ~hidden,
        )
