"""`mtpano models`: list the published checkpoints."""

import argparse

from mtpano_zoo.errors import InputError
from mtpano_zoo.short_verbs import Verbs
from mtpano_zoo.spelling import did_you_mean, nearest

__all__ = ("add",)


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano models`."""
    models = verbs.add_parser("models", help="list the published checkpoints")
    models.add_argument("pattern", nargs="?", default="*", help="part of a name, or a pattern such as '*.rooms'")
    models.add_argument("--markdown", action="store_true", help="print the README's table")
    models.set_defaults(execute=_models)


def _models(options: argparse.Namespace) -> int:
    from mtpano_zoo.zoo.entries import list_models, models_table

    titles, *rows = models_table(options.pattern)
    if not rows:
        suggestion = did_you_mean(nearest(options.pattern, list_models()))
        raise InputError(f"No model matches {options.pattern!r}{suggestion} `mtpano models` lists all names.")
    if options.markdown:
        for row in (titles, ["---"] * len(titles), *rows):
            print(f"| {' | '.join(row)} |")
        return 0
    for name, *values in rows:
        print(name)
        for title, value in zip(titles[1:], values, strict=True):
            print(f"  {title:<24}{value}")
    return 0
