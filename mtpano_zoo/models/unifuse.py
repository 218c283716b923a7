"""UniFuse (arXiv 2102.03550): cube faces and the panorama are encoded separately and fused in one decoder."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.layers import FromCube, ResNetStages, ToCube, conv2d, halved
from mtpano_zoo.layers.convolution import Convention, without_autocast
from mtpano_zoo.models.base import IMAGENET_MEAN, IMAGENET_STD
from mtpano_zoo.models.distance_network import DistanceNetwork
from mtpano_zoo.sphere import CubeSampling

__all__ = ("UniFuse",)

DECODER_WIDTHS = (16, 32, 64, 128, 256)  # finest level first
SQUEEZE = 16


class UniFuse(DistanceNetwork):
    """Inverse distance up to scale and shift, or distance in metres, from two ResNets.

    One ResNet reads the panorama, the other six cube faces of half its height. At each of five levels the features of
    the faces are projected into the panorama, corrected with the help of its own features, and joined with these. The
    decoder enlarges and joins level by level; a sigmoid scales the result to `maximum`.

    Rotating the panorama rotates the output only approximately: the faces then see other parts of the scene.

    Args:
        encoder: timm name of the ResNet.
        pretrained: start both ResNets from ImageNet: true downloads timm's weights; the path of a `.safetensors` or
            `.pth` file loads them.
        tasks: `disparity`, or `depth` to train in metres.
        convention: `sphere` (wrapped padding, pixel-centre faces without edges) or `paper` (what the published weights
            expect: zero padding, faces sampled from 8-bit images with SciPy's borders).
        input_size: height and width that `predict` resizes to; the network itself takes any multiples of 32.
        maximum: largest output, in metres for `depth`.
        image_mean: mean that images are normalised with.
        image_std: standard deviation that images are normalised with.

    Raises:
        InputError: If an argument is unknown, or the size is not a multiple of 32.
    """

    encoder_part = "encoders"
    full_precision = ("predict_distance",)
    multiple = 32

    def __init__(
        self,
        encoder: str = "resnet18",
        pretrained: bool | str | Path = False,
        tasks: Sequence[str] = ("disparity",),
        convention: Convention = "sphere",
        input_size: tuple[int, int] = (512, 1024),
        maximum: float = 10.0,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(tasks, convention, input_size, image_mean, image_std)
        self.maximum = maximum
        panorama = ResNetStages(encoder, "sphere" if convention == "sphere" else "zeros", pretrained)
        self.encoders = nn.ModuleDict({"erp": panorama, "cube": ResNetStages(encoder, "zeros", pretrained)})
        height, width = self.input_size
        sampling: CubeSampling = "sphere" if convention == "sphere" else "unifuse"
        self.to_cube = ToCube(sampling, height // 2, height, width)
        levels = zip(halved(self.input_size, 5), halved((height // 2,), 5), strict=True)
        self.from_cube = nn.ModuleList(FromCube(sampling, face[0], *size) for size, face in levels)
        widths = panorama.channels
        self.fusions = nn.ModuleList(_Fusion(channels, convention) for channels in widths)
        # For every level but the coarsest: joins the enlarged map with the map of the level.
        self.merges = nn.ModuleList(
            _convolution(DECODER_WIDTHS[i + 1] + widths[i], DECODER_WIDTHS[i + 1], convention) for i in range(4)
        )
        self.enlarge = nn.ModuleList(
            _convolution(widths[4] if i == 4 else DECODER_WIDTHS[i + 1], DECODER_WIDTHS[i], convention)
            for i in range(5)
        )
        self.refine = _convolution(DECODER_WIDTHS[0], DECODER_WIDTHS[0], convention)
        self.predict_distance = conv2d(DECODER_WIDTHS[0], 1, 3, convention=convention)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict for images (B, 3, H, W) in [0, 1], H and W multiples of 32.

        Returns:
            `disparity` or `depth` (B, 1, H, W), from 0 to `maximum`.

        Raises:
            InputError: If the size is not a multiple of 32.
        """
        height, width = image.shape[-2:]
        self.check_size(height, width)
        faces = self.to_cube(image, height // 2)
        if self.convention == "paper":
            faces = faces.mul(255).round_().div_(255)  # the published code samples 8-bit images
        return {self.tasks[0]: self._decode(self.normalize(image), self.normalize(faces))}

    def fuse(self, equirectangular: Tensor, cube: Tensor) -> Tensor:
        """Predict (B, 1, H, W) from a normalised panorama and its normalised cube faces.

        Args:
            equirectangular: the panorama (B, 3, H, W).
            cube: faces (B, 3, S, 6 S) side by side: front, right, back, left, up, down.
        """
        batch, channels, size, _ = cube.shape
        faces = cube.view(batch, channels, size, 6, size).permute(0, 3, 1, 2, 4)
        return self._decode(equirectangular, faces.reshape(6 * batch, channels, size, size))

    def _decode(self, erp: Tensor, faces: Tensor) -> Tensor:
        """Predict (B, 1, H, W) from a normalised panorama (B, 3, H, W) and its faces (6 B, 3, S, S)."""
        erp_maps, cube_maps = self.encoders["erp"](erp), self.encoders["cube"](faces)
        decoded: Tensor | None = None
        for level in reversed(range(5)):
            own = erp_maps[level]
            fused = self.fusions[level](own, self.from_cube[level](cube_maps[level], *own.shape[-2:]))
            if decoded is not None:
                decoded = self.merges[level](torch.cat((decoded, fused), dim=1))
            enlarged = self.enlarge[level](fused if decoded is None else decoded)
            decoded = F.interpolate(enlarged, scale_factor=2.0, mode="nearest")
        return self.maximum * without_autocast(self.predict_distance, self.refine(decoded)).sigmoid()


class _Fusion(nn.Module):
    """Correct the features of the cube with the help of the panorama's, then weight the channels of both and join."""

    folds = (("conv1", "norm1"), ("conv2", "norm2"))

    def __init__(self, channels: int, convention: Convention) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = conv2d(channels, channels, 3, convention=convention, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.squeeze = nn.Linear(2 * channels, 2 * channels // SQUEEZE, bias=False)
        self.excite = nn.Linear(2 * channels // SQUEEZE, 2 * channels, bias=False)
        self.join = nn.Conv2d(2 * channels, channels, 1, bias=False)

    def forward(self, erp: Tensor, cube: Tensor) -> Tensor:
        """Fuse two maps (B, C, H, W)."""
        correction = F.relu(self.norm1(self.conv1(torch.cat((erp, cube), dim=1))))
        both = torch.cat((erp, cube + self.norm2(self.conv2(correction))), dim=1)
        weights = self.excite(F.relu(self.squeeze(both.mean(dim=(2, 3))))).sigmoid()
        return F.relu(self.join(both * weights[:, :, None, None]))


def _convolution(in_channels: int, out_channels: int, convention: Convention) -> nn.Sequential:
    return nn.Sequential(conv2d(in_channels, out_channels, 3, convention=convention), nn.ELU())
