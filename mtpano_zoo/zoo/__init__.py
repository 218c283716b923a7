"""List published networks, and load a network with its weights by a name, a repository or a path."""

from mtpano_zoo.zoo.entries import entries, list_models
from mtpano_zoo.zoo.loading import load_model

__all__ = ("entries", "list_models", "load_model")
