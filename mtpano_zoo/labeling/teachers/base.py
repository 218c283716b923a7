"""The interface of teachers: their input and their labels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from mtpano_zoo.labeling.views import Views

__all__ = ("DepthKind", "Teacher", "ViewImages", "ViewLabels")

DepthKind = Literal["metric", "scale_invariant", "disparity"]


@dataclass(frozen=True)
class ViewImages:
    """All views of one panorama.

    Args:
        images: RGB in [0, 1], (V, 3, h, w).
        views: The cameras.
        sample: The panorama that they were cut from, with its `id` and, where the data set has them, its labels: for
            the oracle only.
    """

    images: Tensor
    views: Views
    sample: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ViewLabels:
    """One teacher's labels of the views of one panorama; None if it does not predict a map.

    All values are finite, except depth, which may be infinite in the sky: a view with other values is left out.

    Args:
        probabilities: Class probabilities (V, C, h', w') in any size that covers the view; zero for all classes = none.
        depth: Depth (V, h, w) along the z axis of the camera or along the ray, see `along_ray`; not positive or
            infinite = none. Disparity is the inverse of z-depth up to an unknown scale and shift per view.
        depth_kind: `metric` is in metres, `scale_invariant` up to one factor per view, `disparity` see `depth`.
        along_ray: Whether depth is the distance along the ray.
        normals: Unit vectors towards the camera in its frame x right, y down, z forward, (V, 3, h, w); zero = none.
        confidence: Confidence in all labels above, in [0, 1], (V, h, w); zero = no label there.
    """

    probabilities: Tensor | None = None
    depth: Tensor | None = None
    depth_kind: DepthKind = "metric"
    along_ray: bool = False
    normals: Tensor | None = None
    confidence: Tensor | None = None


class Teacher(ABC):
    """Labeler of perspective views; usually also a module, as its first base class, which is moved to a device.

    Attributes:
        classes: Names of its classes, in the order of the probabilities; empty if it has none.
        provenance: Its description in a manifest, as plain data: name, revision, sha256 of the weights, options.
    """

    classes: tuple[str, ...]
    provenance: Mapping[str, Any]

    @abstractmethod
    def __call__(self, seen: ViewImages) -> ViewLabels:
        """Label all views of a panorama; results are on the device of the images."""
        ...
