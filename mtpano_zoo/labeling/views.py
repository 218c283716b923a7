"""Strategies for choosing the perspective views to label.

A strategy maps the name of a panorama to views, and nothing else matters: its arguments and the name are hashed, so
that every process, today and after a restart, labels the same views of the same panorama.
"""

import hashlib
import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere import (
    cube_rotations,
    erp_rays,
    icosahedron_rotations,
    intrinsics_from_fov,
    rotation_matrix,
    solid_angles,
)

__all__ = ("CubeViews", "IcosahedronViews", "RandomViews", "TangentViews", "ViewStrategy", "Views")

# Rows of the grid on which coverage is measured: its cells are 1.4 degrees wide.
GRID = 128


@dataclass(frozen=True)
class Views:
    """Perspective cameras at the centre of a panorama.

    Args:
        rotations: Rotations from camera to panorama, (V, 3, 3).
        intrinsics: Pinhole matrices in pixels, where integers are pixel centres, (V, 3, 3).
        height: Rows of every view.
        width: Columns of every view.

    Example:
        >>> from mtpano_zoo.sphere import intrinsics_from_fov
        >>> ahead = Views(torch.eye(3)[None], intrinsics_from_fov(90.0, 8, 8)[None], 8, 8)
        >>> round(ahead.coverage(), 2)  # a face of a cube
        0.17
    """

    rotations: Tensor
    intrinsics: Tensor
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.rotations)

    def coverage(self) -> float:
        """Return the fraction of the sphere, by solid angle, that at least one view sees, to about 0.001."""
        return float(_grid_weights()[self.seen(erp_rays(GRID, 2 * GRID).flatten(0, 1)).any(0)].sum())

    def seen(self, rays: Tensor) -> Tensor:
        """Return whether each view sees each of the directions (N, 3), as bool (V, N)."""
        return (self.sides().to(rays) @ rays.T).amin(1) >= 0

    def sides(self) -> Tensor:
        """Return inward normals (V, 4, 3) of the left, right, upper and lower side of every view's pyramid, in float64.

        They are in the frame of the panorama, of any length: rays that a view sees have no negative product with them.
        """
        right, down, ahead = (self.intrinsics.double() @ self.rotations.double().mT).unbind(1)
        left, upper = right + 0.5 * ahead, down + 0.5 * ahead
        return torch.stack((left, self.width * ahead - left, upper, self.height * ahead - upper), dim=1)


class ViewStrategy(ABC):
    """Strategy that chooses the views of a panorama."""

    @abstractmethod
    def __call__(self, name: str) -> Views:
        """Return the views of the panorama of this name; the same name returns the same views."""


class RandomViews(ViewStrategy):
    """Square views in random directions: yaw and pitch are uniform, as in the label-free training of MTPano.

    With a uniform pitch, views are denser at the poles than at the horizon, so that a few directions may remain unseen.
    With ``coverage``, views towards random unseen directions are added to the first ``count``, until at least that
    fraction of the sphere is seen. Up to ``count`` views may be added.

    Args:
        count: Number of views of a panorama, without added ones.
        fov: Smallest and largest field of view in degrees; uniform between them.
        size: Rows and columns of a view.
        coverage: Fraction of the sphere to see at least, in (0, 1].
        seed: Seed of the views.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> views = RandomViews(count=4, size=64)("room")
        >>> views.rotations.shape, views.height
        (torch.Size([4, 3, 3]), 64)
    """

    def __init__(
        self,
        count: int = 32,
        fov: tuple[float, float] = (80.0, 120.0),
        size: int = 512,
        coverage: float | None = None,
        seed: int = 0,
    ) -> None:
        if count < 1:
            raise InputError(f"a panorama needs at least one view, got count={count}")
        for one in fov:
            _check_camera(one, size)
        if fov[0] > fov[1]:
            raise InputError(f"fov is (smallest, largest), got {tuple(fov)}")
        if coverage is not None and not 0 < coverage <= 1:
            raise InputError(f"coverage is a fraction of the sphere in (0, 1], got {coverage}")
        self.count = count
        self.fov = tuple(fov)
        self.size = size
        self.coverage = coverage
        self.seed = seed

    def __call__(self, name: str) -> Views:
        """Return the views of the panorama of this name.

        Raises:
            InputError: If the coverage is not reached.
        """
        numbers = _numbers("random", self.seed, name)
        angles = [
            (numbers.uniform(0, 360), numbers.uniform(-90, 90), numbers.uniform(*self.fov)) for _ in range(self.count)
        ]
        views = self._views(angles)
        if self.coverage is None:
            return views
        rays, weights = erp_rays(GRID, 2 * GRID).flatten(0, 1), _grid_weights()
        unseen = ~views.seen(rays).any(0)
        while (seen := 1 - float(weights[unseen].sum())) < self.coverage:
            if len(angles) == 2 * self.count:
                raise InputError(
                    f"{len(angles)} views of {self.fov[0]:g} to {self.fov[1]:g} degrees see {seen:.4f} of the sphere "
                    f"of {name!r}, not {self.coverage:g}: raise count or fov, or ask for less coverage"
                )
            # Choose an unseen cell with a probability proportional to its size.
            mass = torch.where(unseen, weights, 0).cumsum(0)
            cell = min(int(torch.searchsorted(mass, numbers.random() * mass[-1])), len(mass) - 1)
            right, down, ahead = rays[cell].tolist()
            yaw, pitch = math.degrees(math.atan2(right, ahead)), -math.degrees(math.asin(max(-1.0, min(1.0, down))))
            angles.append((yaw, pitch, numbers.uniform(*self.fov)))
            unseen &= ~self._views(angles[-1:]).seen(rays)[0]
        return self._views(angles)

    def _views(self, angles: list[tuple[float, float, float]]) -> Views:
        yaw, pitch, fov = torch.tensor(angles, dtype=torch.float64).unbind(1)
        return _square(rotation_matrix(yaw, pitch), fov, self.size)


class _TurnedViews(ViewStrategy):
    """The same square views of every panorama, each time after a random rotation."""

    kind: ClassVar[str]
    """Makes the rotations differ from those of other strategies."""

    def __init__(self, fov: float, size: int, turn: float, seed: int) -> None:
        _check_camera(fov, size, turn)
        self.fov = fov
        self.size = size
        self.turn = turn
        self.seed = seed

    def __call__(self, name: str) -> Views:
        """Return the views of the panorama of this name."""
        turn = _random_turn(self.turn, self.kind, self.seed, name)
        return _square(turn @ self.directions(), self.fov, self.size)

    @abstractmethod
    def directions(self) -> Tensor:
        """Return the rotations (V, 3, 3) of the views before the random one, in float64."""


class CubeViews(_TurnedViews):
    """The six faces of a cube, front, right, back, left, up and down, optionally after a random rotation.

    Faces of exactly 90 degrees only touch, so their scales cannot be compared, and every face keeps its own. The
    default lets neighbours overlap by ten degrees.

    Args:
        fov: Field of view in degrees.
        size: Rows and columns of a view.
        turn: Largest angle in degrees of a random rotation per panorama: R_x R_y R_z with all three angles uniform in
            [-turn, turn]. Depth Anywhere uses 45, with a field of view of 90.
        seed: Seed of the rotations.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> views = CubeViews(fov=90, size=64)("room")
        >>> views.rotations[0].round().abs().tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    kind = "cube"

    def __init__(self, fov: float = 100.0, size: int = 512, turn: float = 0.0, seed: int = 0) -> None:
        super().__init__(fov, size, turn, seed)

    def directions(self) -> Tensor:
        """Return the rotations towards the faces."""
        return cube_rotations(dtype=torch.float64)


class IcosahedronViews(_TurnedViews):
    """Twelve views towards the corners of an icosahedron, optionally after a random rotation, see `CubeViews`.

    With 90 degrees or more they see the whole sphere.

    Args:
        fov: Field of view in degrees.
        size: Rows and columns of a view.
        turn: Largest angle in degrees of a random rotation.
        seed: Seed of the rotations.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> len(IcosahedronViews(size=64)("room").rotations)
        12
    """

    kind = "icosahedron"

    def __init__(self, fov: float = 90.0, size: int = 512, turn: float = 0.0, seed: int = 0) -> None:
        super().__init__(fov, size, turn, seed)

    def directions(self) -> Tensor:
        """Return the rotations towards the corners."""
        return icosahedron_rotations(dtype=torch.float64)


class TangentViews(_TurnedViews):
    """A dense grid of narrow views: rows of constant pitch from pole to pole, evenly spaced along each.

    Neighbours are at most ``fov * (1 - overlap)`` apart, in pitch and along their row.

    Args:
        fov: Field of view in degrees.
        overlap: Fraction of a view that its neighbour sees too, in [0, 1).
        size: Rows and columns of a view.
        turn: Largest angle in degrees of a random rotation, see `CubeViews`.
        seed: Seed of the rotations.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> views = TangentViews(fov=90, overlap=0.5, size=64)("room")
        >>> views.height, views.width, len(views.rotations) > 6
        (64, 64, True)
    """

    kind = "tangent"

    def __init__(
        self, fov: float = 60.0, overlap: float = 0.5, size: int = 384, turn: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(fov, size, turn, seed)
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be the shared fraction of neighbouring views, in [0, 1), got {overlap}")
        self.overlap = overlap

    def directions(self) -> Tensor:
        """Return the rotations towards the grid."""
        spacing = self.fov * (1 - self.overlap)
        rows = math.ceil(180 / spacing - 1e-9)
        angles = []
        for row in range(rows + 1):
            pitch = 90 - row * 180 / rows
            columns = max(1, math.ceil(360 * math.cos(math.radians(pitch)) / spacing - 1e-9))
            angles += [(column * 360 / columns, pitch) for column in range(columns)]
        yaw, pitches = torch.tensor(angles, dtype=torch.float64).unbind(1)
        return rotation_matrix(yaw, pitches)


def _square(rotations: Tensor, fov: float | Tensor, size: int) -> Views:
    intrinsics = intrinsics_from_fov(fov, size, size, dtype=torch.float64).expand(len(rotations), 3, 3)
    return Views(rotations.float(), intrinsics.float().contiguous(), size, size)


def _numbers(kind: str, seed: int, name: str) -> random.Random:
    digest = hashlib.blake2b(f"{kind}/{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def _random_turn(largest: float, kind: str, seed: int, name: str) -> Tensor:
    numbers = _numbers(kind, seed, name)
    x, y, z = (numbers.uniform(-largest, largest) for _ in range(3))
    double = torch.float64
    about_x, about_y = rotation_matrix(pitch=x, dtype=double), rotation_matrix(yaw=y, dtype=double)
    return about_x @ about_y @ rotation_matrix(roll=z, dtype=double)


def _grid_weights() -> Tensor:
    """Return the share of the sphere of every cell of the grid, (cells,) in rows."""
    weights = solid_angles(GRID, 2 * GRID, dtype=torch.float64).expand(GRID, 2 * GRID).flatten()
    return weights / weights.sum()


def _check_camera(fov: float, size: int, turn: float = 0.0) -> None:
    if not 0 < fov < 180:
        raise InputError(f"a field of view lies between 0 and 180 degrees, got {fov}")
    if size < 2:
        raise InputError(f"a view needs at least 2 x 2 pixels, got size={size}")
    if not 0 <= turn <= 180:
        raise InputError(f"turn is the largest angle of a random rotation, in [0, 180] degrees, got {turn}")
