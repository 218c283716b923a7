"""Inspection of a data set before training on it: which samples are incomplete, damaged or implausible."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mtpano_zoo.data.augmentation import Sample
from mtpano_zoo.data.panoramas import SPLITS, PanoramaDataset
from mtpano_zoo.data.reading import open_image, reason_of
from mtpano_zoo.data.resizing import resize_map
from mtpano_zoo.data.sets import read_all, samples_of
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_io import RATIO_TOLERANCE, write_bytes
from mtpano_zoo.sphere import depth_to_points, erp_rays, points_to_normals
from mtpano_zoo.tasks import MAIN_TASKS, NO_LABEL

__all__ = ("Finding", "Inspector", "Verification", "judge", "verify")

ERRORS = {
    "missing": "a file is not there",
    "unreadable": "a file is damaged or not what the data set promises",
    "size": "not 2:1, or not of the size of its panorama",
    "classes": "class numbers that the data set does not have",
}
SUSPICIONS = {
    "image": "the panorama is of one colour",
    "unlabelled": "a label without any valid pixel",
    "depth": "distances out of the plausible range",
    "saturated": "distances that are too far for their file: they count as not measured",
    "length": "normals that are not of length one",
    "facing": "normals that face away from the camera",
    "geometry": "normals that the depth contradicts",
}
SHOWN = 10  # number of findings of a kind to print; files hold all of them

# Measured on rendered rooms and real panoramas. Of sound normals none faced away and up to 12 % were beyond 45 degrees,
# at depth edges; with an axis negated or two swapped at least 7 % faced away; of another room 21 % or more were beyond.
_FACING_SHARE, _GEOMETRY_SHARE, _GEOMETRY_ANGLE = 0.05, 0.18, 45.0
_GEOMETRY_ROWS = 256  # differences of neighbours are noise in larger maps


@dataclass(frozen=True)
class Finding:
    """A problem of a sample: its split, its id, the kind (of `ERRORS` or `SUSPICIONS`), and a sentence.

    Example:
        >>> Finding("train", "room-1", "missing", "depth/room-1.png does not exist").kind
        'missing'
    """

    split: str
    sample: str
    kind: str
    sentence: str


@dataclass
class Verification:
    """Result of verifying a data set.

    Args:
        samples: Number of samples by split.
        findings: All that is wrong.
        absent: Labels that no sample of a split has, by split; reported, but not an error.
    """

    samples: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)

    @property
    def faulty(self) -> list[str]:
        """Ids of the samples with an error, sorted; those of a mixture may be of several of its sets."""
        return sorted({found.sample for found in self.findings if found.kind in ERRORS})

    @property
    def exit_code(self) -> int:
        """Exit status: 1 if there is an error, 0 if something is only suspicious."""
        return 1 if self.faulty else 0

    def summary(self) -> str:
        """Return lines for the terminal: findings by kind, the number of each, and the totals."""
        lines = []
        for kind, meaning in (ERRORS | SUSPICIONS).items():
            found = [finding for finding in self.findings if finding.kind == kind]
            if found:
                lines.append(f"{'error' if kind in ERRORS else 'suspicious'}, {kind}: {meaning} ({len(found)})")
                lines += [f"  {one.split} {one.sample}: {one.sentence}" for one in found[:SHOWN]]
                lines += [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines += [f"{split}: no sample has {' or '.join(roles)}" for split, roles in self.absent.items() if roles]
        # Ids are unique in a data set only: the sets of a mixture have splits of their own.
        faulty = {(finding.split, finding.sample) for finding in self.findings if finding.kind in ERRORS}
        doubtful = {(finding.split, finding.sample) for finding in self.findings} - faulty
        counts = ", ".join(f"{count} {split}" for split, count in self.samples.items())
        lines.append(
            f"{sum(self.samples.values())} samples ({counts}): {len(faulty)} with errors, "
            f"{len(doubtful)} only suspicious"
        )
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        content = {
            "samples": self.samples,
            "absent": self.absent,
            "kinds": dict(Counter(finding.kind for finding in self.findings)),
            "findings": [asdict(finding) for finding in self.findings],
        }
        write_bytes(path, json.dumps(content, indent=1).encode())


def verify(
    data: LightningDataModule,
    splits: Sequence[str] = SPLITS,
    *,
    workers: int = 0,
    depth_range: tuple[float, float] = (0.05, 200.0),
    allow_missing: bool = False,
    progress: bool = True,
) -> Verification:
    """Read every sample of a data module completely and check it.

    Files are checked in their own size, before anything is resized. If only some samples of a split have a label, the
    others lack it, which is an error unless `allow_missing`. Panoramas in no split, because they have no labels or no
    list names them, are read for prediction: if all splits are verified, they form one more, ``predict``, of which the
    images are checked.

    Args:
        data: The data module.
        splits: Which of its splits; empty ones are skipped.
        workers: Worker processes that read.
        depth_range: Plausible range in metres; 98 % of the distances of a panorama must lie in it.
        allow_missing: Whether samples of a split may have different labels.
        progress: Show a bar on standard error.

    Raises:
        InputError: If all splits are empty, or the range is not a range.
        FileNotFoundError: If there is no data.
    """
    if not 0 <= depth_range[0] < depth_range[1]:
        raise InputError(f"a range of depth must be two distances in metres, the smaller first, not {depth_range}")
    report = Verification()
    for split, (samples, module) in samples_of(data, splits, rest=True).items():
        report.samples[split] = len(cast(Any, samples))
        inspector = Inspector(
            samples, len(getattr(module, "classes", ())), depth_range, getattr(module, "saturated", None)
        )
        lacking: dict[str, list[str]] = {}
        for name, present, found in read_all(inspector, workers, f"reading {split}" if progress else None):
            report.findings += [Finding(split, name, kind, sentence) for kind, sentence in found]
            for role in inspector.roles:
                if role not in present and role in MAIN_TASKS:
                    lacking.setdefault(role, []).append(name)
        report.absent[split] = [role for role, names in lacking.items() if len(names) == report.samples[split]]
        for role, names in lacking.items():
            if role not in report.absent[split] and not allow_missing:
                report.findings += [Finding(split, name, "missing", f"it has no {role}") for name in names]
    return report


class Inspector(Dataset[tuple[str, list[str], list[tuple[str, str]]]]):
    """Check the samples of a set: item i is the id, the existing maps, and pairs of kind and sentence.

    Args:
        samples: The set; files of a `PanoramaDataset` are checked in their own size.
        classes: Number of classes.
        depth_range: Plausible distances in metres.
        saturated: Number in 16-bit depth files that means this distance or farther.
    """

    def __init__(
        self, samples: Dataset[Sample], classes: int, depth_range: tuple[float, float], saturated: int | None = None
    ) -> None:
        self.samples = samples
        self.classes = classes
        self.depth_range = depth_range
        self.saturated = saturated
        self.roles = ("image", *getattr(samples, "labels", MAIN_TASKS))

    def __len__(self) -> int:
        return len(cast(Any, self.samples))

    def __getitem__(self, i: int) -> tuple[str, list[str], list[tuple[str, str]]]:
        """Read and check one sample; no fault of it raises."""
        found: list[tuple[str, str]] = []
        if isinstance(self.samples, PanoramaDataset):
            name, present = self.samples.name(i), [role for role in self.roles if self.samples.index.has(role, i)]
            maps = self._read_files(self.samples, i, present, found)
        else:
            sample = self.samples[i]
            name, present = sample["id"], [role for role in self.roles if role in sample]
            maps = {role: _to_map(role, sample[role].numpy()) for role in present}
        return name, present, found + list(judge(maps, self.classes, self.depth_range))

    def _read_files(
        self, samples: PanoramaDataset, i: int, roles: Sequence[str], found: list[tuple[str, str]]
    ) -> dict[str, NDArray[Any]]:
        maps: dict[str, NDArray[Any]] = {}
        for role in roles:
            try:
                files = samples.index.read(role, i)
                values = samples.decoders[role](*files)
                if role == "depth" and self.saturated is not None:
                    found += _judge_stored_depth(files[0], self.saturated)
            except Exception as error:  # whatever one file raises, check the others
                found.append(("unreadable", f"{samples.index.describe(role, i)} cannot be used: {reason_of(error)}"))
                continue
            rows, columns = values.shape[:2]
            size = maps["image"].shape[:2] if "image" in maps else (rows, columns)
            if abs(columns / (2 * rows) - 1) > RATIO_TOLERANCE or (rows, columns) != size:
                wanted = f"its panorama is {size[1]} x {size[0]}" if (rows, columns) != size else "2:1 is a panorama"
                found.append(("size", f"{samples.index.describe(role, i)} is {columns} x {rows} pixels, but {wanted}"))
                continue
            maps[role] = values
        if samples.mask is not None and "image" in maps:
            samples.mask(maps)
        return maps


def judge(
    maps: Mapping[str, NDArray[Any]], classes: int, depth_range: tuple[float, float]
) -> Iterator[tuple[str, str]]:
    """Yield a kind and a sentence for each fault of decoded maps.

    Args:
        maps: Any of image uint8 (H, W, 3), semseg (H, W), depth (H, W) and normals (H, W, 3).
        classes: Number of classes.
        depth_range: Plausible distances in metres.
    """
    checks: dict[str, Callable[[NDArray[Any]], Iterator[tuple[str, str]]]] = {
        "image": _judge_image,
        "semseg": lambda labels: _judge_semseg(labels, classes),
        "depth": lambda depth: _judge_depth(depth, *depth_range),
        "normals": _judge_normals,
    }
    for role, check in checks.items():
        if role in maps:
            yield from check(maps[role])
    if "depth" in maps and "normals" in maps:
        yield from _judge_geometry(maps["depth"], maps["normals"])


def _judge_image(image: NDArray[Any]) -> Iterator[tuple[str, str]]:
    if (image == image[0, 0]).all():
        yield "image", f"every pixel of the image is {tuple(int(value) for value in image[0, 0])}"


def _judge_semseg(labels: NDArray[Any], classes: int) -> Iterator[tuple[str, str]]:
    known = labels != NO_LABEL
    wrong = labels[known & ((labels < 0) | (labels >= classes))]
    if wrong.size:
        yield "classes", f"semseg holds the classes {np.unique(wrong)[:5].tolist()}, but there are {classes}"
    if not known.any():
        yield "unlabelled", "no pixel of semseg has a class"


def _judge_depth(depth: NDArray[Any], minimum: float, maximum: float) -> Iterator[tuple[str, str]]:
    finite = np.isfinite(depth)
    if not finite.all() or (depth[finite] < 0).any():
        yield (
            "depth",
            f"depth has {int((~finite).sum() + (depth[finite] < 0).sum())} pixels that are negative or not finite",
        )
    known = depth[finite & (depth > 0)]
    if not known.size:
        yield "unlabelled", "no pixel has a depth"
        return
    low, high = np.percentile(known, (1, 99))
    if low < minimum or high > maximum:
        yield "depth", f"depth lies between {low:.3g} and {high:.3g} m, expected {minimum:g} to {maximum:g} m"
    elif known.size > 1 and known.min() == known.max():
        yield "depth", f"depth is {low:.3g} m everywhere"


def _judge_stored_depth(data: bytes, saturated: int) -> Iterator[tuple[str, str]]:
    """Look for a number that decoding turns into "no measurement"."""
    if not data.startswith(b"\x89PNG"):
        return
    if count := int((np.asarray(open_image(data)) == saturated).sum()):
        yield (
            "saturated",
            f"{count} pixels of depth are stored as {saturated}, which stands for this distance or farther",
        )


def _judge_normals(normals: NDArray[Any]) -> Iterator[tuple[str, str]]:
    length = np.linalg.norm(normals.astype(np.float64), axis=-1)
    known = ~(length == 0)  # NaN counts as known
    if not known.any():
        yield "unlabelled", "no pixel has a normal"
        return
    if odd := int((~(np.abs(length[known] - 1) < 0.01)).sum()):
        yield "length", f"{odd / known.sum():.1%} of the normals are not of length one"
    rays = erp_rays(*normals.shape[:2]).numpy()
    away = np.einsum("hwc,hwc->hw", normals, rays)[known] > 0.1 * length[known]
    if (share := float(away.mean())) > _FACING_SHARE:
        yield "facing", f"{share:.0%} of the normals face away from the camera: their frame or sign is wrong"


def _judge_geometry(depth: NDArray[Any], normals: NDArray[Any]) -> Iterator[tuple[str, str]]:
    rows = min(depth.shape[0], _GEOMETRY_ROWS)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
    if depth.shape[0] > rows:
        depth, normals = (
            resize_map(role, values, rows, 2 * rows) for role, values in (("depth", depth), ("normals", normals))
        )
    derived = points_to_normals(depth_to_points(torch.from_numpy(depth)[None, None]))[0].permute(1, 2, 0).numpy()
    known = (derived != 0).any(-1) & (np.linalg.norm(normals, axis=-1) > 0.5)
    if not known.any():
        return
    cosine = np.einsum("nc,nc->n", derived[known], normals[known]) / np.linalg.norm(normals[known], axis=-1)
    share = float((cosine < np.cos(np.radians(_GEOMETRY_ANGLE))).mean())
    if share > _GEOMETRY_SHARE:
        yield "geometry", f"{share:.0%} of the normals are more than {_GEOMETRY_ANGLE:g} degrees off those of the depth"


def _to_map(role: str, values: NDArray[Any]) -> NDArray[Any]:
    return values.transpose(1, 2, 0) if role in ("image", "normals") else values
