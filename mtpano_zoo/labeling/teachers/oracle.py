"""A teacher that degrades the ground truth by known amounts, so that all later steps can be scored exactly."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.classes import S3DIS_CLASSES
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.teachers.base import DepthKind, Teacher, ViewImages, ViewLabels
from mtpano_zoo.tasks import NO_LABEL

__all__ = ("OracleTeacher",)

TASKS = ("semseg", "depth", "normals")
PATCHES = 48  # number of patches of a view, each of which is wrong or missing as a whole
UNKNOWN_FACTOR = 8.0  # values without scale are multiplied by a factor between an eighth and this


class OracleTeacher(Teacher):
    """Render the true labels of a panorama into its views, with defects of chosen size.

    Every draw depends on (seed, id of the panorama, index of the view, defect): views are independent of each other,
    and an additional defect leaves the others unchanged. Without defects the labels are the truth, sampled by nearest
    neighbour (normals bilinearly).

    Args:
        classes: Names of the classes of the truth; by default those of the rooms.
        tasks: Tasks that it labels, of `semseg`, `depth` and `normals`; the truth must have them.
        seed: Seed of the defects.
        depth_kind: `scale_invariant` multiplies every view by its own factor, and `disparity` inverts the z-depth and
            then applies a factor and an offset per view; the factor is from 1/8 to 8, the offset up to the view's
            median disparity.
        along_ray: Return the distance along the ray, not the z-depth.
        scale: Standard deviation of the logarithm of a factor on a view's depth: 0.2 is an error of about 20 %.
        shift: Standard deviation of an offset of a view's depth, as a fraction of its median depth. Negative results
            are no depth.
        noise: Standard deviation of the logarithm of a factor on every pixel's depth.
        wrong_classes: Fraction of the area with a wrong class; a patch of an object is wrong as a whole.
        softness: Fraction of the probability that is spread evenly over all classes; below 1.
        border_shift: Displacement of a view's class map in pixels, in a random direction.
        bleed: Radius in pixels of the box over which classes, inverse depth and normals are averaged. Planes stay as
            they are, because their inverse depth is linear: only edges are smeared.
        normals_noise: Standard deviation in degrees of the angle by which a normal is off.
        missing: Fraction of the area without labels, in patches; the confidence is 0 there and 1 elsewhere.
        stride: Pixels of a view per pixel of its probabilities, across and down; it must divide the view's sides.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> OracleTeacher(["floor", "wall"], tasks=["semseg"]).classes
        ('floor', 'wall')
    """

    def __init__(
        self,
        classes: Sequence[str] = S3DIS_CLASSES,
        tasks: Sequence[str] = TASKS,
        seed: int = 0,
        depth_kind: DepthKind = "metric",
        along_ray: bool = False,
        scale: float = 0.0,
        shift: float = 0.0,
        noise: float = 0.0,
        wrong_classes: float = 0.0,
        softness: float = 0.0,
        border_shift: float = 0.0,
        bleed: int = 0,
        normals_noise: float = 0.0,
        missing: float = 0.0,
        stride: int = 1,
    ) -> None:
        unknown = set(tasks) - set(TASKS)
        if unknown or not tasks:
            raise InputError(f"tasks must be some of {', '.join(TASKS)}, got {', '.join(tasks) or 'none'}")
        if depth_kind not in get_args(DepthKind):
            raise InputError(f"depth_kind must be one of {', '.join(get_args(DepthKind))}, got {depth_kind!r}")
        if depth_kind == "disparity" and along_ray:
            raise InputError("disparity is the inverse of z-depth: along_ray must be false")
        if "semseg" in tasks and len(classes) < 2:
            raise InputError(f"the oracle needs the names of at least two classes, got {len(classes)}")
        if not (0 <= wrong_classes <= 1 and 0 <= missing <= 1 and 0 <= softness < 1):
            raise InputError("wrong_classes and missing must be from 0 to 1, and softness from 0 to below 1")
        if min(scale, shift, noise, border_shift, bleed, normals_noise) < 0 or stride < 1:
            raise InputError("sizes of defects must not be negative, and stride must be at least 1")
        self.tasks = tuple(tasks)
        self.seed = seed
        self.depth_kind = depth_kind
        self.along_ray = along_ray
        self.classes = tuple(classes) if "semseg" in tasks else ()
        self.scale = scale
        self.shift = shift
        self.noise = noise
        self.wrong_classes = wrong_classes
        self.softness = softness
        self.border_shift = border_shift
        self.bleed = bleed
        self.normals_noise = normals_noise
        self.missing = missing
        self.stride = stride
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        self.provenance: Mapping[str, Any] = {"name": "oracle", "options": options}

    def __call__(self, seen: ViewImages) -> ViewLabels:
        """Label all views of a panorama.

        Raises:
            InputError: If the sample lacks a label of a task, or a class has no name.
        """
        sample, views, device = seen.sample, seen.views, seen.images.device
        lacking = [key for key in ("id", *self.tasks) if key not in sample]
        if lacking:
            raise InputError(
                f"the oracle needs the truth, but panorama {sample.get('id', 'without id')} has no "
                f"{', '.join(lacking)}: leave that out of its tasks or label another data set"
            )
        name = str(sample["id"])
        truth = {task: sample[task].to(device) for task in self.tasks}
        # One view at a time: its maps stay in the cache, and memory does not grow with the number of views.
        parts = [
            self._one(_View(f"{i}/{name}", *camera, views.height, views.width), truth)
            for i, camera in enumerate(zip(views.rotations, views.intrinsics, strict=True))
        ]
        labels: dict[str, Any] = {key: torch.stack([part[key] for part in parts]) for key in parts[0]}
        return ViewLabels(depth_kind=self.depth_kind, along_ray=self.along_ray, **labels)

    def _one(self, view: "_View", truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the labels of one view, by their names in `ViewLabels`."""
        labels, known = {}, None
        if self.missing:
            generator = self._draw(view, "missing")
            patch = _patches(view, generator)
            known = (torch.rand(PATCHES, generator=generator) >= self.missing)[patch]
            known = known.to(next(iter(truth.values())).device)
            labels["confidence"] = known.float()
        if "semseg" in truth:
            labels["probabilities"] = self._probabilities(view, truth["semseg"], known)
        if "depth" in truth:
            labels["depth"] = self._depth(view, truth["depth"].float())
        if "normals" in truth:
            labels["normals"] = self._normals(view, truth["normals"].float())
        if known is not None:
            for key in labels.keys() & {"depth", "normals"}:
                labels[key] = labels[key] * known
        return labels

    def _probabilities(self, view: "_View", semseg: Tensor, known: Tensor | None) -> Tensor:
        """Return probabilities (C, h / stride, w / stride); all zero where nothing is known."""
        count, stride = len(self.classes), self.stride
        if view.height % stride or view.width % stride:
            raise InputError(f"stride {stride} does not divide views of {view.height} x {view.width}")
        aside = (0.0, 0.0)
        if self.border_shift:
            turn = 2 * math.pi * float(torch.rand((), generator=self._draw(view, "border")))
            aside = (self.border_shift * math.cos(turn), self.border_shift * math.sin(turn))
        seen = view.look(semseg[None].long(), "label", aside=aside)[0]
        labelled = seen != NO_LABEL
        if seen[labelled].numel() and not 0 <= int(seen[labelled].min()) <= int(seen[labelled].max()) < count:
            raise InputError(
                f"panorama {view.key.split('/', 1)[1]} has class {int(seen[labelled].max())}, "
                f"but the oracle has {count} names"
            )
        if known is not None:
            labelled = labelled & known
        seen = torch.where(labelled, seen, 0)
        if self.wrong_classes:
            seen = self._mistake(view, seen)
        # Every pixel votes for its class in the coarser pixel that it lies in.
        rows, columns = view.height // stride, view.width // stride
        votes = torch.zeros(count, rows * columns, device=seen.device)
        for row in range(stride):
            for column in range(stride):
                part = (slice(row, None, stride), slice(column, None, stride))
                votes.scatter_add_(0, seen[part].reshape(1, -1), labelled[part].reshape(1, -1).float())
        votes = votes.view(count, rows, columns)
        if self.bleed:
            votes = _box(votes, round(self.bleed / stride))
        total = votes.sum(0)
        shares = votes / total.clamp_min(torch.finfo(votes.dtype).tiny)
        return torch.where(total > 0, shares * (1 - self.softness) + self.softness / count, 0)

    def _mistake(self, view: "_View", seen: Tensor) -> Tensor:
        """Return classes (h, w) with some patches replaced by another class."""
        count, generator = len(self.classes), self._draw(view, "classes")
        patch = _patches(view, generator).to(seen.device)
        err = torch.rand(PATCHES, count, generator=generator) < self.wrong_classes
        instead = (torch.arange(count) + torch.randint(1, count, (PATCHES, count), generator=generator)) % count
        return torch.where(err, instead, torch.arange(count)).to(seen.device)[patch, seen]

    def _depth(self, view: "_View", depth: Tensor) -> Tensor:
        margin = self.bleed
        z = sphere.distance_to_z(view.look(depth[None], "depth", margin)[0], view.camera(margin).to(depth))
        if margin:
            inverse = torch.where(z > 0, 1 / z, 0)
            # Average known pixels only: neither does depth bleed into holes, nor holes into depth.
            inner = (slice(margin, -margin),) * 2
            share, inverse = (_box(one[None], margin)[0][inner] for one in ((z > 0).float(), inverse))
            z = torch.where(z[inner] > 0, share / inverse, 0)
        known = z > 0
        z = z * math.exp(self.scale * self._number(view, "scale"))
        if self.shift:
            z = z + self.shift * self._number(view, "shift") * _median(z)
        if self.noise:
            z = z * torch.exp(self.noise * torch.randn(z.shape, generator=self._draw(view, "noise")).to(z))
        z = torch.where(known, z, 0).clamp_min(0)
        if self.depth_kind == "metric":
            return sphere.z_to_distance(z, view.intrinsics.to(z)) if self.along_ray else z
        factor, offset = torch.rand(2, generator=self._draw(view, "kind")).tolist()
        factor = UNKNOWN_FACTOR ** (2 * factor - 1)
        if self.depth_kind == "disparity":
            disparity = torch.where(z > 0, 1 / z, 0)
            return torch.where(z > 0, factor * (disparity + offset * _median(disparity)), 0)
        z = z * factor
        return sphere.z_to_distance(z, view.intrinsics.to(z)) if self.along_ray else z

    def _normals(self, view: "_View", normals: Tensor) -> Tensor:
        margin = self.bleed
        seen = view.look(normals, "vectors", margin)
        if margin:
            inner = (..., slice(margin, -margin), slice(margin, -margin))
            there = (seen[inner] != 0).any(0)
            seen = sphere.unit(_box(seen, margin)[inner], dim=0) * there
        if self.normals_noise:
            random = torch.randn(4, *seen.shape[1:], generator=self._draw(view, "normals")).to(seen)
            angle = torch.deg2rad(random[3] * self.normals_noise)
            aside = sphere.unit(random[:3] - (random[:3] * seen).sum(0) * seen, dim=0)
            turned = sphere.unit(seen * angle.cos() + aside * angle.sin(), dim=0)
            seen = torch.where((seen != 0).any(0), turned, 0)
        return seen

    def _number(self, view: "_View", purpose: str) -> float:
        return float(torch.randn((), generator=self._draw(view, purpose)))

    def _draw(self, view: "_View", purpose: str) -> torch.Generator:
        digest = hashlib.blake2b(
            f"{self.seed}/{purpose}/{view.key}".encode("utf-8", "surrogateescape"), digest_size=8
        ).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


@dataclass(frozen=True)
class _View:
    """One camera.

    Args:
        key: Key that all its draws depend on.
        rotation: Rotation (3, 3) from camera to panorama.
        intrinsics: Pinhole matrix (3, 3) in pixels.
        height: Rows.
        width: Columns.
    """

    key: str
    rotation: Tensor
    intrinsics: Tensor
    height: int
    width: int

    def camera(self, margin: int, aside: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """Return the intrinsics of the view with a margin in pixels around it, displaced by `aside`."""
        wide = self.intrinsics.clone()
        wide[0, 2] += margin + aside[0]
        wide[1, 2] += margin + aside[1]
        return wide

    def look(
        self, truth: Tensor, mode: sphere.Mode, margin: int = 0, aside: tuple[float, float] = (0.0, 0.0)
    ) -> Tensor:
        """Return its view (C, h + 2 margin, w + 2 margin) of a map (C, H, W)."""
        height, width = self.height + 2 * margin, self.width + 2 * margin
        camera = self.camera(margin, aside)
        return sphere.to_perspective(truth[None], self.rotation, height, width, intrinsics=camera, mode=mode)[0, 0]


def _patches(view: _View, generator: torch.Generator) -> Tensor:
    """Return the patch index of every pixel of a view (h, w): the nearest of some random points."""
    points = torch.rand(PATCHES, 2, generator=generator) * torch.tensor([view.height, view.width])
    # Points are compared on a coarse grid, because their distances to all pixels would take most of the time.
    rows, columns = (torch.arange(2, side + 4, 4) for side in (view.height, view.width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).float()
    nearest = torch.cdist(grid.flatten(0, 1), points).argmin(1).view(len(rows), len(columns))
    return nearest.repeat_interleave(4, 0).repeat_interleave(4, 1)[: view.height, : view.width]


def _box(maps: Tensor, radius: int) -> Tensor:
    """Return the mean of maps (C, h, w) over a square around every pixel, within the map."""
    maps = F.avg_pool2d(maps[None], (2 * radius + 1, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(maps, (1, 2 * radius + 1), 1, (0, radius), count_include_pad=False)[0]


def _median(depth: Tensor) -> Tensor:
    there = depth[depth > 0]
    return there.median() if there.numel() else depth.new_zeros(())
