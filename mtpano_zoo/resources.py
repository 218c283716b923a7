"""Files that stand at the top of the repository and inside the wheel: `checkpoints.yaml` and `configs/`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from mtpano_zoo.errors import InputError
from mtpano_zoo.spelling import nearest

__all__ = ("shipped", "with_shipped_configs", "yaml_problem")

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """Return the path of a shipped file, in an installed package or in a checkout.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    for root in (PACKAGE, PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} is not among the files that mtpano_zoo ships; install the package again.")


def with_shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Let `--config NAME.yaml` mean the shipped configuration of that name where no such file lies in the way.

    One in a sub-folder is named with it: ``label_free/label.yaml``.

    Raises:
        FileNotFoundError: If there is neither.
        InputError: If the file is no configuration.
    """
    folder = shipped("configs")
    configs = {path.relative_to(folder).as_posix(): path for path in folder.glob("**/*.yaml")}
    resolved: list[str] = []
    for argument in arguments:
        resolved += argument.split("=", 1) if argument.startswith("--config=") else [argument]
    for i, name in enumerate(resolved[1:], start=1):
        if resolved[i - 1] in ("--config", "-c"):
            if not Path(name).exists():
                resolved[i] = str(configs.get(name) or _no_configuration(name, list(configs)))
            _check_configuration(Path(resolved[i]))
    return resolved


def _no_configuration(name: str, shipped_names: Sequence[str]) -> NoReturn:
    # Without the ending, which all have in common: it would make any two names alike.
    stems = {known.removesuffix(".yaml"): known for known in shipped_names}
    stems |= {stem.rpartition("/")[2]: known for stem, known in stems.items()}
    stem = nearest(name.removesuffix(".yaml"), stems)
    if stem is not None:
        raise FileNotFoundError(f"There is no configuration at {name}; did you mean {stems[stem]}, which is shipped?")
    raise FileNotFoundError(f"There is no configuration at {name}; shipped are {', '.join(sorted(shipped_names))}.")


def _check_configuration(path: Path) -> None:
    """Refuse a file that is no YAML mapping, by its name, which later messages lack."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {yaml_problem(error)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a configuration: it is no text.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration: it holds no `name: value` at the top.")


def yaml_problem(error: yaml.YAMLError) -> str:
    """Say on one line what is wrong with a YAML text, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())
