"""Model zoo for 360-degree panoramas: the class, distance and surface normal of every pixel."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtpano_zoo.prediction import Prediction
    from mtpano_zoo.zoo import list_models, load_model

__all__ = ("Prediction", "__version__", "list_models", "load_model")

__version__ = "0.1.0"

_HOMES = {"Prediction": "mtpano_zoo.prediction", "list_models": "mtpano_zoo.zoo", "load_model": "mtpano_zoo.zoo"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import mtpano_zoo.sphere` does not wait for Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
