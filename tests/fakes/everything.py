"""A network of three tasks whose maps follow from the image by a rule, and results of it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from mtpano_zoo.run import run
from mtpano_zoo.sphere import erp_rays


class Everything(nn.Module):
    """Depth 1 m + 4 m x brightness, a sky where it is blue, surfaces that face the camera."""

    tasks, classes, input_size = ("semseg", "depth", "normals"), ("ground", "sky"), (16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        normals = -erp_rays(*image.shape[-2:]).permute(2, 0, 1).expand(len(image), -1, -1, -1)
        depth = 1 + 4 * image.mean(1, keepdim=True)
        return {"semseg": image[:, 1:] * self.scale, "depth": depth * self.scale, "normals": normals * self.scale}


def results_of_two(folder: Path) -> Path:
    """Results of two panoramas in the folder `results`; the panoramas are in the folder `photos` beside it."""
    photos = folder / "photos"
    (photos / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "sub/b c.png")):
        pixels = np.full((16, 32, 3), 60 * (i + 1), np.uint8)
        pixels[:4, :, 2] = 250
        Image.fromarray(pixels).save(photos / name)
    run([photos], Everything(), folder / "results", progress=False, panel=False)
    return folder / "results"
