"""Without the extra `generation`, these tests are skipped and say so."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fake_hub import hub, hub_cache

__all__ = ("hub", "hub_cache")

MISSING = [name for name in ("diffusers", "peft", "accelerate", "transformers") if find_spec(name) is None]


class SkippedModule(pytest.Module):
    """A test file that is skipped without being imported."""

    def collect(self):
        pytest.skip(f"needs {', '.join(MISSING)}: pip install 'mtpano_zoo[generation]'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return SkippedModule.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of diffusers."""
    from tiny_flux import tiny_flux

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    tiny_flux().pipeline.save_pretrained(folder)
    return folder
