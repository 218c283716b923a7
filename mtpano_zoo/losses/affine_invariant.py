"""The loss of networks that learn distances up to scale and shift, on labels in metres. After Depth Anywhere."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.losses.base import Loss
from mtpano_zoo.losses.dense import affine_invariant_l1
from mtpano_zoo.losses.means import several_processes
from mtpano_zoo.losses.validity import trusted, valid_depth

__all__ = ("AffineInvariantLoss", "disparity_of")

# Below this many metres, 1 / d is continued along its tangent: it has no useful gradient at 0.
NEAREST = 0.1


class AffineInvariantLoss(Loss):
    """Compare inverse distances after normalising each panorama to median 0 and mean absolute deviation 1.

    This is the loss of Depth Anywhere (arXiv 2406.12849) on labelled panoramas: labels are metres, and a network of the
    task `disparity` learns their inverse up to scale and shift. For a network of the task `depth`, the inverse of its
    prediction is compared; its scale is then arbitrary, so its output is not a distance in metres.

    Args:
        max_depth: largest label that counts, in metres; None counts all.

    Example:
        >>> depth = torch.linspace(1, 5, 32).reshape(1, 4, 8)
        >>> loss = AffineInvariantLoss()({"disparity": 3 / depth[:, None] - 1}, {"depth": depth})
        >>> round(loss["total"].item(), 5)
        0.0
    """

    def __init__(self, max_depth: float | None = 10.0) -> None:
        super().__init__()
        self.max_depth = max_depth

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `total` and `disparity`, which are the same; zero for a batch without `depth`.

        Args:
            outputs: `disparity` or `depth` (B, 1, H, W).
            batch: `depth` (B, H, W) in metres along the ray, 0 = no measurement; optionally `depth_confidence`
                (B, H, W), weights of the labels.

        Raises:
            InputError: If the network predicts neither, or labels have another size.
        """
        prediction = disparity_of(outputs)[:, 0]
        depth = batch.get("depth")
        depth = torch.zeros_like(prediction) if depth is None else depth.float()
        if depth.shape != prediction.shape:
            raise InputError(
                f"depth is predicted at {tuple(prediction.shape[-2:])}, its labels are {tuple(depth.shape[-2:])}: "
                "resize one"
            )
        weight = batch.get("depth_confidence")
        valid = trusted(valid_depth(depth), weight)
        if self.max_depth is not None:
            valid = valid & (depth <= self.max_depth)
        target = 1 / torch.where(valid, depth, 1)
        across = self.training and torch.is_grad_enabled() and several_processes()
        with torch.autocast(device_type=prediction.device.type, enabled=False):
            loss = affine_invariant_l1(prediction, target, valid, weight, across)
        return {"total": loss, "disparity": loss}


def disparity_of(outputs: Mapping[str, Any]) -> Tensor:
    """Return the float32 inverse distance (B, 1, H, W) that a network predicts, or the inverse of its depth.

    Raises:
        InputError: If it predicts neither.

    Example:
        >>> disparity_of({"depth": torch.tensor([[[[2.0, 0.1, 0.0]]]])}).flatten().tolist()
        [0.5, 10.0, 20.0]
    """
    if "disparity" in outputs:
        disparity: Tensor = outputs["disparity"].float()
        return disparity
    if "depth" not in outputs:
        raise InputError(
            f"training needs a network with the task disparity or depth; this one has {', '.join(outputs) or 'none'}"
        )
    depth = outputs["depth"].float()
    return torch.where(depth > NEAREST, 1 / depth.clamp(min=NEAREST), (2 - depth / NEAREST) / NEAREST)
