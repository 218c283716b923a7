"""Scores of published tables, by torchmetrics: CLIP score, and FID on Inception and CLIP, whole, at poles and equator.

Nothing is downloaded: weights come from a file, a folder, or the cache of torch or of the Hugging Face Hub.
"""

import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.multimodal.clip_score import CLIPScore

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.quality import find_panoramas, panoramas_of
from mtpano_zoo.sphere import to_cubemap
from mtpano_zoo.text_files import read_json_lines

__all__ = ("ClipFeatures", "InceptionFeatures", "captions_of", "clip_score", "fid", "find_inception", "report")

SIDE = 299  # pixels, of Inception's input
INCEPTION = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
"""Files of pytorch-fid and torch-fidelity: the TensorFlow network that FID was published with."""
POLES, EQUATOR = (4, 5), (0, 1, 2, 3)  # faces of a cube


class InceptionFeatures(nn.Module):
    """The 2048 features of FID (arXiv 1706.08500): torchvision's Inception v3 with TensorFlow's pooling.

    Args:
        weights: One of the two files of `INCEPTION`.

    Raises:
        InputError: If the file is damaged, or holds another network.
        OSError: If the file cannot be read.
    """

    num_features = 2048

    def __init__(self, weights: str | Path) -> None:
        from torchvision.models import Inception3

        super().__init__()
        self.network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            self.network.load_state_dict({k: v for k, v in state.items() if not k.startswith("AuxLogits.")})
        except (RuntimeError, EOFError, AttributeError, TypeError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:150]
            raise InputError(f"{weights} is not the Inception network of FID ({reason}): use {INCEPTION[0]}") from error
        self.network.fc = nn.Identity()
        for name, block in self.network.named_children():
            if hasattr(block, "branch_pool"):
                pool_as_tensorflow(block, largest=name == "Mixed_7c")
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 2048) of uint8 images (B, 3, H, W)."""
        resized = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        features: Tensor = self.network((resized - 128) / 128)
        return features


def pool_as_tensorflow(block: nn.Module, largest: bool) -> None:
    """Make a block of torchvision's Inception average without the pixels of the padding, as TensorFlow does.

    Args:
        block: Block with a `branch_pool` after its pooling.
        largest: Take the maximum, as the last block of TensorFlow's network does.
    """
    inputs: list[Tensor] = []

    def pooled(layer: nn.Module, args: Any) -> tuple[Tensor]:
        image = inputs.pop()
        if largest:
            return (F.max_pool2d(image, 3, 1, 1),)
        return (F.avg_pool2d(image, 3, 1, 1, count_include_pad=False),)

    block.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    block.get_submodule("branch_pool").register_forward_pre_hook(pooled)


class ClipFeatures(nn.Module):
    """Image and text features of a CLIP model; it also replaces the model in torchmetrics' `CLIPScore`.

    Args:
        source: Folder in the layout of transformers, or a repository in the cache, such as
            openai/clip-vit-large-patch14.

    Raises:
        InputError: If the model cannot be loaded.
    """

    def __init__(self, source: str | Path) -> None:
        from transformers import CLIPModel, CLIPProcessor

        super().__init__()
        try:
            self.model: Any = CLIPModel.from_pretrained(str(source), local_files_only=True)
            self.processor: Any = CLIPProcessor.from_pretrained(str(source), local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:150]
            raise InputError(
                f"{source} cannot be loaded as a CLIP model ({reason}): pass a folder with the files of a repository "
                "such as openai/clip-vit-large-patch14, or its name if it is in the cache"
            ) from error
        config: Any = self.model.config
        self.config = config
        self.num_features = int(config.projection_dim)
        self.eval().requires_grad_(False)

    def get_image_features(self, pixels: Tensor) -> Tensor:
        """Return features (B, C) of preprocessed images."""
        return _plain(self.model.get_image_features(pixels))

    def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return features (B, C) of tokens."""
        return _plain(self.model.get_text_features(tokens, mask))

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, C) of uint8 images (B, 3, H, W)."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return self.get_image_features(pixels)


def _plain(output: Any) -> Tensor:  # transformers 5 wraps features in an output object
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


@torch.no_grad()
def fid(made: Iterable[Tensor], real: Iterable[Tensor], features: nn.Module) -> dict[str, float]:
    """Return the FID between two sets of panoramas: whole, on the cube's polar faces, and on its other four faces.

    Args:
        made: Panoramas (3, H, W) in [0, 1].
        real: Panoramas to compare with.
        features: `InceptionFeatures`, `ClipFeatures`, or another network from uint8 (B, 3, H, W) to (B, N).

    Raises:
        InputError: If one of the sets has fewer than two panoramas.
    """
    metrics = {name: FrechetInceptionDistance(features) for name in ("whole", "poles", "equator")}
    for images, is_real in ((made, False), (real, True)):
        count = 0
        for image in images:
            faces = to_cubemap(image[None], image.shape[1] // 2)[0]
            parts = {"whole": image[None], "poles": faces[list(POLES)], "equator": faces[list(EQUATOR)]}
            for name, part in parts.items():
                metrics[name].update((part * 255).round().clamp(0, 255).byte(), real=is_real)
            count += 1
        if count < 2:
            raise InputError(f"FID needs at least two panoramas on each side, not {count}")
    return {name: float(metric.compute()) for name, metric in metrics.items()}


@torch.no_grad()
def clip_score(images: Iterable[Tensor], captions: Iterable[str], clip: ClipFeatures) -> float:
    """Return the mean of 100 cos(image, text) over panoramas and their captions, but at least 0.

    Args:
        images: Panoramas (3, H, W) in [0, 1].
        captions: One caption per panorama; those that are too long for CLIP are cut off.
        clip: The network.
    """
    parts: Any = (clip, clip.processor)
    metric = CLIPScore(lambda: parts)
    for image, caption in zip(images, captions, strict=True):
        metric.update((image * 255).round().byte(), caption)
    return float(metric.compute())


def report(folder: Path, reference: Path | None, inception: str | None, clip: str | None) -> str:
    """Return a table for the terminal: FID and CLIP score of the panoramas in a folder.

    Args:
        folder: Folder of panoramas.
        reference: Folder of panoramas to compare with, for FID.
        inception: Inception's weights, see `find_inception`. If None, there is no FID on Inception.
        clip: See `ClipFeatures`. If None, there is no CLIP score and no FID on CLIP.

    Raises:
        InputError: If weights, captions or panoramas are missing.
        OSError: If a file cannot be read.
    """
    if inception is not None and reference is None:
        raise InputError("FID compares with other panoramas: pass their folder as --reference")
    networks: dict[str, nn.Module] = {}
    if inception is not None:
        networks["FID"] = InceptionFeatures(find_inception(inception))
    if clip is not None:
        networks["FIDclip"] = ClipFeatures(clip)
    lines = []
    if reference is not None:
        lines.append(f"FID to {reference}: whole, polar faces of a cube, lateral faces")
        for name, network in networks.items():
            values = fid(panoramas_of(folder), panoramas_of(reference), network)
            lines.append(f"  {name:<8}" + "".join(f"{value:8.2f}" for value in values.values()))
    if isinstance(model := networks.get("FIDclip"), ClipFeatures):
        captions = captions_of(find_panoramas(folder), folder)
        lines.append(f"CLIP score {clip_score(panoramas_of(folder), captions, model):.2f}")
    return "\n".join(lines)


def find_inception(source: str) -> Path:
    """Return the file of Inception's weights: the given path, or for "cache" the one in torch's cache.

    Raises:
        InputError: If the file does not exist.
    """
    if source != "cache":
        if not Path(source).is_file():
            raise InputError(f"there are no Inception weights at {source}: use {' or '.join(INCEPTION)}")
        return Path(source)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = [folder / name for name in INCEPTION if (folder / name).is_file()]
    if not found:
        raise InputError(f"FID's Inception weights are not in torch's cache: put {INCEPTION[0]} into {folder}")
    return found[0]


def captions_of(paths: Sequence[Path], folder: Path) -> list[str]:
    """Return the captions of panoramas from the `prompts.jsonl` of their folder, or of its parent.

    Raises:
        InputError: If there is no such file, or a panorama is not in it.
    """
    root = next((one for one in (folder, folder.resolve().parent) if (one / "prompts.jsonl").is_file()), None)
    if root is None:
        raise InputError(f"{folder} has no prompts.jsonl, which a CLIP score needs: pass a folder of `mtpano generate`")
    rows: list[Mapping[str, str]] = [row for _, row in read_json_lines(root / "prompts.jsonl")]
    known = {(root / row["image"]).resolve(): row["caption"] for row in rows}
    if missing := [path for path in paths if path.resolve() not in known]:
        raise InputError(f"{root / 'prompts.jsonl'} has no caption for {missing[0].name}: generate it again")
    return [known[path.resolve()] for path in paths]
