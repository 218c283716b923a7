"""The parser of the short verbs: it reports a mistake in one sentence, with the nearest valid name."""

import argparse
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from mtpano_zoo.errors import InputError
from mtpano_zoo.limits import DEFAULT_MAX_PIXELS, VARIABLE
from mtpano_zoo.output_paths import may_become_report, user_path
from mtpano_zoo.spelling import did_you_mean, nearest

__all__ = (
    "TRACEBACK",
    "TRACEBACK_HELP",
    "ShortVerbParser",
    "Verbs",
    "add_level_option",
    "add_max_pixels_option",
    "add_reading_options",
    "field_of_view",
    "file_to_write",
    "hyphenated",
    "number_of",
    "number_of_processes",
    "reading_options",
    "report_to_write",
)

TRACEBACK = "--traceback"
TRACEBACK_HELP = "show where an error comes from"


class ShortVerbParser(argparse.ArgumentParser):
    """Parser that raises errors instead of exiting, and accepts `--batch_size` for `--batch-size`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # `mtpano_zoo.cli.main` removes it from the command line; it is added here only for the help.
        self.add_argument(TRACEBACK, action="store_true", help=TRACEBACK_HELP)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse arguments, and refuse what is left over.

        Raises:
            InputError: If an option or an argument is unknown, or a value does not fit.
        """
        options, rest = super().parse_known_args(hyphenated(sys.argv[1:] if args is None else args), namespace)
        if rest:
            name = rest[0].partition("=")[0]
            if not name.startswith("-"):
                raise InputError(
                    f"The argument {rest[0]!r} is one too many, or an option separates it from the others; "
                    f"see `{self.prog} --help`."
                )
            known = [option for action in self._actions for option in action.option_strings]
            suggestion = did_you_mean(nearest(name, known))
            raise InputError(f"There is no option {name}{suggestion} `{self.prog} --help` lists them all.")
        return options, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not a choice; argparse calls this for verbs and for options."""
        if action.choices is None or value in action.choices:
            return
        suggestion = did_you_mean(nearest(str(value), map(str, action.choices)))
        known = ", ".join(map(str, action.choices))
        if isinstance(action, argparse._SubParsersAction):
            raise InputError(f"There is no verb {value!r}{suggestion} `{self.prog} --help` explains {known}.")
        name = action.option_strings[-1] if action.option_strings else action.dest
        raise InputError(f"{name} cannot be {value!r}{suggestion} It is one of {known}.")

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise InputError(f"{message}; see `{self.prog} --help`.")


# The object that a verb adds its parser to.
Verbs: TypeAlias = "argparse._SubParsersAction[ShortVerbParser]"


def hyphenated(arguments: Sequence[str], kept: Container[str] = ()) -> list[str]:
    """Spell options with hyphens: `--batch_size=4` becomes `--batch-size=4`.

    Options with a dot are left alone, since they name arguments in Python; so is everything after a lone `--`.

    Args:
        arguments: Command line.
        kept: Names of options, without dashes, that are spelt with underscores.

    Example:
        >>> hyphenated(["--batch_size=4", "my_photo.jpg"])
        ['--batch-size=4', 'my_photo.jpg']
    """
    spelt = list(arguments)
    for i, argument in enumerate(spelt):
        if argument == "--":
            break
        name, separator, value = argument.partition("=")
        if name.startswith("--") and "." not in name:
            underscored = name[2:].replace("-", "_")
            known = f"--{underscored}" if underscored in kept else name.replace("_", "-")
            spelt[i] = known + separator + value
    return spelt


def file_to_write(text: str) -> Path:
    """Return the path of a file to write, checked before any work is done for it.

    Raises:
        argparse.ArgumentTypeError: If it is a folder, or its folder is missing.
    """
    path = user_path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder, not a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} to write {path.name} into")
    return path


def report_to_write(is_report: Callable[[dict[str, Any]], bool]) -> Callable[[str], Path]:
    """Return a function that checks the path of a JSON report, which may only replace an earlier one, or nothing.

    Args:
        is_report: Whether the content of a JSON file is such a report.

    Example:
        >>> report_to_write(lambda found: "written" in found)("report.json").name
        'report.json'
    """

    def checked(text: str) -> Path:
        path = file_to_write(text)
        if not may_become_report(path, is_report):
            raise argparse.ArgumentTypeError(f"{path} exists and is not an earlier report: choose another name")
        return path

    return checked


def number_of_processes(text: str) -> int:
    """Return a whole number of at least 0.

    Raises:
        argparse.ArgumentTypeError: If it is something else.

    Example:
        >>> number_of_processes("4")
        4
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of processes is 0 or more, not {text}")
    return int(text)


def number_of(what: str) -> Callable[[str], int]:
    """Return a function that reads an option that counts things, at least 1.

    The function raises `argparse.ArgumentTypeError` for anything else.

    Args:
        what: The things, for the message.

    Example:
        >>> number_of("images")("8")
        8
    """

    def read(text: str) -> int:
        if not text.isdecimal() or not int(text):
            raise argparse.ArgumentTypeError(f"a number of {what} is 1 or more, not {text}")
        return int(text)

    return read


def field_of_view(text: str) -> tuple[float, float]:
    """Return two angles in degrees.

    Raises:
        argparse.ArgumentTypeError: If it is something else.

    Example:
        >>> field_of_view("360x122.5")
        (360.0, 122.5)
    """
    try:
        across, down = map(float, text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"a field of view is degrees across and down, such as 360x122, not {text}"
        ) from error
    return across, down


def _angle_or_auto(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"an angle in degrees, or auto, not {text}") from error


def add_level_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says whether `predict` levels panoramas."""
    parser.add_argument(
        "--level",
        action=argparse.BooleanOptionalAction,
        help="level tilted panoramas before the network sees them (default: images in which it notices a clear tilt)",
    )


def add_max_pixels_option(parser: argparse._ActionsContainer) -> None:
    """Add the option that limits the size of the images to read, see `mtpano_zoo.limits`."""
    parser.add_argument(
        "--max-pixels",
        type=number_of("pixels"),
        metavar="N",
        help=f"refuse larger images (default {VARIABLE}, or else {DEFAULT_MAX_PIXELS})",
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the files of a camera show; see `reading_options`."""
    files = parser.add_argument_group("input files")
    files.add_argument("--fov", type=field_of_view, metavar="WxH", help="degrees that the images cover, e.g. 360x122")
    files.add_argument(
        "--vertical-offset",
        type=float,
        default=0.0,
        metavar="DEG",
        help="how far the middle row is above the horizon (default %(default)g)",
    )
    files.add_argument("--eye", choices=("left", "right"), help="which panorama of a stereo pair to use")
    files.add_argument("--crop", action="store_true", help="write only the part of the sphere that a crop shows")
    files.add_argument("--ignore-tags", action="store_true", help="ignore the GPano tags of the files")
    files.add_argument("--force", action="store_true", help="accept images that do not look like panoramas")
    files.add_argument(
        "--mask-nadir",
        type=_angle_or_auto,
        default=0.0,
        metavar="DEG",
        help="no values within this angle of straight down (tripod); auto: only where a disc is found "
        "(default %(default)g)",
    )
    add_max_pixels_option(files)


def reading_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_reading_options` as arguments of `mtpano_zoo.run.run`."""
    names = ("fov", "vertical_offset", "eye", "crop", "ignore_tags", "force", "mask_nadir", "max_pixels")
    return {name: getattr(options, name) for name in names}
