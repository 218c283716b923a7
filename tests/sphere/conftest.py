import pytest
import torch
from torch import Tensor


def analytic_scene(rays: Tensor) -> Tensor:
    """A smooth image of three channels with a value in every direction: rays (..., H, W, 3) to (..., 3, H, W)."""
    x, y, z = rays.unbind(-1)
    return torch.stack((0.5 * x + 0.3 * y * z + 0.2, y * y - 0.4 * z, x * y * z + 0.5 * z + 0.1 * x), -3)


@pytest.fixture(scope="session")
def scene():
    return analytic_scene


@pytest.fixture(scope="session")
def relative_error():
    """Mean and largest difference of two tensors, in units of the value range of the second."""

    def error(got: Tensor, want: Tensor) -> tuple[float, float]:
        assert got.shape == want.shape
        difference = (got - want).abs() / (want.max() - want.min())
        return difference.mean().item(), difference.max().item()

    return error
