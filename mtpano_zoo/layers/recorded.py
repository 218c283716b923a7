"""Modules that remember how they were built, so that a file of weights can say which network it belongs to."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

__all__ = ("RecordedModule",)


class RecordedModule(nn.Module):
    """A module whose constructor's arguments are recorded as plain data.

    Attributes:
        config: the arguments that build the module again, defaults included: numbers, texts, lists and dictionaries.
            Another `RecordedModule` among them appears as what its `describe` returns.
        start_arguments: names of arguments that say where weights start from. They are not recorded: whoever builds the
            module again has its weights, and a file must not cause another read or download.
    """

    config: dict[str, Any]
    start_arguments: ClassVar[frozenset[str]] = frozenset({"pretrained"})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments before the constructor sees them."""
        module = super().__new__(cls)
        # Copying a module calls this without arguments, and restores `config` afterwards.
        bound = inspect.signature(cls.__init__).bind_partial(module, *args, **kwargs)
        bound.apply_defaults()
        _, *names = bound.arguments  # the first one is `self`
        config = {name: plain_data(bound.arguments[name]) for name in names if name not in cls.start_arguments}
        object.__setattr__(module, "config", config)  # before `nn.Module.__init__`, which `__setattr__` needs
        return module

    def describe(self) -> dict[str, Any]:
        """Return what a configuration needs to build this module again: `class_path` and `init_args`."""
        return {"class_path": type(self).__name__, "init_args": dict(self.config)}


def plain_data(value: Any) -> Any:
    """Turn a constructor's argument into what JSON can hold.

    Raises:
        TypeError: If the value is of a type that cannot be recorded.
    """
    if isinstance(value, RecordedModule):
        return value.describe()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_data(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A {type(value).__name__} cannot be recorded as an argument of a network.")
