"""The options of `mtpano eval`: the command line imports this, and nothing that takes long."""

import argparse
from pathlib import Path

__all__ = ("add_options",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options and what executes them."""
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a name, a checkpoint, or a folder of predictions")
    add("--data", required=True, help="rooms, homes, streets, or a folder with images/ and labels")
    add("--out", default=Path("report"), type=Path, metavar="DIR", help="folder to write or continue in (%(default)s)")
    add("--limit", type=int, help="panoramas (default: 20 scenes, or the whole folder)")
    add("--height", type=int, help="rows (default: 256, or those of the folder's first panorama)")
    add("--seed", type=int, default=0, help="of the rendered scenes (default 0)")
    add("--protocol", metavar="FILE", help="e.g. evaluate-unaligned-10m.yaml (default: distances without limits)")
    add("--unit", help="of a folder's distances: m, cm, mm, or metres per step")
    add("--kind", choices=("ray", "z", "disparity"), default="ray", help="of a folder's distances")
    add("--skip", action="append", default=[], choices=("yaw", "tilt", "cross"), help="leave out; may be repeated")
    add("--force", action="store_true", help="score a folder even if its unit or frame looks wrong")
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    parser.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from mtpano_zoo.evaluation.command import main

    return main(options)
