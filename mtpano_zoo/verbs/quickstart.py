"""`mtpano quickstart`: predict, train a small network, score it."""

import argparse
import os
from pathlib import Path

from mtpano_zoo.output_paths import user_path
from mtpano_zoo.short_verbs import Verbs

__all__ = ("add",)


def add(verbs: Verbs) -> None:
    """Add the parser of `mtpano quickstart`."""
    quickstart = verbs.add_parser("quickstart", help="predict, then train a small network and score it")
    quickstart.add_argument("images", nargs="*", metavar="IMAGE", help="panoramas to predict for")
    quickstart.add_argument(
        "--config", type=os.path.expanduser, default="quickstart.yaml", help="a configuration (default %(default)s)"
    )
    quickstart.add_argument(
        "--out", type=user_path, default=Path("runs/quickstart"), metavar="DIR", help="new folder (default %(default)s)"
    )
    quickstart.set_defaults(execute=_quickstart)


def _quickstart(options: argparse.Namespace) -> int:
    from mtpano_zoo.commands.quickstart import quickstart

    quickstart(options.config, options.out, options.images)
    return 0
