"""The examples in docstrings do what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import mtpano_zoo

PACKAGE = Path(mtpano_zoo.__file__).parent
MODULES = sorted(
    ".".join(("mtpano_zoo", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_the_geometry_has_examples():
    assert {
        f"mtpano_zoo.sphere.{name}" for name in ("padding", "precision", "projection", "rays", "sampling", "surface")
    } <= {*MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0  # what differs is in the captured output
