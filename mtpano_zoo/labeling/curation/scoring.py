"""Second stage: a discriminator gives every label of a folder a score map and a score.

A folder of scores holds::

    scores/ID.json        score, valid (share of the sphere that has a label), domain, hash (16 hexadecimal digits)
    score_map/ID/merged.png    8-bit PNG in the size of the label: 255 = right, 0 = wrong or no label
    origins/ID.txt, manifest.json, runs/    as in a folder of labels
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtpano_zoo.data.pseudo_labels import PseudoLabelDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.files.checkpoint import network_weights, read_checkpoint
from mtpano_zoo.labeling.curation.domains import DomainClassifier
from mtpano_zoo.labeling.curation.perceptual_hash import perceptual_hash
from mtpano_zoo.labeling.encoding import EncodedLabels, grey_png
from mtpano_zoo.labeling.manifest import FORMAT as LABELS_FORMAT
from mtpano_zoo.labeling.module import PanoramaLabeler
from mtpano_zoo.labeling.origin import digest_of_files, stamp_of_file
from mtpano_zoo.labeling.storage import SCORES, Marker
from mtpano_zoo.manifest import read_manifest
from mtpano_zoo.models.patch_discriminator import PatchDiscriminator
from mtpano_zoo.output_paths import path_below
from mtpano_zoo.sphere import solid_angles
from mtpano_zoo.training.curation import DESCRIPTION, DISCRIMINATOR_FORMAT

__all__ = (
    "FORMAT",
    "LABELS_FORMAT",
    "LabelsToScore",
    "Score",
    "Scorer",
    "check_labels",
    "digest_of_label",
    "load_discriminator",
    "score_of_map",
    "stamp_of_label",
)

FORMAT = "mtpano label scores, 2"
WORST = 1 / 3  # share of the sphere that decides about a label
ENCODING = {
    "scores": {
        "score": "mean of the score map over the worst third of what is labelled, 0 = wrong, 1 = right",
        "valid": "share of the sphere that has a distance, or is known to be far",
        "hash": "perceptual hash of the panorama, 16 hexadecimal digits",
    },
    "score_map": {"file": "8-bit PNG", "unit": "score = value / 255", "no label": 0},
}


def score_of_map(score_map: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean (B,) over the worst third of maps (B, H, W).

    Failures are often local: over the whole sphere, a sky that is right outweighs a ground that is wrong.

    Args:
        score_map: Scores of pixels (B, H, W).
        weights: Weights of pixels (B, H, W); zero = does not count.

    Example:
        >>> score_of_map(torch.tensor([[[0.9, 0.2, 0.4]]]), torch.ones(1, 1, 3)).item()
        0.20000000298023224
    """
    values, order = score_map.flatten(1).sort(dim=1)
    covered = weights.flatten(1).gather(1, order).double().cumsum(1)
    counted = covered.clamp(max=covered[:, -1:] * WORST).diff(dim=1, prepend=torch.zeros_like(covered[:, :1]))
    return ((values * counted).sum(1) / counted.sum(1).clamp_min(1e-9)).to(score_map.dtype)


@dataclass(frozen=True)
class Score:
    """Score, coverage, domain and hash of one label.

    Args:
        score: From 0 to 1.
        valid: Share of the sphere that has a distance, or is known to be far.
        domain: Kind of place.
        hash: Hash of the panorama, see `perceptual_hash`.
        score_map: Score by pixel (H, W), 0 to 1; 0 where there is no label.
    """

    score: float
    valid: float
    domain: str
    hash: int
    score_map: Tensor


class Scorer(PanoramaLabeler):
    """Score the labels of panoramas from `LabelsToScore`.

    The score of a label is that of its map, see `score_of_map`, over the pixels that have a distance or are known to be
    far.

    Args:
        discriminator: Network that scores patches.
        domains: Classifier of a panorama's domain.
        label_classes: Names of the classes of the labels.
    """

    marker = Marker(SCORES, ".json")

    def __init__(
        self, discriminator: PatchDiscriminator, domains: DomainClassifier, label_classes: tuple[str, ...]
    ) -> None:
        super().__init__(*discriminator.input_size)
        self.discriminator = discriminator.eval()
        self.domains = domains
        self.label_classes = label_classes
        if isinstance(domains, torch.nn.Module):
            self.domain_network = domains.eval()

    def manifest(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest of scores that are made with these settings."""
        content = {"format": FORMAT, "domains": list(self.domains.domains), "encoding": ENCODING, "settings": settings}
        plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
        return plain

    @torch.no_grad()
    def observe(self, name: str, sample: Mapping[str, Any]) -> Score:
        """Score the label of one panorama.

        Raises:
            InputError: If it has no distance at all, or the classifier returns an unknown domain.
        """
        if "depth" not in sample:
            raise InputError("it has no label of depth")
        image, depth = self._image(sample), sample["depth"].to(self.device)
        known = depth > 0
        if not known.any():
            raise InputError("its label has no distance at any pixel")
        weights = solid_angles(self.height, self.width, device=self.device).expand_as(depth)
        covered = known | sample["far"].to(self.device) if "far" in sample else known
        score_map = (self.discriminator.score_map(image[None], depth[None, None])[0, 0].float() * covered).cpu()
        domain = self.domains({**sample, "id": name}, self.label_classes)
        if domain not in self.domains.domains:
            known_domains = ", ".join(self.domains.domains)
            raise InputError(
                f"{type(self.domains).__name__} returns the domain {domain!r}, which is none of {known_domains}"
            )
        return Score(
            float(score_of_map(score_map[None], (weights * covered)[None].cpu())),
            float(weights[covered].sum() / weights.sum()),
            domain,
            perceptual_hash(image.cpu()),
            score_map,
        )

    def encode(self, labels: Any) -> EncodedLabels:
        """Return the files of a score."""
        values = {
            "score": round(labels.score, 6),
            "valid": round(labels.valid, 6),
            "domain": labels.domain,
            "hash": f"{labels.hash:016x}",
        }
        picture = grey_png(labels.score_map.numpy())
        return EncodedLabels({"score_map/merged.png": picture}, marker=json.dumps(values).encode())


class LabelsToScore(Dataset[dict[str, Any]]):
    """The panoramas of a folder of labels, with all maps that a score depends on.

    Args:
        root: The folder.
        height: Rows.
        width: Columns.
        split: Which of its lists.
    """

    def __init__(self, root: Path, height: int, width: int, split: str = "train") -> None:
        data = PseudoLabelDataModule(root, height=height, width=width, tasks=["semseg", "depth"], confidence=False)
        self.root = data.root
        self.samples = data.dataset(split)
        self.classes = tuple(data.classes)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, i: int) -> str:
        """Return the id of a panorama."""
        return self.samples.name(i)

    def stamp(self, i: int) -> str:
        """Return sizes and times of its files, see `stamp_of_label`."""
        return stamp_of_label(self.root, self.name(i))

    def fingerprint(self, i: int) -> str:
        """Return the digest of its files, see `digest_of_label`."""
        return digest_of_label(self.root, self.name(i))

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Read one panorama and its label."""
        return self.samples[i]


def stamp_of_label(root: Path, name: str) -> str:
    """Return sizes and times of the image and the distances of a label.

    Raises:
        OSError: If they are not plain files.
    """
    return " ".join(stamp_of_file(path) for path in _files(root, name)[:2])


def digest_of_label(root: Path, name: str) -> str:
    """Return the digest of the image and the label.

    Raises:
        OSError: If image or distances are not plain files, or a file cannot be read.
    """
    image, depth, *others = _files(root, name)
    return digest_of_files([path.read_bytes() for path in (image, depth, *(one for one in others if one.is_file()))])


def _files(root: Path, name: str) -> list[Path]:
    maps = (path_below(root / role, name) / "merged.png" for role in ("depth", "semseg", "far"))
    return [path_below(root / "img", name, ".jpg"), *maps]


def load_discriminator(path: str | Path) -> tuple[PatchDiscriminator, dict[str, Any]]:
    """Load a discriminator that `DepthQualityModule` trained, and the record of its training.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not a checkpoint of a discriminator, or its weights do not fit or are not finite.
    """
    checkpoint = read_checkpoint(path)
    described = checkpoint.get(DESCRIPTION)
    if not isinstance(described, dict) or described.get("class_path") != PatchDiscriminator.__name__:
        raise InputError(
            f"{path} is not a discriminator: train one with `mtpano fit --config curation/discriminator.yaml`, and "
            "pass its last.ckpt"
        )
    if described.get("format") != DISCRIMINATOR_FORMAT:
        raise InputError(
            f"{path} was trained by an earlier version, whose discriminator had other layers: train it again"
        )
    try:
        weights = network_weights(checkpoint, "discriminator.")
        discriminator = PatchDiscriminator(**described["init_args"])
        discriminator.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} does not hold the weights of the discriminator that it describes: train it again"
        ) from error
    if broken := [key for key, value in weights.items() if not value.isfinite().all()]:
        raise InputError(
            f"{path} holds weights that are not finite ({broken[0]}), so its training failed: train it again"
        )
    return discriminator.eval(), described


def check_labels(root: Path, described: Mapping[str, Any], size: tuple[int, int], any_labeler: bool) -> dict[str, Any]:
    """Check that a discriminator was trained for the labels of a folder, and return the folder's settings.

    Args:
        root: The folder of labels.
        described: The record of the discriminator's training.
        size: Its height and width.
        any_labeler: Allow labels of another labeler.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: If it holds no labels, or labels of another size or labeler.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder of labels at {root}")
    manifest = read_manifest(root, LABELS_FORMAT, "settings")
    if manifest is None:
        raise InputError(f"{root} has no manifest of labels: pass a folder that `mtpano curate label` wrote")
    settings: dict[str, Any] = manifest["settings"]
    labelled = (settings.get("height"), settings.get("width"))
    if labelled != size:
        raise InputError(
            f"{root} holds labels of {labelled[0]} x {labelled[1]}, but the discriminator was trained on {size[0]} x "
            f"{size[1]}: train one on the size of the labels, or label again with --height {size[0]} --width {size[1]}"
        )
    labeler = settings.get("labeler", {}).get("weights")
    if labeler != described.get("labeler") and not any_labeler:
        if labeler:
            raise InputError(
                f"{root} was labelled by another network than the one whose errors the discriminator learned: train "
                "a discriminator for it, or add --any-labeler"
            )
        raise InputError(
            f"{root} was not labelled by a network of the zoo, so the discriminator did not learn its errors: add "
            "--any-labeler to score it anyway"
        )
    return settings
