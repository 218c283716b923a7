"""Files at the top of the repository that the wheel ships too, `checkpoints.yaml` and `configs/`; and the cache."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mtpano_zoo.errors import InputError
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.spelling import nearest
from mtpano_zoo.text_files import read_yaml

__all__ = ("DEFAULT_MODEL", "cache_folder", "configuration", "shipped", "with_shipped_configs")

PACKAGE = Path(__file__).parent
DEFAULT_MODEL = "mtpano-small.photos"  # what `mtpano run` uses by default: its weights come with the package


def cache_folder() -> Path:
    """Return the folder for lists of samples and for what is made from downloads.

    It can be deleted at any time: missing files are made again, and the next download counts as the first one.
    """
    return Path(os.environ.get("MTPANO_CACHE") or "~/.cache/mtpano_zoo").expanduser()


def shipped(name: str) -> Path:
    """Return the path of a shipped file, in an installed package or in a checkout.

    Raises:
        FileNotFoundError: If there is no such file.

    Example:
        >>> shipped("configs/quickstart.yaml").name
        'quickstart.yaml'
    """
    for root in (PACKAGE, PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} is not among the files that mtpano_zoo ships; install the package again.")


def with_shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Resolve `--config NAME.yaml` to the shipped configuration of that name, unless such a file exists.

    Include the sub-folder in the name: ``label_free/label.yaml``.

    Raises:
        FileNotFoundError: If there is neither.
        InputError: If the file is not a configuration.

    Example:
        >>> verb, option, path = with_shipped_configs(["fit", "--config=deep360.yaml"])
        >>> verb, option, Path(path).name
        ('fit', '--config', 'deep360.yaml')
    """
    resolved: list[str] = []
    for argument in arguments:
        resolved += argument.split("=", 1) if argument.startswith("--config=") else [argument]
    for i, name in enumerate(resolved[1:], start=1):
        if resolved[i - 1] in ("--config", "-c"):
            resolved[i] = str(configuration(name))
    return resolved


def configuration(name: str | Path) -> Path:
    """Return the path of a configuration: the file of this name, or else the shipped one.

    Raises:
        FileNotFoundError: If there is neither.
        InputError: If the file is not a configuration.
    """
    path = user_path(name)
    if not path.exists():
        folder = shipped("configs")
        configs = {one.relative_to(folder).as_posix(): one for one in folder.glob("**/*.yaml")}
        path = configs.get(str(name)) or _no_configuration(str(name), list(configs))
    if not isinstance(read_yaml(path), dict):
        raise InputError(f"{path} is not a configuration: it has no `name: value` at the top level.")
    return path


def _no_configuration(name: str, shipped_names: Sequence[str]) -> NoReturn:
    # Compare without the common ending, which would make any two names alike.
    stems = {known.removesuffix(".yaml"): known for known in shipped_names}
    stems = {stem.rpartition("/")[2]: known for stem, known in stems.items()} | stems
    stem = nearest(name.removesuffix(".yaml"), stems)
    if stem is not None:
        raise FileNotFoundError(f"There is no configuration at {name}; did you mean {stems[stem]}, which is shipped?")
    known = ", ".join(sorted(shipped_names))
    raise FileNotFoundError(f"There is no configuration at {name}; the shipped ones are {known}.")
