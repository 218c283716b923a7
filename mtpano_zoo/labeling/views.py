"""Which perspective views of a panorama are labelled."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """Perspective cameras at the centre of a panorama.

    Args:
        rotations: camera to panorama, (V, 3, 3).
        intrinsics: in pixels with pixel centres, (V, 3, 3).
        height: rows of every view.
        width: columns of every view.
    """

    rotations: Tensor
    intrinsics: Tensor
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.rotations)


class ViewStrategy(Protocol):
    """Chooses the views of a panorama."""

    def __call__(self, name: str) -> Views:
        """Return the views of the panorama of this name; the same name gives the same views."""
        ...
