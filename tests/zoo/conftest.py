import pytest
from fake_hub import hub, hub_cache
from tiny_networks import published_mtpano
from torch import Tensor

from mtpano_zoo.reference.mtpano import convert_state_dict

__all__ = ("hub", "hub_cache")


@pytest.fixture(scope="session")
def published() -> dict[str, Tensor]:
    return published_mtpano()


@pytest.fixture(scope="session")
def converted(published: dict[str, Tensor]) -> dict[str, Tensor]:
    return convert_state_dict(published)
