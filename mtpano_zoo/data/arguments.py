"""Check the arguments of a constructor by its annotations, as a configuration is checked before anything is built."""

import inspect
import re
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

from mtpano_zoo.errors import InputError

__all__ = ("CheckedArguments", "fits")

NUMBERS: Mapping[Any, type] = {int: Integral, float: Real}  # those of NumPy too
DATA = (str, bytes, Real, Collection)


class CheckedArguments:
    """Base of classes whose constructors refuse arguments of a wrong type in one sentence.

    Arguments that go to a base class as ``**options`` are checked by the annotations of that class.

    Example:
        >>> class Squares(CheckedArguments):
        ...     def __init__(self, count: int = 3) -> None:
        ...         self.sides = [n * n for n in range(count)]
        >>> Squares(count="x")
        Traceback (most recent call last):
            ...
        mtpano_zoo.errors.InputError: Squares: count must be int, not 'x'
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep the signature of the constructor, which `__new__` would hide from documentation and `help`."""
        super().__init_subclass__(**options)
        _, *others = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Check the arguments before the constructor sees them.

        Raises:
            InputError: If one is of a wrong type.
        """
        try:
            arguments = inspect.signature(cls).bind_partial(*args, **options).arguments
        except TypeError:  # too many or unknown ones: the constructor says so
            arguments = {}
        known = _parameters(cls)
        for name, value in (arguments | options).items():
            if name in known and value is not known[name].default and not fits(value, known[name].annotation):
                wanted = re.sub(r"\w+\.", "", inspect.formatannotation(known[name].annotation))
                raise InputError(f"{cls.__name__}: {name} must be {wanted}, not {value!r}")
        return super().__new__(cls)


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the annotated parameters of the constructors of a class and its bases, by name."""
    constructors = [vars(base)["__init__"] for base in reversed(cls.__mro__) if "__init__" in vars(base)]
    found = [one for init in constructors for one in _signature(init) if one.annotation is not one.empty]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {one.name: one for one in found if one.kind not in variadic}


def _signature(constructor: Any) -> Collection[inspect.Parameter]:
    return inspect.signature(constructor).parameters.values()


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value is of the annotated type.

    Of a literal only the type counts: a constructor lists the choices itself. Where an object of a class is expected,
    any other object passes, but no plain data.

    Example:
        >>> fits(["depth"], list[str] | None), fits(["depth", 1], list[str] | None), fits(3, float), fits(3.5, int)
        (True, False, True, False)
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if kind in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if kind is Literal:
        return any(fits(value, type(choice)) for choice in inner)
    if annotation in (None, NoneType):
        return value is None
    if not isinstance(kind, type) or kind is object:  # such as Any
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(
            fits(one, wanted) for part, wanted in zip((value, value.values()), inner, strict=False) for one in part
        )
    if issubclass(kind, Collection) and kind not in (str, bytes):
        every = () if kind is tuple else inner  # each place of a tuple has a type of its own
        return isinstance(value, Collection) and all(fits(one, wanted) for wanted in every for one in value)
    if kind in NUMBERS or issubclass(kind, (*DATA, bool)):
        return isinstance(value, NUMBERS.get(kind, kind))
    return isinstance(value, kind) or not isinstance(value, DATA)
