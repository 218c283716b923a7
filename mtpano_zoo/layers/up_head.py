"""Where up is, from what an encoder sees."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.sphere import erp_angles, erp_rays, pad, solid_angles, unit

__all__ = ("UpHead",)

DROPPED = 0.1  # share of the features that training leaves out, since few of them come from photographs


class UpHead(nn.Module):
    """The up direction of the camera, voted for by all parts of a panorama.

    Every position votes for a direction in its own frame: east, north and outwards. So what is learned from a leaning
    door frame in front of the camera holds all around it. Up is the direction of the weighted sum of the votes.

    Args:
        channels: Channels of each of the encoder's levels.
        width: Channels of the hidden layers.
        depth: Number of hidden layers.

    Example:
        >>> head = UpHead(4, width=8, depth=1).eval()
        >>> levels = [torch.rand(2, 4, 16, 32) for _ in range(4)]
        >>> up = head(levels)
        >>> turned = head([level.roll(8, -1) for level in levels])  # everything moves to the right by a quarter turn
        >>> torch.allclose(turned, torch.stack((up[:, 2], up[:, 1], -up[:, 0]), 1), atol=1e-5)
        True
    """

    def __init__(self, channels: int, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.project = nn.Conv2d(2 * channels, width, 1)
        self.latitude = nn.Conv2d(4, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.vote = nn.Conv2d(width, 4, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return unit vectors (B, 3) in the frame of the camera, from the encoder's levels (B, C, h, w)."""
        return unit(self.votes(self.pooled(levels)).sum((2, 3)))

    def pooled(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the two deepest of the encoder's levels at half their size, (B, 2 C, h / 2, w / 2), rounded up."""
        return F.avg_pool2d(torch.cat([*levels[-2:]], dim=1), 2, ceil_mode=True)

    def votes(self, pooled: Tensor) -> Tensor:
        """Return the weighted votes (B, 3, h, w), in the frame of the camera, of pooled levels (B, 2 C, h, w)."""
        height, width = pooled.shape[-2:]
        longitude, latitude = (angle.to(pooled) for angle in erp_angles(height, width, device=pooled.device))
        waves = torch.stack((latitude.sin(), latitude.cos(), (2 * latitude).sin(), (2 * latitude).cos()))
        features = F.dropout2d(pooled, DROPPED, self.training)
        x = F.relu(self.norm(self.project(features) + self.latitude(waves[None, :, :, None])))
        area = solid_angles(height, width, device=x.device).to(x)
        for block in self.blocks:
            x = block(x, area)
        vote = self.vote(x)
        local, weight = unit(vote[:, :3], dim=1), F.softplus(vote[:, 3:]) * area
        rays = erp_rays(height, width, device=x.device).to(x)
        east = torch.stack((longitude.cos(), torch.zeros_like(longitude), -longitude.sin()), dim=-1).expand_as(rays)
        frame = torch.stack((east, torch.linalg.cross(rays, east), rays))
        votes: Tensor = torch.einsum("bkhw,khwc->bchw", local, frame) * weight
        return votes


class _Block(nn.Module):
    """A residual convolution that also sees the mean over the sphere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width, 3)
        self.everywhere = nn.Linear(width, width)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, area: Tensor) -> Tensor:
        mean = (x * area).sum((2, 3)) / (area.sum() * x.shape[-1])
        added: Tensor = self.norm(self.near(pad(x, (1, 1, 1, 1))) + self.everywhere(mean)[:, :, None, None])
        return x + F.relu(added)
