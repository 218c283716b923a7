"""Errors of jsonargparse and Lightning about options, as one sentence with the nearest valid name."""

import functools
import inspect
import pydoc
import re
import traceback
from argparse import Action, ArgumentError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast, get_args

from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from mtpano_zoo.errors import InputError
from mtpano_zoo.models import NETWORKS
from mtpano_zoo.spelling import did_you_mean, nearest

__all__ = ("explain", "nearest_class", "one_sentence", "options_of", "refuse_null")

# Classes whose arguments are taken for options of the command: `--batch_size` for `--data.batch_size`.
OWNERS = {
    "data": ("mtpano_zoo.data.panoramas.PanoramaDataModule",),
    "model": ("mtpano_zoo.training.base.PanoramaModule",),
    "model.network": (*(f"mtpano_zoo.models.{name}" for name in NETWORKS), "mtpano_zoo.zoo.pretrained.Pretrained"),
}
# The classes that jsonargparse assumes for arguments without a class.
BASES = ("PanoramaNetwork", "LightningDataModule", "Loss")
SUFFIX = "DataModule"

_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NO_OBJECT = re.compile(
    r"Problem with given class_path '(([^'.]+)[^']*)':\s+(?:No module named '\2[.']|module .+ has no attribute)"
)
_NO_ARGUMENT = re.compile(
    r"Problem with given class_path '([^']+)':\s+(?:Option '|unrecognized arguments: --)([^\s'=]+)"
)
_LACKS = re.compile(r"Problem with given class_path '([^']+)':\s+the following arguments are required: (.+)")
_NO_OPTION = re.compile(r"(?:unrecognized arguments: (?=-)|does not accept option ')(-*)([^\s'=]+)")
_TOO_MANY = re.compile(r"unrecognized arguments: (\S+)")
_MISSING = re.compile(r"^the following arguments are required: (.+)")
_VALUE = re.compile(r"(?:Got value:|Given value:) (?:NestedArg\(.*val=)?'?(.+?)'?\)?$", re.MULTILINE)
_ONE_OF = re.compile(r"argument (\S+): invalid choice: '?(.+?)'? \(choose from (.+)\)")
_NULL = re.compile(r"Expected a <class 'NoneType'>\s+Given value type: <class 'str'>\s+Given value: (None|null)$", re.M)
_CHOICES = re.compile(r"Expected an? (?:typing\.Literal\[(.+?)\]|<class '(?!NoneType)(\w+)'>)")
_KEY = re.compile(r'Parser key "([^"]+)"')
_OWNED_KEY = re.compile(r"""Problem with given class_path '([^']+)':\s+Parser key "([^"]+)\"""")


@contextmanager
def one_sentence(options: Mapping[str, Action] | None = None, complete: str = "") -> Iterator[None]:
    """Raise errors of parsers, constructors and Lightning about options as an `InputError`; let all others pass.

    An `OSError` from a constructor stays one, although jsonargparse wraps it.

    Args:
        options: Options of the command, to suggest the nearest; see `options_of`.
        complete: A sentence with a complete command, to add if something is missing.

    Raises:
        InputError: If an option is wrong.
    """
    try:
        yield
    except ArgumentError as error:
        raise InputError(explain(str(error), options, complete)) from error
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        # jsonargparse wraps what a constructor raises into a ValueError of its own.
        deliberate = (InputError, OSError, MisconfigurationException, ImportError)
        cause = next((cause for cause in _causes(error) if isinstance(cause, deliberate)), None)
        if isinstance(cause, InputError | OSError):
            raise cause from cause.__cause__
        if cause is None and not _is_of_lightning(error):
            raise
        raise InputError(" ".join(str(cause or error).split())) from error  # an ImportError names what to install


def explain(message: str, options: Mapping[str, Action] | None = None, complete: str = "") -> str:
    """Return one sentence for jsonargparse's error about an option: what is wrong, and the nearest valid name.

    Args:
        message: Its message of many lines: every type that it tried, with the full value.
        options: See `one_sentence`.
        complete: See `one_sentence`.
    """
    keys = _KEY.findall(message)
    where = ".".join(keys) or "The command"
    if found := _MISSING.search(message):
        missing = ["--" + re.sub(r"^(fit|validate|test|predict)\.", "", name) for name in found[1].split(", ")]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. {complete}"
    found = _NO_ARGUMENT.search(message) or _LACKS.search(message)
    if found and (base := found[1].rpartition(".")[2]) in BASES:
        advice = f"Name one, such as --{where}=MultiTaskLoss." if base == "Loss" else complete
        return f"The class of {where} (class_path) is missing. {advice}"
    if found := _NO_ARGUMENT.search(message):
        owner, name = found.groups()
        arguments = _arguments_of(owner)
        suggestion = _nearest_in(name.partition(".")[0], arguments)
        end = did_you_mean(suggestion) if suggestion else f"; it has {', '.join(arguments)}."
        return f"{where}: {owner.rpartition('.')[2]} has no argument {name}{end}"
    if found := _NO_CLASS.search(message) or _NO_OBJECT.search(message):
        owned = _OWNED_KEY.findall(message)
        owner, key = owned[-1] if owned else ("", where)
        action = (_options_of_class(owner) if owner else options or {}).get(key)
        suggestion = did_you_mean(nearest_class(found[1].rpartition(".")[2], getattr(action, "_typehint", None)))
        return f"{where}: there is no class {found[1]}{suggestion} Name one of your own with its module: module.Class."
    if found := _LACKS.search(message):
        return f"{where}: {found[1].rpartition('.')[2]} needs {found[2]}. {complete}"
    if found := _NO_OPTION.search(message):
        dashes, name = found.groups()
        suggestion = did_you_mean(_nearest_option(name, options or {}, dashes and "--"))
        return f"There is no option {dashes}{name}{suggestion} --help lists them all."
    if found := _TOO_MANY.search(message):
        suggestion = did_you_mean(f"--config {found[1]}" if found[1].endswith(".yaml") else None)
        return f"The argument {found[1]} belongs to no option{suggestion}"
    if found := _ONE_OF.search(message):
        known = [choice.strip(" '") for choice in found[3].split(",")]
        return f"{found[1]} cannot be {found[2]}{did_you_mean(nearest(found[2], known))} It takes {', '.join(known)}."
    if _NULL.search(message):
        return f"{where} cannot be null on the command line: set it in a YAML file, and pass that with --config."
    if (choices := _CHOICES.findall(message)) and (found := _VALUE.search(message)):
        literals = [choice.strip(" '") for literal, _ in choices for choice in literal.split(",") if choice]
        known = [*literals, *(kind for _, kind in choices if kind)]
        return f"{where} cannot be {found[1]}{did_you_mean(nearest(found[1], literals))} It takes {', '.join(known)}."
    return _in_one_line(message)


def refuse_null(config: Any, where: str = "") -> None:
    """Refuse null for arguments of classes that take none: jsonargparse checks any other value of theirs.

    Args:
        config: A parsed configuration, or a part of it.
        where: Where it is within another; opens the error message.

    Raises:
        InputError: If an argument is null that cannot be.
    """
    if isinstance(config, dict | list):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            refuse_null(value, f"{where}.{key}")
    if not isinstance(config, Namespace):
        return
    for key, value in config.items():
        owner, of_class, name = f".{key}".rpartition(".init_args.")
        place = f"{where}.{key}"
        if of_class and value is None:
            try:
                none = cast(Any, Namespace)({name: None})
                _parser_of(config[f"{owner}.class_path".lstrip(".")]).validate(
                    none, skip_unset=False, skip_required=True
                )
            except TypeError as error:
                shown = place.replace(".init_args.", ".").lstrip(".")
                advice = "set a value, or leave it out if it has a default"
                raise InputError(f"{shown} cannot be null: {advice}.") from error
        refuse_null(value, place)


@functools.cache
def _parser_of(class_path: str) -> Any:
    """Return a parser of the arguments of a class, or of a function that returns an object."""
    found: Any = pydoc.locate(class_path)
    parser: Any = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(found) else parser.add_function_arguments
    add(found, None, fail_untyped=False)
    return parser


def nearest_class(name: str, hint: Any) -> str | None:
    """Return the class that a type hint accepts and that is spelt most like a name, which may lack ``DataModule``."""
    bases = [base for base in _types_in(hint) if base.__module__ != "builtins"]
    accepted = {kind for base in bases for kind in (base, *_subclasses(base))}
    classes = {kind.__name__ for kind in accepted if not inspect.isabstract(kind)}
    known = [name for name in sorted(classes - set(BASES)) if not name.startswith("_")]
    if not name.endswith(SUFFIX) and (found := nearest(name, known)):
        return found
    # Compare without the common ending, which makes any two of them alike.
    stems = {name.removesuffix(SUFFIX): name for name in known}
    stem = nearest(name.removesuffix(SUFFIX), stems)
    return None if stem is None else stems[stem]


def options_of(parser: Any) -> dict[str, Action]:
    """Return the options of a parser by name, without dashes."""
    return {
        option.lstrip("-"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith(("+", ".help"))
    }


def _nearest_option(name: str, options: Mapping[str, Action], dashes: str) -> str | None:
    """Find the nearest option by its last part, or by what the help says: ``learning_rate`` is the help of ``lr``."""
    owned = {
        f"{key}.{argument}": text
        for key, owners in OWNERS.items()
        if key.partition(".")[0] in options
        for owner in owners
        for argument, text in _arguments_of(owner).items()
    }
    group, _, last = name.replace("init_args.", "").rpartition(".")
    known = {**{option: str(action.help or "") for option, action in options.items()}, **owned}
    siblings = {option: text for option, text in known.items() if option.rpartition(".")[0] == group}
    found = _nearest_in(last, siblings) or _nearest_in(last, known)
    return None if found is None else dashes + found


def _nearest_in(name: str, options: Mapping[str, str]) -> str | None:
    by_last = {option.rpartition(".")[2]: option for option in reversed(list(options))}
    if found := nearest(name, by_last):
        return by_last[found]
    words = re.sub(r"[_-]", " ", name)
    described = (option for option, text in options.items() if text.lower().startswith(words))
    return next(described, None) if len(words) > 3 else None


def _arguments_of(class_path: str) -> dict[str, str]:
    """Return the arguments of a class by name, with their help."""
    return {name: str(action.help or "") for name, action in _options_of_class(class_path).items()}


def _options_of_class(class_path: str) -> dict[str, Action]:
    return {name: action for name, action in options_of(_parser_of(class_path)).items() if name != "help"}


def _types_in(hint: Any) -> Iterator[type]:
    """Return the types that a type hint consists of, such as both of ``list[Teacher] | None``."""
    if arguments := get_args(hint):
        for argument in arguments:
            yield from _types_in(argument)
    elif isinstance(hint, type):
        yield hint


def _subclasses(base: type) -> Iterator[type]:
    children: list[type] = type.__subclasses__(base)
    for child in children:
        yield child
        yield from _subclasses(child)


def _is_of_lightning(error: BaseException) -> bool:
    """Return whether Lightning itself raised an error, and nothing that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("lightning.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _in_one_line(message: str) -> str:
    """Join the lines, without the types that were tried and the full value."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    noise = ("Does not validate", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
    return " ".join(line for line in lines if line and not line.startswith(noise))
