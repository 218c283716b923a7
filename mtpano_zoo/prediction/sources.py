"""Turn the sources that `predict` accepts into panoramas, and these into a network's input."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mtpano_zoo import image_io
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import Panorama
from mtpano_zoo.resize import resize, resize_pixels
from mtpano_zoo.sphere import rotate

__all__ = ("Source", "network_input", "panoramas_of")

PLACING = ("fov", "vertical_offset", "eye", "ignore_tags")  # options of `load_panorama` that need a file
ROUNDING = 0.01  # what rounding may add to [0, 1], also in bfloat16

Source: TypeAlias = str | Path | Image.Image | NDArray[np.uint8] | Tensor | Panorama


def panoramas_of(source: Source | Sequence[Source], **reading: Unpack[image_io.Reading]) -> list[Panorama | Tensor]:
    """Return the panoramas of a source; tensors (3, H, W) in [0, 1] stay as they are.

    Args:
        source: As `predict` takes it.
        **reading: Options of `image_io.load_panorama`. Those that place an image on the sphere are for paths only.

    Raises:
        FileNotFoundError: If there is no file at a path.
        InputError: If the source is not a panorama, or its type, shape or range is wrong.

    Example:
        >>> [panorama.pixels.shape for panorama in panoramas_of(np.zeros((32, 64, 3), np.uint8))]
        [(32, 64, 3)]
        >>> [tuple(image.shape) for image in panoramas_of(torch.zeros(2, 3, 32, 64))]
        [(3, 32, 64), (3, 32, 64)]
    """
    if isinstance(source, str | Path):
        return [image_io.load_panorama(source, **reading)]
    if isinstance(source, Sequence):
        return [panorama for single in source for panorama in panoramas_of(single, **reading)]
    if placing := [name for name in PLACING if reading.get(name)]:
        raise InputError(
            f"{placing[0]} says how a file is read, but the source is a {type(source).__name__}: pass the path of the "
            "file, or place its pixels with `mtpano_zoo.image_io.panorama.panorama_of_pixels`"
        )
    if isinstance(source, Panorama):
        return [source]
    if isinstance(source, Image.Image):
        return [image_io.panorama_from_pil(source)]
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise InputError(
                f"an array is (H, W, 3) RGB of uint8 in 0 to 255, not {source.shape} of {source.dtype}: "
                "convert it, or pass the path of the file"
            )
        image_io.check_panorama_size(source.shape[0], source.shape[1], "the array")
        return [Panorama(np.ascontiguousarray(source))]  # PyTorch takes no flipped view, such as `bgr[..., ::-1]`
    if isinstance(source, Tensor):
        return list(_checked((source if source.ndim == 4 else source[None]).detach()))
    raise InputError(f"a source must be a path, PIL image, uint8 array or tensor, not {type(source).__name__}")


def _checked(batch: Tensor) -> Tensor:
    if batch.ndim != 4 or batch.shape[1] != 3:
        shape = tuple(batch.shape[1:] if batch.shape[0] == 1 else batch.shape)
        raise InputError(f"a tensor is (3, H, W) or (B, 3, H, W) RGB, not {shape}")
    if not batch.is_floating_point():
        raise InputError(f"a tensor is floating point in [0, 1], not {batch.dtype}: divide 8-bit values by 255")
    image_io.check_panorama_size(batch.shape[2], batch.shape[3], "the tensor")
    if batch.numel() == 0:
        return batch
    if not batch.isfinite().all():
        raise InputError("the tensor holds NaN or infinite values: an image is finite, in [0, 1]")
    low, high = (float(value) for value in batch.aminmax())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(
            f"the tensor holds values from {low:.3g} to {high:.3g}, but an image is in [0, 1]: "
            "scale it; the network normalises by itself"
        )
    return batch if low >= 0 and high <= 1 else batch.clamp(0, 1)


def network_input(
    image: NDArray[np.uint8] | Tensor, height: int, width: int, device: torch.device, turn: Tensor | None = None
) -> Tensor:
    """Resize an image to the network's input (3, height, width), float32 in [0, 1], on a device.

    With `turn` (3, 3), return what a camera rotated by it sees.

    Example:
        >>> white = np.full((32, 64, 3), 255, np.uint8)
        >>> network_input(white, 16, 32, torch.device("cpu")).mean((1, 2)).tolist()
        [1.0, 1.0, 1.0]
    """
    if turn is not None:  # turned at twice the size, so that it is blurred once, by the last resize
        rows, columns = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
        larger = network_input(image, min(2 * height, rows), min(2 * width, columns), device)
        return resize(rotate(larger[None], turn.to(device))[0], height, width)
    if isinstance(image, Tensor):
        return resize(image.to(device).float(), height, width)
    # torch warns about a read-only array, although nothing writes to it.
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy()).to(device)
    return resize_pixels(pixels, height, width) / 255
