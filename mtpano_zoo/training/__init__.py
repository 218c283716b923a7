"""Training on Lightning: the module, its checkpoints, callbacks and command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mtpano_zoo.training.schedules import learning_rate_factor

if TYPE_CHECKING:
    from mtpano_zoo.training.base import PanoramaModule
    from mtpano_zoo.training.callbacks import AuxiliaryWarmup, FrozenNorms, PanelLogger, PredictionWriter, ProgressBar
    from mtpano_zoo.training.curation import DepthQualityModule
    from mtpano_zoo.training.distillation import DistillationModule
    from mtpano_zoo.training.metrics_per_set import MetricsPerSet
    from mtpano_zoo.training.multi_task import MultiTaskModule

__all__ = (
    "AuxiliaryWarmup",
    "DepthQualityModule",
    "DistillationModule",
    "FrozenNorms",
    "MetricsPerSet",
    "MultiTaskModule",
    "PanelLogger",
    "PanoramaModule",
    "PredictionWriter",
    "ProgressBar",
    "learning_rate_factor",
)

_NEEDS_LIGHTNING = {
    "AuxiliaryWarmup": "callbacks",
    "DepthQualityModule": "curation",
    "DistillationModule": "distillation",
    "FrozenNorms": "callbacks",
    "MetricsPerSet": "metrics_per_set",
    "MultiTaskModule": "multi_task",
    "PanelLogger": "callbacks",
    "PanoramaModule": "base",
    "PredictionWriter": "callbacks",
    "ProgressBar": "callbacks",
}


def __getattr__(name: str) -> Any:
    """Import Lightning, which takes seconds, only when something that needs it is used."""
    if name not in _NEEDS_LIGHTNING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_LIGHTNING[name]}"), name)
