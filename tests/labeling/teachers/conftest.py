from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtpano_zoo import sphere
from mtpano_zoo.labeling.teachers.base import ViewImages
from mtpano_zoo.labeling.views import Views


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes on verified files go to a fresh folder."""
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "mtpano_cache"))


@pytest.fixture(scope="session")
def some_views() -> Callable[..., ViewImages]:
    """Smooth colourful views whose values are whole bytes, so that files and tensors agree on them."""

    def build(count: int = 3, height: int = 96, width: int = 96, fov: float = 80.0) -> ViewImages:
        coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(7))
        smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
        intrinsics = sphere.intrinsics_from_fov(fov, height, width).expand(count, 3, 3)
        views = Views(torch.eye(3).expand(count, 3, 3), intrinsics, height, width)
        return ViewImages((smooth.clamp(0, 1) * 255).round() / 255, views)

    return build


@pytest.fixture(scope="session")
def as_pictures() -> Callable[[ViewImages], list[Any]]:
    """The views as the files that the library's own examples begin with."""

    def convert(seen: ViewImages) -> list[Any]:
        pixels = (seen.images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
        return [Image.fromarray(image) for image in pixels]

    return convert
