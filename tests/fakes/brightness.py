"""A network whose distances are known from the image."""

import torch
from torch import nn


class Brightness(nn.Module):
    """Depth is 1 m + 4 m x brightness."""

    tasks, classes, input_size = ("depth",), (), (16, 32)

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.batches = []

    def forward(self, image):
        self.batches.append(len(image))
        return {"depth": self.scale * (1 + 4 * image.mean(1, keepdim=True))}
