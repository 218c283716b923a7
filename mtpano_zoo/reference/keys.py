"""Read the keys and shapes of published state dicts, and report what does not fit."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.spelling import listed

__all__ = ("Renames", "check_keys", "check_prefixes", "common_size", "renamed")

Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns in our names and their replacements, applied one after the other."""


def check_prefixes(title: str, state: Mapping[str, Tensor], prefixes: Sequence[str]) -> None:
    """Refuse a state dict without a key for each of the prefixes that every such file has.

    Raises:
        InputError: If no key starts with one of the prefixes.
    """
    if missing := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in state)]:
        raise InputError(f"This is no {title}: it lacks keys that start with {', '.join(missing)}.")


def renamed(own: str, renames: Renames) -> str:
    """Return the published name of one of our keys.

    Example:
        >>> renamed("heads.depth.conv", [("^heads", "decoder"), ("conv$", "0")])
        'decoder.depth.0'
    """
    for pattern, replacement in renames:
        own = re.sub(pattern, replacement, own)
    return own


def common_size(title: str, state: Mapping[str, Tensor], *sources: tuple[str, int]) -> int:
    """Return the most common length of a dimension of all keys that match, so that a single wrong one stands out.

    Args:
        title: name of the file in messages.
        state: the published state dict.
        sources: patterns of keys, each with the number of the dimension.

    Raises:
        InputError: If no key matches.
    """
    lengths = Counter(
        tensor.shape[dimension]
        for pattern, dimension in sources
        for name, tensor in state.items()
        if fnmatchcase(name, pattern) and tensor.ndim > dimension
    )
    if not lengths:
        raise InputError(f"This {title} lacks {sources[0][0]}, from which a size of its network is read.")
    return lengths.most_common(1)[0][0]


def check_keys(
    title: str,
    state: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    unshaped: Collection[str] = (),
    constants: Collection[str] = (),
) -> None:
    """Refuse a state dict whose keys and shapes are not exactly those of a network.

    Args:
        title: name of the file in messages.
        state: the published state dict.
        expected: the shape of every key.
        unshaped: further keys, whose shapes are checked elsewhere.
        constants: expected keys that may hold numbers of any type.

    Raises:
        InputError: If a key is missing, unexpected, of another shape, or does not hold floating-point numbers.
    """
    names = {*expected, *unshaped}
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    not_floating = [
        f"{name} {tensor.dtype}"
        for name, tensor in state.items()
        if not (tensor.is_floating_point() or name.endswith("num_batches_tracked") or name in constants)
    ]
    problems = [
        f"{what} {listed(found)}"
        for what, found in (
            ("missing", sorted(names - state.keys())),
            ("unexpected", sorted(state.keys() - names)),
            ("of another shape", reshaped),
            ("not of floating point", not_floating),
        )
        if found
    ]
    if problems:
        raise InputError(f"The keys of this {title} do not make up its network: {'; '.join(problems)}.")
