"""A network of three tasks whose maps follow from the image by a rule."""

import torch
from torch import nn

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
