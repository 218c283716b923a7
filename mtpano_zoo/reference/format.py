"""A published checkpoint format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ("Format",)

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """A family of published checkpoints: how to recognise one, which network it is for, and how it becomes ours.

    All functions take the published state dict, without a leading `module.`.

    Attributes:
        title: what a message calls such a file, e.g. `MTPano checkpoint`.
        prefixes: beginnings of keys that every such state dict has between them.
        describe: sizes read off the shapes to the description of the network, `class_path` and `init_args`. It raises
            `InputError` if the shapes belong to no such network.
        convert: published names, types and frames to the state dict of that network. It raises `InputError` if a key is
            missing, left over or of another shape.
    """

    title: str
    prefixes: tuple[str, ...]
    describe: Callable[[State], dict[str, Any]]
    convert: Callable[[State], dict[str, Tensor]]

    def recognizes(self, state: State) -> bool:
        """Return whether the keys of a state dict, with or without `module.`, are those of this format."""
        names = [name.removeprefix("module.") for name in state]
        return all(any(name.startswith(prefix) for name in names) for prefix in self.prefixes)
