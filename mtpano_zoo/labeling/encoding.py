"""Encoding of one labelled panorama as files, with the same bytes in every run.

Encodings, which are those of MTPano's published layout:

* classes, 8-bit grey PNG: the class index, 255 = no label;
* depth, 16-bit grey PNG: millimetres along the ray, 0 = no label. Distances of 65.535 m or more have no label, because
  other readers of the layout would take the largest number for a distance;
* normals, 8-bit RGB PNG: 127.5 (1 + n) for (R, G, B) = (forward, up, left), towards the camera; (128, 128, 128) = no
  label;
* confidence, 8-bit grey PNG: 255 = 1;
* far and masks, 8-bit grey PNG: 255 = farther than any measurement, or masked; 0 = not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mtpano_zoo.data.resizing import resize_map
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import SATURATED, encode_depth, encode_jpeg
from mtpano_zoo.labeling.fusion import PanoramaLabels
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("JPEG_QUALITY", "EncodedLabels", "encode_image", "encode_labels", "grey_png")

NO_NORMAL = 128
# Level, strategy and filter of a PNG that encode rooms fastest with files near the smallest of that level: classes
# repeat from row to row, depth changes steadily along a row, normals and confidences hardly compress.
PNG = {
    "semseg": (1, cv2.IMWRITE_PNG_STRATEGY_DEFAULT, cv2.IMWRITE_PNG_FILTER_UP),
    "depth": (1, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER_SUB),
    "normals": (1, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER_NONE),
    "confidence": (1, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER_NONE),
}
JPEG_QUALITY = 95


@dataclass(frozen=True)
class EncodedLabels:
    """The files of one panorama.

    Args:
        files: Contents by task and file name, such as ``depth/merged.png``.
        too_far: Pixels of the merged depth that have no label because they are farther than 65.535 m.
        marker: Content of the file that marks the panorama as finished, if that is not the panorama itself.
    """

    files: Mapping[str, bytes]
    too_far: int = 0
    marker: bytes | None = None


def encode_labels(labels: PanoramaLabels) -> EncodedLabels:
    """Encode all maps of a panorama; a view without labels of a task has no file for it."""
    merged = {task: getattr(labels, task) for task in ("semseg", "depth", "normals")}
    files: dict[str, bytes] = {}
    too_far = 0
    for task, values in merged.items():
        if values is None:
            continue
        array = _numpy(values)
        height, width = array.shape[-2:]
        encoded = _NUMBERS[task](np.moveaxis(array, 0, -1) if task == "normals" else array)
        if task == "depth":
            too_far = int(((encoded == 0) & (array > 0)).sum())
        files[f"{task}/merged.png"] = _png(task, encoded)
        if (confidence := labels.confidence.get(task)) is not None:
            files[f"{task}/merged_confidence.png"] = grey_png(_numpy(confidence))
        for number, view in enumerate(labels.views):
            known = getattr(view, task)
            if known is None:
                continue
            steps, empty = _NUMBERS[task](_numpy(known)), _EMPTY[task]
            if not (steps != empty).any():
                continue
            full = np.full((height * width, *steps.shape[1:]), empty, steps.dtype)
            full[_numpy(view.pixels)] = steps
            files[f"{task}/label_{number}.png"] = _png(task, full.reshape(height, width, *steps.shape[1:]))
    if labels.far is not None:
        files["far/merged.png"] = grey_png(_numpy(labels.far))
    files |= {f"masks/{name.replace(' ', '_')}.png": grey_png(_numpy(mask)) for name, mask in labels.masks.items()}
    return EncodedLabels(files, too_far)


def encode_image(image: NDArray[np.uint8], height: int, width: int) -> bytes:
    """Encode RGB (H, W, 3) of any size as JPEG of this size.

    Example:
        >>> encode_image(np.zeros((4, 8, 3), np.uint8), 2, 4)[:3].hex()
        'ffd8ff'
    """
    pixels = resize_map("image", image, height, width)
    return encode_jpeg(pixels, width, JPEG_QUALITY)


def grey_png(shares: NDArray[Any]) -> bytes:
    """Encode shares (H, W) from 0 to 1 as 8-bit grey PNG."""
    return _png("confidence", np.rint(255 * shares.clip(0, 1)).astype(np.uint8))


def _depth(metres: NDArray[np.float32]) -> NDArray[np.uint16]:
    encoded = encode_depth(metres)
    encoded[encoded == SATURATED] = 0
    return encoded


def _normals(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    right, down, forward = np.moveaxis(vectors, -1, 0)
    turned = np.stack((forward, -down, -right), axis=-1)
    encoded: NDArray[np.uint8] = np.rint(127.5 * (1 + turned.clip(-1, 1))).astype(np.uint8)
    return encoded


def _semseg(classes: NDArray[Any]) -> NDArray[np.uint8]:
    return classes.astype(np.uint8, copy=False)


_NUMBERS: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "semseg": _semseg,
    "depth": _depth,
    "normals": _normals,
}
_EMPTY = {"semseg": NO_LABEL, "depth": 0, "normals": NO_NORMAL}


def _numpy(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.detach().cpu().numpy()
    return array


def _png(kind: str, pixels: NDArray[Any]) -> bytes:
    level, strategy, filtering = PNG[kind]
    options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy]
    ordered = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else np.ascontiguousarray(pixels)
    written, data = cv2.imencode(".png", ordered, [*options, cv2.IMWRITE_PNG_FILTER, filtering])
    if not written:
        raise InputError(f"{pixels.shape} of {pixels.dtype} cannot be encoded as .png")
    return bytes(data)
