"""Depth from any depth estimator of the package `transformers`."""

import math
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.base import DepthKind, ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.pretrained import Precision, PretrainedNetwork

__all__ = ("DepthEstimator",)

# Kind of output by architecture; None: see its configuration. DPT as MiDaS trained it.
KINDS: dict[str, DepthKind | None] = {
    "depth_anything": None,
    "depth_pro": "metric",
    "dpt": "disparity",
    "glpn": "metric",
    "zoedepth": "metric",
}
TRAINED_FOR: dict[str, DepthKind] = {"relative": "disparity", "metric": "metric"}
NEAREST, FARTHEST = 1e-4, 1e4  # metres that Depth Pro is limited to, as in its authors' code


class DepthEstimator(PretrainedNetwork):
    """Predict z-depth in metres or disparity, depending on the architecture, resized bilinearly to the view.

    - Depth Anything, V1 and V2: `depth_estimation_type` of its configuration says whether it predicts disparity
      (`relative`) or metres (`metric`).
    - Depth Pro: metres. It predicts inverse depth for a focal length of one image width; the focal length of the view
      replaces its own estimate from the image, which is not computed.
    - ZoeDepth, GLPN: metres.
    - DPT: disparity, as MiDaS trained it. DPT on DINOv2 was trained for metres or something else: set `kind`.

    Args:
        source: A folder as `save_pretrained` writes it, or `user/name` on the Hugging Face Hub.
        revision: Commit, tag or branch on the Hub; by default its newest commit, which the provenance names.
        batch_size: Views that the network sees at once.
        size: Side in pixels to which a square view is resized for the network; by default the published size.
        precision: Precision of the arithmetic; the weights stay as they are.
        kind: Kind of output, for networks whose kind is unknown or differs from that of their architecture.

    Attributes:
        depth_kind: Kind of output.

    Raises:
        InputError: If the package is missing, an argument is out of range, the files are not a depth estimator, or the
            kind of its output is unknown.
        OSError: If a file is missing or cannot be downloaded.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        batch_size: int = 8,
        size: int | None = None,
        precision: Precision = "float32",
        kind: DepthKind | None = None,
    ) -> None:
        if kind is not None and kind not in get_args(DepthKind):
            raise InputError(f"kind must be one of {', '.join(get_args(DepthKind))}, got {kind!r}")
        networks = {"": "AutoModelForDepthEstimation"}
        super().__init__(source, revision, batch_size, size, precision, networks, use_fov_model=False)
        self.classes: tuple[str, ...] = ()
        self.depth_kind: DepthKind = kind or _kind(self.network.config, source)
        self.provenance["options"]["kind"] = self.depth_kind
        if self.model_type == "dpt" and self.processor.do_pad and size is None:
            self._pad_to = int(self.processor.size_divisor or 1)
        else:
            self._pad_to = 0

    def forward(self, seen: ViewImages) -> ViewLabels:
        """Label all views of a panorama."""
        intrinsics = seen.views.intrinsics.to(seen.images.device, torch.float32)
        depth = [self._depth(seen.images[part], intrinsics[part]) for part in self.batches(seen.images)]
        return ViewLabels(depth=torch.cat(depth), depth_kind=self.depth_kind)

    def prepare(self, images: Tensor) -> dict[str, Any]:
        """Return the input of the network, stretched slightly, because the network would see a black border."""
        if self._pad_to:
            sides = (math.ceil(side / self._pad_to) * self._pad_to for side in images.shape[-2:])
            size = dict(zip(("height", "width"), sides, strict=True))
            self._changes = {"do_pad": False, "do_resize": True, "keep_aspect_ratio": False, "size": size}
        return super().prepare(images)

    def _depth(self, images: Tensor, intrinsics: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        predicted = self.run(self.prepare(images), images).predicted_depth.float()[:, None]
        top, left = (self._border(side) for side in (height, width))
        size = (height + 2 * top, width + 2 * left)
        resized = F.interpolate(predicted, size=size, mode="bilinear", align_corners=False)
        depth: Tensor = resized[:, 0, top : top + height, left : left + width]
        if self.model_type == "depth_pro":
            inverse = depth * (width / intrinsics[:, 0, 0])[:, None, None]
            # An infinite inverse is not a near object but a network that has overflowed: mark it as broken.
            depth = torch.where(inverse.isfinite(), 1 / inverse.clamp(1 / FARTHEST, 1 / NEAREST), math.nan)
        return depth

    def _border(self, side: int) -> int:
        """Return the pixels of reflected image that the preprocessing of ZoeDepth adds at either end of a side."""
        return int(math.sqrt(side / 2) * 3) if self.model_type == "zoedepth" and self.processor.do_pad else 0


def _kind(config: Any, source: str) -> DepthKind:
    """Return the kind of a network's output, by its architecture.

    Raises:
        InputError: If it is unknown.
    """
    name = config.model_type
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", "")
    if name not in KINDS or (name == "dpt" and backbone.startswith("dinov2")):
        on = f" on {backbone}" if name in KINDS else ""
        raise InputError(
            f"the kind of output of {source}, a {name}{on}, is unknown: "
            f"set kind, one of {', '.join(get_args(DepthKind))}"
        )
    return KINDS[name] or TRAINED_FOR[config.depth_estimation_type]
