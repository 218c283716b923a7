"""A teacher that knows the truth and spoils it by known amounts, so that everything after it can be scored exactly."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.data.classes import S3DIS_CLASSES
from mtpano_zoo.labeling.teachers.base import DepthKind, ViewImages, ViewLabels
from mtpano_zoo.labeling.views import Views

__all__ = ("OracleTeacher",)

TASKS = ("semseg", "depth", "normals")
PATCHES = 48  # parts of a view that are wrong or missing as a whole
UNKNOWN_FACTOR = 8.0  # what has no scale is multiplied by something between an eighth and this


class OracleTeacher:
    """Renders the true labels of a panorama into its views, with defects of chosen size.

    Every draw follows from (seed, id of the panorama, index of the view, defect): views are independent of each
    other, and one more defect leaves the others as they were. Without defects the labels are the truth, seen with
    nearest neighbour (normals bilinear).

    Args:
        classes: names of the classes of the truth; by default those of the rooms.
        tasks: what it gives, of `semseg`, `depth` and `normals`; the truth must have it.
        seed: another seed is another teacher with defects of the same size.
        depth_kind: `scale_invariant` multiplies every view by a factor of its own, and `disparity` inverts the z-depth
            and then gives every view a factor and an offset of its own; the factor is anything from 1/8 to 8, the
            offset up to the view's median disparity.
        along_ray: give the distance along the ray, not the z-depth.
        scale: standard deviation of the logarithm of a factor on a view's depth: 0.2 is an error of about 20 %.
        shift: standard deviation of an offset of a view's depth, as a part of its median depth. What becomes negative
            is no depth any more.
        noise: standard deviation of the logarithm of a factor on every pixel's depth.
        wrong_classes: part of the area whose class is another one; a patch of an object errs as a whole.
        softness: part of the probability that the class of a pixel gives away to all classes alike; below 1.
        border_shift: pixels of a view by which its class map is displaced, in a direction of its own.
        bleed: radius in pixels of the box over which classes, inverse depth and normals are averaged. Planes stay as
            they are, because their inverse depth is linear: only edges are smeared.
        normals_noise: standard deviation in degrees of the angle by which a normal is off.
        missing: part of the area for which it knows nothing, in patches; its confidence is 0 there and 1 elsewhere.
        stride: pixels of a view to one pixel of its probabilities, across and down, which must divide its sides.

    Raises:
        ValueError: If an argument is out of range.
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
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}, got {', '.join(tasks) or 'none'}")
        if depth_kind not in get_args(DepthKind):
            raise ValueError(f"depth_kind must be one of {', '.join(get_args(DepthKind))}, got {depth_kind!r}")
        if depth_kind == "disparity" and along_ray:
            raise ValueError("disparity is the inverse of z-depth: along_ray must be false")
        if "semseg" in tasks and len(classes) < 2:
            raise ValueError(f"the oracle needs the names of at least two classes, got {len(classes)}")
        if not (0 <= wrong_classes <= 1 and 0 <= missing <= 1 and 0 <= softness < 1):
            raise ValueError("wrong_classes, missing and softness are parts of a whole: from 0 to 1")
        if min(scale, shift, noise, border_shift, bleed, normals_noise) < 0 or stride < 1:
            raise ValueError("sizes of defects must not be negative, and stride must be at least 1")
        self.tasks, self.seed, self.depth_kind, self.along_ray = tuple(tasks), seed, depth_kind, along_ray
        self.classes = tuple(classes) if "semseg" in tasks else ()
        self.scale, self.shift, self.noise = scale, shift, noise
        self.wrong_classes, self.softness, self.border_shift = wrong_classes, softness, border_shift
        self.bleed, self.normals_noise, self.missing, self.stride = bleed, normals_noise, missing, stride
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        self.provenance: Mapping[str, Any] = {"name": "oracle", "options": options}

    def __call__(self, seen: ViewImages) -> ViewLabels:
        """Label all views of a panorama.

        Raises:
            ValueError: If the sample lacks a label that was asked for, or a class is beyond the names.
        """
        sample, views, device = seen.sample, seen.views, seen.images.device
        lacking = [key for key in ("id", *self.tasks) if key not in sample]
        if lacking:
            raise ValueError(
                f"the oracle needs the truth, but panorama {sample.get('id', 'without id')} has no "
                f"{', '.join(lacking)}: leave that out of its tasks or label another data set"
            )
        name = str(sample["id"])
        truth = {task: sample[task].to(device) for task in self.tasks}
        known = self._known(name, views).to(device) if self.missing else None
        labels: dict[str, Any] = {}
        if "semseg" in truth:
            labels["probabilities"] = self._probabilities(name, truth["semseg"], views, known)
        if "depth" in truth:
            labels["depth"] = self._depth(name, truth["depth"].float(), views)
        if "normals" in truth:
            labels["normals"] = self._normals(name, truth["normals"].float(), views)
        if known is not None:
            labels["confidence"] = known.float()
            for key, mask in (("depth", known), ("normals", known[:, None])):
                if key in labels:
                    labels[key] = labels[key] * mask
        return ViewLabels(depth_kind=self.depth_kind, along_ray=self.along_ray, **labels)

    def _probabilities(self, name: str, semseg: Tensor, views: Views, known: Tensor | None) -> Tensor:
        """Probabilities (V, C, h / stride, w / stride); all zero where nothing is known."""
        count, stride = len(self.classes), self.stride
        if views.height % stride or views.width % stride:
            raise ValueError(f"stride {stride} does not divide views of {views.height} x {views.width}")
        intrinsics = views.intrinsics.clone()
        if self.border_shift:
            turn = torch.stack([torch.rand((), generator=self._draw(name, i, "border")) for i in range(len(views))])
            turn = turn.to(intrinsics) * (2 * math.pi)
            intrinsics[:, 0, 2] += self.border_shift * turn.cos()
            intrinsics[:, 1, 2] += self.border_shift * turn.sin()
        seen = _look(semseg[None].long(), views, intrinsics, "label")[:, 0]
        labelled = seen != 255
        if seen[labelled].numel() and not 0 <= int(seen[labelled].min()) <= int(seen[labelled].max()) < count:
            raise ValueError(f"panorama {name} has class {int(seen[labelled].max())}, but the oracle has {count} names")
        if known is not None:
            labelled = labelled & known
        seen = torch.where(labelled, seen, 0)
        if self.wrong_classes:
            seen = self._mistake(name, seen, views)
        # Every pixel votes for its class in the coarser pixel that it lies in.
        rows, columns = views.height // stride, views.width // stride
        votes = torch.zeros(len(views), count, rows * columns, device=seen.device)
        for row in range(stride):
            for column in range(stride):
                part = (slice(None), slice(row, None, stride), slice(column, None, stride))
                votes.scatter_add_(1, seen[part].flatten(1)[:, None], labelled[part].flatten(1)[:, None].float())
        votes = votes.view(len(views), count, rows, columns)
        if self.bleed:
            votes = _box(votes, round(self.bleed / stride))
        total = votes.sum(1, keepdim=True)
        shares = votes / total.clamp_min(torch.finfo(votes.dtype).tiny)
        return torch.where(total > 0, shares * (1 - self.softness) + self.softness / count, 0)

    def _mistake(self, name: str, seen: Tensor, views: Views) -> Tensor:
        """Classes (V, h, w) of which patches are replaced by another class."""
        count = len(self.classes)
        wrong = []
        for i in range(len(views)):
            generator = self._draw(name, i, "classes")
            patch = _patches(views, generator).to(seen.device)
            err = torch.rand(PATCHES, count, generator=generator) < self.wrong_classes
            instead = (torch.arange(count) + torch.randint(1, count, (PATCHES, count), generator=generator)) % count
            table = torch.where(err, instead, torch.arange(count)).to(seen.device)
            wrong.append(table[patch, seen[i]])
        return torch.stack(wrong)

    def _depth(self, name: str, depth: Tensor, views: Views) -> Tensor:
        margin = self.bleed
        intrinsics = _widened(views.intrinsics, margin)
        z = sphere.distance_to_z(_look(depth[None], views, intrinsics, "depth", margin), intrinsics.to(depth))[:, 0]
        if margin:
            inverse = torch.where(z > 0, 1 / z.clamp_min(torch.finfo(z.dtype).tiny), 0)
            # A mean over what is known: depth neither bleeds into holes nor holes into depth.
            share = _box((z > 0).float(), margin)
            inner = slice(margin, -margin)
            z = torch.where(z > 0, share / _box(inverse, margin), 0)[:, inner, inner]
        known = z > 0
        middle = torch.stack([_median(one) for one in z])
        normal, uniform = (self._numbers(name, len(views), kind).to(z) for kind in ("depth", "kind"))
        z = z * _each(torch.exp(self.scale * normal[:, 0])) + _each(self.shift * middle * normal[:, 1])
        if self.noise:
            draws = [torch.randn(z.shape[1:], generator=self._draw(name, i, "noise")) for i in range(len(views))]
            z = z * torch.exp(self.noise * torch.stack(draws).to(z))
        z = torch.where(known, z, 0).clamp_min(0)
        factor = UNKNOWN_FACTOR ** (2 * uniform[:, 0] - 1)
        if self.depth_kind == "disparity":
            disparity = torch.where(z > 0, 1 / z.clamp_min(torch.finfo(z.dtype).tiny), 0)
            offset = uniform[:, 1] * torch.stack([_median(one) for one in disparity])
            return torch.where(z > 0, _each(factor) * (disparity + _each(offset)), 0)
        if self.depth_kind == "scale_invariant":
            z = z * _each(factor)
        return sphere.z_to_distance(z, views.intrinsics.to(z)) if self.along_ray else z

    def _normals(self, name: str, normals: Tensor, views: Views) -> Tensor:
        margin = self.bleed
        seen = _look(normals, views, _widened(views.intrinsics, margin), "vectors", margin)
        if margin:
            inner = (..., slice(margin, -margin), slice(margin, -margin))
            there = (seen[inner] != 0).any(1, keepdim=True)
            seen = sphere.unit(_box(seen, margin)[inner], dim=1) * there
        if self.normals_noise:
            draws = [
                torch.randn(4, *seen.shape[2:], generator=self._draw(name, i, "normals")) for i in range(len(seen))
            ]
            random = torch.stack(draws).to(seen)
            angle = torch.deg2rad(random[:, 3:] * self.normals_noise)
            aside = random[:, :3] - (random[:, :3] * seen).sum(1, keepdim=True) * seen
            turned = sphere.unit(seen * angle.cos() + sphere.unit(aside, dim=1) * angle.sin(), dim=1)
            seen = torch.where((seen != 0).any(1, keepdim=True), turned, 0)
        return seen

    def _known(self, name: str, views: Views) -> Tensor:
        """Where it knows anything, bool (V, h, w)."""
        masks = []
        for i in range(len(views)):
            generator = self._draw(name, i, "missing")
            patch = _patches(views, generator)
            masks.append((torch.rand(PATCHES, generator=generator) >= self.missing)[patch])
        return torch.stack(masks)

    def _numbers(self, name: str, views: int, purpose: str) -> Tensor:
        """Two numbers for every view (V, 2): normal for `depth`, between 0 and 1 for `kind`."""
        draw = torch.randn if purpose == "depth" else torch.rand
        return torch.stack([draw(2, generator=self._draw(name, i, purpose)) for i in range(views)])

    def _draw(self, name: str, view: int, purpose: str) -> torch.Generator:
        digest = hashlib.blake2b(f"{self.seed}/{view}/{purpose}/{name}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _look(truth: Tensor, views: Views, intrinsics: Tensor, mode: sphere.Mode, margin: int = 0) -> Tensor:
    """Views (V, C, h + 2 margin, w + 2 margin) of a map (C, H, W)."""
    height, width = views.height + 2 * margin, views.width + 2 * margin
    return sphere.to_perspective(truth[None], views.rotations, height, width, intrinsics=intrinsics, mode=mode)[0]


def _widened(intrinsics: Tensor, margin: int) -> Tensor:
    """The camera of a view that has a margin of so many pixels around it."""
    wide = intrinsics.clone()
    wide[:, :2, 2] += margin
    return wide


def _patches(views: Views, generator: torch.Generator) -> Tensor:
    """Index of the patch that every pixel of a view (h, w) belongs to: the nearest of some random points."""
    points = torch.rand(PATCHES, 2, generator=generator) * torch.tensor([views.height, views.width])
    # Points are compared on a coarse grid, because their distances to all pixels would take most of the time.
    rows, columns = (torch.arange(2, side + 4, 4) for side in (views.height, views.width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).float()
    nearest = torch.cdist(grid.flatten(0, 1), points).argmin(1).view(len(rows), len(columns))
    full = nearest.repeat_interleave(4, 0).repeat_interleave(4, 1)
    return full[: views.height, : views.width]


def _box(maps: Tensor, radius: int) -> Tensor:
    """Mean of maps (..., h, w) over a square around every pixel, of what lies in the map."""
    flat = maps.flatten(0, -3)[:, None] if maps.ndim > 3 else maps[:, None]
    for kernel, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        flat = F.avg_pool2d(flat, kernel, stride=1, padding=padding, count_include_pad=False)
    return flat.view(maps.shape)


def _each(numbers: Tensor) -> Tensor:
    return numbers[:, None, None]


def _median(depth: Tensor) -> Tensor:
    there = depth[depth > 0]
    return there.median() if there.numel() else depth.new_zeros(())
