"""A stand-in for the package `moge`, which is not on any index, with its documented interface."""

import torch

from mtpano_zoo import sphere

NORMAL = sphere.unit(torch.tensor([0.3, -0.2, -1.0]))


class StandIn(torch.nn.Module):
    """Sees one plane wherever an image is not black, in the frame x right, y down, z forward; black is sky."""

    calls: list[dict] = []  # noqa: RUF012

    def __init__(self, heads):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(2.0))
        for head in heads:
            setattr(self, head, torch.nn.Identity())

    @classmethod
    def from_pretrained(cls, path, model_kwargs=None, **hf_kwargs):
        return cls(torch.load(path, map_location="cpu", weights_only=True)["heads"])

    @torch.inference_mode()
    def infer(
        self,
        image,
        num_tokens=None,
        resolution_level=9,
        force_projection=True,
        apply_mask=True,
        fov_x=None,
        use_fp16=True,
    ):
        self.calls.append({"count": len(image), "level": resolution_level, "fp16": use_fp16})
        height, width = image.shape[-2:]
        side = torch.tan(torch.deg2rad(fov_x) / 2)[:, None, None]
        x = ((torch.arange(width) + 0.5) / width * 2 - 1) * side
        y = (((torch.arange(height) + 0.5) / height * 2 - 1) * height / width)[:, None] * side
        rays = torch.stack(torch.broadcast_tensors(x, y, torch.ones(())), dim=-1)
        depth = -self.offset / (rays @ NORMAL)
        mask = image.mean(1) > 0
        output = {
            "points": torch.where(mask[..., None], depth[..., None] * rays, torch.inf),
            "intrinsics": torch.eye(3).expand(len(image), 3, 3),
            "depth": torch.where(mask, depth, torch.inf),
            "mask": mask,
        }
        if hasattr(self, "normal_head"):
            output["normal"] = torch.where(mask[..., None], NORMAL, 0)
        return output
