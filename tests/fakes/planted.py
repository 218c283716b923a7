"""A predictor that is right but for little noise, and one planted defect; and the rooms that it can read.

The image of a room holds the direction that every pixel shows, times a factor that says which room it is. So the
predictor knows the attitude of a turned camera from the image alone, and casts rays into the room: no side channel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.sphere import erp_rays, pad, rotation_matrix

CLASSES = ("floor", "ceiling", "wall", "ball")
DEFECTS = ("seam", "poles", "tilt", "yaw", "scale", "holes", "mirrored", "swap")


def _room(number: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Lower and upper corner of the box around the camera in metres, centre and radius of a ball in it."""
    g = torch.Generator().manual_seed(number)
    r = torch.rand(8, generator=g)
    low = -torch.stack((1.5 + 2 * r[0], 0.8 + 0.7 * r[1], 1.5 + 2 * r[2]))
    high = torch.stack((1.5 + 2 * r[3], 1.2 + 0.5 * r[4], 1.5 + 2 * r[5]))
    angle = 2.5 * (r[6].item() - 0.5)  # in front: not across the border
    return low, high, torch.tensor([1.1 * math.sin(angle), 0.3, 1.1 * math.cos(angle)]), 0.35 + 0.1 * r[7].item()


def cast(number: int, rays: Tensor) -> dict[str, Tensor]:
    """Depth (H, W), normals (3, H, W) in the frame of the room, and classes (H, W) along rays (H, W, 3)."""
    low, high, centre, radius = _room(number)
    reach = torch.where(rays > 0, high, low) / torch.where(rays.abs() < 1e-9, 1e-9, rays)
    depth, axis = reach.min(-1)
    normals = -F.one_hot(axis, 3) * rays.gather(-1, axis[..., None]).sign()
    semseg = torch.where(axis == 1, (rays[..., 1] < 0).long(), 2)
    along = rays @ centre
    inside = along.square() - centre.square().sum() + radius**2
    near = along - inside.clamp(min=0).sqrt()
    hit = (inside > 0) & (near > 0)
    normals = torch.where(hit[..., None], (near[..., None] * rays - centre) / radius, normals.float())
    return {
        "depth": torch.where(hit, near, depth),
        "normals": normals.movedim(-1, 0),
        "semseg": torch.where(hit, 3, semseg),
    }


class PlantedRooms:
    """Samples of rooms in 32 x 64 pixels, the data set that the predictor can read."""

    classes = CLASSES

    def __init__(self, count: int = 6, height: int = 32) -> None:
        self.count, self.height = count, height

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"room-{index}"

    def __getitem__(self, index: int) -> dict:
        rays = erp_rays(self.height, 2 * self.height)
        image = 0.5 + 0.5 * (0.99 - 0.03 * index) * rays.movedim(-1, 0)
        return {"image": image, "id": self.name(index), **cast(index, rays)}


class PlantedPredictor:
    """Callable from an image (3, H, W) to its maps.

    Args:
        defect: one of `DEFECTS`, or None.
        seed: of the noise.
        noise: standard deviation of the logarithm of depth, and of the components of a normal.
    """

    def __init__(self, defect: str | None = None, seed: int = 0, noise: float = 0.01) -> None:
        self.defect = defect
        self.seed = seed
        self.noise = noise

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        rays = erp_rays(height, width)
        seen = 2 * image.movedim(0, -1) - 1
        length = seen.norm(dim=-1)
        number = round((0.99 - length.median().item()) / 0.03)
        u, _, v = torch.linalg.svd(torch.einsum("hwi,hwj->ij", (seen / length[..., None]).double(), rays.double()))
        sign = torch.diag(torch.tensor([1.0, 1.0, torch.det(u @ v).item()], dtype=torch.float64))
        turn = (u @ sign @ v).float()  # camera to room
        lean = math.degrees(math.acos(max(-1.0, min(1.0, turn[1, 1].item()))))
        if self.defect == "tilt" and lean > 1:  # it believes that every camera is level
            turn = rotation_matrix(yaw=math.degrees(math.atan2(turn[0, 2], turn[2, 2])))
        maps = cast(number, torch.einsum("ij,hwj->hwi", turn, rays))
        maps["normals"] = torch.einsum("ji,jhw->ihw", turn, maps["normals"])
        g = torch.Generator().manual_seed(1000 * self.seed + number)
        maps["depth"] = maps["depth"] * (self.noise * torch.randn(height, width, generator=g)).exp()
        maps["normals"] = F.normalize(maps["normals"] + self.noise * torch.randn(3, height, width, generator=g), dim=0)
        random = torch.randint(len(CLASSES), (height, width), generator=g)
        maps["semseg"] = torch.where(torch.rand(height, width, generator=g) < self.noise, random, maps["semseg"])
        return self._damaged(maps, g)

    def _damaged(self, maps: dict[str, Tensor], g: torch.Generator) -> dict[str, Tensor]:
        depth = maps["depth"]
        height, width = depth.shape
        column = torch.arange(width)
        if self.defect == "seam":
            maps["depth"] = depth * torch.where(column < width // 32, 1.1, 1.0)
        elif self.defect == "poles":
            blurred = F.avg_pool2d(pad(depth[None], (4, 4, 2, 2))[None], (5, 9), stride=1)[0, 0]
            cap = torch.zeros(height, 1, dtype=torch.bool)
            cap[: height // 6] = cap[-(height // 6) :] = True
            maps["depth"] = torch.where(cap, blurred, depth)
        elif self.defect == "yaw":
            maps["depth"] = depth * (1 + 0.05 * torch.sin((column + 0.5) / width * 2 * math.pi))
        elif self.defect == "scale":
            maps["depth"] = depth * 1.2
        elif self.defect == "holes":
            maps["depth"] = depth.clone()
            maps["depth"][height // 2 : 3 * height // 4, width // 4 : width // 2] = 0
        elif self.defect == "mirrored":
            maps["normals"] = maps["normals"] * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
        elif self.defect == "swap":
            maps["semseg"] = torch.tensor([0, 2, 1, 3])[maps["semseg"]]
        return maps
