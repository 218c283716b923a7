"""Classes from any semantic segmenter of the package `transformers`."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.base import ViewImages, ViewLabels
from mtpano_zoo.labeling.teachers.pretrained import Precision, PretrainedNetwork, read_tokenizer

__all__ = ("Segmenter",)

# These return masks and a class for each of them, the others a class for every pixel.
MASK_CLASSIFIERS = ("eomt", "eomt_dinov3", "mask2former", "maskformer", "oneformer")
NETWORKS = {"": "AutoModelForSemanticSegmentation"} | dict.fromkeys(
    MASK_CLASSIFIERS, "AutoModelForUniversalSegmentation"
)


class Segmenter(PretrainedNetwork):
    """Predict the class probabilities at the resolution of the network's own output.

    SegFormer, UPerNet, BEiT and similar classify pixels: softmax. Mask2Former, MaskFormer, OneFormer and EoMT, on
    DINOv2 or DINOv3, classify masks: the probability of a class is the sum over all masks of its probability
    (softmax, then without "no object") times the mask (sigmoid), scaled so that the classes sum to one.

    InternImage-H, which the published labels come from, is not among them: its operator DCNv3 must be compiled for
    every release of PyTorch and CUDA, or comes from wheels for old ones, and the libraries that its segmenter is
    configured in, mmcv 2.2.0 and mmsegmentation 1.2.2, were last released in 2024 and 2023. Instead, use a
    segmenter with the same 150 classes of ADE20K that needs PyTorch only: Mask2Former on Swin-L
    (`facebook/mask2former-swin-large-ade-semantic`) or EoMT on DINOv2 (`tue-mps/ade20k_semantic_eomt_large_512`). The
    weights of EoMT on DINOv3 are published as differences to Meta's: combine them first as its authors describe, and
    name the folder. Only weights in safetensors are read.

    Args:
        source: A folder as `save_pretrained` writes it, or `user/name` on the Hugging Face Hub.
        revision: Commit, tag or branch on the Hub; by default its newest commit, which the provenance names.
        batch_size: Views that the network sees at once.
        size: Side in pixels to which a square view is resized for the network; by default the published size.
        precision: Precision of the arithmetic; the weights stay as they are.

    Raises:
        InputError: If the package is missing, an argument is out of range, or the files are not a segmenter.
        OSError: If a file is missing or cannot be downloaded.
    """

    task: Tensor

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        batch_size: int = 8,
        size: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(source, revision, batch_size, size, precision, NETWORKS)
        config = self.network.config
        if self.model_type.startswith("eomt") and size not in (None, config.image_size):
            raise InputError(f"{source} only takes images of {config.image_size} pixels, not {size}")
        names = config.id2label
        self.classes = tuple(str(names[i]) for i in range(len(names)))
        if self.model_type == "oneformer":
            self.register_buffer("task", _task(self.folder, config.task_seq_len), persistent=False)

    def forward(self, seen: ViewImages) -> ViewLabels:
        """Label all views of a panorama.

        Raises:
            InputError: If the views are not square and the network pads its input, or the number of classes is wrong.
        """
        parts = [self._probabilities(seen.images[part]) for part in self.batches(seen.images)]
        probabilities = torch.cat(parts)
        if probabilities.shape[1] != len(self.classes):
            raise InputError(
                f"{self.provenance['source']} predicts {probabilities.shape[1]} classes, but names {len(self.classes)}"
            )
        return ViewLabels(probabilities=probabilities)

    def _probabilities(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height != width and self.model_type.startswith("eomt") and self.processor.do_pad:
            raise InputError(f"{self.provenance['source']} needs square views, got {height} x {width}")
        inputs = self.prepare(images)
        offsets = inputs.pop("patch_offsets", None)
        if self.model_type == "oneformer":
            inputs["task_inputs"] = self.task.expand(len(images), -1)
        output = self.run(inputs, images)
        if self.model_type not in MASK_CLASSIFIERS:
            scores: Tensor = output.logits.float().softmax(1)
            return scores
        kinds = output.class_queries_logits.float().softmax(-1)[..., :-1]
        scores = torch.einsum("bqc,bqhw->bchw", kinds, output.masks_queries_logits.float().sigmoid())
        if len(scores) > len(images):  # EoMT splits a view that is not square into overlapping squares
            scores = self._joined(scores, offsets, height, width)
        return scores / scores.sum(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)

    def _joined(self, scores: Tensor, offsets: list[Tensor], height: int, width: int) -> Tensor:
        """Join the scores of squares, each with its view, start and end in pixels, to scores of views (B, C, h, w)."""
        side = int((offsets[0][2] - offsets[0][1]).item())
        scores = F.interpolate(scores, size=(side, side), mode="bilinear", align_corners=False)
        count = int(offsets[-1][0].item()) + 1
        size = {"shortest_edge": side, "longest_edge": None}
        plain = [tuple(int(number) for number in offset) for offset in offsets]
        merged = self.processor.merge_image_patches(scores, plain, [(height, width)] * count, size)
        return torch.stack(merged)


def _task(folder: Path, length: int) -> Tensor:
    """Return the tokens (1, length) that make OneFormer segment by class; padding is zero."""
    tokenizer = read_tokenizer(folder, str(folder))
    words = tokenizer(
        ["the task is semantic"], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    tokens: Tensor = words["input_ids"] * words["attention_mask"]
    return tokens
