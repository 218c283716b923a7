"""Training on Lightning: the module, its checkpoints, callbacks and command line."""

from mtpano_zoo.training.callbacks import AuxiliaryWarmup, PanelLogger, ProgressBar
from mtpano_zoo.training.checkpoint import load_network, read_checkpoint
from mtpano_zoo.training.module import MultiTaskModule
from mtpano_zoo.training.schedules import learning_rate_factor

__all__ = (
    "AuxiliaryWarmup",
    "MultiTaskModule",
    "PanelLogger",
    "ProgressBar",
    "learning_rate_factor",
    "load_network",
    "read_checkpoint",
)
