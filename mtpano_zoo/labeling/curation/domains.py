"""The domain of a labelled panorama, indoors or outdoors, so that each gets its share of the selection."""

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.sphere import solid_angles

__all__ = ("DomainByName", "DomainClassifier", "SkyOrCeiling")


class DomainClassifier(ABC):
    """Classifier of the domain of a labelled panorama; write your own and name it in the configuration.

    Attributes:
        domains: All domains that it can return.
        provenance: Its description in a manifest, as for a teacher, if it has weights.
    """

    domains: tuple[str, ...]
    provenance: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __call__(self, sample: Mapping[str, Any], classes: Sequence[str]) -> str:
        """Return the domain of a sample.

        Args:
            sample: `id`, `image` (3, H, W), `depth` (H, W), and `semseg` and `far` if the labels have them.
            classes: Names of the classes of `semseg`.
        """


class SkyOrCeiling(DomainClassifier):
    """``outdoor`` where more of the upper half of the sphere is sky than ceiling, else ``indoor``.

    Pixels count as sky if their label is a sky class or far.

    Args:
        sky: Names of the classes that are sky.
        ceiling: Names of the classes that are a ceiling.
        least_sky: Share of the upper half that must be sky outdoors, even without any ceiling.
    """

    domains = ("indoor", "outdoor")

    def __init__(
        self, sky: Sequence[str] = ("sky",), ceiling: Sequence[str] = ("ceiling",), least_sky: float = 0.05
    ) -> None:
        self.sky = tuple(sky)
        self.ceiling = tuple(ceiling)
        self.least_sky = least_sky

    def __call__(self, sample: Mapping[str, Any], classes: Sequence[str]) -> str:
        """Return ``indoor`` or ``outdoor``."""
        depth: Tensor = sample["depth"]
        sky, ceiling = torch.zeros_like(depth, dtype=torch.bool), torch.zeros_like(depth, dtype=torch.bool)
        if "far" in sample:
            sky |= sample["far"]
        if "semseg" in sample:
            for index, name in enumerate(classes):
                if name in self.sky:
                    sky |= sample["semseg"] == index
                elif name in self.ceiling:
                    ceiling |= sample["semseg"] == index
        return "outdoor" if upper_share(sky) > max(upper_share(ceiling), self.least_sky) else "indoor"


def upper_share(mask: Tensor) -> float:
    """Return how much of the upper half of the sphere a mask (H, W) covers.

    Example:
        >>> mask = torch.zeros(4, 8, dtype=torch.bool)
        >>> mask[:2, :4] = True
        >>> round(upper_share(mask), 3)
        0.5
    """
    height, width = mask.shape
    weights = solid_angles(height, width, device=mask.device)[: height // 2]
    return float((mask[: height // 2] * weights).sum() / (weights.sum() * width))


class DomainByName(DomainClassifier):
    """The domain by the id of a panorama, if the id names it.

    Args:
        patterns: Domain by pattern, such as ``{"indoor": "room*", "outdoor": "street*"}``; the first match counts.

    Raises:
        InputError: If there is no pattern.

    Example:
        >>> domain = DomainByName({"indoor": "room*", "outdoor": "street*"})
        >>> domain({"id": "street_7"}, ())
        'outdoor'
    """

    def __init__(self, patterns: dict[str, str]) -> None:
        if not patterns:
            raise InputError("DomainByName needs a pattern per domain: {indoor: 'room*', outdoor: 'street*'}")
        self.patterns = dict(patterns)
        self.domains = tuple(patterns)

    def __call__(self, sample: Mapping[str, Any], classes: Sequence[str]) -> str:
        """Return the domain.

        Raises:
            InputError: If no pattern matches.
        """
        for domain, pattern in self.patterns.items():
            if fnmatch.fnmatchcase(sample["id"], pattern):
                return domain
        raise InputError(f"no pattern of DomainByName fits it: {', '.join(self.patterns.values())}")
