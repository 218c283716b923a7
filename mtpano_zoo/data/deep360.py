"""Deep360: panoramas of a simulated city in Cassini projection."""

import io
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtpano_zoo.data.panoramas import PanoramaDataModule, Split
from mtpano_zoo.data.reading import UNREADABLE, Decoder, decode_array, decode_rgb
from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import BYTES_IN_ARCHIVE, check_bytes, max_bytes
from mtpano_zoo.sphere import Mode, erp_rays, sample

__all__ = ("Deep360DataModule", "from_cassini")

_SPLITS: dict[str, Split] = {"training": "train", "validation": "val", "testing": "test"}


class Deep360DataModule(PanoramaDataModule):
    """Deep360 (Li et al., ECCV 2022): 3,000 frames of streets simulated by CARLA, seen by four panoramic cameras.

    There are six episodes of 350, 50 and 100 frames for training, validation and test: 2,100, 300 and 600.

    Get it: six zip files on the drive that the owner's repository names (github.com/nju-ee/MODE-2022), each of which
    can be read as it is. No licence of the data is stated.

    Expected below the root or below `root/Deep360`::

        ep1_500frames/training/rgb/002505_12_rgb1.png    8-bit RGB, 512 x 1024, camera 1
                      validation   depth/002505_depth.npz    arr_0, metres along the ray from camera 1; sky 1000
                      testing

    Images and depth are in Cassini projection: rows go around the axis from left to right, from behind over the zenith
    to forward and on over the nadir, and columns from left to right along it. They become equirectangular panoramas of
    1024 x 512, images between pixels, depth from the nearest pixel. The angles are taken at the centres of pixels, as
    the owner's code does where it computes points from depth; where it resamples, and in readers that follow it, the
    image is stretched by one pixel, which shifts its borders by half a pixel.

    Of the twelve images of a frame only this one has depth of its own direction: the others are from other cameras or
    turned. Soiled images and disparities are not read. That sky is stored as 1000 m is inferred from the owner's limit.

    Args:
        root: Folder that holds the episodes, or their zip files; or one zip file.
        max_depth: Distances of this many metres or more count as not measured. DAP and MTPano use about 100;
            with 1000, everything but the sky counts.
        options: See `PanoramaDataModule`.

    Cite: M. Li, X. Jin, X. Hu, J. Dai, S. Du, Y. Li, "MODE: Multi-view Omnidirectional Depth Estimation with 360°
    Cameras", ECCV 2022.
    """

    id_pattern = "ep{episode}_{frame}"
    prefix = "Deep360/"
    complete = 3000
    files: Mapping[str, tuple[str, ...]] = {
        "image": ("ep{episode}_500frames/{part}/rgb/{frame}_12_rgb1.png",),
        "depth": ("ep{episode}_500frames/{part}/depth/{frame}_depth.npz",),
    }
    expressions: Mapping[str, str] = {"episode": r"\d", "part": "|".join(_SPLITS), "frame": r"\d{6}"}

    def __init__(self, root: str | Path, *, max_depth: float = 100.0, **options: Any) -> None:
        if max_depth <= 0:
            raise InputError(f"max_depth must be positive, not {max_depth}")
        self.decoders: Mapping[str, Decoder] = {
            "image": _decode_image,
            "depth": partial(_decode_npz_depth, limit=max_depth),
        }
        super().__init__(root, **options)

    def split_of(self, fields: Mapping[str, str]) -> Split:
        """Return the split that the folder names."""
        return _SPLITS[fields["part"]]


def from_cassini(image: NDArray[Any], mode: Mode) -> NDArray[Any]:
    """Turn an image (2 N, N, C) in Cassini projection into an equirectangular one (N, 2 N, C), same centre, same up.

    Raises:
        InputError: If it is not twice as high as wide.
    """
    height, width = image.shape[:2]
    if height != 2 * width:
        raise InputError(f"it is {width} x {height} pixels, but in Cassini projection it is twice as high as wide")
    # Transposed, it is an equirectangular image whose down is our right, and whose right is our down.
    rays = erp_rays(width, height)[..., [1, 0, 2]]
    turned = torch.from_numpy(image.transpose(2, 1, 0).copy())
    return sample(turned[None], rays[None], mode)[0].permute(1, 2, 0).numpy()


def _decode_image(data: bytes) -> NDArray[np.uint8]:
    return from_cassini(decode_rgb(data), "image")


def _decode_npz_depth(data: bytes, limit: float) -> NDArray[np.float32]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = archive.getinfo("arr_0.npy")
            check_bytes(member.file_size, max_bytes(BYTES_IN_ARCHIVE), "it")
            content = archive.read(member)
    except InputError:
        raise
    except (*UNREADABLE, RuntimeError) as error:  # RuntimeError: it is encrypted
        raise InputError("it is truncated, damaged or no NPZ file with an array arr_0") from error
    depth = decode_array(content)
    if depth.dtype.kind != "f" or depth.squeeze().ndim != 2:
        raise InputError(f"its array arr_0 is {depth.dtype} {depth.shape} instead of floating point (H, W)")
    metres = depth.squeeze()[..., None].astype(np.float32)
    metres = np.where((metres > 0) & (metres < limit), metres, np.float32(0))
    return from_cassini(metres, "depth")[..., 0]
