"""Named masks of things that no teacher can measure, such as sky and watermarks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.pretrained import Precision, TransformersNetwork, read_tokenizer
from mtpano_zoo.manifest import describe_model
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.resize import resize

__all__ = ("ClassMasker", "GroundedMasker", "Masker", "shrink_masks")


class Masker(ABC):
    """Finder of named things in a whole panorama; usually also a module, as its first base class.

    Attributes:
        names: Names of the masks, in their order.
        provenance: Its description in a manifest, as for a teacher.
    """

    names: tuple[str, ...]
    provenance: Mapping[str, Any]

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """Return masks (N, H, W), bool, of an image (3, H, W) in [0, 1]."""


class GroundedMasker(nn.Module, Masker):
    """Detect things by their names and segment the boxes: Grounding DINO, then SAM, both from `transformers`.

    Depth Anywhere masks `sky` and `watermark` this way. A box is kept if the score of any word in the text exceeds
    `box_threshold`; it belongs to every name with a word whose score exceeds `text_threshold`.

    Args:
        names: What to look for, in words.
        detector: A folder as `save_pretrained` writes it, with its tokenizer, or `user/name` on the Hugging Face Hub.
        segmenter: Likewise.
        box_threshold: Score above which a box is kept.
        text_threshold: Score above which a box belongs to a name.
        precision: Precision of the arithmetic.

    Raises:
        InputError: If the package is missing, an argument is out of range, or the files are not such networks.
        OSError: If a file is missing or cannot be downloaded.
    """

    def __init__(
        self,
        names: Sequence[str] = ("sky", "watermark"),
        detector: str = "IDEA-Research/grounding-dino-tiny",
        segmenter: str = "facebook/sam-vit-huge",
        box_threshold: float = 0.3,
        text_threshold: float = 0.25,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.names = check_names(names)
        if not (0 <= box_threshold <= 1 and 0 <= text_threshold <= 1):
            raise InputError(f"thresholds lie between 0 and 1, got {box_threshold} and {text_threshold}")
        self.box_threshold = box_threshold
        self.text_threshold = text_threshold
        self.detector = _Detector(detector, self.names, precision)
        self.segmenter = _BoxSegmenter(segmenter, precision)
        self.provenance: Mapping[str, Any] = {
            "name": type(self).__name__,
            "detector": self.detector.provenance,
            "segmenter": self.segmenter.provenance,
            "options": {"names": list(names), "box_threshold": box_threshold, "text_threshold": text_threshold},
        }

    def forward(self, image: Tensor) -> Tensor:
        """Return masks (N, H, W) of an image (3, H, W) in [0, 1]."""
        boxes, fits = self.detector.detect(image)
        masks = torch.zeros(len(self.names), *image.shape[-2:], dtype=torch.bool, device=image.device)
        kept = fits.amax(1) > self.box_threshold
        if kept.any():
            found = self.segmenter.segment(image, boxes[kept])
            for i, fit in enumerate(fits[kept].unbind(1)):
                masks[i] = found[fit > self.text_threshold].any(0)
        return masks


class ClassMasker(nn.Module, Masker):
    """Mask the pixels of some classes of a network of the zoo.

    Args:
        network: A network with the task `semseg`, such as ``{class_path: Pretrained, init_args: {source: NAME}}``.
        names: Names of its classes, such as ``[sky]``.

    Raises:
        InputError: If the network has no such class.
    """

    def __init__(self, network: PanoramaNetwork, names: Sequence[str] = ("sky",)) -> None:
        super().__init__()
        self.names = check_names(names)
        if unknown := [name for name in names if name not in network.classes]:
            raise InputError(
                f"the network has no class {', '.join(unknown)}, only {', '.join(network.classes) or 'no'}"
            )
        self.network = network.eval().requires_grad_(False)
        self.numbers = [list(network.classes).index(name) for name in names]
        self.provenance: Mapping[str, Any] = {
            "name": type(self).__name__,
            "network": describe_model(network),
            "options": {"names": list(names)},
        }

    def forward(self, image: Tensor) -> Tensor:
        """Return masks (N, H, W) of an image (3, H, W) in [0, 1]."""
        with torch.no_grad():
            small = resize(image[None], *self.network.input_size)
            classes = self.network(small)["semseg"].argmax(1).float()[:, None]
        full = F.interpolate(classes, size=image.shape[-2:], mode="nearest-exact")[0, 0]
        return torch.stack([full == number for number in self.numbers])


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of masks, which also name files.

    Raises:
        InputError: If there is none, one occurs twice, or one is not plain words.
    """
    wrong = [name for name in names if not all(part.isalnum() for part in name.split(" ")) or name == "merged"]
    if wrong or not names or len(set(names)) < len(names):
        raise InputError(f"masks are named by different plain words, such as sky and watermark, not {list(names)}")
    return tuple(names)


def shrink_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Return masks (N, H, W) in another size; partly covered pixels count as covered."""
    return F.adaptive_max_pool2d(masks.float()[None], (height, width))[0] > 0


class _Detector(TransformersNetwork):
    """Grounding DINO with a fixed text."""

    tokens: Tensor
    words: Tensor

    def __init__(self, source: str, names: Sequence[str], precision: Precision) -> None:
        super().__init__(source, None, 1, None, precision, {"": "AutoModelForZeroShotObjectDetection"})
        tokenizer = read_tokenizer(self.folder, source)
        text = " ".join(f"{name.lower()}." for name in names)
        read = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        first, last = read["offset_mapping"][0].unbind(-1)
        # Find the tokens of each name; a token without characters belongs to none.
        rows, start = [], 0
        for name in names:
            rows.append((first >= start) & (last <= start + len(name)) & (last > first))
            start += len(name) + 2
        self.register_buffer("tokens", read["input_ids"], persistent=False)
        self.register_buffer("words", torch.stack(rows), persistent=False)

    def detect(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (Q, 4), left, top, right and bottom in pixels, and the score of each name for them (Q, N)."""
        inputs = self.prepare(image[None])
        text = {"input_ids": self.tokens, "attention_mask": torch.ones_like(self.tokens)}
        output = self.run({**inputs, **text, "token_type_ids": torch.zeros_like(self.tokens)}, image[None])
        fit = output.logits[0].float().sigmoid()[:, : self.words.shape[1]]
        fits = torch.stack([fit[:, mine].amax(1) for mine in self.words], dim=1)
        x, y, width, height = output.pred_boxes[0].float().unbind(-1)
        sides = torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2), dim=-1)
        rows, columns = image.shape[-2:]
        return sides * sides.new_tensor([columns, rows, columns, rows]), fits


class _BoxSegmenter(TransformersNetwork):
    """SAM with boxes as prompts."""

    def __init__(self, source: str, precision: Precision) -> None:
        super().__init__(source, None, 1, None, precision, {"": "AutoModelForMaskGeneration"})

    def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Return the mask of the object in each box, bool (N, H, W), for boxes (N, 4) in pixels."""
        inputs = self.prepare(image[None])
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        (rows, columns), (height, width) = (torch.as_tensor(size)[0].tolist() for size in sizes)
        scaled = boxes * boxes.new_tensor([width / columns, height / rows, width / columns, height / rows])
        output = self.run({**inputs, "input_boxes": scaled[None], "multimask_output": False}, image[None])
        logits = output.pred_masks[0, :, :1].float()
        # Logits cover the padded square: resize to the input, crop the padding, then resize to the panorama.
        side = inputs["pixel_values"].shape[-2:]
        whole = F.interpolate(logits, size=side, mode="bilinear", align_corners=False)[..., :height, :width]
        full = F.interpolate(whole, size=(rows, columns), mode="bilinear", align_corners=False)
        return full[:, 0] > 0
