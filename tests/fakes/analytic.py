"""A network whose maps are known from the image, and an image for it."""

import numpy as np
import torch
from torch import nn

from mtpano_zoo.sphere import erp_rays

CLASSES = ("red", "green", "blue")


class Analytic(nn.Module):
    """Depth is 1 m + 4 m x brightness, the class is the strongest colour, and every surface faces the camera."""

    def __init__(self, tasks=("semseg", "depth", "normals"), input_size=(32, 64)):
        super().__init__()
        self.tasks = tasks
        self.classes = CLASSES if "semseg" in tasks else ()
        self.input_size = input_size
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = []

    def forward(self, image):
        self.calls.append((image.shape, self.training, torch.is_inference_mode_enabled()))
        rays = erp_rays(*image.shape[-2:]).permute(2, 0, 1)
        normals = -rays.expand(len(image), -1, -1, -1)
        depth = 1 + 4 * image.mean(1, keepdim=True)
        maps = {"semseg": image * self.scale, "depth": depth * self.scale, "normals": 3 * normals * self.scale}
        return {task: maps[task] for task in self.tasks if task in maps}


def smooth(height, width):
    """Colours that change slowly over the whole sphere, seam included."""
    return torch.as_tensor(0.5 + 0.4 * erp_rays(height, width)).permute(2, 0, 1)


def photo(height=32, width=64):
    return (smooth(height, width) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def angles(a, b):
    """Degrees between unit vectors, exact for small angles too."""
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a.astype(float) - b, axis=-1) / 2, 0, 1)))
