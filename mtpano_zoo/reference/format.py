"""A published checkpoint format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ("Format",)

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """A family of published checkpoints: how to recognise one, which network it is for, and how to convert it.

    All functions take the published state dict, without a leading `module.`.

    Attributes:
        title: name of such a file in messages, e.g. `MTPano checkpoint`.
        prefixes: prefixes of which each begins at least one key of every such state dict.
        describe: returns the description of the network, `class_path` and `init_args`, with sizes read from the shapes.
            It raises `InputError` if the shapes belong to no such network.
        convert: returns the state dict of that network, with our names, types and frames. It raises `InputError` if a
            key is missing, unexpected or of another shape.
    """

    title: str
    prefixes: tuple[str, ...]
    describe: Callable[[State], dict[str, Any]]
    convert: Callable[[State], dict[str, Tensor]]

    def recognizes(self, state: State) -> bool:
        """Return whether the keys of a state dict, with or without `module.`, are those of this format."""
        names = [name.removeprefix("module.") for name in state]
        return all(any(name.startswith(prefix) for name in names) for prefix in self.prefixes)
