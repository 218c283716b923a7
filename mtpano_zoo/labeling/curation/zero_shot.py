"""The domain of a panorama by a network that compares images with words."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.curation.domains import DomainClassifier
from mtpano_zoo.labeling.teachers.pretrained import Precision, TransformersNetwork, read_tokenizer
from mtpano_zoo.sphere import rotation_matrix, to_perspective

__all__ = ("ZeroShotDomain",)

WORDS = {"indoor": "a photo of a room", "outdoor": "a photo taken outdoors"}
VIEWS = 4
FIELD_OF_VIEW = 90.0  # four views go around the horizon


class ZeroShotDomain(nn.Module, DomainClassifier):
    """The domain whose words best fit four views around the horizon: CLIP, SigLIP and similar from `transformers`.

    Such networks know photographs, not panoramas, so they see views of 90 degrees. The scores of the views are averaged
    before they are compared.

    Args:
        words: A sentence for each domain, by domain.
        source: A folder as `save_pretrained` writes it, with its tokenizer, or `user/name` on the Hugging Face Hub.
        revision: Commit, tag or branch on the Hub; by default its newest commit.
        size: Side of the views in pixels; the network resizes them as it was published.
        precision: Precision of the arithmetic.

    Raises:
        InputError: If the package is missing, there are fewer than two domains, or the files are not such a network.
        OSError: If a file is missing or cannot be downloaded.
    """

    def __init__(
        self,
        words: dict[str, str] | None = None,
        source: str = "openai/clip-vit-base-patch32",
        revision: str | None = None,
        size: int = 224,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        words = dict(WORDS if words is None else words)
        if len(words) < 2 or not all(text.strip() for text in words.values()):
            raise InputError("ZeroShotDomain needs words for two domains or more: {indoor: a room, outdoor: a street}")
        if size < 1:
            raise InputError(f"size must be a positive side of a view in pixels, got {size}")
        self.domains = tuple(words)
        self.size = size
        self.matcher = _Matcher(source, revision, list(words.values()), precision)
        self.provenance: Mapping[str, Any] = {
            **self.matcher.provenance,
            "name": type(self).__name__,
            "options": {"words": words, "size": size, "precision": precision},
        }

    def forward(self, sample: Mapping[str, Any], classes: Sequence[str]) -> str:
        """Return the domain of a sample from its `image` (3, H, W) alone."""
        fits = self.matcher.fits(self.views(sample["image"].to(self.matcher.tokens.device)))
        return self.domains[int(fits.mean(0).argmax())]

    def views(self, image: Tensor) -> Tensor:
        """Return the views (4, 3, size, size) of a panorama (3, H, W): ahead, right, behind, left."""
        turns = torch.arange(VIEWS, device=image.device) * FIELD_OF_VIEW
        views = to_perspective(image[None].float(), rotation_matrix(turns), self.size, self.size, fov=FIELD_OF_VIEW)
        return views[0].clamp(0, 1)


class _Matcher(TransformersNetwork):
    """A network that says how well each of some fixed sentences fits an image."""

    tokens: Tensor
    attention: Tensor

    def __init__(self, source: str, revision: str | None, sentences: list[str], precision: Precision) -> None:
        super().__init__(source, revision, VIEWS, None, precision, {"": "AutoModelForZeroShotImageClassification"})
        tokenizer = read_tokenizer(self.folder, source)
        # Pad all to the maximum length: SigLIP was trained so, and masks nothing.
        length = self.network.config.text_config.max_position_embeddings
        read = tokenizer(sentences, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self.register_buffer("tokens", read["input_ids"], persistent=False)
        whole = self.model_type.startswith("siglip")
        attention = torch.ones_like(read["input_ids"]) if whole else read["attention_mask"]
        self.register_buffer("attention", attention, persistent=False)

    def fits(self, images: Tensor) -> Tensor:
        """Return how well each sentence fits each image, (B, S)."""
        inputs = {**self.prepare(images), "input_ids": self.tokens, "attention_mask": self.attention}
        scores: Tensor = self.run(inputs, images).logits_per_image
        return scores.float()
