"""Modules that record how they were built, so that a file of weights can name its network."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

__all__ = ("RecordedModule",)


class RecordedModule(nn.Module):
    """A module that records its constructor's arguments as plain data.

    Attributes:
        config: arguments that rebuild the module, defaults included: numbers, strings, lists and dictionaries. A
            `RecordedModule` among them is recorded as its `describe()`.
        start_arguments: names of arguments that choose initial weights. They are not recorded: a rebuilt module gets
            its weights from the file, and a file must not cause another read or download.

    Example:
        >>> class Block(RecordedModule):
        ...     def __init__(self, width: int, depth: int = 2) -> None:
        ...         super().__init__()
        >>> Block(8).describe()
        {'class_path': 'Block', 'init_args': {'width': 8, 'depth': 2}}
    """

    config: dict[str, Any]
    start_arguments: ClassVar[frozenset[str]] = frozenset({"pretrained"})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments before the constructor sees them."""
        module = super().__new__(cls)
        # Copying a module calls this without arguments and restores `config` afterwards.
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(module, *args, **kwargs)
        bound.apply_defaults()
        _, *names = bound.arguments  # the first one is `self`
        arguments = {name: bound.arguments[name] for name in names}
        for name, parameter in signature.parameters.items():
            if parameter.kind == parameter.VAR_KEYWORD:  # `**options` are passed by their own names
                arguments |= arguments.pop(name)
        config = {name: plain_data(value) for name, value in arguments.items() if name not in cls.start_arguments}
        object.__setattr__(module, "config", config)  # before `nn.Module.__init__`, which `__setattr__` needs
        return module

    def describe(self) -> dict[str, Any]:
        """Return the `class_path` and `init_args` with which a configuration rebuilds this module."""
        return {"class_path": type(self).__name__, "init_args": dict(self.config)}


def plain_data(value: Any) -> Any:
    """Convert a constructor's argument to data that JSON can hold.

    Raises:
        TypeError: If the value is of a type that cannot be recorded.

    Example:
        >>> plain_data((1, 2.5, "wall")), plain_data({"size": (16, 32)})
        ([1, 2.5, 'wall'], {'size': [16, 32]})
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
