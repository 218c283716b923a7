"""Metric depth and normals from MoGe-2, if its package is installed."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.base import DepthKind, Teacher, ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.pretrained import provenance_of
from mtpano_zoo.zoo.download import commit_of, download

__all__ = ("MoGe",)

WEIGHTS = "model.pt"


class MoGe(nn.Module, Teacher):
    """Predict metric z-depth, normals and the mask of geometry (not the sky), at the resolution of the view.

    It receives the field of view. Its frame is that of OpenCV, like ours, and its normals point towards the camera: its
    documentation names the frame, and the normals that it was trained on are cross products with this orientation.

    Args:
        source: A file of weights (`model.pt`), or `user/name` on the Hugging Face Hub.
        revision: Commit, tag or branch on the Hub; by default its newest commit, which the provenance names.
        batch_size: Views that the network sees at once.
        resolution_level: Level from 0, fast, to 9, fine, which sets the number of tokens of the encoder.
        precision: Precision of the arithmetic on a GPU; always `float32` elsewhere.

    Attributes:
        depth_kind: Metric, or scale-invariant if the network has no head for the scale.

    Raises:
        InputError: If the package is missing, or an argument is out of range.
        OSError: If the file is missing or cannot be downloaded.
    """

    def __init__(
        self,
        source: str = "Ruicheng/moge-2-vitl-normal",
        revision: str | None = None,
        batch_size: int = 8,
        resolution_level: int = 9,
        precision: Literal["float32", "float16"] = "float16",
    ) -> None:
        super().__init__()
        if batch_size < 1 or not 0 <= resolution_level <= 9:
            raise InputError(
                f"batch_size must be positive and resolution_level from 0 to 9, got {batch_size} and {resolution_level}"
            )
        if precision not in ("float32", "float16"):
            raise InputError(f"precision must be float32 or float16, got {precision!r}")
        try:
            from moge.model.v2 import MoGeModel
        except ImportError as error:
            raise InputError(
                "this teacher needs the package moge: pip install git+https://github.com/microsoft/MoGe.git"
            ) from error
        weights, commit = Path(source).expanduser(), None
        if not weights.is_file():
            if weights.suffix == ".pt" or source.count("/") != 1:
                raise FileNotFoundError(f"there is no file {source}")
            weights = download(source, WEIGHTS, revision)
            commit = commit_of(weights)
        # The package reads the file with weights_only=True.
        self.network: Any = MoGeModel.from_pretrained(str(weights)).eval().requires_grad_(False)
        self.batch_size = batch_size
        self.resolution_level = resolution_level
        self.precision = precision
        self.classes: tuple[str, ...] = ()
        self.depth_kind: DepthKind = "metric" if hasattr(self.network, "scale_head") else "scale_invariant"
        self.provenance = provenance_of(
            type(self).__name__,
            source=source,
            revision=commit,
            files=[weights],
            network=type(self.network).__name__,
            packages=(torch,),
            options={"batch_size": batch_size, "resolution_level": resolution_level, "precision": precision},
        )

    def forward(self, seen: ViewImages) -> ViewLabels:
        """Label all views of a panorama.

        Raises:
            InputError: If a view is off-centre or its pixels are not square, which the network cannot model.
        """
        images, fov = seen.images, _horizontal_fov(seen.views.intrinsics, seen.views.height, seen.views.width)
        outputs = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            outputs.append(
                self.network.infer(
                    images[part],
                    fov_x=fov[part].to(images.device),
                    resolution_level=self.resolution_level,
                    use_fp16=self.precision == "float16" and images.is_cuda,
                )
            )
        depth = torch.cat([output["depth"] for output in outputs]).float()
        # Keep NaN where there is geometry: it shows that the network has failed in this view.
        known = torch.cat([output["mask"] for output in outputs]) & ~depth.isinf() & ~(depth <= 0)
        normals = None
        if "normal" in outputs[0]:
            normals = torch.cat([output["normal"] for output in outputs]).float().movedim(-1, 1)
            normals = torch.where(known[:, None], normals, 0)
        return ViewLabels(
            depth=torch.where(known, depth, 0),
            depth_kind=self.depth_kind,
            normals=normals,
            confidence=known.float(),
        )


def _horizontal_fov(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return horizontal fields of view (V,) in degrees."""
    focal = intrinsics[:, 0, 0]
    centre = intrinsics.new_tensor([(width - 1) / 2, (height - 1) / 2])
    square = torch.allclose(focal, intrinsics[:, 1, 1], rtol=1e-4)
    if not square or (intrinsics[:, :2, 2] - centre).abs().max() > 0.01:
        raise InputError("MoGe needs views with square pixels and their centre in the middle")
    return torch.rad2deg(2 * torch.atan(width / (2 * focal)))
