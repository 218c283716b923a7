"""Data modules from the command line or the `data:` section of a configuration, as `mtpano fit` builds them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

import mtpano_zoo.data
from mtpano_zoo.errors import InputError
from mtpano_zoo.spelling import did_you_mean, nearest
from mtpano_zoo.text_files import parse_yaml, read_yaml
from mtpano_zoo.training.option_errors import one_sentence, options_of, refuse_null

__all__ = ("build_data", "class_name")

_SUFFIX = "DataModule"
_ARGUMENTS = "Its arguments are --root DIR and KEY=VALUE."


def build_data(
    name: str | None = None,
    root: str | Path | None = None,
    options: Sequence[str] = (),
    config: str | Path | None = None,
) -> LightningDataModule:
    """Build a data module from its name, or from a configuration whose entries root and options override.

    Args:
        name: Class (``Structured3DDataModule``, or with its package) or short name (``structured3d``).
        root: Argument `root` of the data module.
        options: Further arguments as ``key=value``, values in YAML: ``lights=[raw,warm]``.
        config: YAML file with a section ``data:``.

    Raises:
        FileNotFoundError: If there is no such configuration, or nothing at the root.
        InputError: If the name or an option is unknown, or a value does not fit.
    """
    if (name is None) == (config is None):
        raise InputError("name a data set with either --data NAME or --config FILE")
    section: dict[str, Any] = {"class_path": class_name(name)} if name is not None else _section(Path(str(config)))
    arguments = dict(section.get("init_args") or {})
    if root is not None:
        arguments["root"] = str(root)
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise InputError(f"options of a data set must be key=value, not {option!r}")
        arguments[key] = parse_yaml(value, f"the value of {option!r}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    with one_sentence(options_of(parser), _ARGUMENTS):
        parsed = parser.parse_object({"data": {"class_path": section["class_path"], "init_args": arguments}})
        refuse_null(parsed)
        data: LightningDataModule = parser.instantiate(parsed).data
    return data


def class_name(name: str) -> str:
    """Return the class of a data module from its class name or short name, in upper or lower case.

    Raises:
        InputError: If there is no data module of that name.

    Example:
        >>> class_name("structured3d")
        'Structured3DDataModule'
    """
    if "." in name:
        return name
    classes = {known.lower(): known for known in mtpano_zoo.data.__all__ if known.endswith(_SUFFIX)}
    for key in (name.lower(), f"{name}{_SUFFIX}".lower()):
        if key in classes:
            return classes[key]
    short = sorted(known.removesuffix(_SUFFIX.lower()) for known in classes)
    suggestion = did_you_mean(nearest(name.lower().removesuffix(_SUFFIX.lower()), short))
    raise InputError(
        f"There is no data set {name}{suggestion} Known names are {', '.join(short)}; for any other class, name its "
        "module too."
    )


def _section(config: Path) -> dict[str, Any]:
    content = read_yaml(config)
    section = content.get("data") if isinstance(content, dict) else None
    section = {"class_path": section} if isinstance(section, str) else section
    if not isinstance(section, dict) or "class_path" not in section:
        raise InputError(f"{config} has no section `data:` with a class_path")
    return section | {"class_path": class_name(section["class_path"])}
